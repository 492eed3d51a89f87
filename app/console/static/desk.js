/** What a signed-in person works with: the open run and its stream, the lists, and what is asked of the service. */

import { Diagram } from "./diagram.js";
import { find } from "./dom.js";
import { Inbox, RunList } from "./lists.js";
import { freshRun, isOver, openApproval, reduced } from "./reduce.js";
import { RunView } from "./run.js";
import { Schedule } from "./schedule.js";
import { Timeline } from "./timeline.js";
import { t } from "./words.js";

const INBOX_MS = 2000;
const RUNS_MS = 6000;
const TIMELINE_MS = 5000;
const SETTLE_MS = 250;
const PAGE = 25;

export class Desk {
  /** `page`: connection(kind, words), say(words, isUrgent), refused(error), show(view), opened(sessionId), returned(prompt). */
  constructor(service, page) {
    this.service = service;
    this.page = page;
    this.ended = new AbortController();
    const actions = {
      decide: (verdict, requestId, more) => this.decide(verdict, requestId, more),
      cancel: () => this.cancel(),
      whole: () => this.readRecord(),
    };
    this.runView = new RunView(actions, this.ended.signal);
    this.diagram = new Diagram(this.ended.signal);
    this.timeline = new Timeline();
    this.inbox = new Inbox((request) => this.open(request.sessionId, "", request.requestId));
    this.runList = new RunList((sessionId, prompt) => this.open(sessionId, prompt));
    this.requests = [];
    this.runs = [];
    this.limit = PAGE;
    this.leaveRun();
    this.schedule = new Schedule();
    this.ticker = setInterval(() => this.tick(), 500);
    this.loadDiagram();
    this.schedule.poll("inbox", INBOX_MS, () => this.readInbox());
    this.schedule.poll("runs", RUNS_MS, () => this.readRuns());
    this.render();
  }

  close() {
    this.ended.abort();
    this.following.abort();
    clearInterval(this.ticker);
    this.schedule.end();
    this.requests = [];
    this.runs = [];
    this.leaveRun();
    cancelAnimationFrame(this.frame);
    this.render();
  }

  // --- the open run

  leaveRun(known = {}) {
    this.following?.abort();
    this.following = new AbortController();
    this.run = freshRun(known);
    this.lastId = undefined;
    this.ledger = [];
    this.refusal = "";
    this.isActive = false;
    this.isCancelling = false;
    this.spans = null;
    this.spansAt = 0;
    this.wanted = null;
    this.runView.clear();
    this.page.connection("idle");
  }

  start(prompt, context, threadId) {
    this.leaveRun({ prompt });
    const options = { context, signal: this.following.signal };
    if (threadId) options.threadId = threadId;
    this.follow(this.service.client.run(prompt, options));
  }

  /** An existing run, from its first event; with `requestId` the focus goes to that request. */
  open(sessionId, prompt = "", requestId = null) {
    this.page.show("run");
    if (sessionId !== this.run.sessionId) {
      this.leaveRun({ sessionId, prompt });
      this.page.opened(sessionId);
      this.readRecord();
      this.follow(this.service.client.attach(sessionId, { signal: this.following.signal }));
    }
    this.wanted = requestId;
    this.soon();
  }

  /** After the connection was given up: on from the last event that came. */
  retry() {
    const { signal } = this.following;
    this.refusal = "";
    this.follow(this.service.client.attach(this.run.sessionId, { signal, lastEventId: this.lastId }));
  }

