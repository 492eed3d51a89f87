/** Controls the page of a signed-in user: the open run and its stream, the lists, and the requests to the service. */

import { Diagram } from "./diagram.js";
import { find, isolate } from "./dom.js";
import { Lists } from "./lists.js";
import { RunView } from "./run.js";
import { applyEvent, approvalProblem, emptyRun, isEnded, openApproval, withCheckedApproval } from "./run_state.js";
import { Timeline } from "./timeline.js";
import { Timers } from "./timers.js";
import { t } from "./translations.js";

const TIMELINE_INTERVAL_MS = 5000;
const REFRESH_DELAY_MS = 250;
const COUNTDOWN_INTERVAL_MS = 500;

export class Controller {
  /** `page` has the methods showConnection(kind, cause), showAvailability(isAvailable), announce(text, isUrgent),
   * onTokenRejected(error), onRunOpened(sessionId), onPromptRejected(prompt), showView(view) and onRendered(run). */
  constructor(service, page) {
    this.service = service;
    this.page = page;
    this.closed = new AbortController();
    this.failedPanels = new Set();
    const actions = {
      decide: (verdict, request, fields) => this.decide(verdict, request, fields),
      cancel: () => this.cancel(),
      loadDetails: () => this.loadDetails(),
    };
    this.runView = new RunView(actions, this.closed.signal);
    this.diagram = new Diagram(this.closed.signal);
    this.timelineView = new Timeline();
    this.timers = new Timers();
    this.lists = new Lists({
      open: (sessionId, prompt, requestId) => this.open(sessionId, prompt, requestId),
      load: (method, options) => this.loadList(method, options),
      onLoaded: () => this.scheduleRender(),
    });
    this.closeRun();
    this.countdownTimer = setInterval(() => this.showPanel("countdowns", () => this.updateCountdowns()), COUNTDOWN_INTERVAL_MS);
    this.loadDiagram();
    this.lists.poll(this.timers);
    this.render();
  }

  close() {
    this.closed.abort();
    this.streamAbort.abort();
    clearInterval(this.countdownTimer);
    this.timers.stop();
    this.lists.clear();
    this.closeRun();
    cancelAnimationFrame(this.frame);
    this.render();
  }

  // --- the open run

  /** Close the open run; `known` are the known fields of the next one. */
  closeRun(known = {}) {
    this.streamAbort?.abort();
    this.streamAbort = new AbortController();
    this.run = emptyRun(known);
    this.lastEventId = undefined;
    this.ledger = [];
    this.errorMessage = "";
    this.isActive = false;
    this.isCancelling = false;
    this.timeline = null;
    this.timelineLoadedAt = 0;
    this.requestToFocus = null;
    this.runView.clear();
    this.page.showConnection("idle");
  }

  start(prompt, context, threadId) {
    this.closeRun({ prompt });
    const options = { context, signal: this.streamAbort.signal };
    if (threadId) options.threadId = threadId;
    this.readStream(this.service.client.run(prompt, options));
  }

  /** Open an existing run from its first event. With `requestId` the focus is set to that request. */
  open(sessionId, prompt = "", requestId = null) {
    this.page.showView("run");
    if (sessionId !== this.run.sessionId) {
      this.closeRun({ sessionId, prompt });
      this.page.onRunOpened(sessionId);
      this.loadDetails();
      this.readStream(this.service.client.attach(sessionId, { signal: this.streamAbort.signal }));
    }
    this.requestToFocus = requestId;
    this.scheduleRender();
  }

  /** Reconnect after `ConnectionLost`, and continue after the last event. */
  reconnect() {
    const { signal } = this.streamAbort;
    this.errorMessage = "";
    this.readStream(this.service.client.attach(this.run.sessionId, { signal, lastEventId: this.lastEventId }));
  }

