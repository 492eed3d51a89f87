/** The only module that creates elements from text: the model's Markdown, and the service's SVG diagram.
 *
 * HTML in Markdown is shown as text, images and links other than http, https and mailto are shown as text. The result is
 * sanitized by DOMPurify. The policy of the page (`trusted-types dompurify`) blocks every other way to parse HTML.
 */

import { LimitedTokenizer, MAX_HTML_CHARACTERS, checkLength } from "./markdown_limits.js";
import { Marked } from "./vendor/marked-18.2.1.js";
import DOMPurify from "./vendor/dompurify-3.4.18.js";

const TAGS = [
  ...["p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "strong", "em"],
  ...["del", "a", "table", "thead", "tbody", "tr", "th", "td"],
];
const ATTRIBUTES = ["href", "align", "start", "target", "rel"];
const SAFE_LINK = /^(?:https?:\/\/|mailto:)/i;
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

const escapeHtml = (text) => text.replace(/[&<>"']/g, (character) => ESCAPES[character]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escapeHtml(text),
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // below the headings of the page
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    image: ({ text, href }) => escapeHtml(text || href),
    link({ href, text, tokens }) {
      const html = this.parser.parseInline(tokens);
      if (!SAFE_LINK.test(href)) return html === escapeHtml(href) ? html : `${html} (${escapeHtml(href)})`;
      return `<a href="${escapeHtml(href)}" target="_blank" rel="noopener noreferrer nofollow">${html || escapeHtml(text)}</a>`;
    },
  },
});

/** Render Markdown as sanitized elements; or the text itself, where it is too long or cannot be read as Markdown. */
export function renderMarkdown(markdown) {
  try {
    checkLength(markdown);
    const html = marked.parse(markdown, { tokenizer: new LimitedTokenizer() });
    if (html.length <= MAX_HTML_CHARACTERS) return elements(html);
  } catch (error) {
    console.warn(`the answer is shown as text: ${error.message.split("\n", 1)[0]}`);
  }
  const text = document.createElement("pre");
  text.textContent = markdown;
  return text;
}

function elements(html) {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ADD_URI_SAFE_ATTR: ["target"],
    RETURN_DOM_FRAGMENT: true,
  });
  for (const table of fragment.querySelectorAll("table")) {
    const container = document.createElement("div");
    container.className = "table";
    table.replaceWith(container);
    container.append(table);
  }
  return fragment;
}

/** Parse a sanitized SVG element without its own styles; those of the page apply. Returns null where there is none. */
export function parseSvg(text) {
  const unstyled = text.replace(/<style>[^<]*<\/style>/g, ""); // the policy of the page forbids inline styles
  const fragment = DOMPurify.sanitize(unstyled, {
    USE_PROFILES: { svg: true },
    FORBID_TAGS: ["style", "image", "a"],
    FORBID_ATTR: ["style"],
    RETURN_DOM_FRAGMENT: true,
  });
  return fragment.querySelector("svg");
}
