/** One request for a person: what exactly would run, the time left, and approve, edit, reject. */

import { h, icon } from "./dom.js";
import { rows } from "./values.js";
import { clockTime, countdown, t } from "./words.js";

let count = 0;

export class ApprovalCard {
  /** `decide(verdict, requestId, {params, reason, skip})` answers how the request stands, or throws a `Refused`. */
  constructor(entry, decide) {
    this.decide = decide;
    this.entry = entry;
    this.decision = null;
    this.names = `approval-${++count}`;
    this.element = h("article", { class: "entry approval", "aria-labelledby": `${this.names}-title` });
    this.draw();
  }

  /** `decision` is what the run's record says of it: who, edited. */
  update(entry, decision = null) {
    const isNew = entry.verdict !== this.entry.verdict || decision !== this.decision;
    this.entry = entry;
    this.decision = decision;
    if (isNew) this.draw();
  }

  tick(now) {
    if (!this.left) return;
    const left = this.entry.expiresAt - now;
    this.left.textContent = left > 0 ? t("approval.left", { time: countdown(left) }) : t("approval.late");
    this.left.classList.toggle("urgent", left < 30_000);
    this.bar.style.setProperty("--left", Math.max(0, Math.min(1, left / (this.entry.seconds * 1000))));
  }

  focus() {
    this.title.focus();
    this.element.scrollIntoView({ block: "nearest" });
  }

  draw() {
    const { entry } = this;
    const isOpen = entry.verdict === null;
    this.left = isOpen ? h("span", { class: "left", role: "timer", "aria-live": "off" }) : null;
    this.bar = isOpen ? h("div", { class: "time-bar", "aria-hidden": "true" }) : null;
    this.title = h("h3", { id: `${this.names}-title`, tabindex: "-1" }, entry.message);
    this.element.dataset.verdict = entry.verdict ?? "open";
    this.element.replaceChildren(
      h("header", {}, icon(isOpen ? "hand" : entry.verdict === "approved" ? "check" : "close"), this.title, this.left ?? this.verdict()),
      ...(this.bar ? [this.bar] : []),
      ...(entry.outcomeUnknown ? [h("p", { class: "notice", role: "note" }, t("approval.unknown"))] : []),
      ...(isOpen ? [h("p", { class: "what" }, h("code", {}, entry.action), ` · ${t("approval.args")}${sure(entry)}`), rows(entry.args)] : [this.asked()]),
    );
    if (isOpen) this.offer();
  }

  asked() {
    const summary = h("summary", { class: "what" }, h("code", {}, this.entry.action), ` · ${t("approval.asked")}`);
    return h("details", {}, summary, rows(this.entry.args));
  }

  verdict() {
    const grant = this.decision;
    const more = [grant?.decided_by && t("verdict.by", { who: grant.decided_by }), grant?.edited && t("verdict.edited")];
    const words = [t(`verdict.${this.entry.verdict}`), ...more.filter(Boolean), clockTime(this.entry.decidedAt)];
    return h("span", { class: "verdict" }, words.join(" · "));
  }

  /** The three buttons. */
  offer() {
    const button = (key, name, look, act) => h("button", { type: "button", class: look, onclick: act, "data-act": name }, icon({ approve: "check", edit: "edit", reject: "close" }[name]), t(key));
    this.form?.remove();
    this.form = h(
      "div",
      { class: "decide" },
      h(
        "div",
        { class: "buttons" },
        button("approval.yes", "approve", "primary", () => this.send("approve", {})),
        button("approval.edit", "edit", "", () => this.askFor(this.editor())),
        button("approval.no", "reject", "danger", () => this.askFor(this.refusal())),
      ),
      this.complaint(),
    );
    this.element.append(this.form);
  }

  askFor(form) {
    this.form.replaceWith(form);
    this.form = form;
    form.querySelector("textarea, input").focus();
  }

  editor() {
    const id = `${this.names}-json`;
    const text = JSON.stringify(this.entry.args, null, 2);
    const lines = Math.min(18, Math.max(6, text.split("\n").length + 1));
    const input = h("textarea", { id, class: "json", rows: lines, spellcheck: "false", "aria-describedby": `${this.names}-complaint` });
    input.value = text;
    const send = () => {
      const params = parsed(input.value);
      if (params instanceof Error) this.complain(t("context.bad", { cause: params.message }), input);
      else this.send("approve", { params }, input);
    };
    return this.asking([h("label", { for: id }, t("approval.editor")), input], "approval.edited", "primary", send);
  }

  refusal() {
    const id = `${this.names}-reason`;
    const reason = h("input", { id, type: "text", maxlength: "1000", autocomplete: "off", "aria-describedby": `${this.names}-complaint` });
    const skip = h("input", { type: "checkbox", id: `${id}-skip` });
    const fields = [
      h("label", { for: id }, t("approval.reason")),
      reason,
      h("label", { class: "check", for: `${id}-skip` }, skip, t("approval.skip")),
    ];
    return this.asking(fields, "approval.reject", "danger", () => this.send("reject", { reason: reason.value.trim() || undefined, skip: skip.checked }, reason));
  }

  asking(fields, key, look, send) {
    const back = () => {
      this.offer();
      this.form.querySelector("button").focus();
    };
    const submitted = (event) => {
      event.preventDefault();
      send();
    };
    const pressed = (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submitted(event);
    };
    const buttons = h(
      "div",
      { class: "buttons" },
      h("button", { class: look, "data-act": "send" }, t(key)),
      h("button", { type: "button", onclick: back }, t("approval.back")),
    );
    return h("form", { class: "decide", onsubmit: submitted, onkeydown: pressed }, ...fields, this.complaint(), buttons);
  }

  complaint() {
    return h("p", { class: "complaint", id: `${this.names}-complaint`, role: "alert" });
  }

  complain(words, input = null) {
    const place = this.form.querySelector(".complaint");
    place.textContent = words;
    input?.setAttribute("aria-invalid", words ? "true" : "false");
    if (words) input?.focus();
  }

  async send(verdict, more, input = null) {
    this.complain("", input);
    this.busy(true);
    const form = this.form;
    try {
      const outcome = await this.decide(verdict, this.entry.requestId, more);
      if (!outcome.here && form === this.form) this.complain(t("approval.earlier", { status: outcome.status }));
      else if (form === this.form) form.querySelector(".buttons").replaceChildren(h("span", { class: "quiet", role: "status" }, t("approval.sending")));
    } catch (error) {
      if (form !== this.form) return; // decided meanwhile: the stream said so
      this.busy(false);
      this.complain(error.message, input);
    }
  }

  busy(is) {
    for (const button of this.form.querySelectorAll("button")) button.disabled = is;
  }
}

function sure({ confidence }) {
  return confidence === null ? "" : ` · ${t("plan.sure", { percent: `${Math.round(confidence * 100)} %` })}`;
}

/** A JSON object, or the error. */
export function parsed(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
    return new TypeError(`${text.trim().slice(0, 20)} …`);
  } catch (error) {
    return error;
  }
}
