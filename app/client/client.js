/**
 * The client of Aura for browsers and Node (18 or later): one file, no dependencies, an ES module.
 *
 *     import { AuraClient } from "/aura/client.js";
 *
 *     const aura = new AuraClient({ token });              // behind the gateway: { token, baseUrl: "/api" }
 *     for await (const item of aura.run("메일을 보내주세요", { context: { activeApp: "mail" } })) {
 *       if (item.kind !== "event") continue;               // or show it: "interrupted", "resumed", "unknown"
 *       switch (item.event.type) {
 *         case "content": show(item.event.content); break; // append: all of them joined are the answer
 *         case "hitl": await aura.approve(item.event.requestId); break;
 *       }
 *     }
 *
 * - `run(prompt, options)` starts a run, `attach(sessionId, options)` reads an existing one. Both return a `RunStream`;
 *   iterate over it once. It restores a broken connection by itself: no event is lost or repeated, and the prompt is
 *   executed once. Leaving the loop or aborting `options.signal` ends the reading, not the run.
 * - `approve`, `reject`, `cancel`, `runs`, `details`, `timeline`, `pending`, `request` and `info` send one request each.
 *   It is repeated while the network or the service is unavailable.
 * - `visibleParts(text)` and `visibleJson(value)` show hidden characters in the arguments of an approval request.
 * - Errors are an `ApiError` (the service answered with an error: `status`, `code`, `message`) or a `ConnectionLost`
 *   (the connection was not restored in time).
 *
 * `/aura/client.js`, `.d.ts` and `.ts` are generated from the modules in `app/client/src` by `.ci/clients`.
 */
/** @internal The event types that this client knows. */
const EVENT_TYPES = new Set(["start", "thought", "plan_step", "plan_step_update", "timeline_step_update", "tool_execution", "hitl", "content", "error", "end"]);
// --- errors.ts
// The errors that the client throws.
/** The service answered with an error: an HTTP status, an error code and a message. */
export class ApiError extends Error {
    status;
    code;
    retryAfterMs;
    constructor(status, code, message, retryAfterMs = 0) {
        super(message);
        this.status = status;
        this.code = code;
        this.retryAfterMs = retryAfterMs;
        this.name = "ApiError";
    }
}
/** The connection broke and could not be restored within the retry timeout. The run itself continues. */
export class ConnectionLost extends Error {
    constructor(message) {
        super(message);
        this.name = "ConnectionLost";
    }
}
/** @internal The bytes are not an event stream of the service: resume after the last valid event. */
class StreamDamaged extends Error {
}
/** @internal The message of an error, with that of its cause. */
function errorText(error) {
    if (!(error instanceof Error))
        return String(error);
    const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
    return error.message + cause;
}
// --- frames.ts
// Parses the bytes of a stream into the fields of events, also where the gateway has inserted ids of its own.
/** @internal The data of the last frame of a stream. */
const DONE = "[DONE]";
const MAX_LINE_LENGTH = 16 * 1024 * 1024;
/** The id in microseconds that the gateway inserts, with a line end, before a network buffer without `id:`, wherever that
 * buffer begins. The service's own ids are milliseconds, and nothing else that it sends ends a line like this. */
