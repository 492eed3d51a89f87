/** The service's own drawing of the machine, made to move: where the run stands, the way it came, when and why. */

import { find, h, s } from "./dom.js";
import { drawing } from "./markdown.js";
import { doneAfter } from "./reduce.js";
import { clockTime, countdown, duration, language, t } from "./words.js";

const WHERE_THE_NUMBER_SITS = 0.74; // of the way, where the drawing does not say
const HEAD = 17;
const MOST_NUMBERS = 3;
const MOST_TOLD = 2;

export class Diagram {
  constructor(signal) {
    this.tip = find("machine-tip");
    this.arrows = new Map();
    this.states = new Map();
    this.run = null;
    this.pointed = null;
    find("machine-figure").addEventListener("keydown", (event) => event.key === "Escape" && this.point(null), { signal });
  }

  /** Throws where the text is no drawing. */
  load(text) {
    const svg = drawing(text);
    if (svg === null) throw new TypeError("no SVG");
    svg.removeAttribute("width");
    svg.removeAttribute("height");
    svg.removeAttribute("aria-labelledby");
    for (const part of svg.querySelectorAll(":scope > :is(text, title), .legend, .path, .open-states text")) part.remove();
    svg.setAttribute("role", "group");
    svg.setAttribute("viewBox", cropped(svg));
    svg.setAttribute("aria-label", t("machine.label"));
    for (const group of svg.querySelectorAll(".state")) this.states.set(group.dataset.state, stateOf(group));
    for (const group of svg.querySelectorAll(".transition")) this.prepare(group);
    for (const head of svg.querySelectorAll("marker")) for (const side of ["markerWidth", "markerHeight"]) head.setAttribute(side, HEAD);
    find("machine-drawing").replaceChildren(svg);
    this.svg = svg;
  }

  prepare(group) {
    const arrow = { group, line: group.querySelector("path"), told: group.querySelector("title")?.textContent ?? "", numberAt: numberAt(group), passages: [] };
    group.querySelector("title")?.remove(); // our own says more, and where the run went
    this.label(group);
    for (const from of group.dataset.from.split(" ")) this.arrows.set(`${group.dataset.trigger} ${from}`, arrow);
    group.append(s("path", { d: group.querySelector("path").getAttribute("d"), class: "reach" }));
    group.setAttribute("role", "img");
    for (const name of ["mouseenter", "focus"]) group.addEventListener(name, () => this.point(arrow));
    for (const name of ["mouseleave", "blur"]) group.addEventListener(name, () => this.point(null));
  }

  /** The trigger alone, larger than drawn: the guard is told on demand. */
  label(group) {
    const lines = [...group.querySelectorAll("text")];
    lines.slice(1).forEach((line) => line.remove());
    const [label] = lines;
    const y = Number(lines.at(-1).getAttribute("y")) - 4;
    label.setAttribute("y", y);
    if (label.getAttribute("text-anchor") !== "start") return;
    const [first, rest] = label.textContent.split(/(?<=_)/); // beside an upright arrow there is little room
    const x = label.getAttribute("x");
    label.replaceChildren(s("tspan", { x, y: y < 225 ? y : y - 18 }, first), s("tspan", { x, dy: 22 }, rest ?? ""));
  }

  update(run) {
    this.run = run;
    if (!this.svg) return;
    this.svg.setAttribute("aria-label", t("machine.label"));
    const visited = new Set(run.path.flatMap(({ from, to }) => [from, to]));
    for (const [state, { group, name, id, title }] of this.states) {
      name(language() === "ko" ? title : state.replaceAll("_", " "));
      id.textContent = language() === "ko" ? state : "";
      group.classList.toggle("is-current", state === run.state);
      group.classList.toggle("was-visited", state !== run.state && visited.has(state));
      if (state === run.state) group.setAttribute("aria-current", "step");
      else group.removeAttribute("aria-current");
    }
    const arrows = new Set(this.arrows.values());
    for (const arrow of arrows) arrow.passages = run.path.filter(({ trigger, from }) => this.arrows.get(`${trigger} ${from}`) === arrow);
    for (const arrow of arrows) this.mark(arrow, run);
    if (!this.pointed) this.caption();
  }

  /** What a state is about now: the tool that runs, the time that is left for a decision. */
  tick(approval, now) {
    const waiting = this.states.get("awaiting_approval");
    if (waiting) waiting.doing.textContent = approval ? countdown(approval.expiresAt - now) : "";
    const working = this.states.get("tool");
    const running = this.run?.entries.find(({ kind, status }) => kind === "tool" && status === "executing");
    if (working) working.doing.textContent = running?.name ?? "";
  }

