/** Shows a run's timeline (`GET /aura/runs/{id}/timeline`): a bar of states, then model turns, tools and waits. */

import { find, h } from "./dom.js";
import { duration } from "./format.js";
import { t } from "./translations.js";

const MIN_SHARE = 0.004;

export class Timeline {
  constructor() {
    this.spanList = find("spans");
    this.stateBar = find("state-bar");
    this.timeline = null;
  }

  /** Show a timeline, or nothing for null. It was loaded `ageSeconds` ago; open spans are longer by this time. */
  update(loaded, ageSeconds = 0) {
    const timeline = loaded && ageSeconds > 0 ? extended(loaded, ageSeconds) : loaded;
    this.timeline = timeline;
    find("timeline-empty").hidden = timeline !== null;
    find("state-bar-row").hidden = timeline === null;
    find("state-bar-duration").textContent = timeline ? seconds(timeline.durationSeconds) : "";
    find("timeline-total").textContent = timeline ? t("timeline.total", { total: seconds(timeline.durationSeconds), waited: seconds(timeline.waitedSeconds) }) : "";
    const spans = timeline?.spans ?? [];
    this.stateBar.replaceChildren(...spans.filter(({ kind }) => kind === "state").map((span) => this.stateElement(span)));
    this.spanList.replaceChildren(...spans.filter(({ kind }) => kind !== "state").map((span) => this.spanElement(span)));
  }

  stateElement(span) {
    const element = h("li", { "data-state": span.name }, h("span", { class: "visually-hidden" }, `${t(`state.${span.name}`)} ${seconds(span.durationSeconds)}`));
    element.title = `${t(`state.${span.name}`)} · ${seconds(span.durationSeconds)}`;
    return this.setPosition(element, span);
  }

  spanElement(span) {
    const bar = this.setPosition(h("span", { class: "bar", "data-kind": span.kind }), span);
    return h(
      "li",
      { "data-kind": span.kind, class: span.isOpen ? "is-open" : null },
      h("span", { class: "name" }, spanName(span)),
      h("span", { class: "track", "aria-hidden": "true" }, bar),
      h("span", { class: "duration" }, seconds(span.durationSeconds)),
      h("span", { class: "details" }, spanDetails(span)),
    );
  }

  setPosition(element, span) {
    const total = Math.max(this.timeline.durationSeconds, 0.001);
    element.style.setProperty("--from", Math.min(1, (span.startedAt - this.timeline.startedAt) / total));
    element.style.setProperty("--share", Math.max(MIN_SHARE, span.durationSeconds / total));
    return element;
  }
}

function spanName(span) {
  if (span.kind === "wait") return t("timeline.wait");
  if (span.kind !== "model") return span.name;
  return t(span.attempt > 1 ? "timeline.retry" : "timeline.turn", { turn: span.turn, attempt: span.attempt });
}

function extended(timeline, ageSeconds) {
  if (!timeline.isOpen) return timeline;
  const extend = (span) => ({ ...span, durationSeconds: span.durationSeconds + ageSeconds });
  const spans = timeline.spans.map((span) => (span.isOpen ? extend(span) : span));
  const isWaiting = timeline.spans.some((span) => span.isOpen && span.kind === "wait");
  return { ...extend(timeline), waitedSeconds: timeline.waitedSeconds + (isWaiting ? ageSeconds : 0), spans };
}

const seconds = (value) => duration(value * 1000);

/** The result of a span: the tokens of a model turn, the decision after a wait, the outcome of a tool. */
function spanDetails(span) {
  if (span.isOpen) return t("timeline.open");
  const { decision } = span;
  const verdict = decision?.verdict && t(`verdict.${decision.verdict}`);
  const parts = [
    span.tokens && t("run.usage", { tokens: span.tokens.totalTokens }),
    span.model,
    verdict,
    decision?.decidedBy && t("verdict.by", { who: decision.decidedBy }),
    decision?.edited && t("verdict.edited"),
    decision?.reason,
    !span.tokens && !verdict && span.outcome && t(`tool.${span.outcome}`),
  ];
  return parts.filter(Boolean).join(" · ");
}
