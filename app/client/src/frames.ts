// Parses the bytes of a stream into the fields of events, also where the gateway has inserted ids of its own.

import { StreamDamaged } from "./errors.js";

/** @internal The data of the last frame of a stream. */
export const DONE = "[DONE]";
const MAX_LINE_LENGTH = 16 * 1024 * 1024;
/** The id in microseconds that the gateway inserts, with a line end, before a network buffer without `id:`, wherever that
 * buffer begins. The service's own ids are milliseconds, and nothing else that it sends ends a line like this. */
const GATEWAY_ID = /id: ?\d{15,19}$/;
const REPLACEMENT_CHARACTER = "\ufffd";

/** One frame of a stream. A frame may have `retryMs` and no data. */
export interface Frame { id: number | null; data: string; retryMs: number | null }

/** Parses bytes into frames. The bytes may be split anywhere; an incomplete frame at the end is dropped. */
export class FrameParser {
  private readonly decoder = new TextDecoder();
  private rest = "";
  private lineStart = ""; // of a line that the gateway has split
  private lines: string[] = [];

  /** The frames that these bytes complete. */
  feed(bytes: Uint8Array): Frame[] {
    const parts = (this.rest + this.decoder.decode(bytes, { stream: true })).split("\n");
    this.rest = parts.pop() ?? "";
    if (this.rest.length > MAX_LINE_LENGTH) throw new StreamDamaged("a line is too long");
    const frames: Frame[] = [];
    for (const part of parts) {
      const line = this.lineStart + part.replace(/\r$/, "");
      const gatewayId = GATEWAY_ID.exec(line);
      this.lineStart = gatewayId === null ? "" : line.slice(0, gatewayId.index);
      if (gatewayId !== null) continue; // the next line continues the one that was split
      if (line !== "") {
        this.lines.push(line);
        continue;
      }
      const frame = parseFrame(this.lines);
      this.lines = [];
      if (frame !== null) frames.push(frame);
    }
    return frames;
  }
}

/** The frame of these lines; null for comments alone. The first of several ids counts. */
function parseFrame(lines: string[]): Frame | null {
  let id: number | null = null;
  let retryMs: number | null = null;
  const data: string[] = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "id" && id === null) id = parseNumber(value);
    else if (name === "retry") retryMs = parseNumber(value);
  }
  return data.length === 0 && retryMs === null ? null : { id, data: data.join("\n"), retryMs };
}

function parseNumber(text: string): number | null {
  return /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/** @internal The fields of an event, flat or nested; of two copies, the one without a damaged character. */
export function parseEventFields(data: string): Record<string, unknown> {
  let message: unknown;
  try {
    message = JSON.parse(data);
  } catch {
    throw new StreamDamaged("an event is not JSON");
  }
  if (!isObject(message)) throw new StreamDamaged("an event is not a JSON object");
  const { data: nested, ...fields } = message;
  for (const [name, value] of Object.entries(isObject(nested) ? nested : {})) {
    if (!(name in fields) || !hasDamagedCharacter(value)) fields[name] = value;
  }
  return fields;
}

/** @internal Whether a value contains U+FFFD: a character was split on the way, or the model generated it. */
export function hasDamagedCharacter(value: unknown): boolean {
  return JSON.stringify(value).includes(REPLACEMENT_CHARACTER);
}

/** @internal Whether a value is a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
