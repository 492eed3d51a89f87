/** Shows the service's diagram of the state machine with the current state and the transitions of the open run. */

import { find, h, s } from "./dom.js";
import { clockTime, countdown, duration } from "./format.js";
import { parseSvg } from "./markdown.js";
import { entriesAfter } from "./run_state.js";
import { language, t } from "./translations.js";

/** The position of the numbers on an arrow, as a share of its length, where the diagram does not define one. */
const NUMBER_POSITION = 0.74;
const ARROWHEAD_SIZE = 17;
const MAX_NUMBERS = 3;
const MAX_SENTENCES = 2;

export class Diagram {
  constructor(signal) {
    this.details = find("machine-details");
    this.arrows = new Map();
    this.states = new Map();
    this.run = null;
    this.selected = null;
    find("machine-figure").addEventListener("keydown", (event) => event.key === "Escape" && this.select(null), { signal });
  }

  /** Show a diagram. Throws `TypeError` where the text contains no SVG. */
  load(text) {
    const svg = parseSvg(text);
    if (svg === null) throw new TypeError("the response contains no SVG");
    svg.removeAttribute("width");
    svg.removeAttribute("height");
    svg.removeAttribute("aria-labelledby");
    for (const part of svg.querySelectorAll(":scope > :is(text, title), .legend, .path, .open-states text")) part.remove();
    svg.setAttribute("role", "group");
    svg.setAttribute("viewBox", croppedViewBox(svg));
    svg.setAttribute("aria-label", t("machine.label"));
    for (const group of svg.querySelectorAll(".state")) this.states.set(group.dataset.state, prepareState(group));
    for (const group of svg.querySelectorAll(".transition")) this.prepareTransition(group);
    for (const head of svg.querySelectorAll("marker")) for (const side of ["markerWidth", "markerHeight"]) head.setAttribute(side, ARROWHEAD_SIZE);
    find("machine-diagram").replaceChildren(svg);
    this.svg = svg;
  }

  prepareTransition(group) {
    const title = group.querySelector("title");
    const arrow = { group, title: title?.textContent ?? "", numberPosition: numberPosition(group), transitions: [] };
    title?.remove(); // the label that is set below contains it
    this.shortenLabel(group);
    for (const from of group.dataset.from.split(" ")) this.arrows.set(`${group.dataset.trigger} ${from}`, arrow);
    group.append(s("path", { d: group.querySelector("path").getAttribute("d"), class: "hit-area" }));
    group.setAttribute("role", "img");
    for (const name of ["mouseenter", "focus"]) group.addEventListener(name, () => this.select(arrow));
    for (const name of ["mouseleave", "blur"]) group.addEventListener(name, () => this.select(null));
  }

  /** Keep only the trigger in a label. The guard is shown when the arrow is selected. */
  shortenLabel(group) {
    const lines = [...group.querySelectorAll("text")];
    lines.slice(1).forEach((line) => line.remove());
    const [label] = lines;
    const y = Number(lines.at(-1).getAttribute("y")) - 4;
    label.setAttribute("y", y);
    if (label.getAttribute("text-anchor") !== "start") return;
    const [first, rest] = label.textContent.split(/(?<=_)/); // there is little room beside a vertical arrow
    const x = label.getAttribute("x");
    label.replaceChildren(s("tspan", { x, y: y < 225 ? y : y - 18 }, first), s("tspan", { x, dy: 22 }, rest ?? ""));
  }

  update(run) {
    this.run = run;
    if (!this.svg) return;
    this.svg.setAttribute("aria-label", t("machine.label"));
    const visited = new Set(run.path.flatMap(({ from, to }) => [from, to]));
    for (const [state, { group, setName, id, title }] of this.states) {
      setName(language() === "ko" ? title : state.replaceAll("_", " "));
      id.textContent = language() === "ko" ? state : "";
      group.classList.toggle("is-current", state === run.state);
      group.classList.toggle("was-visited", state !== run.state && visited.has(state));
      if (state === run.state) group.setAttribute("aria-current", "step");
      else group.removeAttribute("aria-current");
    }
    const arrows = new Set(this.arrows.values());
    for (const arrow of arrows) arrow.transitions = run.path.filter(({ trigger, from }) => this.arrows.get(`${trigger} ${from}`) === arrow);
    for (const arrow of arrows) this.markTransitions(arrow, run);
    if (!this.selected) this.showDetails();
  }

  /** Show the current activity in a state: the tool that is running, or the time left for a decision. */
  updateActivities(approval, now) {
    const waiting = this.states.get("awaiting_approval");
    if (waiting) waiting.activity.textContent = approval ? countdown(approval.expiresAt - now) : "";
    const working = this.states.get("tool");
    const running = this.run?.entries.find(({ kind, status }) => kind === "tool" && status === "executing");
    if (working) working.activity.textContent = running?.name ?? "";
  }

