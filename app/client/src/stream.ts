// Reads one run's events across broken connections: each event once, in order, without gaps.

import {
  MAX_RETRY_DELAY_MS,
  READ_TIMEOUT_MS,
  RETRYABLE_STATUSES,
  RETRY_DELAY_MS,
  RETRY_TIMEOUT_MS,
  ReadTimeout,
  isStream,
  readApiError,
  sleep,
  type SendRequest,
} from "./connection.js";
import { ApiError, ConnectionLost, StreamDamaged, errorText } from "./errors.js";
import { DONE, FrameParser, hasDamagedCharacter, parseEventFields, type Frame } from "./frames.js";
import { EVENT_TYPES, type AuraEvent } from "./types.js";

/** An event was received. */
export interface ReceivedEvent { kind: "event"; id: number | null; event: AuraEvent }
/** An event was received whose type this client does not know. */
export interface UnknownEvent { kind: "unknown"; id: number | null; type: string; fields: Record<string, unknown> }
/** The connection broke. The client reconnects after `retryDelayMs`. */
export interface Interrupted { kind: "interrupted"; cause: string; retryDelayMs: number }
/** The connection was restored. The next event follows the last one. */
export interface Resumed { kind: "resumed" }
export type Item = ReceivedEvent | UnknownEvent | Interrupted | Resumed;

/** Timeouts and retries. */
export interface RetryOptions {
  /** This time without a byte counts as a broken connection; heartbeats come every 15 s. Default: 60 s. */
  readTimeoutMs?: number;
  /** Retries end after this time without a byte. Default: 120 s. */
  retryTimeoutMs?: number;
  /** The delay before the first retry, unless the service sets another; it doubles up to 10 s. Default: 0.5 s. */
  retryDelayMs?: number;
}

/** With the event names that this client knows, whichever the service is set to. */
const STREAM_PATH = "/aura/test/stream?events=aura";
/** Statuses after which a new run is not started by itself: a person decides whether to try again. */
const FINAL_AT_START = new Set([429, 500]);
const MAX_DAMAGED_STREAMS = 8;
const MAX_DAMAGED_READS = 3;

/** The items of one run up to its end. Iterate over it once. */
export class RunStream implements AsyncIterable<Item> {
  private retryDelayMs: number;
  private lastByteAt = 0;
  private failures = 0; // consecutive ones, without an event in between
  private damagedStreams = 0;
  private damagedFrame: { id: number | null; data: string; reads: number } | null = null;
  private acceptsDamagedCharacters = false;

  /** @internal `AuraClient.run` and `attach` create streams. */
  constructor(
    private readonly send: SendRequest,
    private readonly options: RetryOptions,
    private readonly signal: AbortSignal | undefined,
    private readonly start: { body: object; headers: Record<string, string> } | null,
    /** The session id of the run; null until the service has answered. */
    public sessionId: string | null,
    /** The id of the last event that was received. */
    public lastEventId: number | null,
  ) {
    this.retryDelayMs = options.retryDelayMs ?? RETRY_DELAY_MS;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined> {
    this.lastByteAt = Date.now();
    for (;;) {
      let interrupted: Interrupted;
      const timeout = new ReadTimeout(this.signal, this.options.readTimeoutMs ?? READ_TIMEOUT_MS);
      try {
        const body = await this.connect(timeout);
        if (body === null) return;
        if (this.failures > 0) yield { kind: "resumed" };
        for await (const frame of this.frames(body, timeout)) {
          this.signal?.throwIfAborted();
          if (frame.data === DONE) return;
          const item = this.nextEvent(frame);
          if (item !== null) yield item;
        }
        interrupted = this.interruption("the service closed the stream");
      } catch (error) {
        this.signal?.throwIfAborted();
        interrupted = this.interruptionAfter(error);
      } finally {
        timeout.close();
      }
      yield interrupted;
      await sleep(interrupted.retryDelayMs, this.signal);
    }
  }

  /**
   * Start the run by POST until its session id is known, then attach to it by GET. Null (204): the last event that was
   * received is the end marker.
   */
  private async connect(timeout: ReadTimeout): Promise<ReadableStream<Uint8Array> | null> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    let response: Response;
    if (this.sessionId === null && this.start !== null) {
      Object.assign(headers, this.start.headers, { "Content-Type": "application/json" });
      const body = JSON.stringify(this.start.body);
      response = await this.send(STREAM_PATH, { method: "POST", headers, body, signal: timeout.signal });
    } else {
      if (this.lastEventId !== null) headers["Last-Event-ID"] = String(this.lastEventId);
      const path = `${STREAM_PATH}&sessionId=${encodeURIComponent(this.sessionId ?? "")}`;
      response = await this.send(path, { method: "GET", headers, signal: timeout.signal });
    }
    if (!response.ok) throw await readApiError(response);
    if (response.status === 204) return null;
    if (!isStream(response) || response.body === null) {
      throw new ApiError(response.status, "", "the response is not an event stream: is this Aura's address?");
    }
    this.sessionId = response.headers.get("X-Session-ID") ?? this.sessionId;
    return response.body;
  }

