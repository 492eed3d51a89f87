/** The open run: its prompt, plan, what happened in order, the answer. */

import { ApprovalCard } from "./approval.js";
import { arrange, find, h, icon } from "./dom.js";
import { rendered } from "./markdown.js";
import { isOver } from "./reduce.js";
import { result, rows } from "./values.js";
import { clockTime, duration, t } from "./words.js";

const NEAR = 120;
const LONG_ANSWER = 20_000;
const LONG_ANSWER_PAUSE_MS = 400;

export class RunView {
  /** `actions`: decide, cancel, whole. `signal` ends it: whoever signs in next has a view of his own. */
  constructor(actions, signal) {
    this.actions = actions;
    this.feed = find("feed");
    this.entries = find("entries");
    this.answer = find("answer-text");
    find("cancel").addEventListener("click", () => actions.cancel(), { signal });
    this.clear();
  }

  /** Forget what was drawn: another run, or another language. */
  clear() {
    this.drawn = new Map();
    this.shownAnswer = null;
    this.answeredAt = 0;
    this.entries.replaceChildren();
    this.answer.replaceChildren();
    find("plan-steps").replaceChildren();
    this.plan = null;
  }

  update(run, { ledger = [], refusal = "", isCancelling = false, isActive = false } = {}) {
    const follows = this.feed.scrollHeight - this.feed.scrollTop - this.feed.clientHeight < NEAR;
    find("empty").hidden = isActive;
    find("run-body").hidden = !isActive;
    if (!isActive) return;
    this.head(run, isCancelling);
    this.showPlan(run.plan);
    arrange(this.entries, run.entries.map((entry) => this.entry(entry, ledger)));
    find("activity").hidden = run.entries.length === 0;
    this.showAnswer(run);
    this.ending(run, refusal);
    if (follows) this.feed.scrollTop = this.feed.scrollHeight;
  }

  tick(now) {
    for (const { card } of this.drawn.values()) card?.tick(now);
  }

  /** Put the focus on a request; false where it is not there yet. */
  focusApproval(requestId) {
    const card = this.drawn.get(`approval-${requestId}`)?.card;
    card?.focus();
    return card !== undefined;
  }

  head(run, isCancelling) {
    find("run-prompt").textContent = run.prompt;
    find("run-id").textContent = run.sessionId ?? "";
    badge(find("run-state"), run.state);
    const cancel = find("cancel");
    cancel.hidden = isOver(run) || run.sessionId === null;
    cancel.disabled = isCancelling;
    cancel.lastChild.textContent = t(isCancelling ? "run.cancelling" : "run.cancel");
  }

  showPlan(plan) {
    if (plan === this.plan) return;
    this.plan = plan;
    find("plan").hidden = plan.length === 0;
    const whole = plan.reduce((sum, step) => sum + progress(step), 0) / Math.max(plan.length, 1);
    const bar = find("plan-progress");
    bar.style.setProperty("--done", whole);
    bar.setAttribute("aria-valuenow", Math.round(whole * 100));
    find("plan-steps").replaceChildren(...plan.map(planStep));
  }

  entry(entry, ledger) {
    const known = this.drawn.get(entry.key);
    const line = ledger.find((found) => found.toolCallId === entry.callId) ?? null;
    if (entry.kind === "approval") return this.approval(entry, known, ledger);
    if (known && known.entry === entry && known.line === line) return known.element;
    const element = entry.kind === "thought" ? thought(entry) : this.tool(entry, line, known?.element);
    this.drawn.set(entry.key, { entry, line, element });
    return element;
  }

  approval(entry, known, ledger) {
    const card = known?.card ?? new ApprovalCard(entry, this.actions.decide);
    card.update(entry, ledger.find((line) => line.decision?.request_id === entry.requestId)?.decision ?? null);
    this.drawn.set(entry.key, { entry, element: card.element, card });
    return card.element;
  }

