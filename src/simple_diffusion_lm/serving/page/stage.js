// The texts as they are written: its frames, the slider through them, and what is known of each token.
import { changes } from "./changes.js";

const FRAMES_PER_SECOND = 24;
const SVG = "http://www.w3.org/2000/svg";
export const find = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Stage {
  constructor() {
    this.clear();
    find("step").addEventListener("input", () => this.show(Number(find("step").value), true));
    find("play").addEventListener("click", () => (this.timer ? this.pause() : this.play(0)));
  }

  clear() {
    this.pause();
    this.frames = new Map(); // of each line by its number: its tokens, step after step
    this.candidates = 1; // lines that are written for each text
    this.before = null; // the text that these are variations of
    this.done = false;
    this.kept = null; // numbers of the lines that were kept, where there was a choice and once it is made
    this.plain = null; // lines without a history
    this.at = 0;
    this.token = null; // [line, place] that is looked at
    find("lines").replaceChildren();
    find("lines").removeAttribute("aria-busy");
    for (const id of ["examples", "before", "walk", "token-view", "legend", "choice"]) find(id).hidden = true;
  }

  // What is about to be written.
  begin(candidates, before) {
    this.clear();
    Object.assign(this, { candidates, before });
    this.explain();
  }

  explain() {
    find("before").hidden = this.before === null;
    find("before").replaceChildren(element("span", { className: "label" }, "before "), this.before ?? "");
    const several = this.candidates > 1 ? "Of each text several are written. The most probable one is kept, the others are pale." : "";
    find("choice").textContent = this.before === null ? several : "A marked word is not in the text before.";
    find("choice").hidden = find("choice").textContent === "";
  }

  // Two texts, and room for what will stand between them.
  wait(first, count, second) {
    this.clear();
    const line = (text) => element("p", { className: "text small" }, text);
    const open = () => element("p", { className: "text small open" }, "· · ·");
    find("lines").replaceChildren(line(first), ...Array.from({ length: count - 2 }, open), line(second));
    find("lines").setAttribute("aria-busy", "true");
  }

  get length() {
    return Math.max(0, ...[...this.frames.values()].map((frames) => frames.length));
  }

  // Tokens of some lines after one more step.
  add(lines) {
    for (const [number, tokens] of Object.entries(lines)) {
      if (!this.frames.has(number)) this.frames.set(number, []);
      this.frames.get(number).push(tokens);
    }
    find("walk").hidden = find("legend").hidden = false;
    find("step").max = Math.max(0, this.length - 1);
    if (!this.timer) this.play(this.at);
  }

  finish(texts) {
    this.done = true;
    if (this.frames.size === 0) return this.setPlain(texts);
    this.kept = this.candidates > 1 ? this.chosen(texts) : null;
    if (!this.timer) this.show(this.length - 1);
  }

  // The numbers of the lines that became these texts; null if that cannot be seen.
  chosen(texts) {
    const squeezed = (text) => text.replace(/\s/g, "");
    const numbers = texts.map((text, n) =>
      Array.from({ length: this.candidates }, (_, i) => String(n * this.candidates + i)).find(
        (number) => squeezed(textOf(this.frames.get(number)?.at(-1) ?? [])) === squeezed(text)
      )
    );
    return numbers.includes(undefined) ? null : new Set(numbers);
  }

  // Lines that have no steps to be looked at: the slider goes from the first to the last.
  setPlain(texts) {
    this.plain = texts;
    this.done = true;
    find("lines").removeAttribute("aria-busy");
    find("walk").hidden = false;
    find("step").max = texts.length - 1;
    this.play(0);
  }

  history() {
    const { frames, candidates, before, done, kept, plain } = this;
    return { frames, candidates, before, done, kept, plain };
  }

  restore(seen) {
    this.clear();
    if (seen.plain) return this.setPlain(seen.plain);
    Object.assign(this, seen);
    this.explain();
    find("walk").hidden = find("legend").hidden = false;
    find("step").max = this.length - 1;
    this.show(this.length - 1);
  }

  play(from) {
    this.pause();
    const last = () => (this.plain ? this.plain.length : this.length) - 1;
    if (calm.matches) return this.show(last());
    this.show(from);
    find("play").textContent = "❚❚";
    find("play").setAttribute("aria-label", "Pause");
    this.timer = setInterval(() => {
      if (this.at < last()) this.show(this.at + 1);
      else if (this.done) {
        this.pause();
        this.show(last()); // what was kept may have become known since
      }
    }, this.plain ? 500 : 1000 / FRAMES_PER_SECOND);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    find("play").textContent = "▶";
    find("play").setAttribute("aria-label", "Play from the start");
  }

  show(step, byHand = false) {
    if (byHand) this.pause();
    this.at = Math.max(0, step);
    find("step").value = this.at;
    const last = this.plain ? this.plain.length : this.length;
    find("step-text").textContent = `${this.plain ? "line" : "step"} ${this.at + 1} of ${last}`;
    find("step").setAttribute("aria-valuetext", find("step-text").textContent);
    if (this.plain) {
      const line = (text, n) => element("p", { className: `text small ${n === this.at ? "chosen" : "passed"}` }, text);
      find("lines").replaceChildren(...this.plain.map(line));
      return;
    }
    const active = document.activeElement?.dataset?.place;
    const numbers = [...this.frames.keys()].sort((a, b) => a - b);
    find("lines").replaceChildren(...numbers.map((number) => this.line(number, numbers.length > 1)));
    if (active) find("lines").querySelector(`[data-place="${active}"]`)?.focus();
    this.lookAt(this.token);
  }

  line(number, several) {
    const frames = this.frames.get(number);
    const tokens = frames[Math.min(this.at, frames.length - 1)];
    const made = element("p", { className: several ? "text small" : "text" });
    const text = textOf(tokens);
    if (this.kept && this.at >= frames.length - 1) made.classList.add(this.kept.has(number) ? "chosen" : "passed");
    if (this.candidates > 1 && number > 0 && number % this.candidates === 0) made.classList.add("first"); // of its text's
    const changed = this.before === null ? new Set() : changes(this.before, text);
    let word = -1;
    const rows = text.split("|").slice(1, -1); // of a Sudoku: each cell a character
    const grid = rows.length > 1 && rows.every((row) => row.length === rows.length);
    made.classList.toggle("sudoku", grid);
    tokens.forEach((token, place) => {
      const words = token.text.replace(/^ /, "");
      if (words !== token.text || place === 0 || text.startsWith("|")) word += 1;
      if (grid && words === "|") {
        if (place > 0) made.append(element("br", {}));
        return;
      }
      if (words !== token.text && place > 0) made.append(" ");
      const span = element("span", { className: `token ${token.state}` }, words);
      if (token.state !== "given") {
        const share = probability(token);
        span.style.setProperty("--p", share.toFixed(3));
        span.tabIndex = 0;
        span.dataset.place = `${number}.${place}`;
        span.setAttribute("role", "button");
        span.setAttribute("aria-label", `${words}, probability ${Math.round(100 * share)} percent, ${token.state}${changed.has(word) ? ", changed" : ""}`);
        span.classList.toggle("changed", changed.has(word));
        if (this.token && this.token[0] === number && this.token[1] === place) span.classList.add("chosen");
        for (const kind of ["mouseenter", "focus", "click"]) span.addEventListener(kind, () => this.lookAt([number, place]));
        span.addEventListener("click", () => find("token-view").scrollIntoView({ block: "nearest" })); // on a phone it is below the screen
      }
      made.append(span);
    });
    return made;
  }

  // Probabilities over time, and the runners-up, of one place.
  lookAt(token) {
    this.token = token;
    const frames = token && this.frames.get(token[0]);
    const now = frames?.[Math.min(this.at, frames.length - 1)]?.[token[1]];
    find("token-view").hidden = !now;
    if (!now) return;
    for (const span of find("lines").querySelectorAll(".token")) span.classList.toggle("chosen", span.dataset.place === token.join("."));
    find("token-name").textContent = `“${now.text.trim()}”, ${now.state}`;
    const of = (tokens) => (tokens[token[1]]?.likely ?? []).find(([text]) => text === now.text)?.[1] ?? 0;
    find("chart").replaceChildren(chart(frames.map(of), Math.min(this.at, frames.length - 1), now.text.trim()));
    find("rivals").replaceChildren(
      ...now.likely.map(([text, share]) => {
        const meter = element("meter", { value: share });
        meter.setAttribute("aria-label", `${text.trim()}, ${Math.round(100 * share)} percent`);
        return element("li", {}, element("span", {}, text.trim() || "␣"), element("span", {}, `${(100 * share).toFixed(1)}%`), meter);
      })
    );
  }
}

const textOf = (tokens) => tokens.map((token) => token.text).join("").trim();
const probability = (token) => token.likely.find(([text]) => text === token.text)?.[1] ?? 0;

function chart(values, now, name) {
  const [width, height, left, bottom] = [360, 130, 42, 20];
  const x = (i) => left + ((width - left - 8) * i) / Math.max(1, values.length - 1);
  const y = (value) => 6 + (height - bottom - 6) * (1 - value);
  const drawn = document.createElementNS(SVG, "svg");
  const draw = (kind, attributes, text) => {
    const made = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    drawn.append(made);
  };
  drawn.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", `probability of ${name}: ${Math.round(100 * values[now])} percent at step ${now + 1}`);
  for (const share of [0, 0.5, 1]) {
    draw("line", { class: "axis", x1: left, x2: width - 8, y1: y(share), y2: y(share) });
    draw("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}%`);
  }
  draw("line", { class: "now", x1: x(now), x2: x(now), y1: y(0), y2: y(1) });
  draw("polyline", { class: "curve", points: values.map((value, i) => `${x(i)},${y(value)}`).join(" ") });
  draw("text", { x: left, y: height - 4 }, "noise");
  draw("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, "text");
  return drawn;
}