  mark(arrow, run) {
    const { group, passages } = arrow;
    const isTaken = passages.length > 0;
    const label = [arrow.told, ...passages.map((passage) => this.sentence(passage))].join(". ");
    group.classList.toggle("is-taken", isTaken);
    group.classList.toggle("is-last", isTaken && passages.at(-1).number === run.path.length);
    group.setAttribute("aria-label", label);
    if (isTaken) group.setAttribute("tabindex", "0");
    else group.removeAttribute("tabindex");
    this.number(arrow, passages);
  }

  number(arrow, passages) {
    const words = numbers(passages);
    if (words === (arrow.badge?.textContent ?? "")) return;
    arrow.badge?.remove();
    arrow.badge = null;
    if (words === "") return;
    const [x, y] = arrow.numberAt;
    const width = 18 + 9.5 * words.length;
    arrow.badge = s(
      "g",
      { class: "number" },
      s("rect", { x: x - width / 2, y: y - 14, width, height: 28, rx: 14 }),
      s("text", { x, y: y + 6.5, "text-anchor": "middle" }, words),
    );
    arrow.group.append(arrow.badge);
  }

  sentence({ number, trigger, at }) {
    const after = duration(at - this.run.startedAt);
    const with_ = doneAfter(this.run, number).map((entry) => entry.name ?? entry.action);
    const why = [t(`why.${trigger}`), ...new Set(with_)].join(": ");
    return `${number} · ${clockTime(at)} (+${after}) · ${why}${this.reason(trigger)}`;
  }

  reason(trigger) {
    const isEnd = ["reject", "fail", "expire", "cancel"].includes(trigger);
    return isEnd && this.run.error ? ` · ${this.run.error.message}` : "";
  }

  point(arrow) {
    this.pointed = arrow;
    this.caption();
  }

  /** When and why: of the transition under the pointer or the focus, else of the last one. */
  caption() {
    const last = this.run?.path.at(-1);
    const arrow = this.pointed ?? (last && this.arrows.get(`${last.trigger} ${last.from}`));
    this.tip.hidden = !arrow;
    this.tip.classList.toggle("is-pointed", this.pointed !== null);
    if (!arrow) return;
    const { group, passages } = arrow;
    const told = passages.slice(-MOST_TOLD).map((passage) => h("li", {}, this.sentence(passage)));
    const { guard } = group.dataset;
    const from = passages.at(-1)?.from ?? group.dataset.from.split(" ")[0];
    this.tip.replaceChildren(
      h("p", {}, h("strong", {}, `${t(`state.${from}`)} → ${t(`state.${group.dataset.to}`)}`), " ", h("code", {}, group.dataset.trigger)),
      h("p", { class: "quiet", hidden: !(guard && this.pointed) }, `[${guard}]`),
      h("ul", {}, ...(told.length > 0 ? told : [h("li", { class: "quiet" }, t("machine.never"))])),
    );
  }
}

/** A state's box, emptied for larger words: its name, its id beneath it, what it is about at its foot. */
function stateOf(group) {
  const [id, korean] = [...group.querySelectorAll("text")].map((line) => line.textContent);
  group.querySelectorAll("text").forEach((line) => line.remove());
  const [x, y, height] = ["x", "y", "height"].map((side) => Number(group.querySelector("rect").getAttribute(side)));
  const parts = ["name", "id", "doing"].map((kind) => s("text", { class: kind, x: x + 18 }));
  group.append(...parts);
  const [name, second, doing] = parts;
  const isLow = height < 120;
  const write = (words) => {
    if (name.dataset.words === words) return;
    name.dataset.words = words;
    const lines = words.length > 14 ? words.split(" ") : [words];
    const top = isLow ? y + height / 2 + (language() === "ko" ? -2 : 9) : y + 40;
    name.replaceChildren(...lines.map((line, index) => s("tspan", { x: x + 18, y: top + 30 * index }, line)));
    second.setAttribute("y", top + 30 * lines.length - 4);
    doing.setAttribute("y", y + height - 28);
  };
  return { group, name: write, id: second, doing, title: korean ?? id };
}

function numberAt(group) {
  const said = group.dataset.numberAt?.split(" ").map(Number);
  if (said) return said;
  const line = group.querySelector("path");
  const { x, y } = line.getPointAtLength(line.getTotalLength() * WHERE_THE_NUMBER_SITS);
  return [x, y];
}

/** Without the drawing's title and legend: the page has its own. */
function cropped(svg) {
  const [x, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const top = 44;
  return `${x + 16} ${top} ${width - 16} ${height - top + 4}`;
}

function numbers(passages) {
  const shown = passages.slice(-MOST_NUMBERS).map(({ number }) => number).join(", ");
  return passages.length > MOST_NUMBERS ? `… ${shown}` : shown;
}
