/** Where the run's time went, as `GET /aura/runs/{id}/timeline` tells: states in one strip, then turns, tools, waits. */

import { find, h } from "./dom.js";
import { duration, t } from "./words.js";

const LEAST_SHARE = 0.004;

export class Timeline {
  constructor() {
    this.place = find("spans");
    this.strip = find("strip");
    this.shown = null;
  }

  /** null: nothing to show yet. `more`: so many seconds ago it was asked for; what is open has grown by them. */
  update(timeline, more = 0) {
    this.shown = timeline && more > 0 ? grown(timeline, more) : timeline;
    timeline = this.shown;
    find("timeline-none").hidden = timeline !== null;
    find("strip-row").hidden = timeline === null;
    find("strip-long").textContent = timeline ? seconds(timeline.durationSeconds) : "";
    find("timeline-total").textContent = timeline ? t("timeline.total", { total: seconds(timeline.durationSeconds), waited: seconds(timeline.waitedSeconds) }) : "";
    const spans = timeline?.spans ?? [];
    this.strip.replaceChildren(...spans.filter(({ kind }) => kind === "state").map((span) => this.segment(span)));
    this.place.replaceChildren(...spans.filter(({ kind }) => kind !== "state").map((span) => this.row(span)));
  }

  segment(span) {
    const element = h("li", { "data-state": span.name }, h("span", { class: "visually-hidden" }, `${t(`state.${span.name}`)} ${seconds(span.durationSeconds)}`));
    element.title = `${t(`state.${span.name}`)} · ${seconds(span.durationSeconds)}`;
    return this.placed(element, span);
  }

  row(span) {
    const bar = this.placed(h("span", { class: "bar", "data-kind": span.kind }), span);
    return h(
      "li",
      { "data-kind": span.kind, class: span.isOpen ? "is-open" : null },
      h("span", { class: "name" }, name(span)),
      h("span", { class: "track", "aria-hidden": "true" }, bar),
      h("span", { class: "long" }, seconds(span.durationSeconds)),
      h("span", { class: "more" }, more(span)),
    );
  }

  placed(element, span) {
    const whole = Math.max(this.shown.durationSeconds, 0.001);
    element.style.setProperty("--from", Math.min(1, (span.startedAt - this.shown.startedAt) / whole));
    element.style.setProperty("--share", Math.max(LEAST_SHARE, span.durationSeconds / whole));
    return element;
  }
}

function name(span) {
  if (span.kind === "wait") return t("timeline.wait");
  if (span.kind !== "model") return span.name;
  return t(span.attempt > 1 ? "timeline.again" : "timeline.turn", { turn: span.turn, attempt: span.attempt });
}

function grown(timeline, more) {
  if (!timeline.isOpen) return timeline;
  const longer = (span) => ({ ...span, durationSeconds: span.durationSeconds + more });
  const spans = timeline.spans.map((span) => (span.isOpen ? longer(span) : span));
  const isWaiting = timeline.spans.some((span) => span.isOpen && span.kind === "wait");
  return { ...longer(timeline), waitedSeconds: timeline.waitedSeconds + (isWaiting ? more : 0), spans };
}

const seconds = (value) => duration(value * 1000);

/** What came of it: tokens of a turn, the decision on a wait, a tool's outcome. */
function more(span) {
  if (span.isOpen) return t("timeline.open");
  const { decision } = span;
  const verdict = decision?.verdict && t(`verdict.${decision.verdict}`);
  const parts = [
    span.tokens && t("run.usage", { tokens: span.tokens.totalTokens }),
    verdict,
    decision?.decidedBy && t("verdict.by", { who: decision.decidedBy }),
    decision?.edited && t("verdict.edited"),
    decision?.reason,
    !span.tokens && !verdict && span.outcome && t(`tool.${span.outcome}`),
  ];
  return parts.filter(Boolean).join(" · ");
}
