/** The one place where words become elements: a model's Markdown, and the service's own drawing.
 *
 * What the model wrote as HTML stays text, pictures and links to anything but the web and mail stay words; whatever comes
 * of it goes through DOMPurify, and the page's policy (`trusted-types dompurify`) lets nothing else make elements of text.
 */

import { Marked } from "./vendor/marked-18.2.1.js";
import DOMPurify from "./vendor/dompurify-3.4.18.js";

const TAGS = [
  ...["p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "strong", "em"],
  ...["del", "a", "table", "thead", "tbody", "tr", "th", "td"],
];
const ATTRIBUTES = ["href", "align", "start", "target", "rel"];
const SAFE_LINK = /^(?:https?:\/\/|mailto:)/i;
const MARKS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

const escaped = (text) => text.replace(/[&<>"']/g, (mark) => MARKS[mark]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // below the page's own
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    image: ({ text, href }) => escaped(text || href),
    link({ href, text, tokens }) {
      const words = this.parser.parseInline(tokens);
      if (!SAFE_LINK.test(href)) return words === escaped(href) ? words : `${words} (${escaped(href)})`;
      return `<a href="${escaped(href)}" target="_blank" rel="noopener noreferrer nofollow">${words || escaped(text)}</a>`;
    },
  },
});

/** Sanitised elements, ready to be put into the page. */
export function rendered(markdown) {
  const fragment = DOMPurify.sanitize(marked.parse(markdown), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ADD_URI_SAFE_ATTR: ["target"],
    RETURN_DOM_FRAGMENT: true,
  });
  for (const table of fragment.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "table";
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/** An SVG element; its own style stays out, the page's applies. */
export function drawing(text) {
  const plain = text.replace(/<style>[^<]*<\/style>/g, ""); // the page's policy would complain of it
  const fragment = DOMPurify.sanitize(plain, {
    USE_PROFILES: { svg: true },
    FORBID_TAGS: ["style", "image", "a"],
    FORBID_ATTR: ["style"],
    RETURN_DOM_FRAGMENT: true,
  });
  return fragment.querySelector("svg");
}