const GATEWAY_ID = /id: ?\d{15,19}$/;
const REPLACEMENT_CHARACTER = "\ufffd";
/** Parses bytes into frames. The bytes may be split anywhere; an incomplete frame at the end is dropped. */
export class FrameParser {
    decoder = new TextDecoder();
    rest = "";
    lineStart = ""; // of a line that the gateway has split
    lines = [];
    /** The frames that these bytes complete. */
    feed(bytes) {
        const parts = (this.rest + this.decoder.decode(bytes, { stream: true })).split("\n");
        this.rest = parts.pop() ?? "";
        if (this.rest.length > MAX_LINE_LENGTH)
            throw new StreamDamaged("a line is too long");
        const frames = [];
        for (const part of parts) {
            const line = this.lineStart + part.replace(/\r$/, "");
            const gatewayId = GATEWAY_ID.exec(line);
            this.lineStart = gatewayId === null ? "" : line.slice(0, gatewayId.index);
            if (gatewayId !== null)
                continue; // the next line continues the one that was split
            if (line !== "") {
                this.lines.push(line);
                continue;
            }
            const frame = parseFrame(this.lines);
            this.lines = [];
            if (frame !== null)
                frames.push(frame);
        }
        return frames;
    }
}
/** The frame of these lines; null for comments alone. The first of several ids counts. */
function parseFrame(lines) {
    let id = null;
    let retryMs = null;
    const data = [];
    for (const line of lines) {
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "data")
            data.push(value);
        else if (name === "id" && id === null)
            id = parseNumber(value);
        else if (name === "retry")
            retryMs = parseNumber(value);
    }
    return data.length === 0 && retryMs === null ? null : { id, data: data.join("\n"), retryMs };
}
function parseNumber(text) {
    return /^\d{1,15}$/.test(text) ? Number(text) : null;
}
/** @internal The fields of an event, flat or nested; of two copies, the one without a damaged character. */
function parseEventFields(data) {
    let message;
    try {
        message = JSON.parse(data);
    }
    catch {
        throw new StreamDamaged("an event is not JSON");
    }
    if (!isObject(message))
        throw new StreamDamaged("an event is not a JSON object");
    const { data: nested, ...fields } = message;
    for (const [name, value] of Object.entries(isObject(nested) ? nested : {})) {
        if (!(name in fields) || !hasDamagedCharacter(value))
            fields[name] = value;
    }
    return fields;
}
/** @internal Whether a value contains U+FFFD: a character was split on the way, or the model generated it. */
function hasDamagedCharacter(value) {
    return JSON.stringify(value).includes(REPLACEMENT_CHARACTER);
}
/** @internal Whether a value is a JSON object. */
function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
// --- connection.ts
// HTTP requests: their timeout, their errors, and the delay before a retry.
/** @internal HTTP statuses after which the same request may succeed. */
const RETRYABLE_STATUSES = new Set([429, 500, 502, 503, 504]);
/** @internal The longest delay before a retry, unless the service sets a longer one. */
const MAX_RETRY_DELAY_MS = 10_000;
/** @internal Default of `ClientOptions.readTimeoutMs`. */
const READ_TIMEOUT_MS = 60_000;
/** @internal Default of `ClientOptions.retryTimeoutMs`. */
const RETRY_TIMEOUT_MS = 120_000;
/** @internal Default of `ClientOptions.retryDelayMs`. */
const RETRY_DELAY_MS = 500;
/** @internal Aborts one request: with the caller's signal, after the read timeout, or when it is closed. */
class ReadTimeout {
    callerSignal;
    timeoutMs;
    controller = new AbortController();
    abort = () => this.controller.abort(this.callerSignal?.reason);
    timer;
    constructor(callerSignal, timeoutMs) {
        this.callerSignal = callerSignal;
        this.timeoutMs = timeoutMs;
        if (callerSignal?.aborted)
            this.abort();
        callerSignal?.addEventListener("abort", this.abort);
        this.restart();
    }
    get signal() {
        return this.controller.signal;
    }
    restart() {
        clearTimeout(this.timer);
        const expire = () => this.controller.abort(new Error(`no data for ${this.timeoutMs / 1000} s`));
        this.timer = setTimeout(expire, this.timeoutMs);
    }
    close() {
        clearTimeout(this.timer);
        this.callerSignal?.removeEventListener("abort", this.abort);
        this.controller.abort();
    }
}
/** @internal Whether the response is an event stream. */
function isStream(response) {
    return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}