  async readStream(stream) {
    const { signal } = this.streamAbort;
    this.isActive = true;
    this.page.showConnection("connecting");
    this.scheduleRender();
    try {
      for await (const item of stream) {
        if (signal.aborted) return; // a buffered item of a run that was closed
        this.handleItem(item);
      }
      this.page.showConnection("closed");
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) this.page.onTokenRejected(error);
      this.errorMessage = error.message;
      const isLost = error.name !== "ApiError" && this.run.sessionId !== null;
      this.page.showConnection(isLost ? "lost" : "closed", error.message);
      if (this.run.sessionId === null) this.page.onPromptRejected(this.run.prompt);
    }
    this.scheduleRender();
    this.loadDetails();
    this.lists.loadRuns();
    this.loadTimeline();
  }

  handleItem(item) {
    if (item.kind === "interrupted") this.page.showConnection("broken", item.cause);
    if (item.kind === "resumed") this.page.showConnection("live");
    if (item.kind !== "event") return;
    const previous = this.run;
    this.lastEventId = item.id ?? this.lastEventId;
    this.run = applyEvent(previous, item.event, item.id);
    if (item.event.type === "start") this.page.onRunOpened(this.run.sessionId);
    if (previous.state === null || item.event.type === "start") this.page.showConnection("live");
    this.announceChange(previous, item.event);
    if (item.event.type === "hitl") this.checkRequest(item.event);
    this.scheduleRender();
  }

  /** Load a request before it can be approved: another program can change an event in Redis, but not this answer. */
  async checkRequest(event) {
    const { signal } = this.streamAbort;
    let [problem, cause] = ["approval.not_loaded", ""];
    try {
      problem = approvalProblem(event, await this.service.client.request(event.requestId));
    } catch (error) {
      cause = error.message;
    }
    if (signal.aborted) return;
    this.run = withCheckedApproval(this.run, event.requestId, problem, cause);
    this.scheduleRender();
  }

  /** Announce a change to screen readers, and reload the lists where the event affects them. */
  announceChange(previous, event) {
    const { run } = this;
    if (event.type === "hitl") this.page.announce(t("approval.announcement", { message: event.message }), true);
    else if (run.state !== previous.state && run.state) this.page.announce(t("machine.announcement", { state: t(`state.${run.state}`) }));
    else if (previous.isAnswering && !run.isAnswering) this.page.announce(t("answer.ready"));
    if (run.path === previous.path && event.type !== "hitl" && event.type !== "start") return;
    this.timers.schedule("inbox", REFRESH_DELAY_MS, () => this.lists.loadInbox());
    this.timers.schedule("runs", REFRESH_DELAY_MS, () => this.lists.loadRuns());
    this.timers.schedule("timeline", REFRESH_DELAY_MS, () => this.loadTimeline());
  }

  /** Load the run's details, which contain what the stream does not: the prompt, the approver, complete results. */
  async loadDetails() {
    const { sessionId } = this.run;
    if (!sessionId) return;
    const details = await this.resultOrNull(this.service.singleTryClient.details(sessionId));
    if (!details || sessionId !== this.run.sessionId) return;
    this.ledger = details.ledger;
    this.run = { ...this.run, prompt: details.prompt, startedAt: Math.min(this.run.startedAt ?? Infinity, details.createdAt * 1000) };
    this.scheduleRender();
  }

  async loadTimeline() {
    const { sessionId } = this.run;
    if (!sessionId) return;
    const timeline = await this.resultOrNull(this.service.singleTryClient.timeline(sessionId));
    if (timeline && sessionId === this.run.sessionId) {
      this.timeline = timeline;
      this.timelineLoadedAt = performance.now();
      this.scheduleRender();
    }
    if (!isEnded(this.run)) this.timers.schedule("timeline", TIMELINE_INTERVAL_MS, () => this.loadTimeline());
  }

  async decide(verdict, { requestId, argumentsDigest }, { params, reason, skip }) {
    const client = this.service.singleTryClient;
    const reply = await (verdict === "approve" ? client.approve(requestId, argumentsDigest, params) : client.reject(requestId, { reason, skip }));
    this.timers.schedule("inbox", REFRESH_DELAY_MS, () => this.lists.loadInbox());
    this.timers.schedule("details", REFRESH_DELAY_MS, () => this.loadDetails());
    return reply;
  }

  async cancel() {
    this.isCancelling = true;
    this.scheduleRender();
    try {
      await this.service.singleTryClient.cancel(this.run.sessionId);
    } catch (error) {
      this.isCancelling = false;
      this.page.announce(error.message, true);
      this.scheduleRender();
    }
  }

  // --- requests

  async loadDiagram() {
    const errorText = find("machine-error");
    try {
      this.diagram.load(await this.service.diagram());
      errorText.hidden = true;
    } catch (error) {
      errorText.textContent = t("machine.unavailable", { cause: error.message });
      errorText.hidden = false;
      this.timers.schedule("diagram", TIMELINE_INTERVAL_MS, () => this.loadDiagram());
    }
    this.scheduleRender();
  }

  /** A page of a list, or null where it cannot be loaded now, which the page then shows. */
  loadList(method, options) {
    return this.resultOrNull(this.service.singleTryClient[method]({ ...options, signal: this.closed.signal }), true);
  }

  /** The result of a request, or null where it failed. With `showsAvailability` the page shows whether it failed. */
  async resultOrNull(request, showsAvailability = false) {
    try {
      const result = await request;
      if (showsAvailability) this.page.showAvailability(true);
      return result;
    } catch (error) {
      if (this.closed.signal.aborted) return null;
      if (error.status === 401) this.page.onTokenRejected(error);
      else if (showsAvailability) this.page.showAvailability(false);
      return null;
    }
  }

  // --- rendering

  scheduleRender() {
    if (this.closed.signal.aborted) return;
    this.frame ??= requestAnimationFrame(() => this.render());
  }

  /** Render everything again, after the language has changed. */
  renderAgain() {
    this.runView.clear();
    this.lists.clearRows();
    this.render();
  }

  render() {
    this.frame = null;
    const { run, ledger, errorMessage, isCancelling, isActive } = this;
    const now = this.service.now();
    this.showPanel("run", () => this.runView.update(run, { ledger, errorMessage, isCancelling, isActive }));
    this.showPanel("machine", () => this.diagram.update(run));
    this.showPanel("timeline", () => this.timelineView.update(this.timeline, this.timelineAgeSeconds()));
    this.showPanel("lists", () => this.lists.update(run, now));
    this.showPanel("countdowns", () => this.updateCountdowns());
    if (this.requestToFocus && this.runView.focusApproval(this.requestToFocus)) this.requestToFocus = null;
    this.page.onRendered(run);
  }

  /** Show one panel. Where it fails the others are shown all the same, and a person is told once. */
  showPanel(name, show) {
    isolate(name, show, () => {
      if (!this.failedPanels.has(name)) this.page.announce(t("panel.failed", { name }), true);
      this.failedPanels.add(name);
    });
  }

  timelineAgeSeconds() {
    return (performance.now() - this.timelineLoadedAt) / 1000;
  }

  updateCountdowns() {
    const now = this.service.now();
    this.runView.updateCountdowns(now);
    this.lists.updateCountdowns(now);
    this.diagram.updateActivities(openApproval(this.run), now);
    if (this.timeline?.isOpen && !isEnded(this.run)) this.timelineView.update(this.timeline, this.timelineAgeSeconds());
  }
}
