/** The card of one approval request: the exact arguments, the time left, and buttons to approve, edit or reject. */

import { h, icon } from "./dom.js";
import { clockTime, countdown } from "./format.js";
import { parseJsonObject } from "./json.js";
import { t } from "./translations.js";
import { argumentList, visibleJson, visibleNodes } from "./values.js";

const URGENT_MS = 30_000;
let cardCount = 0;

export class ApprovalCard {
  /** `decide(verdict, entry, {params, reason, skip})` resolves to a `DecisionReply`, or throws an `ApiError`. */
  constructor(entry, decide) {
    this.decide = decide;
    this.entry = entry;
    this.decision = null;
    this.id = `approval-${++cardCount}`;
    this.element = h("article", { class: "entry approval", "aria-labelledby": `${this.id}-title` });
    this.render();
  }

  /** `decision` is the recorded decision on the request: the approver, and whether the arguments were edited. */
  update(entry, decision = null) {
    const isChanged = entry.verdict !== this.entry.verdict || entry.problem !== this.entry.problem || decision !== this.decision;
    this.entry = entry;
    this.decision = decision;
    if (isChanged) this.render();
  }

  updateCountdown(now) {
    if (!this.timeLeft) return;
    const leftMs = this.entry.expiresAt - now;
    this.timeLeft.textContent = leftMs > 0 ? t("approval.time_left", { time: countdown(leftMs) }) : t("approval.expired");
    this.timeLeft.classList.toggle("urgent", leftMs < URGENT_MS);
    this.timeBar.style.setProperty("--left", Math.max(0, Math.min(1, leftMs / (this.entry.timeoutSeconds * 1000))));
  }

  focus() {
    this.title.focus();
    this.element.scrollIntoView({ block: "nearest" });
  }

  render() {
    const { entry } = this;
    const isOpen = entry.verdict === null;
    this.timeLeft = isOpen ? h("span", { class: "time-left", role: "timer", "aria-live": "off" }) : null;
    this.timeBar = isOpen ? h("div", { class: "time-bar", "aria-hidden": "true" }) : null;
    this.title = h("h3", { id: `${this.id}-title`, tabindex: "-1" }, ...visibleNodes(entry.message));
    this.element.dataset.verdict = entry.verdict ?? "open";
    this.element.replaceChildren(
      h("header", {}, icon(isOpen ? "hand" : entry.verdict === "approved" ? "check" : "close"), this.title, this.timeLeft ?? this.verdict()),
      ...(this.timeBar ? [this.timeBar] : []),
      ...(entry.outcomeUnknown ? [h("p", { class: "notice", role: "note" }, t("approval.outcome_unknown"))] : []),
      ...(isOpen ? this.openArguments() : [this.collapsedArguments()]),
      ...(isOpen && entry.problem ? [h("p", { class: "notice", role: "alert" }, t(entry.problem, { cause: entry.cause }))] : []),
    );
    if (isOpen && entry.problem === "") this.showButtons();
  }

  openArguments() {
    const { entry } = this;
    const action = h("p", { class: "action" }, h("code", {}, entry.action), ` · ${t("approval.arguments")}${confidenceText(entry)}`);
    return [action, argumentList(entry.args), ...warningList(entry.warnings)];
  }

  collapsedArguments() {
    const summary = h("summary", { class: "action" }, h("code", {}, this.entry.action), ` · ${t("approval.original_arguments")}`);
    return h("details", {}, summary, argumentList(this.entry.args), ...warningList(this.entry.warnings));
  }

  verdict() {
    const { decision, entry } = this;
    const details = [decision?.decided_by && t(decision.decider_told ? "verdict.told" : "verdict.by", { who: decision.decided_by }), decision?.edited && t("verdict.edited")];
    const parts = [t(`verdict.${entry.verdict}`), ...details.filter(Boolean), clockTime(entry.decidedAt)];
    return h("span", { class: "verdict" }, parts.join(" · "));
  }

