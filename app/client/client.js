/**
 * The client of Aura for browsers and Node (18 or later): one file, no dependencies, an ES module.
 *
 *     import { AuraClient } from "/aura/client.js";
 *
 *     const aura = new AuraClient({ token });              // behind the gateway: { token, baseUrl: "/api" }
 *     for await (const item of aura.run("메일을 보내주세요", { context: { activeApp: "mail" } })) {
 *       if (item.kind !== "event") continue;               // or show it: "interrupted", "resumed", "unknown"
 *       switch (item.event.type) {
 *         case "content": show(item.event.content); break; // append; all of them joined are the answer
 *         case "hitl": await aura.approve(item.event.requestId); break;
 *       }
 *     }
 *
 * - `run(prompt, options)` starts a run, `attach(sessionId, options)` reads one that exists. Both answer a `RunStream`:
 *   iterate it once. It comes back by itself when the connection breaks; no event is lost or seen twice, and the prompt
 *   is executed once. To leave the loop, or to abort `options.signal`, ends the reading, not the run.
 * - `approve`, `reject`, `cancel`, `runs`, `details`, `timeline`, `pending`, `request`, `info`: one call each, repeated where the
 *   network or the service was away for a moment.
 * - What goes wrong is a `Refused` (the service said no: `status`, `code`, `message`), or a `StreamLost` (it did not come
 *   back in time).
 *
 * The types between the marks are generated from the service's models, client.js and client.d.ts from this file:
 * `.ci/clients` does both.
 */
const EVENT_TYPES = new Set(["start", "thought", "plan_step", "plan_step_update", "timeline_step_update", "tool_execution", "hitl", "content", "error", "end"]);
/** The service said no to a request. */
export class Refused extends Error {
    status;
    code;
    retryAfterMs;
    constructor(status, code, message, retryAfterMs = 0) {
        super(message);
        this.status = status;
        this.code = code;
        this.retryAfterMs = retryAfterMs;
        this.name = "Refused";
    }
}
/** The connection broke and did not come back in time; the run goes on without a reader. */
export class StreamLost extends Error {
    constructor(message) {
        super(message);
        this.name = "StreamLost";
    }
}
class StreamDamaged extends Error {
}
const STREAM_PATH = "/aura/test/stream";
const DONE = "[DONE]";
const TRANSIENT = new Set([429, 500, 502, 503, 504]);
/** A person decides whether to ask again: too many runs, or a fault. */
const FINAL_AT_START = new Set([429, 500]);
const MOST_PAUSE_MS = 10_000;
const MOST_DAMAGES = 8;
const MOST_READINGS = 3;
const LINE_LIMIT = 16 * 1024 * 1024;
/** What the gateway puts before a network buffer without `id:`, wherever that buffer was cut: microseconds, a line end.
 * Our own ids are milliseconds, and nothing else that we write ends a line like that. */
