// The form, what it asks of the server, links that ask it again, and the samples side by side.
import { changes, partsOf } from "./changes.js";
import { Stage, element, find } from "./stage.js";

const form = find("form");
const stage = new Stage();
const KEPT = 24;
const LINKED = ["mode", "template", "first", "second", "strength", "steps", "temperature", "sampler", "order", "seed", "count", "candidates", "tokens", "must", "never"];

// The samplers and orders that there are, and what is used when nothing is chosen, are in the description of the API.
const { properties } = (await (await fetch("openapi.json")).json()).components.schemas.Generate;
for (const name of ["sampler", "order"]) form.elements[name].append(...properties[name].enum.map((option) => new Option(option)));
for (const name of ["steps", "temperature", "sampler", "order"]) {
  form.elements[name].value = properties[name].default;
  form.elements[name].title = properties[name].description;
}
const DEFAULTS = Object.fromEntries(LINKED.map((name) => [name, form.elements[name].value]));
let asking = null; // the request under way
let asked = false; // whether there was one
let abilities = null; // of the model, once they are known

// The form

const value = (name) => form.elements[name].value;
const words = (name) => value(name).split(/[\s,]+/).filter(Boolean);

function modeChanged() {
  const can = (part) => !part.dataset.needs || !abilities || abilities.includes(part.dataset.needs);
  for (const part of form.querySelectorAll("[data-for]"))
    part.hidden = !part.dataset.for.split(" ").includes(value("mode")) || !can(part);
  const others = [...form.querySelectorAll(".modes [data-needs]")];
  for (const part of others) part.hidden = !can(part);
  form.querySelector(".modes").hidden = !others.some(can);
  find("go").textContent = { write: "Write", vary: "Vary", blend: "Blend" }[value("mode")];
  numbersChanged();
}

function numbersChanged() {
  for (const shown of form.querySelectorAll("output")) shown.textContent = find(shown.htmlFor.value).value;
}

function request() {
  const steps = Number(value("steps"));
  if (value("mode") === "blend") return ["blend", { first: value("first"), second: value("second"), count: 9, steps }];
  const sampling = { steps, sampler: value("sampler"), order: value("order"), temperature: Number(value("temperature")), seed: Number(value("seed")), stream: true };
  const count = Number(value("count"));
  const times = (text) => Array(count).fill(text);
  if (value("mode") === "vary") return ["vary", { texts: times(value("first")), strength: Number(value("strength")), ...sampling }];
  const candidates = Number(value("candidates"));
  const never = words("never");
  const template = value("template");
  if (template.trim()) return ["infill", { templates: times(template), candidates, never, ...sampling }];
  return ["generate", { count, length: value("tokens").trim() || null, must: words("must"), candidates, never, ...sampling }];
}

// Links

function link() {
  const changed = LINKED.filter((name) => value(name) !== DEFAULTS[name]).map((name) => [name, value(name)]);
  return `#${new URLSearchParams([...changed, ["go", "1"]])}`;
}

function followLink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of LINKED) form.elements[name].value = asked.get(name) ?? DEFAULTS[name];
  modeChanged();
  if (asked.has("go")) go();
}

// The server

async function ask(name, content, signal) {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = content === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(content), signal };
  const response = await fetch(`v1/${name}`, options);
  if (response.status === 401) find("token-field").hidden = false;
  if (!response.ok) throw new Problem((await response.json()).error);
  return response;
}

class Problem extends Error {}

// Server-sent events, as [kind, content].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value: text } = await reader.read();
    if (done) throw new Problem("the connection was lost");
    const parts = (waiting + text).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const [, kind, content] = part.match(/^event: (\w+)\ndata: (.*)$/s);
      yield [kind, JSON.parse(content)];
      if (kind !== "frame") return;
    }
  }
}

async function go() {
  if (asking) asking.abort();
  const mine = (asking = new AbortController());
  const [name, content] = request();
  const here = link();
  history.replaceState(null, "", here);
  asked = true;
  if (name === "blend") {
    stage.wait(content.first, content.count, content.second);
    say("Both texts are turned into noise, and what lies between them back into text …");
  } else {
    stage.begin(content.candidates ?? 1, name === "vary" ? content.texts[0] : null);
    say("writing …");
  }
  find("stop").hidden = false;
  try {
    const response = await ask(name, content, mine.signal);
    let answer;
    if (content.stream) {
      for await (const [kind, sent] of events(response)) {
        if (mine !== asking) return;
        if (kind === "error") throw new Problem(sent.error);
        if (kind === "frame") stage.add(sent.lines);
        else answer = sent;
      }
    } else answer = await response.json();
    const texts = answer.lines.map((line) => line.text);
    stage.finish(texts);
    say(answer.lines.every((line) => line.fits) ? "" : "a word that was not to be there is there: try more candidates");
    keep(texts, describe(name, content), here);
    if (form.elements.fresh.checked && name !== "blend") form.elements.seed.value = (content.seed + 1) % 2 ** 31;
  } catch (error) {
    if (mine !== asking) return;
    if (name === "blend") stage.clear();
    stage.pause();
    if (error.name === "AbortError") say("stopped");
    else say(error instanceof Problem ? error.message : "the server cannot be reached; try again", true);
  } finally {
    if (mine === asking) {
      asking = null;
      find("stop").hidden = true;
    }
  }
}

function say(text, bad = false) {
  find("message").textContent = text;
  find("message").classList.toggle("bad", bad);
}

// Side by side

function describe(name, content) {
  const asked = name === "vary" ? `strength ${content.strength}, ` : name === "infill" ? `${content.templates[0]} · ` : "";
  const how = name === "blend" ? `${content.steps} steps` : `${content.steps} steps, temperature ${content.temperature}, seed ${content.seed}`;
  return `${name} · ${asked}${how}`;
}

