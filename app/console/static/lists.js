/** The two lists at the side: open approval requests, and runs. */

import { arrange, find, h, icon } from "./dom.js";
import { age, countdown } from "./format.js";
import { stateBadge } from "./run.js";
import { openApproval } from "./run_state.js";
import { t } from "./translations.js";
import { visibleNodes } from "./values.js";

const INBOX_INTERVAL_MS = 2000;
const RUNS_INTERVAL_MS = 6000;
const PAGE_SIZE = 25;
const MAX_PAGE_SIZE = 100;

/** Loads both lists and shows them. */
export class Lists {
  /** `open(sessionId, prompt, requestId)` opens a run; `load(method, options)` resolves to a page of a list or null;
   * `onLoaded()` is called after each. */
  constructor({ open, load, onLoaded }) {
    this.load = load;
    this.onLoaded = onLoaded;
    this.inbox = new Inbox((request) => open(request.sessionId, "", request.requestId));
    this.runList = new RunList((sessionId, prompt) => open(sessionId, prompt));
    this.pageSize = PAGE_SIZE;
    this.clear();
  }

  poll(timers) {
    timers.poll("inbox", INBOX_INTERVAL_MS, () => this.loadInbox());
    timers.poll("runs", RUNS_INTERVAL_MS, () => this.loadRuns());
  }

  async loadInbox() {
    const page = await this.load("pending", { limit: MAX_PAGE_SIZE });
    if (page) this.requests = page.requests;
    this.onLoaded();
  }

  async loadRuns() {
    const page = await this.load("runs", { limit: this.pageSize });
    if (page) this.runs = page.runs;
    find("runs-more").hidden = !(page?.nextOffset && this.pageSize < MAX_PAGE_SIZE);
    this.onLoaded();
  }

  showMoreRuns() {
    this.pageSize = MAX_PAGE_SIZE;
    this.loadRuns();
  }

  clear() {
    this.requests = [];
    this.runs = [];
  }

  clearRows() {
    this.inbox.clear();
    this.runList.clear();
  }

  update(run, now) {
    this.inbox.update(this.openRequests(run), run.sessionId);
    this.runList.update(this.runs, run.sessionId, now);
  }

  updateCountdowns(now) {
    this.inbox.updateCountdowns(now);
  }

  /** The listed requests, corrected by the stream of the open run, which is more recent than the list. */
  openRequests(run) {
    const decided = new Set(run.entries.filter((entry) => entry.verdict).map((entry) => entry.requestId));
    const requests = this.requests.filter(({ requestId }) => !decided.has(requestId));
    const own = openApproval(run);
    if (own && requests.every(({ requestId }) => requestId !== own.requestId)) {
      requests.unshift({ requestId: own.requestId, sessionId: own.sessionId, actionType: own.action, message: own.message, context: own.args, expiresAt: own.expiresAt / 1000, queued: 0 });
    }
    return requests;
  }
}

/** The list of open approval requests. */
class Inbox {
  /** `open(request)` opens the run of a request. */
  constructor(open) {
    this.open = open;
    this.list = find("inbox");
    this.rows = new Map();
  }

  update(requests, openSession) {
    const rows = new Map();
    for (const request of requests) {
      const row = this.rows.get(request.requestId) ?? this.createRow(request);
      row.expiresAt = request.expiresAt * 1000;
      markOpen(row.button, request.sessionId === openSession);
      rows.set(request.requestId, row);
    }
    this.rows = rows;
    arrange(this.list, [...rows.values()].map(({ element }) => element));
    find("inbox-empty").hidden = rows.size > 0;
    find("inbox-count").textContent = rows.size;
    find("inbox-count").hidden = rows.size === 0;
    find("views").querySelector("[data-view=lists]").dataset.count = rows.size || "";
    document.title = rows.size > 0 ? `(${rows.size}) ${t("title")}` : t("title");
  }

  clear() {
    this.rows = new Map();
  }

  updateCountdowns(now) {
    for (const row of this.rows.values()) row.timeLeft.textContent = countdown(row.expiresAt - now);
  }

  createRow(request) {
    const timeLeft = h("span", { class: "time-left" });
    const firstText = Object.values(request.context).find((value) => typeof value === "string" && value !== "") ?? "";
    const button = h(
      "button",
      { type: "button", class: "row", "data-session": request.sessionId, onclick: () => this.open(request) },
      h("span", { class: "line" }, icon("hand"), h("strong", {}, ...visibleNodes(request.message)), timeLeft),
      h("span", { class: "line muted" }, h("code", {}, request.actionType), h("span", { class: "ellipsis" }, ...visibleNodes(firstText.slice(0, 80))), request.queued > 0 && h("span", {}, t("inbox.queued", { count: request.queued }))),
    );
    return { button, timeLeft, element: h("li", {}, button) };
  }
}

/** The list of runs. */
class RunList {
  /** `open(sessionId, prompt)` opens a run. */
  constructor(open) {
    this.open = open;
    this.list = find("runs");
    this.rows = new Map();
  }

  update(runs, openSession, now) {
    const rows = new Map();
    for (const run of runs) {
      const row = this.rows.get(run.sessionId) ?? this.createRow(run);
      stateBadge(row.state, run.state);
      const time = age(now - run.createdAt * 1000);
      row.age.textContent = time === null ? t("now") : t("age", { time });
      markOpen(row.button, run.sessionId === openSession);
      rows.set(run.sessionId, row);
    }
    this.rows = rows;
    arrange(this.list, [...rows.values()].map(({ element }) => element));
    find("runs-empty").hidden = rows.size > 0;
  }

  clear() {
    this.rows = new Map();
  }

  createRow(run) {
    const state = h("span", { class: "badge" });
    const time = h("span", { class: "muted" });
    const button = h(
      "button",
      { type: "button", class: "row", "data-session": run.sessionId, onclick: () => this.open(run.sessionId, run.promptHead) },
      h("span", { class: "line" }, h("span", { class: "ellipsis" }, run.promptHead)),
      h("span", { class: "line" }, state, time),
    );
    return { state, age: time, button, element: h("li", {}, button) };
  }
}

function markOpen(button, isOpen) {
  if (isOpen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}
