/** A part of a text: characters that are shown as they are, or a mark in place of what a person would not see. */
export interface VisibleText { text: string }
/** A hidden character (`U+200B`), or a long run of empty lines or blanks with its length. */
export interface HiddenText { hidden: "character" | "lines" | "blanks"; codePoint?: string; count?: number }
export type TextPart = VisibleText | HiddenText;

/* The same rules as in the service (`app/text/hidden.py`). Joiners and variation selectors in an emoji hide nothing. */
const EMOJI =
  String.raw`\u{1F3F4}\u{E0067}\u{E0062}(?:\u{E0065}\u{E006E}\u{E0067}|\u{E0073}\u{E0063}\u{E0074}|\u{E0077}\u{E006C}\u{E0073})\u{E007F}|` +
  String.raw`\p{Extended_Pictographic}(?:\p{EMod}|[\uFE0E\uFE0F])?(?:\u200D\p{Extended_Pictographic}(?:\p{EMod}|\uFE0F)?)*` +
  String.raw`|[0-9#*]\uFE0F?\u20E3`;
const HIDDEN =
  String.raw`\r(?!\n)|(?![\n\r\t\u0600-\u0605\u06DD\u070F\u0890\u0891\u08E2\u{110BD}\u{110CD}])` +
  String.raw`[\p{Cf}\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cs}\u2028\u2029\u2800]`;
const BLANK_LINES = String.raw`\n(?:[^\S\n]*\n){9,}`;
const BLANKS = String.raw`[^\S\n]{40,}`;
const PARTS = new RegExp(`(?<emoji>${EMOJI})|(?<hidden>${HIDDEN})|(?<lines>${BLANK_LINES})|(?<blanks>${BLANKS})`, "gu");
const ALL_HIDDEN = new RegExp(`(?<emoji>${EMOJI})|(?:${HIDDEN})`, "gu");

/**
 * The parts of a text as an approver must see them: hidden characters, such as those that change the writing direction,
 * and long runs of empty lines or blanks, behind which more text may stand, become marks.
 */
export function visibleParts(text: string): TextPart[] {
  const parts: TextPart[] = [];
  let end = 0;
  for (const found of text.matchAll(PARTS)) {
    const { hidden, lines, blanks } = found.groups!;
    if (hidden === undefined && lines === undefined && blanks === undefined) continue; // an emoji
    if (found.index > end) parts.push({ text: text.slice(end, found.index) });
    end = found.index + found[0].length;
    if (hidden !== undefined) parts.push({ hidden: "character", codePoint: codePoint(hidden) });
    else if (lines !== undefined) parts.push({ hidden: "lines", count: lines.split("\n").length - 2 });
    else parts.push({ hidden: "blanks", count: found[0].length });
  }
  if (end < text.length) parts.push({ text: text.slice(end) });
  return parts;
}

/** JSON text with hidden characters as `\u` escapes, so that a person sees them in an editor. */
export function visibleJson(value: unknown): string {
  const escape = (found: string, emoji: string | undefined) => emoji ?? found.split("").map(unicodeEscape).join("");
  return JSON.stringify(value, null, 2).replace(ALL_HIDDEN, escape);
}

function codePoint(character: string): string {
  return `U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}`;
}

function unicodeEscape(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
