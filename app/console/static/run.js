/** Shows the open run: its prompt, its plan, its events in order, and its answer. */

import { ApprovalCard } from "./approval.js";
import { arrange, find, h, icon, isolate } from "./dom.js";
import { clockTime, duration } from "./format.js";
import { renderMarkdown } from "./markdown.js";
import { isEnded } from "./run_state.js";
import { t } from "./translations.js";
import { argumentList, resultElement } from "./values.js";

/** The feed follows new entries while it is scrolled to within this many pixels of its end. */
const FOLLOW_PIXELS = 120;
/** A streamed answer is rendered again only after this many times the time that it took, so that the page stays usable. */
const RENDER_PAUSE = 5;

export class RunView {
  /** `actions` has decide, cancel and loadDetails. The view ends with `signal`, when the user signs out. */
  constructor(actions, signal) {
    this.actions = actions;
    this.feed = find("feed");
    this.entries = find("entries");
    this.answer = find("answer-text");
    find("cancel").addEventListener("click", () => actions.cancel(), { signal });
    this.clear();
  }

  /** Remove all rendered elements, for another run or another language. */
  clear() {
    this.rendered = new Map();
    this.renderedAnswer = null;
    this.nextRenderAt = 0;
    this.entries.replaceChildren();
    this.answer.replaceChildren();
    find("plan-steps").replaceChildren();
    this.plan = null;
  }

  update(run, { ledger = [], errorMessage = "", isCancelling = false, isActive = false } = {}) {
    const follows = this.feed.scrollHeight - this.feed.scrollTop - this.feed.clientHeight < FOLLOW_PIXELS;
    find("empty").hidden = isActive;
    find("run-body").hidden = !isActive;
    if (!isActive) return;
    isolate("the header", () => this.showHeader(run, isCancelling));
    isolate("the plan", () => this.showPlan(run.plan));
    arrange(this.entries, run.entries.map((entry) => this.isolatedEntry(entry, ledger)));
    find("activity").hidden = run.entries.length === 0;
    isolate("the answer", () => this.showAnswer(run));
    isolate("the ending", () => this.showEnding(run, errorMessage));
    if (follows) this.feed.scrollTop = this.feed.scrollHeight;
  }

  updateCountdowns(now) {
    for (const { card } of this.rendered.values()) card?.updateCountdown(now);
  }

  /** Focus a request. Returns false where it is not rendered yet. */
  focusApproval(requestId) {
    const card = this.rendered.get(`approval-${requestId}`)?.card;
    card?.focus();
    return card !== undefined;
  }

  showHeader(run, isCancelling) {
    find("run-prompt").textContent = run.prompt;
    find("run-id").textContent = run.sessionId ?? "";
    stateBadge(find("run-state"), run.state);
    const cancel = find("cancel");
    cancel.hidden = isEnded(run) || run.sessionId === null;
    cancel.disabled = isCancelling;
    cancel.lastChild.textContent = t(isCancelling ? "run.cancelling" : "run.cancel");
  }

  showPlan(plan) {
    if (plan === this.plan) return;
    this.plan = plan;
    find("plan").hidden = plan.length === 0;
    const done = plan.reduce((sum, step) => sum + progress(step), 0) / Math.max(plan.length, 1);
    const bar = find("plan-progress");
    bar.style.setProperty("--done", done);
    bar.setAttribute("aria-valuenow", Math.round(done * 100));
    find("plan-steps").replaceChildren(...plan.map(planStepElement));
  }

  /** The element of an entry, or a note in its place where it cannot be shown. */
  isolatedEntry(entry, ledger) {
    let element = null;
    isolate(`the entry ${entry.key}`, () => (element = this.entryElement(entry, ledger)));
    return element ?? h("p", { class: "entry notice", role: "note" }, t("panel.failed", { name: entry.key }));
  }

  entryElement(entry, ledger) {
    const known = this.rendered.get(entry.key);
    const call = ledger.find((call) => call.toolCallId === entry.callId) ?? null;
    if (entry.kind === "approval") return this.approvalElement(entry, known, ledger);
    if (known && known.entry === entry && known.call === call) return known.element;
    const element = entry.kind === "thought" ? thoughtElement(entry) : this.toolElement(entry, call, known?.element);
    this.rendered.set(entry.key, { entry, call, element });
    return element;
  }

  approvalElement(entry, known, ledger) {
    const card = known?.card ?? new ApprovalCard(entry, this.actions.decide);
    card.update(entry, ledger.find((call) => call.decision?.request_id === entry.requestId)?.decision ?? null);
    this.rendered.set(entry.key, { entry, element: card.element, card });
    return card.element;
  }

