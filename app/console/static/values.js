/** JSON values as a person reads them: a row a key, long text whole, and never as HTML. */

import { h } from "./dom.js";
import { t } from "./words.js";

/** The arguments of a call. */
export function rows(values) {
  const names = Object.keys(values ?? {});
  if (names.length === 0) return h("p", { class: "quiet" }, t("none"));
  return h("dl", { class: "rows" }, ...names.flatMap((name) => [h("dt", {}, name), h("dd", {}, value(values[name]))]));
}

/** Any value: text as it is, lists of plain values item by item, the rest as JSON. */
export function value(given) {
  if (typeof given === "string") return given.includes("\n") ? h("pre", {}, given) : given;
  if (Array.isArray(given) && given.length > 0 && given.every((item) => typeof item !== "object" || item === null)) {
    return h("ul", { class: "items" }, ...given.map((item) => h("li", {}, String(item))));
  }
  if (typeof given === "object" && given !== null) return h("pre", {}, JSON.stringify(given, null, 2));
  return h("code", {}, String(given));
}

/** A tool's result: JSON in text is shown as what it is. */
export function result(given) {
  const read = typeof given === "string" ? json(given) : given;
  if (typeof read === "object" && read !== null && !Array.isArray(read)) return rows(read);
  return h("pre", {}, typeof read === "string" ? read : JSON.stringify(read, null, 2));
}

function json(text) {
  try {
    return /^\s*[[{]/.test(text) ? JSON.parse(text) : text;
  } catch {
    return text;
  }
}
