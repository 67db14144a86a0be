// The form, what it asks of the server, links that ask it again, and the samples side by side.
import { Stage } from "./stage.js";

const find = (id) => document.getElementById(id);
const form = find("form");
const stage = new Stage();
const KEPT = 24;
const LINKED = ["mode", "template", "first", "second", "strength", "steps", "temperature", "sampler", "order", "seed", "candidates", "tokens", "must", "never"];

// The samplers and orders that there are, and what is used when nothing is chosen, are in the description of the API.
const { properties } = (await (await fetch("openapi.json")).json()).components.schemas.Generate;
for (const name of ["sampler", "order"]) form.elements[name].append(...properties[name].enum.map((option) => new Option(option)));
for (const name of ["steps", "temperature", "sampler", "order"]) form.elements[name].value = properties[name].default;
const DEFAULTS = Object.fromEntries(LINKED.map((name) => [name, form.elements[name].value]));
let asking = null; // the request under way
let abilities = null; // of the model, once they are known

// The form

const value = (name) => form.elements[name].value;
const words = (name) => value(name).split(/[\s,]+/).filter(Boolean);

function modeChanged() {
  const can = (part) => !part.dataset.needs || !abilities || abilities.includes(part.dataset.needs);
  for (const part of form.querySelectorAll("[data-for]"))
    part.hidden = !part.dataset.for.split(" ").includes(value("mode")) || !can(part);
  for (const part of form.querySelectorAll(".modes [data-needs]")) part.hidden = !can(part);
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
  if (value("mode") === "vary") return ["vary", { texts: [value("first")], strength: Number(value("strength")), ...sampling }];
  const candidates = Number(value("candidates"));
  const never = words("never");
  const template = value("template");
  if (template.trim()) return ["infill", { templates: [template], candidates, never, ...sampling }];
  return ["generate", { length: value("tokens").trim() || null, must: words("must"), candidates, never, ...sampling }];
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
  stage.clear();
  say("…");
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

function keep(texts, how, here) {
  const seen = stage.history();
  const card = document.createElement("li");
  const add = (name, text, className = "") => {
    const made = Object.assign(document.createElement(name), { textContent: text, className });
    card.append(made);
    return made;
  };
  for (const text of texts.slice(0, 9)) add("p", text);
  add("p", how, "how");
  const buttons = add("div", "", "buttons");
  const button = (text, act) => {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    made.setAttribute("aria-label", `${text}: ${texts[0]}`);
    made.addEventListener("click", () => act(made));
    buttons.append(made);
  };
  button("Look again", () => {
    if (asking) asking.abort();
    stage.restore(seen);
    find("stage").scrollIntoView({ block: "nearest" });
  });
  button("Copy link", async (made) => {
    await navigator.clipboard.writeText(new URL(here, location.href).href);
    made.textContent = "Copied";
  });
  button("Remove", () => {
    card.remove();
    find("kept").hidden = find("cards").children.length === 0;
  });
  find("cards").prepend(card);
  while (find("cards").children.length > KEPT) find("cards").lastChild.remove();
  find("kept").hidden = false;
}

// The model

async function introduce() {
  try {
    const card = await (await ask("model")).json();
    const bound = card.bound === null ? "" : `, at most ${card.bound.toFixed(2)} nats a token on held-out text`;
    find("card").textContent =
      `${(card.parameters / 1e6).toFixed(1)} million parameters, ${card.objective}, ${card.vocabulary.toLocaleString("en")} tokens, ` +
      `trained on ${(card.tokens_trained / 1e6).toFixed(1)} million${bound}`;
    abilities = card.abilities;
    modeChanged();
    find("token-field").hidden = true;
  } catch (error) {
    find("card").textContent = error instanceof Problem ? error.message : "the server cannot be reached";
  }
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