  async follow(stream) {
    const { signal } = this.following;
    this.isActive = true;
    this.page.connection("connecting");
    this.soon();
    try {
      for await (const item of stream) {
        if (signal.aborted) return; // what was read ahead belongs to a run that was left
        this.took(item);
      }
      this.page.connection("over");
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) this.page.refused(error);
      this.refusal = error.message;
      const isLost = error.name !== "Refused" && this.run.sessionId !== null;
      this.page.connection(isLost ? "lost" : "over", error.message);
      if (this.run.sessionId === null) this.page.returned(this.run.prompt);
    }
    this.soon();
    this.readRecord();
    this.readRuns();
    this.readTimeline();
  }

  took(item) {
    if (item.kind === "interrupted") this.page.connection("broken", item.cause);
    if (item.kind === "resumed") this.page.connection("live");
    if (item.kind !== "event") return;
    const before = this.run;
    this.lastId = item.id ?? this.lastId;
    this.run = reduced(before, item.event, item.id);
    if (item.event.type === "start") this.page.opened(this.run.sessionId);
    if (before.state === null || item.event.type === "start") this.page.connection("live");
    this.tell(before, item.event);
    this.soon();
  }

  /** What changes for the rest of the page, and what a screen reader hears. */
  tell(before, event) {
    const { run } = this;
    if (event.type === "hitl") this.page.say(t("approval.said", { message: event.message }), true);
    else if (run.state !== before.state && run.state) this.page.say(t("machine.said", { state: t(`state.${run.state}`) }));
    else if (before.isAnswering && !run.isAnswering) this.page.say(t("answer.ready"));
    if (run.path === before.path && event.type !== "hitl" && event.type !== "start") return;
    this.schedule.after("inbox", SETTLE_MS, () => this.readInbox());
    this.schedule.after("runs", SETTLE_MS, () => this.readRuns());
    this.schedule.after("timeline", SETTLE_MS, () => this.readTimeline());
  }

  /** The run's record has what the stream has not: the prompt, who decided, results in full. */
  async readRecord() {
    const { sessionId } = this.run;
    if (!sessionId) return;
    const details = await this.quietly(this.service.glimpse.details(sessionId));
    if (!details || sessionId !== this.run.sessionId) return;
    this.ledger = details.ledger;
    this.run = { ...this.run, prompt: details.prompt, startedAt: Math.min(this.run.startedAt ?? Infinity, details.createdAt * 1000) };
    this.soon();
  }

  async readTimeline() {
    const { sessionId } = this.run;
    if (!sessionId) return;
    const spans = await this.quietly(this.service.glimpse.timeline(sessionId));
    if (spans && sessionId === this.run.sessionId) {
      this.spans = spans;
      this.spansAt = performance.now();
      this.soon();
    }
    if (!isOver(this.run)) this.schedule.after("timeline", TIMELINE_MS, () => this.readTimeline());
  }

  async decide(verdict, requestId, { params, reason, skip }) {
    const { glimpse } = this.service;
    const asked = verdict === "approve" ? glimpse.approve(requestId, params) : glimpse.reject(requestId, { reason, skip });
    const outcome = await asked;
    this.schedule.after("inbox", SETTLE_MS, () => this.readInbox());
    this.schedule.after("record", SETTLE_MS, () => this.readRecord());
    return outcome;
  }

  async cancel() {
    this.isCancelling = true;
    this.soon();
    try {
      await this.service.glimpse.cancel(this.run.sessionId);
    } catch (error) {
      this.isCancelling = false;
      this.page.say(error.message, true);
      this.soon();
    }
  }

  // --- the lists

  async readInbox() {
    const page = await this.quietly(this.service.glimpse.pending({ limit: 100, signal: this.ended.signal }), true);
    if (page) this.requests = page.requests;
    this.soon();
  }

  async readRuns() {
    const page = await this.quietly(this.service.glimpse.runs({ limit: this.limit, signal: this.ended.signal }), true);
    if (page) this.runs = page.runs;
    find("runs-more").hidden = !(page?.nextOffset && this.limit < 100);
    this.soon();
  }

  more() {
    this.limit = 100;
    this.readRuns();
  }

  async loadDiagram() {
    const place = find("machine-away");
    try {
      this.diagram.load(await this.service.diagram());
      place.hidden = true;
    } catch (error) {
      place.textContent = t("machine.away", { cause: error.message });
      place.hidden = false;
      this.schedule.after("diagram", TIMELINE_MS, () => this.loadDiagram());
    }
    this.soon();
  }

  /** The answer, or null where there is none now; `tells`: the page shows that the service is away. */
  async quietly(asked, tells = false) {
    try {
      const answer = await asked;
      if (tells) this.page.away(false);
      return answer;
    } catch (error) {
      if (this.ended.signal.aborted) return null;
      if (error.status === 401) this.page.refused(error);
      else if (tells) this.page.away(true);
      return null;
    }
  }

  // --- the page

  soon() {
    if (this.ended.signal.aborted) return;
    this.frame ??= requestAnimationFrame(() => this.render());
  }

  /** As if nothing had been drawn: the language changed. */
  redraw() {
    this.runView.clear();
    this.inbox.clear();
    this.runList.clear();
    this.render();
  }

  render() {
    this.frame = null;
    const { run, ledger, refusal, isCancelling, isActive } = this;
    const now = this.service.now();
    this.runView.update(run, { ledger, refusal, isCancelling, isActive });
    this.diagram.update(run);
    this.timeline.update(this.spans, this.spansAge());
    this.inbox.update(this.waiting(), run.sessionId);
    this.runList.update(this.runs, run.sessionId, now);
    this.tick();
    if (this.wanted && this.runView.focusApproval(this.wanted)) this.wanted = null;
    this.page.rendered(run);
  }

  /** What the stream knows comes first: a decision shows at once, whoever made it. */
  waiting() {
    const decided = new Set(this.run.entries.filter((entry) => entry.verdict).map((entry) => entry.requestId));
    const requests = this.requests.filter(({ requestId }) => !decided.has(requestId));
    const own = openApproval(this.run);
    if (own && requests.every(({ requestId }) => requestId !== own.requestId)) {
      requests.unshift({ requestId: own.requestId, sessionId: own.sessionId, actionType: own.action, message: own.message, context: own.args, expiresAt: own.expiresAt / 1000, queued: 0 });
    }
    return requests;
  }

  spansAge() {
    return (performance.now() - this.spansAt) / 1000;
  }

  tick() {
    const now = this.service.now();
    this.runView.tick(now);
    this.inbox.tick(now);
    this.diagram.tick(openApproval(this.run), now);
    if (this.spans?.isOpen && !isOver(this.run)) this.timeline.update(this.spans, this.spansAge());
  }
}