/** @internal The error of a response, with the code and message of the service. */
async function readApiError(response) {
    const text = await response.text().catch(() => "");
    let fields = {};
    try {
        if (isStream(response)) {
            const frames = new FrameParser().feed(new TextEncoder().encode(text));
            const events = frames.filter((frame) => frame.data !== DONE).map((frame) => parseEventFields(frame.data));
            fields = events.find((event) => event.type === "error") ?? {};
        }
        else {
            fields = parseEventFields(text);
        }
    }
    catch {
        // The response is not one of Aura's, for example the error page of a proxy.
    }
    const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
    const message = String(fields.message ?? (response.statusText || "no reason given"));
    return new ApiError(response.status, String(fields.errorCode ?? ""), message, retryAfter > 0 ? retryAfter * 1000 : 0);
}
/** @internal The claims of a token; empty where it is not a JWT, which the service then rejects. */
function readClaims(token) {
    try {
        const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
        const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
        const claims = JSON.parse(new TextDecoder().decode(bytes));
        return isObject(claims) ? claims : {};
    }
    catch {
        return {};
    }
}
/** @internal A random idempotency key. `crypto.randomUUID` exists in secure contexts only. */
function randomKey() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
/** @internal Resolves after `ms`; rejects as soon as the signal aborts. */
function sleep(ms, signal) {
    return new Promise((resolve, reject) => {
        const abort = () => {
            clearTimeout(timer);
            reject(signal?.reason);
        };
        const timer = setTimeout(() => {
            signal?.removeEventListener("abort", abort);
            resolve();
        }, ms);
        if (signal?.aborted)
            abort();
        else
            signal?.addEventListener("abort", abort, { once: true });
    });
}
/** With the event names that this client knows, whichever the service is set to. */
const STREAM_PATH = "/aura/test/stream?events=aura";
/** Statuses after which a new run is not started by itself: a person decides whether to try again. */
const FINAL_AT_START = new Set([429, 500]);
const MAX_DAMAGED_STREAMS = 8;
const MAX_DAMAGED_READS = 3;
/** The items of one run up to its end. Iterate over it once. */
export class RunStream {
    send;
    options;
    signal;
    start;
    sessionId;
    lastEventId;
    retryDelayMs;
    lastByteAt = 0;
    failures = 0; // consecutive ones, without an event in between
    damagedStreams = 0;
    damagedFrame = null;
    acceptsDamagedCharacters = false;
    /** @internal `AuraClient.run` and `attach` create streams. */
    constructor(send, options, signal, start, 
    /** The session id of the run; null until the service has answered. */
    sessionId, 
    /** The id of the last event that was received. */
    lastEventId) {
        this.send = send;
        this.options = options;
        this.signal = signal;
        this.start = start;
        this.sessionId = sessionId;
        this.lastEventId = lastEventId;
        this.retryDelayMs = options.retryDelayMs ?? RETRY_DELAY_MS;
    }
    async *[Symbol.asyncIterator]() {
        this.lastByteAt = Date.now();
        for (;;) {
            let interrupted;
            const timeout = new ReadTimeout(this.signal, this.options.readTimeoutMs ?? READ_TIMEOUT_MS);
            try {
                const body = await this.connect(timeout);
                if (body === null)
                    return;
                if (this.failures > 0)
                    yield { kind: "resumed" };
                for await (const frame of this.frames(body, timeout)) {
                    this.signal?.throwIfAborted();
                    if (frame.data === DONE)
                        return;
                    const item = this.nextEvent(frame);
                    if (item !== null)
                        yield item;
                }
                interrupted = this.interruption("the service closed the stream");
            }
            catch (error) {
                this.signal?.throwIfAborted();
                interrupted = this.interruptionAfter(error);
            }
            finally {
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
    async connect(timeout) {
        const headers = { Accept: "text/event-stream" };
        let response;
        if (this.sessionId === null && this.start !== null) {
            Object.assign(headers, this.start.headers, { "Content-Type": "application/json" });
            const body = JSON.stringify(this.start.body);
            response = await this.send(STREAM_PATH, { method: "POST", headers, body, signal: timeout.signal });
        }
        else {
            if (this.lastEventId !== null)
                headers["Last-Event-ID"] = String(this.lastEventId);
            const path = `${STREAM_PATH}&sessionId=${encodeURIComponent(this.sessionId ?? "")}`;
            response = await this.send(path, { method: "GET", headers, signal: timeout.signal });
        }
        if (!response.ok)
            throw await readApiError(response);
        if (response.status === 204)
            return null;
        if (!isStream(response) || response.body === null) {
            throw new ApiError(response.status, "", "the response is not an event stream: is this Aura's address?");
        }
        this.sessionId = response.headers.get("X-Session-ID") ?? this.sessionId;
        return response.body;
    }
    async *frames(body, timeout) {
        const reader = body.getReader();
        const parser = new FrameParser();
        for (;;) {
            const { done, value } = await reader.read();
            if (done)
                return;
            timeout.restart();
            this.lastByteAt = Date.now();
            for (const frame of parser.feed(value)) {
                if (frame.retryMs !== null)
                    this.retryDelayMs = Math.min(frame.retryMs, MAX_RETRY_DELAY_MS);
                if (frame.data !== "")
                    yield frame;
            }
        }
    }
    /** The event of a frame; null where it was received before. */
    nextEvent(frame) {
        if (frame.id !== null && this.lastEventId !== null && frame.id <= this.lastEventId)
            return null;
        const fields = parseEventFields(frame.data);
        if (hasDamagedCharacter(fields))
            this.checkDamagedFrame(frame);
        if (frame.id !== null)
            this.lastEventId = frame.id;
        if (fields.type === "start")
            this.sessionId = String(fields.sessionId ?? this.sessionId);
        this.failures = this.damagedStreams = 0;
        const type = String(fields.type ?? "");
        return EVENT_TYPES.has(type)
            ? { kind: "event", id: frame.id, event: fields }
            : { kind: "unknown", id: frame.id, type, fields };
    }
    /** Accept U+FFFD only where it is unchanged at a second read, so that the model generated it. */
    checkDamagedFrame(frame) {
        if (this.acceptsDamagedCharacters)
            return;
        const previous = this.damagedFrame !== null && this.damagedFrame.id === frame.id ? this.damagedFrame : null;
        if (previous?.data === frame.data)
            this.acceptsDamagedCharacters = true;
        const reads = (previous?.reads ?? 0) + 1;
        this.damagedFrame = { id: frame.id, data: frame.data, reads };
        if (!this.acceptsDamagedCharacters && reads < MAX_DAMAGED_READS)
            throw new StreamDamaged("a character was split");
    }
    /** When to retry after this error. Throws it where a retry is pointless. */
    interruptionAfter(error) {
        if (error instanceof ApiError) {
            const isFinalAtStart = FINAL_AT_START.has(error.status) && this.sessionId === null;
            if (!RETRYABLE_STATUSES.has(error.status) || isFinalAtStart)
                throw error;
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
    interruption(cause, minDelayMs = 0) {
        if (Date.now() - this.lastByteAt > (this.options.retryTimeoutMs ?? RETRY_TIMEOUT_MS)) {
            throw new ConnectionLost(`the stream could not be resumed in time: ${cause}`);
        }
        const jitter = 0.8 + 0.4 * Math.random(); // so that clients do not reconnect all at once
        const delayMs = Math.min(this.retryDelayMs * 2 ** this.failures, MAX_RETRY_DELAY_MS) * jitter;
        this.failures += 1;
        return { kind: "interrupted", cause, retryDelayMs: Math.max(delayMs, minDelayMs) };
    }
}
/* The same rules as in the service (`app/text/hidden.py`). Joiners and variation selectors in an emoji hide nothing. */
const EMOJI = String.raw `\u{1F3F4}\u{E0067}\u{E0062}(?:\u{E0065}\u{E006E}\u{E0067}|\u{E0073}\u{E0063}\u{E0074}|\u{E0077}\u{E006C}\u{E0073})\u{E007F}|` +
    String.raw `\p{Extended_Pictographic}(?:\p{EMod}|[\uFE0E\uFE0F])?(?:\u200D\p{Extended_Pictographic}(?:\p{EMod}|\uFE0F)?)*` +
    String.raw `|[0-9#*]\uFE0F?\u20E3`;
const HIDDEN = String.raw `\r(?!\n)|(?![\n\r\t\u0600-\u0605\u06DD\u070F\u0890\u0891\u08E2\u{110BD}\u{110CD}])` +
    String.raw `[\p{Cf}\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cs}\u2028\u2029\u2800]`;
const BLANK_LINES = String.raw `\n(?:[^\S\n]*\n){9,}`;
const BLANKS = String.raw `[^\S\n]{40,}`;
const PARTS = new RegExp(`(?<emoji>${EMOJI})|(?<hidden>${HIDDEN})|(?<lines>${BLANK_LINES})|(?<blanks>${BLANKS})`, "gu");
const ALL_HIDDEN = new RegExp(`(?<emoji>${EMOJI})|(?:${HIDDEN})`, "gu");
/**
 * The parts of a text as an approver must see them: hidden characters, such as those that change the writing direction,
 * and long runs of empty lines or blanks, behind which more text may stand, become marks.
 */
export function visibleParts(text) {
    const parts = [];
    let end = 0;
    for (const found of text.matchAll(PARTS)) {
        const { hidden, lines, blanks } = found.groups;
        if (hidden === undefined && lines === undefined && blanks === undefined)
            continue; // an emoji
        if (found.index > end)
            parts.push({ text: text.slice(end, found.index) });
        end = found.index + found[0].length;
        if (hidden !== undefined)
            parts.push({ hidden: "character", codePoint: codePoint(hidden) });
        else if (lines !== undefined)
            parts.push({ hidden: "lines", count: lines.split("\n").length - 2 });
        else
            parts.push({ hidden: "blanks", count: found[0].length });
    }
    if (end < text.length)
        parts.push({ text: text.slice(end) });
    return parts;
}
/** JSON text with hidden characters as `\u` escapes, so that a person sees them in an editor. */
export function visibleJson(value) {
    const escape = (found, emoji) => emoji ?? found.split("").map(unicodeEscape).join("");
    return JSON.stringify(value, null, 2).replace(ALL_HIDDEN, escape);
}
function codePoint(character) {
    return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
function unicodeEscape(unit) {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
export class AuraClient {
    baseUrl;
    options;
    fetch;
    constructor(options) {
        this.options = options;
        this.baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "");
        this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    }
    /** The stream of a new run, which starts when the stream is iterated. */
    run(prompt, options = {}) {
        const body = { prompt, context: options.context ?? {} };
        if (options.threadId !== undefined)
            body.thread_id = options.threadId;
        if (options.agent !== undefined)
            body.agent = options.agent;
        const headers = { "Idempotency-Key": options.idempotencyKey ?? randomKey() };
        if (options.agentId !== undefined)
            headers["X-Agent-ID"] = options.agentId;
        return new RunStream(this.sendRequest, this.options, options.signal, { body, headers }, null, null);
    }
    /** The stream of an existing run. */
    attach(sessionId, options = {}) {
        return new RunStream(this.sendRequest, this.options, options.signal, null, sessionId, options.lastEventId ?? null);
    }
    /** Approve a request, with the `argumentsDigest` of what the person saw; `params` replace the arguments of the tool
     * call. */
    approve(requestId, argumentsDigest, params) {
        return this.decide("approve", requestId, { argumentsDigest, ...(params && { params }) });
    }
    /** Reject a request; with `skip` the run continues without this call. */
    reject(requestId, options = {}) {
        return this.decide("reject", requestId, options);
    }
    /** Cancel a run. Resolves to false where it has already ended. */
    async cancel(sessionId) {
        const path = `/aura/runs/${encodeURIComponent(sessionId)}/cancel`;
        const response = await this.sendWithRetries("POST", path, { acceptedStatus: 409 });
        return response.status !== 409;
    }
    /** List runs, newest first: the caller's own, or for approvers those of the tenant. */
    async runs({ signal, ...query } = {}) {
        return (await this.sendWithRetries("GET", "/aura/runs", { query, signal })).data;
    }
    /** A complete run, with its tool calls, transitions, token usage and answer. */
    async details(sessionId) {
        return (await this.sendWithRetries("GET", `/aura/runs/${encodeURIComponent(sessionId)}`)).data;
    }
    /** The timeline of a run until now: states, model turns, tools, waiting for decisions. */
    async timeline(sessionId) {
        const path = `/aura/runs/${encodeURIComponent(sessionId)}/timeline`;
        return (await this.sendWithRetries("GET", path)).data;
    }
    /** List open approval requests: the caller's own, or for approvers those of the tenant. */
    async pending({ signal, ...query } = {}) {
        return (await this.sendWithRetries("GET", "/aura/approvals", { query, signal })).data;
    }
    /** An approval request: what it shows, and its decision. */
    async request(requestId) {
        return (await this.sendWithRetries("GET", `/aura/approvals/${encodeURIComponent(requestId)}`)).data;
    }
    /** The name, version, model and states of the service. */
    async info() {
        return (await this.sendWithRetries("GET", "/aura/info")).data;
    }
    /** Send a decision. It may be repeated: the service answers a second one with the status of the first. */
    async decide(verdict, requestId, fields) {
        const { userId } = await this.credentials();
        const path = `/aura/approvals/${encodeURIComponent(requestId)}/${verdict}`;
        const response = await this.sendWithRetries("POST", path, { body: { userId, ...fields }, acceptedStatus: 409 });
        return { ...response.data, accepted: response.status !== 409 };
    }
    async credentials() {
        const given = this.options.token;
        const token = typeof given === "string" ? given : await given();
        const claims = readClaims(token);
        const userId = this.options.userId ?? String(claims.sub ?? "");
        const tenantId = this.options.tenantId ?? String(claims.tenant_id ?? "");
        return { userId, headers: { Authorization: `Bearer ${token}`, "X-Tenant-ID": tenantId, "X-User-ID": userId } };
    }
    sendRequest = async (path, options) => {
        const { headers } = await this.credentials();
        const init = { cache: "no-store", ...options, headers: { ...headers, ...options.headers } };
        return this.fetch(this.baseUrl + path, init);
    };
    /** The status and `data` of a response. The request is repeated while the network or the service is unavailable. */
    async sendWithRetries(method, path, options = {}) {
        const until = Date.now() + (this.options.retryTimeoutMs ?? RETRY_TIMEOUT_MS);
        let delayMs = this.options.retryDelayMs ?? RETRY_DELAY_MS;
        for (;;) {
            let failure;
            try {
                return await this.sendOnce(method, path, options);
            }
            catch (error) {
                options.signal?.throwIfAborted();
                if (error instanceof ApiError && !RETRYABLE_STATUSES.has(error.status))
                    throw error;
                failure = error;
                if (error instanceof ApiError)
                    delayMs = Math.max(delayMs, error.retryAfterMs);
            }
            if (Date.now() + delayMs > until) {
                throw failure instanceof ApiError ? failure : new ConnectionLost(`no response to ${method} ${path}: ${errorText(failure)}`);
            }
            await sleep(delayMs, options.signal);
            delayMs = Math.min(delayMs * 2, MAX_RETRY_DELAY_MS);
        }
    }
    async sendOnce(method, path, options) {
        const { body, query = {}, acceptedStatus, signal } = options;
        const present = Object.entries(query).filter(([, value]) => value !== undefined);
        const search = new URLSearchParams(present.map(([name, value]) => [name, String(value)])).toString();
        const timeout = new ReadTimeout(signal, this.options.readTimeoutMs ?? READ_TIMEOUT_MS);
        try {
            const response = await this.sendRequest(search ? `${path}?${search}` : path, {
                method,
                headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
                body: body && JSON.stringify(body),
                signal: timeout.signal,
            });
            if (!response.ok && response.status !== acceptedStatus)
                throw await readApiError(response);
            const envelope = (await response.json());
            return { status: response.status, data: envelope.data };
        }
        finally {
            timeout.close();
        }
    }
}
// Generated from client.ts (SHA-256 e0d9ec8cc6e2054a426b4fb39690248540e306e5b7dc558f209a57b514411505).
