/** Bounds the work that a Markdown text can cause. Beyond a limit, the text itself is shown. */

import { Tokenizer } from "./vendor/marked-18.2.1.js";

const MAX_CHARACTERS = 200_000;
const MAX_LINE_CHARACTERS = 5_000;
const MAX_MILLISECONDS = 1000;
/** Longer HTML is not shown. */
export const MAX_HTML_CHARACTERS = 2_000_000;
const MAX_DEPTH = 16;
const MAX_COLUMNS = 64;

/** Throws `RangeError` where the text is too long, or has a line that is. */
export function checkLength(markdown) {
  if (markdown.length > MAX_CHARACTERS) throw new RangeError("it is too long");
  if (markdown.split("\n").some((line) => line.length > MAX_LINE_CHARACTERS)) throw new RangeError("a line is too long");
}

/** Reads quotes, lists, emphasis and links that are nested in more than `MAX_DEPTH` levels as plain text, and so tables with
 * more than `MAX_COLUMNS` columns. Throws `RangeError` where it takes too long. One instance reads one text. */
export class LimitedTokenizer extends Tokenizer {
  depth = 0;
  until = performance.now() + MAX_MILLISECONDS;

  /** The first that is tried for each block. */
  space(src) {
    this.checkTime();
    return super.space(src);
  }

  /** The first that is tried for each piece of a line. */
  escape(src) {
    this.checkTime();
    return super.escape(src);
  }

  blockquote(src) {
    return this.nested(() => super.blockquote(src));
  }

  list(src) {
    return this.nested(() => super.list(src));
  }

  emStrong(src, maskedSrc, previous) {
    return this.nested(() => super.emStrong(src, maskedSrc, previous));
  }

  del(src, maskedSrc, previous) {
    return this.nested(() => super.del(src, maskedSrc, previous));
  }

  link(src) {
    return this.nested(() => super.link(src));
  }

  reflink(src, links) {
    return this.nested(() => super.reflink(src, links));
  }

  table(src) {
    const columns = src.slice(0, src.search(/\n|$/)).split("|").length;
    return columns > MAX_COLUMNS ? undefined : super.table(src);
  }

  checkTime() {
    if (performance.now() > this.until) throw new RangeError("it takes too long");
  }

  nested(read) {
    if (this.depth >= MAX_DEPTH) return undefined;
    this.depth += 1;
    try {
      return read();
    } finally {
      this.depth -= 1;
    }
  }
}