  private async *frames(body: ReadableStream<Uint8Array>, timeout: ReadTimeout): AsyncGenerator<Frame, void, undefined> {
    const reader = body.getReader();
    const parser = new FrameParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      timeout.restart();
      this.lastByteAt = Date.now();
      for (const frame of parser.feed(value)) {
        if (frame.retryMs !== null) this.retryDelayMs = Math.min(frame.retryMs, MAX_RETRY_DELAY_MS);
        if (frame.data !== "") yield frame;
      }
    }
  }

  /** The event of a frame; null where it was received before. */
  private nextEvent(frame: Frame): ReceivedEvent | UnknownEvent | null {
    if (frame.id !== null && this.lastEventId !== null && frame.id <= this.lastEventId) return null;
    const fields = parseEventFields(frame.data);
    if (hasDamagedCharacter(fields)) this.checkDamagedFrame(frame);
    if (frame.id !== null) this.lastEventId = frame.id;
    if (fields.type === "start") this.sessionId = String(fields.sessionId ?? this.sessionId);
    this.failures = this.damagedStreams = 0;
    const type = String(fields.type ?? "");
    return EVENT_TYPES.has(type)
      ? { kind: "event", id: frame.id, event: fields as unknown as AuraEvent }
      : { kind: "unknown", id: frame.id, type, fields };
  }

  /** Accept U+FFFD only where it is unchanged at a second read, so that the model generated it. */
  private checkDamagedFrame(frame: Frame): void {
    if (this.acceptsDamagedCharacters) return;
    const previous = this.damagedFrame !== null && this.damagedFrame.id === frame.id ? this.damagedFrame : null;
    if (previous?.data === frame.data) this.acceptsDamagedCharacters = true;
    const reads = (previous?.reads ?? 0) + 1;
    this.damagedFrame = { id: frame.id, data: frame.data, reads };
    if (!this.acceptsDamagedCharacters && reads < MAX_DAMAGED_READS) throw new StreamDamaged("a character was split");
  }

  /** When to retry after this error. Throws it where a retry is pointless. */
  private interruptionAfter(error: unknown): Interrupted {
    if (error instanceof ApiError) {
      const isFinalAtStart = FINAL_AT_START.has(error.status) && this.sessionId === null;
      if (!RETRYABLE_STATUSES.has(error.status) || isFinalAtStart) throw error;
      return this.interruption(error.message, error.retryAfterMs);
    }
    if (error instanceof StreamDamaged) {
      this.damagedStreams += 1;
      if (this.damagedStreams >= MAX_DAMAGED_STREAMS) {
        throw new ConnectionLost(`every attempt to read the stream was damaged: ${error.message}`);
      }
    }
    return this.interruption(errorText(error));
  }

  private interruption(cause: string, minDelayMs = 0): Interrupted {
    if (Date.now() - this.lastByteAt > (this.options.retryTimeoutMs ?? RETRY_TIMEOUT_MS)) {
      throw new ConnectionLost(`the stream could not be resumed in time: ${cause}`);
    }
    const jitter = 0.8 + 0.4 * Math.random(); // so that clients do not reconnect all at once
    const delayMs = Math.min(this.retryDelayMs * 2 ** this.failures, MAX_RETRY_DELAY_MS) * jitter;
    this.failures += 1;
    return { kind: "interrupted", cause, retryDelayMs: Math.max(delayMs, minDelayMs) };
  }
}