  toolElement(entry, call, previous) {
    const elapsed = entry.startedAt !== null && entry.endedAt !== null ? duration(entry.endedAt - entry.startedAt) : "";
    const full = call && entry.isTruncated ? { args: call.toolArgs, result: call.result, error: call.error } : entry;
    const isTruncated = entry.isTruncated && call === null;
    const parts = [h("h4", {}, t("tool.arguments")), argumentList(full.args)];
    if (full.result !== null) parts.push(h("h4", {}, t("tool.result")), resultElement(full.result));
    if (full.error) parts.push(h("h4", {}, t("tool.error")), h("pre", { class: "bad" }, full.error));
    if (isTruncated) {
      const showFull = h("button", { type: "button", class: "link", onclick: () => this.actions.loadDetails() }, t("tool.show_full"));
      parts.push(h("p", { class: "muted" }, t("tool.truncated"), " ", showFull));
    }
    const summary = h(
      "summary",
      {},
      icon("tool"),
      h("code", {}, entry.name),
      h("span", { class: "status", "data-status": entry.status }, t(`tool.${entry.status}`)),
      h("span", { class: "muted duration" }, elapsed),
    );
    const isOpen = previous ? previous.open : !entry.needsApproval;
    return h("details", { class: "entry tool", open: isOpen, "data-status": entry.status, "data-tool": entry.name }, summary, ...parts);
  }

  showAnswer(run) {
    const hasAnswer = run.answer !== "";
    find("answer").hidden = !hasAnswer;
    this.answer.setAttribute("aria-busy", String(run.isAnswering));
    if (!hasAnswer || run.answer === this.renderedAnswer) return;
    const startedAt = performance.now();
    if (run.isAnswering && startedAt < this.nextRenderAt) return; // a later chunk renders it
    this.renderedAnswer = run.answer;
    this.answer.replaceChildren(renderMarkdown(run.answer));
    const endedAt = performance.now();
    this.nextRenderAt = endedAt + RENDER_PAUSE * (endedAt - startedAt);
  }

  showEnding(run, errorMessage) {
    const ending = find("ending");
    const text = errorMessage ? t("run.rejected", { cause: errorMessage }) : (run.error?.message ?? run.end?.message ?? "");
    ending.hidden = text === "" || (run.end === null && run.error === null && !errorMessage);
    ending.dataset.kind = errorMessage || run.error ? "bad" : "good";
    const tokens = run.end?.usage?.totalTokens;
    const details = [run.error?.type, run.end && duration(run.end.at - run.startedAt), tokens && t("run.usage", { tokens })];
    ending.replaceChildren(h("span", {}, text), h("span", { class: "muted" }, details.filter(Boolean).join(" · ")));
  }
}

/** Show a state as a small label with its colour. */
export function stateBadge(element, state) {
  element.hidden = !state;
  element.dataset.state = state ?? "";
  element.textContent = state ? t(`state.${state}`) : "";
  return element;
}

function thoughtElement(entry) {
  const sources = entry.sources.map((source) => h("li", {}, sourceText(source)));
  return h(
    "div",
    { class: "entry thought", "data-type": entry.thoughtType },
    icon("thought"),
    h("div", {}, h("span", { class: "visually-hidden" }, t(`thought.${entry.thoughtType}`)), h("p", {}, entry.text), sources.length > 0 && h("ul", { class: "sources", "aria-label": t("thought.sources") }, ...sources)),
    h("time", { datetime: new Date(entry.at).toISOString() }, clockTime(entry.at)),
  );
}

/** A source as text: its title, type, time and id; other values as JSON. */
function sourceText(source) {
  if (typeof source === "string") return source;
  if (typeof source?.title !== "string") return JSON.stringify(source);
  const details = ["type", "timestamp", "id"].map((name) => source[name]).filter(Boolean);
  return details.length > 0 ? `${source.title} (${details.join(", ")})` : source.title;
}

function planStepElement(step) {
  const confidence = step.confidence === null ? null : t("plan.confidence", { percent: `${Math.round(step.confidence * 100)} %` });
  return h(
    "li",
    { "data-status": step.status },
    h("span", { class: "marker", role: "img", "aria-label": step.status }),
    h("span", { class: "text" }, h("strong", {}, step.title), step.description && h("span", { class: "muted" }, step.description)),
    confidence && h("span", { class: "confidence" }, confidence),
  );
}

function progress(step) {
  return step.status === "completed" || step.status === "skipped" ? 1 : (step.progress ?? 0);
}