  showButtons() {
    const button = (key, name, style, onclick) => h("button", { type: "button", class: style, onclick, "data-action": name }, icon({ approve: "check", edit: "edit", reject: "close" }[name]), t(key));
    this.form?.remove();
    this.form = h(
      "div",
      { class: "decision-form" },
      h(
        "div",
        { class: "buttons" },
        button("approval.approve", "approve", "primary", () => this.send("approve", {})),
        button("approval.edit", "edit", "", () => this.showForm(this.editForm())),
        button("approval.reject", "reject", "danger", () => this.showForm(this.rejectForm())),
      ),
      this.errorText(),
    );
    this.element.append(this.form);
  }

  showForm(form) {
    this.form.replaceWith(form);
    this.form = form;
    form.querySelector("textarea, input").focus();
  }

  editForm() {
    const id = `${this.id}-json`;
    const text = visibleJson(this.entry.args);
    const lines = Math.min(18, Math.max(6, text.split("\n").length + 1));
    const input = h("textarea", { id, class: "json", rows: lines, spellcheck: "false", "aria-describedby": `${this.id}-error` });
    input.value = text;
    const send = () => {
      const params = parseJsonObject(input.value);
      if (params instanceof Error) this.showError(t("context.invalid", { cause: params.message }), input);
      else this.send("approve", { params }, input);
    };
    return this.decisionForm([h("label", { for: id }, t("approval.editor")), input], "approval.submit_edited", "primary", send);
  }

  rejectForm() {
    const id = `${this.id}-reason`;
    const reason = h("input", { id, type: "text", maxlength: "1000", autocomplete: "off", "aria-describedby": `${this.id}-error` });
    const skip = h("input", { type: "checkbox", id: `${id}-skip` });
    const fields = [
      h("label", { for: id }, t("approval.reason")),
      reason,
      h("label", { class: "check", for: `${id}-skip` }, skip, t("approval.skip")),
    ];
    const send = () => this.send("reject", { reason: reason.value.trim() || undefined, skip: skip.checked }, reason);
    return this.decisionForm(fields, "approval.submit_rejection", "danger", send);
  }

  /** A form with these fields, a submit button with the text of `key`, and a button that closes the form. */
  decisionForm(fields, key, style, send) {
    const back = () => {
      this.showButtons();
      this.form.querySelector("button").focus();
    };
    const onsubmit = (event) => {
      event.preventDefault();
      send();
    };
    const onkeydown = (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) onsubmit(event);
    };
    const buttons = h(
      "div",
      { class: "buttons" },
      h("button", { class: style, "data-action": "send" }, t(key)),
      h("button", { type: "button", onclick: back }, t("approval.back")),
    );
    return h("form", { class: "decision-form", onsubmit, onkeydown }, ...fields, this.errorText(), buttons);
  }

  errorText() {
    return h("p", { class: "error-text", id: `${this.id}-error`, role: "alert" });
  }

  /** Show an error below the form and mark the invalid input; an empty text clears both. */
  showError(text, input = null) {
    this.form.querySelector(".error-text").textContent = text;
    input?.setAttribute("aria-invalid", text ? "true" : "false");
    if (text) input?.focus();
  }

  async send(verdict, fields, input = null) {
    this.showError("", input);
    this.disableButtons(true);
    const form = this.form;
    try {
      const reply = await this.decide(verdict, this.entry, fields);
      if (form !== this.form) return; // the stream has closed the request meanwhile
      if (!reply.accepted) this.showError(t("approval.already_decided", { status: reply.status }));
      else form.querySelector(".buttons").replaceChildren(h("span", { class: "muted", role: "status" }, t("approval.sending")));
    } catch (error) {
      if (form !== this.form) return;
      this.disableButtons(false);
      this.showError(error.message, input);
    }
  }

  disableButtons(isDisabled) {
    for (const button of this.form.querySelectorAll("button")) button.disabled = isDisabled;
  }
}

/** What may deceive a person in the arguments: a list, or nothing where there are no warnings. */
function warningList(warnings = []) {
  if (warnings.length === 0) return [];
  const items = warnings.map(({ code, field, message }) =>
    h("li", { "data-code": code }, h("strong", {}, t(`warning.${code}`)), field && h("code", {}, field), " ", ...visibleNodes(message)),
  );
  return [h("ul", { class: "notice warnings", "aria-label": t("warnings") }, ...items)];
}

function confidenceText({ confidence }) {
  return confidence === null ? "" : ` · ${t("plan.confidence", { percent: `${Math.round(confidence * 100)} %` })}`;
}