  markTransitions(arrow, run) {
    const { group, transitions } = arrow;
    const isTaken = transitions.length > 0;
    const label = [arrow.title, ...transitions.map((transition) => this.sentence(transition))].join(". ");
    group.classList.toggle("is-taken", isTaken);
    group.classList.toggle("is-last", isTaken && transitions.at(-1).number === run.path.length);
    group.setAttribute("aria-label", label);
    if (isTaken) group.setAttribute("tabindex", "0");
    else group.removeAttribute("tabindex");
    this.showNumbers(arrow, transitions);
  }

  showNumbers(arrow, transitions) {
    const text = numbersText(transitions);
    if (text === (arrow.badge?.textContent ?? "")) return;
    arrow.badge?.remove();
    arrow.badge = null;
    if (text === "") return;
    const [x, y] = arrow.numberPosition;
    const width = 18 + 9.5 * text.length;
    arrow.badge = s(
      "g",
      { class: "number" },
      s("rect", { x: x - width / 2, y: y - 14, width, height: 28, rx: 14 }),
      s("text", { x, y: y + 6.5, "text-anchor": "middle" }, text),
    );
    arrow.group.append(arrow.badge);
  }

  sentence({ number, trigger, at }) {
    const elapsed = duration(at - this.run.startedAt);
    const names = entriesAfter(this.run, number).map((entry) => entry.name ?? entry.action);
    const reason = [t(`reason.${trigger}`), ...new Set(names)].join(": ");
    return `${number} · ${clockTime(at)} (+${elapsed}) · ${reason}${this.errorText(trigger)}`;
  }

  errorText(trigger) {
    const isEnd = ["reject", "fail", "expire", "cancel"].includes(trigger);
    return isEnd && this.run.error ? ` · ${this.run.error.message}` : "";
  }

  select(arrow) {
    this.selected = arrow;
    this.showDetails();
  }

  /** Show time and reason of the arrow under the pointer or with the focus, or else of the last transition. */
  showDetails() {
    const last = this.run?.path.at(-1);
    const arrow = this.selected ?? (last && this.arrows.get(`${last.trigger} ${last.from}`));
    this.details.hidden = !arrow;
    this.details.classList.toggle("is-selected", this.selected !== null);
    if (!arrow) return;
    const { group, transitions } = arrow;
    const sentences = transitions.slice(-MAX_SENTENCES).map((transition) => h("li", {}, this.sentence(transition)));
    const { guard } = group.dataset;
    const from = transitions.at(-1)?.from ?? group.dataset.from.split(" ")[0];
    this.details.replaceChildren(
      h("p", {}, h("strong", {}, `${t(`state.${from}`)} → ${t(`state.${group.dataset.to}`)}`), " ", h("code", {}, group.dataset.trigger)),
      h("p", { class: "muted", hidden: !(guard && this.selected) }, `[${guard}]`),
      h("ul", {}, ...(sentences.length > 0 ? sentences : [h("li", { class: "muted" }, t("machine.not_taken"))])),
    );
  }
}

/** Replace the texts of a state by larger ones: its name, its id below, and its current activity at the bottom. */
function prepareState(group) {
  const [id, korean] = [...group.querySelectorAll("text")].map((line) => line.textContent);
  group.querySelectorAll("text").forEach((line) => line.remove());
  const [x, y, height] = ["x", "y", "height"].map((side) => Number(group.querySelector("rect").getAttribute(side)));
  const texts = ["name", "id", "activity"].map((kind) => s("text", { class: kind, x: x + 18 }));
  group.append(...texts);
  const [name, idText, activity] = texts;
  const isLow = height < 120;
  const setName = (text) => {
    if (name.dataset.text === text) return;
    name.dataset.text = text;
    const lines = text.length > 14 ? text.split(" ") : [text];
    const top = isLow ? y + height / 2 + (language() === "ko" ? -2 : 9) : y + 40;
    name.replaceChildren(...lines.map((line, index) => s("tspan", { x: x + 18, y: top + 30 * index }, line)));
    idText.setAttribute("y", top + 30 * lines.length - 4);
    activity.setAttribute("y", y + height - 28);
  };
  return { group, setName, id: idText, activity, title: korean ?? id };
}

function numberPosition(group) {
  const given = group.dataset.numberAt?.split(" ").map(Number);
  if (given) return given;
  const line = group.querySelector("path");
  const { x, y } = line.getPointAtLength(line.getTotalLength() * NUMBER_POSITION);
  return [x, y];
}

/** The view box without the title and the legend of the diagram. */
function croppedViewBox(svg) {
  const [x, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const top = 44;
  return `${x + 16} ${top} ${width - 16} ${height - top + 4}`;
}

function numbersText(transitions) {
  const shown = transitions.slice(-MAX_NUMBERS).map(({ number }) => number).join(", ");
  return transitions.length > MAX_NUMBERS ? `… ${shown}` : shown;
}