  tool(entry, line, before) {
    const took = entry.startedAt !== null && entry.endedAt !== null ? duration(entry.endedAt - entry.startedAt) : "";
    const shown = line && entry.isShortened ? { args: line.toolArgs, result: line.result, error: line.error } : entry;
    const isShort = entry.isShortened && line === null;
    const parts = [h("h4", {}, t("tool.args")), rows(shown.args)];
    if (shown.result !== null) parts.push(h("h4", {}, t("tool.result")), result(shown.result));
    if (shown.error) parts.push(h("h4", {}, t("tool.error")), h("pre", { class: "bad" }, shown.error));
    if (isShort) {
      const whole = h("button", { type: "button", class: "link", onclick: () => this.actions.whole() }, t("tool.whole"));
      parts.push(h("p", { class: "quiet" }, t("tool.shortened"), " ", whole));
    }
    const summary = h(
      "summary",
      {},
      icon("tool"),
      h("code", {}, entry.name),
      h("span", { class: "status", "data-status": entry.status }, t(`tool.${entry.status}`)),
      h("span", { class: "quiet took" }, took),
    );
    const isOpen = before ? before.open : !entry.needsApproval;
    return h("details", { class: "entry tool", open: isOpen, "data-status": entry.status, "data-tool": entry.name }, summary, ...parts);
  }

  showAnswer(run) {
    const isThere = run.answer !== "";
    find("answer").hidden = !isThere;
    this.answer.setAttribute("aria-busy", String(run.isAnswering));
    if (!isThere || run.answer === this.shownAnswer) return;
    const isSoon = performance.now() - this.answeredAt < LONG_ANSWER_PAUSE_MS;
    if (run.answer.length > LONG_ANSWER && run.isAnswering && isSoon) return; // the next piece is near
    this.answeredAt = performance.now();
    this.shownAnswer = run.answer;
    this.answer.replaceChildren(rendered(run.answer));
  }

  ending(run, refusal) {
    const place = find("ending");
    const words = refusal ? t("run.refused", { cause: refusal }) : (run.error?.message ?? run.end?.message ?? "");
    place.hidden = words === "" || (run.end === null && run.error === null && !refusal);
    place.dataset.kind = refusal || run.error ? "bad" : "good";
    const tokens = run.end?.usage?.totalTokens;
    const more = [run.error?.type, run.end && duration(run.end.at - run.startedAt), tokens && t("run.usage", { tokens })];
    place.replaceChildren(h("span", {}, words), h("span", { class: "quiet" }, more.filter(Boolean).join(" · ")));
  }
}

/** A state as a small label with its colour. */
export function badge(element, state) {
  element.hidden = !state;
  element.dataset.state = state ?? "";
  element.textContent = state ? t(`state.${state}`) : "";
  return element;
}

function thought(entry) {
  const sources = entry.sources.map((source) => h("li", {}, sourceWords(source)));
  return h(
    "div",
    { class: "entry thought", "data-type": entry.thoughtType },
    icon("thought"),
    h("div", {}, h("span", { class: "visually-hidden" }, t(`thought.${entry.thoughtType}`)), h("p", {}, entry.text), sources.length > 0 && h("ul", { class: "sources", "aria-label": t("thought.sources") }, ...sources)),
    h("time", { datetime: new Date(entry.at).toISOString() }, clockTime(entry.at)),
  );
}

/** What an answer rests on: its title and where it is from, or whatever else a server says. */
function sourceWords(source) {
  if (typeof source === "string") return source;
  if (typeof source?.title !== "string") return JSON.stringify(source);
  const more = ["type", "timestamp", "id"].map((name) => source[name]).filter(Boolean);
  return more.length > 0 ? `${source.title} (${more.join(", ")})` : source.title;
}

function planStep(step) {
  const confidence = step.confidence === null ? null : t("plan.sure", { percent: `${Math.round(step.confidence * 100)} %` });
  return h(
    "li",
    { "data-status": step.status },
    h("span", { class: "mark", role: "img", "aria-label": step.status }),
    h("span", { class: "words" }, h("strong", {}, step.title), step.description && h("span", { class: "quiet" }, step.description)),
    confidence && h("span", { class: "sure" }, confidence),
  );
}

function progress(step) {
  return step.status === "completed" || step.status === "skipped" ? 1 : (step.progress ?? 0);
}
