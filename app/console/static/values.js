/** Shows JSON values: one row for each key, long text in full, never as HTML. Hidden characters are shown as chips. */

import { h } from "./dom.js";
import { t } from "./translations.js";
import { visibleJson, visibleParts } from "../client.js";

export { visibleJson };

/** The arguments of a tool call, one row each. */
export function argumentList(values) {
  const names = Object.keys(values ?? {});
  if (names.length === 0) return h("p", { class: "muted" }, t("none"));
  return h("dl", { class: "rows" }, ...names.flatMap((name) => [h("dt", {}, ...visibleNodes(name)), h("dd", {}, valueElement(values[name]))]));
}

/** A text as nodes, with a chip for each hidden character and for each long run of empty lines or blanks. */
export function visibleNodes(text) {
  return visibleParts(text).map((part) => part.text ?? chip(part));
}

function chip({ hidden, codePoint, count }) {
  const text = hidden === "character" ? codePoint : t(`hidden.${hidden}`, { count });
  return h("span", { class: "chip", "data-hidden": hidden, title: t(`hidden.${hidden}_help`) }, text);
}

/** Any value: text as it is, a list of plain values as a list, everything else as JSON. */
function valueElement(value) {
  if (typeof value === "string") return value.includes("\n") ? h("pre", {}, ...visibleNodes(value)) : visibleNodes(value);
  if (Array.isArray(value) && value.length > 0 && value.every((item) => typeof item !== "object" || item === null)) {
    return h("ul", { class: "items" }, ...value.map((item) => h("li", {}, ...visibleNodes(String(item)))));
  }
  if (typeof value === "object" && value !== null) return h("pre", {}, visibleJson(value));
  return h("code", {}, String(value));
}

/** The result of a tool. Text that contains JSON is shown as JSON. */
export function resultElement(result) {
  const value = typeof result === "string" ? parseIfJson(result) : result;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return argumentList(value);
  return h("pre", {}, ...(typeof value === "string" ? visibleNodes(value) : [visibleJson(value)]));
}

function parseIfJson(text) {
  try {
    return /^\s*[[{]/.test(text) ? JSON.parse(text) : text;
  } catch {
    return text;
  }
}
