/** Creates elements. Text is always inserted as text; no function here parses a string as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** Create an HTML element. `on…` attributes are listeners; `true` is an attribute without a value; null and false are
 * left out. */
export function h(tag, attributes = {}, ...children) {
  return setUp(document.createElement(tag), attributes, children);
}

/** Create an SVG element in the same way. */
export function s(tag, attributes = {}, ...children) {
  return setUp(document.createElementNS(SVG, tag), attributes, children);
}

function setUp(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const find = (id) => document.getElementById(id);

/** Call `show`. An error in it is logged and given to `onError`, and the other parts of the page stay alive. */
export function isolate(name, show, onError = () => {}) {
  try {
    show();
  } catch (error) {
    console.warn(`${name} cannot be shown: ${error.message}`);
    onError(error);
  }
}

/** Replace the children of `parent` by `elements`, and move only those whose position has changed. */
export function arrange(parent, elements) {
  elements.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  while (parent.children.length > elements.length) parent.lastElementChild.remove();
}

const ICONS = {
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  edit: "M3 13l.6-3L10.4 3.2a1.4 1.4 0 0 1 2 0l.4.4a1.4 1.4 0 0 1 0 2L6 12.4z",
  clock: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 4.8V8l2.2 1.6",
  tool: "M9.8 2.4a3.6 3.6 0 0 0-3.4 4.8L2.6 11a1.7 1.7 0 0 0 2.4 2.4l3.8-3.8a3.6 3.6 0 0 0 4.8-4.2L11.4 7.6 8.9 7.1 8.4 4.6z",
  thought: "M8 2v3M8 11v3M2 8h3M11 8h3M4 4l1.6 1.6M10.4 10.4 12 12M12 4l-1.6 1.6M5.6 10.4 4 12",
  hand: "M8 1.8 14 4.2V8c0 3.2-2.4 5.4-6 6.4C4.4 13.4 2 11.2 2 8V4.2zM8 5v3.6M8 10.8v.2",
  answer: "M2.5 3h11v8h-6L4.5 13.6V11h-2z",
  stop: "M4 4h8v8H4z",
};

/** A small icon that is hidden from screen readers. */
export function icon(name) {
  const path = s("path", { d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": "1.5", "stroke-linecap": "round", "stroke-linejoin": "round" });
  return s("svg", { class: "icon", viewBox: "0 0 16 16", width: "16", height: "16", "aria-hidden": "true" }, path);
}
