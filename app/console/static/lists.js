/** The two lists at the side: requests that wait for a person, and runs. */

import { arrange, find, h, icon } from "./dom.js";
import { badge } from "./run.js";
import { age, countdown, t } from "./words.js";

export class Inbox {
  /** `open(request)`. */
  constructor(open) {
    this.open = open;
    this.list = find("inbox");
    this.rows = new Map();
  }

  update(requests, openSession) {
    const kept = new Map();
    for (const request of requests) {
      const row = this.rows.get(request.requestId) ?? this.row(request);
      row.expiresAt = request.expiresAt * 1000;
      mark(row.button, request.sessionId === openSession);
      kept.set(request.requestId, row);
    }
    this.rows = kept;
    arrange(this.list, [...kept.values()].map(({ element }) => element));
    find("inbox-none").hidden = kept.size > 0;
    find("inbox-count").textContent = kept.size;
    find("inbox-count").hidden = kept.size === 0;
    find("views").querySelector("[data-view=lists]").dataset.count = kept.size || "";
    document.title = kept.size > 0 ? `(${kept.size}) ${t("title")}` : t("title");
  }

  clear() {
    this.rows = new Map();
  }

  tick(now) {
    for (const row of this.rows.values()) row.left.textContent = countdown(row.expiresAt - now);
  }

  row(request) {
    const left = h("span", { class: "left" });
    const head = Object.values(request.context).find((value) => typeof value === "string" && value !== "") ?? "";
    const button = h(
      "button",
      { type: "button", class: "row", "data-session": request.sessionId, onclick: () => this.open(request) },
      h("span", { class: "line" }, icon("hand"), h("strong", {}, request.message), left),
      h("span", { class: "line quiet" }, h("code", {}, request.actionType), h("span", { class: "clip" }, head.slice(0, 80)), request.queued > 0 && h("span", {}, t("inbox.queued", { count: request.queued }))),
    );
    return { button, left, element: h("li", {}, button) };
  }
}

export class RunList {
  /** `open(sessionId)`. */
  constructor(open) {
    this.open = open;
    this.list = find("runs");
    this.rows = new Map();
  }

  update(runs, openSession, now) {
    const kept = new Map();
    for (const run of runs) {
      const row = this.rows.get(run.sessionId) ?? this.row(run);
      badge(row.state, run.state);
      const time = age(now - run.createdAt * 1000);
      row.age.textContent = time === null ? t("now") : t("ago", { time });
      mark(row.button, run.sessionId === openSession);
      kept.set(run.sessionId, row);
    }
    this.rows = kept;
    arrange(this.list, [...kept.values()].map(({ element }) => element));
    find("runs-none").hidden = kept.size > 0;
  }

  clear() {
    this.rows = new Map();
  }

  row(run) {
    const state = h("span", { class: "badge" });
    const time = h("span", { class: "quiet" });
    const button = h(
      "button",
      { type: "button", class: "row", "data-session": run.sessionId, onclick: () => this.open(run.sessionId, run.promptHead) },
      h("span", { class: "line" }, h("span", { class: "clip" }, run.promptHead)),
      h("span", { class: "line" }, state, time),
    );
    return { state, age: time, button, element: h("li", {}, button) };
  }
}

function mark(button, isOpen) {
  if (isOpen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}
