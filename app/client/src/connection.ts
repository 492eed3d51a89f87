// HTTP requests: their timeout, their errors, and the delay before a retry.

import { ApiError } from "./errors.js";
import { DONE, FrameParser, isObject, parseEventFields } from "./frames.js";

/** @internal HTTP statuses after which the same request may succeed. */
export const RETRYABLE_STATUSES = new Set([429, 500, 502, 503, 504]);
/** @internal The longest delay before a retry, unless the service sets a longer one. */
export const MAX_RETRY_DELAY_MS = 10_000;
/** @internal Default of `ClientOptions.readTimeoutMs`. */
export const READ_TIMEOUT_MS = 60_000;
/** @internal Default of `ClientOptions.retryTimeoutMs`. */
export const RETRY_TIMEOUT_MS = 120_000;
/** @internal Default of `ClientOptions.retryDelayMs`. */
export const RETRY_DELAY_MS = 500;

/** @internal What a request consists of, besides the headers that authenticate it. */
export interface RequestOptions { method: string; headers: Record<string, string>; body?: string; signal: AbortSignal }
/** @internal Sends an authenticated request. */
export type SendRequest = (path: string, options: RequestOptions) => Promise<Response>;

/** @internal Aborts one request: with the caller's signal, after the read timeout, or when it is closed. */
export class ReadTimeout {
  private readonly controller = new AbortController();
  private readonly abort = (): void => this.controller.abort(this.callerSignal?.reason);
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly callerSignal: AbortSignal | undefined,
    private readonly timeoutMs: number,
  ) {
    if (callerSignal?.aborted) this.abort();
    callerSignal?.addEventListener("abort", this.abort);
    this.restart();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  restart(): void {
    clearTimeout(this.timer);
    const expire = (): void => this.controller.abort(new Error(`no data for ${this.timeoutMs / 1000} s`));
    this.timer = setTimeout(expire, this.timeoutMs);
  }

  close(): void {
    clearTimeout(this.timer);
    this.callerSignal?.removeEventListener("abort", this.abort);
    this.controller.abort();
  }
}

/** @internal Whether the response is an event stream. */
export function isStream(response: Response): boolean {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** @internal The error of a response, with the code and message of the service. */
export async function readApiError(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  let fields: Record<string, unknown> = {};
  try {
    if (isStream(response)) {
      const frames = new FrameParser().feed(new TextEncoder().encode(text));
      const events = frames.filter((frame) => frame.data !== DONE).map((frame) => parseEventFields(frame.data));
      fields = events.find((event) => event.type === "error") ?? {};
    } else {
      fields = parseEventFields(text);
    }
  } catch {
    // The response is not one of Aura's, for example the error page of a proxy.
  }
  const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
  const message = String(fields.message ?? (response.statusText || "no reason given"));
  return new ApiError(response.status, String(fields.errorCode ?? ""), message, retryAfter > 0 ? retryAfter * 1000 : 0);
}

/** @internal The claims of a token; empty where it is not a JWT, which the service then rejects. */
export function readClaims(token: string): Record<string, unknown> {
  try {
    const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return isObject(claims) ? claims : {};
  } catch {
    return {};
  }
}

/** @internal A random idempotency key. `crypto.randomUUID` exists in secure contexts only. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @internal Resolves after `ms`; rejects as soon as the signal aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}