const MADE_UP = /id: ?\d{15,19}$/;
const BROKEN_CHARACTER = "\ufffd";
export class AuraClient {
    baseUrl;
    options;
    fetch;
    constructor(options) {
        this.options = options;
        this.baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "");
        this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    }
    /** A new run; it starts when its items are asked for. */
    run(prompt, options = {}) {
        const body = { prompt, context: options.context ?? {} };
        if (options.threadId !== undefined)
            body.thread_id = options.threadId;
        const headers = { "Idempotency-Key": options.idempotencyKey ?? randomKey() };
        if (options.agentId !== undefined)
            headers["X-Agent-ID"] = options.agentId;
        return new RunStream(this.opener(), this.options, options.signal, { body, headers }, null, null);
    }
    /** A run that exists. */
    attach(sessionId, options = {}) {
        return new RunStream(this.opener(), this.options, options.signal, null, sessionId, options.lastEventId ?? null);
    }
    /** Say yes; `params` replace the tool's arguments. Repeated, it answers what stands. */
    approve(requestId, params) {
        return this.decide("approve", requestId, params === undefined ? {} : { params });
    }
    /** Say no; with `skip` the run goes on without this call. */
    reject(requestId, options = {}) {
        return this.decide("reject", requestId, options);
    }
    /** Whether the run is being cancelled; false: it has ended already. */
    async cancel(sessionId) {
        const answer = await this.call("POST", `/aura/runs/${encodeURIComponent(sessionId)}/cancel`, { accepts: 409 });
        return answer.status !== 409;
    }
    /** Runs, newest first: one's own, for approvers the tenant's. */
    async runs({ signal, ...query } = {}) {
        return (await this.call("GET", "/aura/runs", { query, signal })).data;
    }
    /** One run whole: ledger, path, usage, answer. */
    async details(sessionId) {
        return (await this.call("GET", `/aura/runs/${encodeURIComponent(sessionId)}`)).data;
    }
    /** Where a run's time went until now: states, model turns, tools, waits. */
    async timeline(sessionId) {
        return (await this.call("GET", `/aura/runs/${encodeURIComponent(sessionId)}/timeline`)).data;
    }
    /** Approval requests that wait for a decision. */
    async pending({ signal, ...query } = {}) {
        return (await this.call("GET", "/aura/hitl/pending", { query, signal })).data;
    }
    /** An approval request as it is stored. */
    async request(requestId) {
        const answer = await this.call("GET", `/aura/hitl/requests/${encodeURIComponent(requestId)}`);
        return JSON.parse(answer.data);
    }
    /** Name, version, model and states of the service. */
    async info() {
        return (await this.call("GET", "/aura/info")).data;
    }
    async decide(verdict, requestId, more) {
        const { userId } = await this.caller();
        const path = `/aura/hitl/${verdict}/${encodeURIComponent(requestId)}`;
        const answer = await this.call("POST", path, { body: { userId, ...more }, accepts: 409 });
        return { ...answer.data, here: answer.status !== 409 };
    }
    async caller() {
        const given = this.options.token;
        const token = typeof given === "string" ? given : await given();
        const claims = claimsOf(token);
        const userId = this.options.userId ?? String(claims.sub ?? "");
        const tenantId = this.options.tenantId ?? String(claims.tenant_id ?? "");
        return { userId, headers: { Authorization: `Bearer ${token}`, "X-Tenant-ID": tenantId, "X-User-ID": userId } };
    }
    opener() {
        return async (path, init) => {
            const { headers } = await this.caller();
            return this.fetch(this.baseUrl + path, { cache: "no-store", ...init, headers: { ...headers, ...init.headers } });
        };
    }
    /** A request and its envelope; asked again while network or service are away. */
    async call(method, path, options = {}) {
        const { body, query = {}, accepts, signal } = options;
        const given = Object.entries(query).filter(([, value]) => value !== undefined);
        const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
        const until = Date.now() + (this.options.patienceMs ?? 120_000);
        let pauseMs = this.options.pauseMs ?? 500;
        for (;;) {
            let failure;
            const link = new Link(signal, this.options.silenceMs ?? 60_000);
            try {
                const response = await this.opener()(search ? `${path}?${search}` : path, {
                    method,
                    headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
                    body: body && JSON.stringify(body),
                    signal: link.signal,
                });
                if (!response.ok && response.status !== accepts)
                    throw await refused(response);
                const answer = (await response.json());
                return { status: response.status, data: answer.data };
            }
            catch (error) {
                signal?.throwIfAborted();
                if (error instanceof Refused && !TRANSIENT.has(error.status))
                    throw error;
                failure = error;
                if (error instanceof Refused)
                    pauseMs = Math.max(pauseMs, error.retryAfterMs);
            }
            finally {
                link.close();
            }
            if (Date.now() + pauseMs > until) {
                throw failure instanceof Refused ? failure : new StreamLost(`${method} ${path} did not arrive: ${words(failure)}`);
            }
            await sleep(pauseMs, signal);
            pauseMs = Math.min(pauseMs * 2, MOST_PAUSE_MS);
        }
    }
}
/** The items of one run, up to its end. Iterate it once. */
export class RunStream {
    open;
    options;
    signal;
    start;
    sessionId;
    lastEventId;
    retryMs;
    aliveAt = 0;
    failures = 0; // in a row, without an event between them
    damages = 0;
    suspect = null;
    trustsCharacters = false;
    /** @internal `AuraClient.run` and `attach` make these. */
    constructor(open, options, signal, start, 
    /** The run; null until the service has answered. */
    sessionId, 
    /** The last event that came. */
    lastEventId) {
        this.open = open;
        this.options = options;
        this.signal = signal;
        this.start = start;
        this.sessionId = sessionId;
        this.lastEventId = lastEventId;
        this.retryMs = options.pauseMs ?? 500;
    }
    async *[Symbol.asyncIterator]() {
        this.aliveAt = Date.now();
        for (;;) {
            let interrupted;
            const link = new Link(this.signal, this.options.silenceMs ?? 60_000);
            try {
                const body = await this.connect(link);
                if (this.failures > 0)
                    yield { kind: "resumed" };
                for await (const frame of this.frames(body, link)) {
                    this.signal?.throwIfAborted();
                    if (frame.data === DONE)
                        return;
                    const item = this.received(frame);
                    if (item !== null)
                        yield item;
                }
                interrupted = this.interrupted("the service closed the stream");
            }
            catch (error) {
                this.signal?.throwIfAborted();
                interrupted = this.judged(error);
            }
            finally {
                link.close();
            }
            yield interrupted;
            await sleep(interrupted.pauseMs, this.signal);
        }
    }
    /** POST until the run is known, then attach to it. */
    async connect(link) {
        const headers = { Accept: "text/event-stream" };
        let response;
        if (this.sessionId === null && this.start !== null) {
            Object.assign(headers, this.start.headers, { "Content-Type": "application/json" });
            const body = JSON.stringify(this.start.body);
            response = await this.open(STREAM_PATH, { method: "POST", headers, body, signal: link.signal });
        }
        else {
            if (this.lastEventId !== null)
                headers["Last-Event-ID"] = String(this.lastEventId);
            const path = `${STREAM_PATH}?sessionId=${encodeURIComponent(this.sessionId ?? "")}`;
            response = await this.open(path, { method: "GET", headers, signal: link.signal });
        }
        if (!response.ok)
            throw await refused(response);
        if (!isStream(response) || response.body === null) {
            throw new Refused(response.status, "", "the answer is no event stream: is this Aura's address?");
        }
        this.sessionId = response.headers.get("X-Session-ID") ?? this.sessionId;
        return response.body;
    }
    async *frames(body, link) {
        const reader = body.getReader();
        const parser = new FrameParser();
        for (;;) {
            const { done, value } = await reader.read();
            if (done)
                return;
            link.alive();
            this.aliveAt = Date.now();
            for (const frame of parser.feed(value)) {
                if (frame.retryMs !== null)
                    this.retryMs = Math.min(frame.retryMs, MOST_PAUSE_MS);
                if (frame.data !== "")
                    yield frame;
            }
        }
    }
    /** The frame's event; null where it was seen before. */
    received(frame) {
        if (frame.id !== null && this.lastEventId !== null && frame.id <= this.lastEventId)
            return null;
        const fields = eventFields(frame.data);
        if (isBroken(fields))
            this.doubt(frame);
        if (frame.id !== null)
            this.lastEventId = frame.id;
        if (fields.type === "start")
            this.sessionId = String(fields.sessionId ?? this.sessionId);
        this.failures = this.damages = 0;
        const type = String(fields.type ?? "");
        return EVENT_TYPES.has(type)
            ? { kind: "event", id: frame.id, event: fields }
            : { kind: "unknown", id: frame.id, type, fields };
    }
    /** A character that was cut in two on the way is read again; one that stays is the model's own. */
    doubt(frame) {
        if (this.trustsCharacters)
            return;
        const before = this.suspect !== null && this.suspect.id === frame.id ? this.suspect : null;
        if (before?.data === frame.data)
            this.trustsCharacters = true;
        const readings = (before?.readings ?? 0) + 1;
        this.suspect = { id: frame.id, data: frame.data, readings };
        if (!this.trustsCharacters && readings < MOST_READINGS)
            throw new StreamDamaged("a broken character");
    }
    /** Whether to come back after an error. Throws where that is of no use. */
    judged(error) {
        if (error instanceof Refused) {
            const isFinal = !TRANSIENT.has(error.status) || (FINAL_AT_START.has(error.status) && this.sessionId === null);
            if (isFinal)
                throw error;
            return this.interrupted(error.message, error.retryAfterMs);
        }
        if (error instanceof StreamDamaged) {
            this.damages += 1;
            if (this.damages >= MOST_DAMAGES)
                throw new StreamLost(`the stream comes damaged: ${error.message}`);
        }
        return this.interrupted(words(error));
    }
    interrupted(cause, atLeastMs = 0) {
        if (Date.now() - this.aliveAt > (this.options.patienceMs ?? 120_000)) {
            throw new StreamLost(`the stream did not come back: ${cause}`);
        }
        const jitter = 0.8 + 0.4 * Math.random(); // not all clients at once
        const pauseMs = Math.min(this.retryMs * 2 ** this.failures, MOST_PAUSE_MS) * jitter;
        this.failures += 1;
        return { kind: "interrupted", cause, pauseMs: Math.max(pauseMs, atLeastMs) };
    }
}
/** One connection: ends with the caller's signal, with silence, or when it is closed. */
class Link {
    given;
    silenceMs;
    controller = new AbortController();
    stop = () => this.controller.abort(this.given?.reason);
    timer;
    constructor(given, silenceMs) {
        this.given = given;
        this.silenceMs = silenceMs;
        if (given?.aborted)
            this.stop();
        given?.addEventListener("abort", this.stop);
        this.alive();
    }
    get signal() {
        return this.controller.signal;
    }
    alive() {
        clearTimeout(this.timer);
        const silence = () => this.controller.abort(new Error(`silence for ${this.silenceMs / 1000} s`));
        this.timer = setTimeout(silence, this.silenceMs);
    }
    close() {
        clearTimeout(this.timer);
        this.given?.removeEventListener("abort", this.stop);
        this.controller.abort();
    }
}
/** Bytes in, in any pieces; whole frames out. What is incomplete at the end of a connection is not a frame. */
export class FrameParser {
    decoder = new TextDecoder();
    rest = "";
    held = "";
    lines = [];
    feed(piece) {
        const pieces = (this.rest + this.decoder.decode(piece, { stream: true })).split("\n");
        this.rest = pieces.pop() ?? "";
        if (this.rest.length > LINE_LIMIT)
            throw new StreamDamaged("a line without an end");
        const frames = [];
        for (const piece of pieces) {
            const line = this.held + piece.replace(/\r$/, "");
            const madeUp = MADE_UP.exec(line);
            this.held = madeUp === null ? "" : line.slice(0, madeUp.index);
            if (madeUp !== null)
                continue; // the line goes on where it was cut
            if (line !== "") {
                this.lines.push(line);
                continue;
            }
            const frame = frameOf(this.lines);
            this.lines = [];
            if (frame !== null)
                frames.push(frame);
        }
        return frames;
    }
}
/** null: nothing but comments. Of several ids the first counts. */
function frameOf(lines) {
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
            id = numberOf(value);
        else if (name === "retry")
            retryMs = numberOf(value);
    }
    return data.length === 0 && retryMs === null ? null : { id, data: data.join("\n"), retryMs };
}
function numberOf(text) {
    return /^\d{1,15}$/.test(text) ? Number(text) : null;
}
/** An event's fields, from the flat or the nested ones, whichever there are; of two copies the one that came whole. */
function eventFields(data) {
    let message;
    try {
        message = JSON.parse(data);
    }
    catch {
        throw new StreamDamaged("an event that is not JSON");
    }
    if (!isObject(message))
        throw new StreamDamaged("an event that is not a JSON object");
    const { data: nested, ...fields } = message;
    for (const [name, value] of Object.entries(isObject(nested) ? nested : {})) {
        if (!(name in fields) || !isBroken(value))
            fields[name] = value;
    }
    return fields;
}
/** Whether a character of it was cut in two on the way; or it is one of the model's own making. */
function isBroken(value) {
    return JSON.stringify(value).includes(BROKEN_CHARACTER);
}
function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
function isStream(response) {
    return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}