// The clipboard is there for pages of this machine and of HTTPS only; elsewhere what is selected is copied.
async function copy(text, button) {
  button.dataset.shown ??= button.textContent;
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {
    const area = element("textarea", { value: text, className: "hidden" });
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = button.dataset.shown), 1500);
}

function button(text, label, act) {
  const made = element("button", { type: "button" }, text);
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => act(made));
  return made;
}

// A text, the words in it marked that another one has not.
function marked(text, before) {
  if (before === null) return [text];
  const changed = changes(before, text);
  let word = 0;
  return partsOf(text).map((part) => (part.trim() && changed.has(word++) ? element("mark", {}, part) : part));
}

function keep(texts, how, here) {
  const seen = stage.history();
  const lines = texts.map((text) => {
    const said = element("p", {}, ...marked(text, seen.before));
    return element("div", { className: "kept" }, said, button("Copy", `Copy: ${text}`, (made) => copy(text, made)));
  });
  const again = button("Look again", `Look again: ${texts[0]}`, () => {
    if (asking) asking.abort();
    stage.restore(seen);
    find("stage").scrollIntoView({ block: "nearest" });
  });
  const link = button("Copy link", `Copy link: ${texts[0]}`, (made) => copy(new URL(here, location.href).href, made));
  const remove = button("Remove", `Remove: ${texts[0]}`, () => {
    card.remove();
    find("kept").hidden = find("cards").children.length === 0;
  });
  const card = element("li", {}, ...lines, element("p", { className: "how" }, how), element("div", { className: "buttons" }, again, link, remove));
  find("cards").prepend(card);
  while (find("cards").children.length > KEPT) find("cards").lastChild.remove();
  find("kept").hidden = false;
}

// The model

const WRITES = {
  continuous: "It writes all words of a text at once: out of noise, which turns into words step by step.",
  masked: "It writes the words of a text in any order: out of blanks, which turn into words step by step.",
  autoregressive: "It writes a text word by word, from left to right.",
};

async function introduce() {
  try {
    const card = await (await ask("model")).json();
    const count = (number) => number.toLocaleString("en", { maximumSignificantDigits: 3 });
    find("card").textContent = `A language model. ${WRITES[card.objective] ?? ""}`;
    find("facts").replaceChildren(
      ...[
        `${count(card.parameters)} parameters, ${card.objective}`,
        `${count(card.vocabulary)} tokens (words and parts of words), at most ${card.longest} in a text`,
        `trained on ${count(card.tokens_trained)} tokens, in ${count(card.steps_trained)} steps`,
        ...(card.bound === null ? [] : [`at most ${card.bound.toFixed(2)} nats a token on texts it was not trained on`]),
      ].map((fact) => element("li", {}, fact))
    );
    find("about").hidden = false;
    abilities = card.abilities;
    for (const [name, usual] of Object.entries(card.usual))
      if (value(name) === DEFAULTS[name] && DEFAULTS[name] !== `${usual}`) {
        form.elements[name].value = DEFAULTS[name] = `${usual}`; // a student's own
        form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
      }
    modeChanged();
    find("token-field").hidden = true;
    if (!asked) offer(card);
  } catch (error) {
    find("card").textContent = error instanceof Problem ? error.message : "the server cannot be reached";
  }
}

// What can be tried with a click, made from texts that the model wrote.
function offer(card) {
  const texts = card.examples.filter(Boolean);
  const short = texts.map((text) => text.split(" ").slice(0, 14).join(" "));
  const offers = [["A new text", { mode: "write", template: "" }, "with nothing given"]];
  if (texts.length) {
    const template = gaps(texts[0], card.objective);
    offers.push(["Fill a gap", { mode: "write", template }, template]);
    const [first, second] = [short[1 % short.length], short[2 % short.length]];
    if (abilities.includes("vary")) offers.push(["Vary a text", { mode: "vary", first }, first]);
    if (abilities.includes("blend")) offers.push(["Go from one text to another", { mode: "blend", first, second }, `${first} → ${second}`]);
  }
  find("examples").querySelector("ul").replaceChildren(
    ...offers.map(([name, fields, text]) => {
      const made = element("button", { type: "button" }, element("strong", {}, name), element("span", {}, text));
      made.addEventListener("click", () => {
        for (const [field, content] of Object.entries(fields)) form.elements[field].value = content;
        modeChanged();
        go();
      });
      return element("li", {}, made);
    })
  );
  find("examples").hidden = false;
}

// A text with gaps: of a Sudoku some cells, of others a few words in the middle, or at the end.
function gaps(text, objective) {
  if (text.startsWith("|")) return [...text].map((cell, n) => (cell !== "|" && n % 3 === 1 ? "[[1]]" : cell)).join("");
  const words = text.replace(/___|\[\[/g, "\\$&").split(" ").slice(0, 14);
  const [from, to] = [Math.floor(words.length / 3), Math.ceil((2 * words.length) / 3)];
  return [...words.slice(0, from), "___", ...(objective === "autoregressive" ? [] : words.slice(to))].join(" ");
}

const narrow = matchMedia("(max-width: 52rem)");
find("how").open = !narrow.matches;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  go();
  if (narrow.matches) find("stage").scrollIntoView();
});
form.addEventListener("input", numbersChanged);
for (const radio of form.querySelectorAll("[name=mode]")) radio.addEventListener("change", modeChanged);
find("stop").addEventListener("click", () => asking?.abort());
find("token").addEventListener("change", () => {
  sessionStorage.setItem("token", find("token").value);
  introduce();
});
addEventListener("hashchange", followLink);
introduce();
followLink();
find("main").hidden = false;