/** The service's own words for its no. */
async function refused(response) {
    const text = await response.text().catch(() => "");
    let told = {};
    try {
        if (isStream(response)) {
            const frames = new FrameParser().feed(new TextEncoder().encode(text));
            const events = frames.filter((frame) => frame.data !== DONE).map((frame) => eventFields(frame.data));
            told = events.find((event) => event.type === "error") ?? {};
        }
        else {
            told = eventFields(text);
        }
    }
    catch {
        // not one of Aura's answers
    }
    const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
    const message = String(told.message ?? (response.statusText || "no reason given"));
    return new Refused(response.status, String(told.errorCode ?? ""), message, retryAfter > 0 ? retryAfter * 1000 : 0);
}
function claimsOf(token) {
    try {
        const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
        const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
        const claims = JSON.parse(new TextDecoder().decode(bytes));
        return isObject(claims) ? claims : {};
    }
    catch {
        return {}; // the service says what is wrong with it
    }
}
/** `crypto.randomUUID` is there in secure contexts only. */
function randomKey() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
function words(error) {
    if (!(error instanceof Error))
        return String(error);
    const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
    return error.message + cause;
}
function sleep(ms, signal) {
    return new Promise((resolve, reject) => {
        const stop = () => {
            clearTimeout(timer);
            reject(signal?.reason);
        };
        const timer = setTimeout(() => {
            signal?.removeEventListener("abort", stop);
            resolve();
        }, ms);
        if (signal?.aborted)
            stop();
        else
            signal?.addEventListener("abort", stop, { once: true });
    });
}
// Made from client.ts (SHA-256 68b3ea5e30c0e624ca8f0af872b83641755ce1e5585f91dca302665a05cc38d8).
