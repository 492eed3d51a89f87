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

// <generated>
/** What every event has. */
export interface EventBase {
  version: "1.0";
  timestamp: number;
  sessionId: string;
}
export interface StartEvent extends EventBase {
  type: "start";
  message: string;
  sessionId: string;
  threadId: string;
  state: string;
}
export interface ThoughtEvent extends EventBase {
  type: "thought";
  thoughtType: "analysis" | "planning" | "reasoning" | "decision" | "reflection";
  content: string;
  sources: unknown[];
}
export interface PlanStepDeclaredEvent extends EventBase {
  type: "plan_step";
  stepId: string;
  title: string;
  description: string;
  status: "pending" | "in_progress" | "completed" | "failed" | "skipped";
  confidence: number;
  confidenceSource: "logprobs" | "model" | "none";
  order: number;
}
export interface PlanStepUpdatedEvent extends EventBase {
  type: "plan_step_update";
  stepId: string;
  status: "pending" | "in_progress" | "completed" | "failed" | "skipped";
  progress: number;
  description?: string;
  confidence?: number;
  confidenceSource?: "logprobs" | "model" | "none";
}
/** One transition of the machine; `metadata` is `{from, to, trigger}`. */
export interface TimelineStepUpdatedEvent extends EventBase {
  type: "timeline_step_update";
  stepId: string;
  title: string;
  status: "pending" | "in_progress" | "completed" | "failed" | "skipped";
  progress: number;
  metadata: Record<string, string>;
}
/** `truncated` is there where arguments or result were shortened to fit a frame; the run's record has them whole. */
export interface ToolExecutionEvent extends EventBase {
  type: "tool_execution";
  toolName: string;
  toolArgs: Record<string, unknown>;
  status: "pending" | "executing" | "completed" | "failed" | "rejected";
  result: unknown;
  error: string | null;
  requiresApproval: boolean;
  toolCallId: string;
  truncated?: boolean;
}
/** A person is asked. The arguments are never shortened: what is shown is what would run. */
export interface HitlEvent extends EventBase {
  type: "hitl";
  requestId: string;
  sessionId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  requiresApproval: true;
  confidence?: number;
  confidenceSource?: "logprobs" | "model" | "none";
  stepId?: string;
  expiresAt: number;
  timeoutSeconds: number;
  outcomeUnknown?: boolean;
}
/** A piece of the answer; `chunk` is true while more follow. Clients append. */
export interface ContentEvent extends EventBase {
  type: "content";
  content: string;
  format: "markdown";
  chunk: boolean;
}
export interface ErrorRaisedEvent extends EventBase {
  type: "error";
  message: string;
  errorType: "ValidationError" | "AuthenticationError" | "PermissionError" | "LLMNotConfigured" | "ModelError" | "ModelTimeout" | "ToolError" | "TimeoutError" | "RejectionError" | "ResumeExpired" | "LimitExceeded" | "StorageUnavailable" | "Cancelled" | "InternalError";
  errorCode: string;
  retryable: boolean;
}
export interface EndEvent extends EventBase {
  type: "end";
  message: string;
  status: "completed" | "rejected" | "timed_out" | "cancelled" | "failed";
  usage?: Record<string, number>;
}
/** Told apart by `type`. */
export type AuraEvent =
  | StartEvent
  | ThoughtEvent
  | PlanStepDeclaredEvent
  | PlanStepUpdatedEvent
  | TimelineStepUpdatedEvent
  | ToolExecutionEvent
  | HitlEvent
  | ContentEvent
  | ErrorRaisedEvent
  | EndEvent;
const EVENT_TYPES: ReadonlySet<string> = new Set(["start", "thought", "plan_step", "plan_step_update", "timeline_step_update", "tool_execution", "hitl", "content", "error", "end"]);
/** The tool ledger's entries: intent → started → outcome, each committed before the next. */
export type CallStatus = "requested" | "started" | "completed" | "failed" | "rejected";
/** How sure the model is, 0–1, and who says so; never invented (§2.2). */
export interface Confidence {
  value: number;
  source: "logprobs" | "model" | "none";
}
/** Why a run that did not complete ended. */
export interface Ending {
  error_type: string;
  error_code: string;
  message: string;
}
/** A person's yes to one call with exactly these arguments (`arguments_digest`), used at most once. */
export interface Grant {
  request_id: string;
  arguments_digest: string;
  decided_by?: string | null;
  decided_at: number;
  edited: boolean;
}
/** One tool call of a run, from intent to outcome. */
export interface LedgerLine {
  toolCallId: string;
  toolName: string;
  toolArgs: Record<string, unknown>;
  turn: number;
  status: CallStatus;
  requiresApproval: boolean;
  idempotent: boolean;
  outcomeUnknown: boolean;
  result: unknown;
  error: string | null;
  startedAt: number | null;
  endedAt: number | null;
  decision: Grant | null;
}
/** The policy a run started with; it keeps it on whichever node it goes on. */
export interface Limits {
  turns: number;
  model_attempts: number;
  run_seconds: number;
  approval_seconds: number;
  on_reject: "stop" | "replan";
}
/** An open approval request, with the run that waits for it. */
export interface OpenRequest {
  requestId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  expiresAt: number;
  secondsLeft: number;
  outcomeUnknown: boolean;
  queued: number;
  sessionId: string;
}
/** How an approval request stands. */
export interface Outcome {
  requestId: string;
  sessionId: string;
  status: RequestStatus;
  reason?: string;
}
/** A transition that was taken, with its time. */
export interface Passage {
  trigger: Trigger;
  source: State;
  dest: State;
  at: number;
}
/** What a run waits for. `context` are the tool's arguments as a person sees them. */
export interface PendingApproval {
  requestId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  expiresAt: number;
  secondsLeft: number;
  outcomeUnknown: boolean;
  queued: number;
}
/** One step of the plan: the model's own (`update_plan`) or, without a plan, a tool call. */
export interface PlanStep {
  id: string;
  title: string;
  description: string;
  status: "pending" | "in_progress" | "completed" | "failed" | "skipped";
  confidence: Confidence;
  order: number;
  started_at?: number | null;
  ended_at?: number | null;
}
/** Open approval requests. `nextOffset` as for runs. */
export interface RequestPage {
  requests: OpenRequest[];
  nextOffset?: number;
}
export type RequestStatus = "pending" | "approved" | "rejected" | "expired" | "cancelled";
/** One run whole: the checkpoint without secrets. `taskId` is its task in the Main Service. */
export interface RunDetails {
  sessionId: string;
  threadId: string;
  userId: string;
  traceId: string;
  state: State;
  createdAt: number;
  updatedAt: number;
  ageSeconds: number;
  promptHead: string;
  agentId?: string;
  pendingApproval?: PendingApproval;
  taskId: string | null;
  schemaVersion: number;
  prompt: string;
  context: Record<string, unknown>;
  turn: number;
  plan: PlanStep[];
  ledger: LedgerLine[];
  path: Passage[];
  answer: string | null;
  usage: TokenUsage;
  limits: Limits;
  ending: Ending | null;
  cancelledBy: string | null;
  runDeadlineAt: number;
}
/** Runs, newest first. `nextOffset` is where the next page begins; without it there is none. */
export interface RunPage {
  runs: RunSummary[];
  nextOffset?: number;
}
/** A run in a list. */
export interface RunSummary {
  sessionId: string;
  threadId: string;
  userId: string;
  traceId: string;
  state: State;
  createdAt: number;
  updatedAt: number;
  ageSeconds: number;
  promptHead: string;
  agentId?: string;
  pendingApproval?: PendingApproval;
}
/** What this is. */
export interface ServiceInfo {
  name: string;
  version: string;
  model: string;
  states: State[];
}
/** What came of a wait for a person. */
export interface Settlement {
  requestId: string;
  verdict?: string | null;
  decidedBy?: string | null;
  decidedAt?: number | null;
  reason?: string | null;
  edited: boolean;
}
/** Something that took time. Times are Unix seconds; an open one lasts until the moment the timeline was made. `state`: the time in a state, entered by `trigger` from `source`. `outcome` is a turn's, a tool's or a wait's. */
export interface Span {
  kind: "state" | "model" | "tool" | "wait";
  name: string;
  startedAt: number;
  durationSeconds: number;
  isOpen: boolean;
  source?: State | null;
  trigger?: string | null;
  turn?: number | null;
  attempt?: number | null;
  toolCallId?: string | null;
  outcome?: string | null;
  tokens?: Tokens | null;
  decision?: Settlement | null;
}
/** Where a run stands. */
export type State = "planning" | "tool" | "awaiting_approval" | "content" | "done" | "failed" | "rejected" | "timed_out" | "cancelled";
/** An approval request as Redis holds it (§5); every system may add fields. `createdAt` is in milliseconds. */
export interface StoredRequest {
  requestId: string;
  sessionId: string;
  userId: string;
  tenantId: string;
  actionType: string;
  context: Record<string, unknown>;
  status: string;
  createdAt: number;
  expiresAt?: number;
}
/** A run's spans by their start. `waited_seconds` is what people took, of `duration_seconds` in all. */
export interface Timeline {
  sessionId: string;
  state: State;
  startedAt: number;
  durationSeconds: number;
  waitedSeconds: number;
  isOpen: boolean;
  tokens: Tokens;
  spans: Span[];
}
/** Tokens the model reported. */
export interface TokenUsage {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
}
export interface Tokens {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
}
/** What makes the machine move. */
export type Trigger = "request_tools" | "answer" | "finish" | "ask_approval" | "report_results" | "approve" | "decline" | "reject" | "expire" | "fail" | "cancel";
// </generated>

/** An event came. */
export interface Received { kind: "event"; id: number | null; event: AuraEvent }
/** An event of a type that this client does not know. */
export interface Unknown { kind: "unknown"; id: number | null; type: string; fields: Record<string, unknown> }
/** The connection broke; it is tried again after that pause. */
export interface Interrupted { kind: "interrupted"; cause: string; pauseMs: number }
/** Connected again; the next event follows the last one. */
export interface Resumed { kind: "resumed" }
export type Item = Received | Unknown | Interrupted | Resumed;

export interface ClientOptions {
  /** The JWT, or what gives one that is still good: it is asked before every request. */
  token: string | (() => string | Promise<string>);
  /** Before every path: an origin, "/api" behind the gateway. Default: the page's own origin. */
  baseUrl?: string;
  /** Default: the token's `tenant_id` and `sub`. */
  tenantId?: string;
  userId?: string;
  /** So long without a byte is a broken connection; heartbeats come every 15 s. Default 60 s. */
  silenceMs?: number;
  /** So long without a byte in spite of all attempts is the end. Default 120 s. */
  patienceMs?: number;
  /** Before the first attempt to come back, unless the service says; it doubles up to 10 s. Default 0.5 s. */
  pauseMs?: number;
  fetch?: typeof fetch;
}

export interface StreamOptions { signal?: AbortSignal }
export interface RunOptions extends StreamOptions {
  context?: Record<string, unknown>;
  threadId?: string;
  agentId?: string;
  /** A second run with the same key is the first one. Default: a key of its own for each run. */
  idempotencyKey?: string;
}
export interface AttachOptions extends StreamOptions {
  /** Only what follows this event. Default: from the start. */
  lastEventId?: number;
}
export interface PageOptions { offset?: number; limit?: number; signal?: AbortSignal }
export interface RunsOptions extends PageOptions { state?: State; scope?: "own" | "all" }

/** How a request stands. `here` is false where an earlier decision stands, or this one came too late. */
export interface Decided extends Outcome { here: boolean }

/** The service said no to a request. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterMs: number = 0,
  ) {
    super(message);
    this.name = "Refused";
  }
}

/** The connection broke and did not come back in time; the run goes on without a reader. */
export class StreamLost extends Error {
  constructor(message: string) {
    super(message);
    this.name = "StreamLost";
  }
}

class StreamDamaged extends Error {}

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
  readonly baseUrl: string;
  private readonly options: ClientOptions;
  private readonly fetch: typeof fetch;

  constructor(options: ClientOptions) {
    this.options = options;
    this.baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "");
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  /** A new run; it starts when its items are asked for. */
  run(prompt: string, options: RunOptions = {}): RunStream {
    const body: Record<string, unknown> = { prompt, context: options.context ?? {} };
    if (options.threadId !== undefined) body.thread_id = options.threadId;
    const headers: Record<string, string> = { "Idempotency-Key": options.idempotencyKey ?? randomKey() };
    if (options.agentId !== undefined) headers["X-Agent-ID"] = options.agentId;
    return new RunStream(this.opener(), this.options, options.signal, { body, headers }, null, null);
  }

  /** A run that exists. */
  attach(sessionId: string, options: AttachOptions = {}): RunStream {
    return new RunStream(this.opener(), this.options, options.signal, null, sessionId, options.lastEventId ?? null);
  }

  /** Say yes; `params` replace the tool's arguments. Repeated, it answers what stands. */
  approve(requestId: string, params?: Record<string, unknown>): Promise<Decided> {
    return this.decide("approve", requestId, params === undefined ? {} : { params });
  }

  /** Say no; with `skip` the run goes on without this call. */
  reject(requestId: string, options: { reason?: string; skip?: boolean } = {}): Promise<Decided> {
    return this.decide("reject", requestId, options);
  }

  /** Whether the run is being cancelled; false: it has ended already. */
  async cancel(sessionId: string): Promise<boolean> {
    const answer = await this.call("POST", `/aura/runs/${encodeURIComponent(sessionId)}/cancel`, { accepts: 409 });
    return answer.status !== 409;
  }

  /** Runs, newest first: one's own, for approvers the tenant's. */
  async runs({ signal, ...query }: RunsOptions = {}): Promise<RunPage> {
    return (await this.call("GET", "/aura/runs", { query, signal })).data as RunPage;
  }

  /** One run whole: ledger, path, usage, answer. */
  async details(sessionId: string): Promise<RunDetails> {
    return (await this.call("GET", `/aura/runs/${encodeURIComponent(sessionId)}`)).data as RunDetails;
  }

  /** Where a run's time went until now: states, model turns, tools, waits. */
  async timeline(sessionId: string): Promise<Timeline> {
    return (await this.call("GET", `/aura/runs/${encodeURIComponent(sessionId)}/timeline`)).data as Timeline;
  }

  /** Approval requests that wait for a decision. */
  async pending({ signal, ...query }: PageOptions = {}): Promise<RequestPage> {
    return (await this.call("GET", "/aura/hitl/pending", { query, signal })).data as RequestPage;
  }

  /** An approval request as it is stored. */
  async request(requestId: string): Promise<StoredRequest> {
    const answer = await this.call("GET", `/aura/hitl/requests/${encodeURIComponent(requestId)}`);
    return JSON.parse(answer.data as string) as StoredRequest;
  }

  /** Name, version, model and states of the service. */
  async info(): Promise<ServiceInfo> {
    return (await this.call("GET", "/aura/info")).data as ServiceInfo;
  }

  private async decide(verdict: string, requestId: string, more: object): Promise<Decided> {
    const { userId } = await this.caller();
    const path = `/aura/hitl/${verdict}/${encodeURIComponent(requestId)}`;
    const answer = await this.call("POST", path, { body: { userId, ...more }, accepts: 409 });
    return { ...(answer.data as Outcome), here: answer.status !== 409 };
  }

  private async caller(): Promise<{ userId: string; headers: Record<string, string> }> {
    const given = this.options.token;
    const token = typeof given === "string" ? given : await given();
    const claims = claimsOf(token);
    const userId = this.options.userId ?? String(claims.sub ?? "");
    const tenantId = this.options.tenantId ?? String(claims.tenant_id ?? "");
    return { userId, headers: { Authorization: `Bearer ${token}`, "X-Tenant-ID": tenantId, "X-User-ID": userId } };
  }

  private opener(): Opener {
    return async (path, init) => {
      const { headers } = await this.caller();
      return this.fetch(this.baseUrl + path, { cache: "no-store", ...init, headers: { ...headers, ...init.headers } });
    };
  }

  /** A request and its envelope; asked again while network or service are away. */
  private async call(method: string, path: string, options: CallOptions = {}): Promise<{ status: number; data: unknown }> {
    const { body, query = {}, accepts, signal } = options;
    const given = Object.entries(query).filter(([, value]) => value !== undefined);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    const until = Date.now() + (this.options.patienceMs ?? 120_000);
    let pauseMs = this.options.pauseMs ?? 500;
    for (;;) {
      let failure: unknown;
      const link = new Link(signal, this.options.silenceMs ?? 60_000);
      try {
        const response = await this.opener()(search ? `${path}?${search}` : path, {
          method,
          headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
          body: body && JSON.stringify(body),
          signal: link.signal,
        });
        if (!response.ok && response.status !== accepts) throw await refused(response);
        const answer = (await response.json()) as { data?: unknown };
        return { status: response.status, data: answer.data };
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof Refused && !TRANSIENT.has(error.status)) throw error;
        failure = error;
        if (error instanceof Refused) pauseMs = Math.max(pauseMs, error.retryAfterMs);
      } finally {
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

interface CallOptions {
  body?: object;
  query?: object;
  /** A status that is an answer, too. */
  accepts?: number;
  signal?: AbortSignal;
}

interface Init { method: string; headers: Record<string, string>; body?: string; signal: AbortSignal }
type Opener = (path: string, init: Init) => Promise<Response>;

/** The items of one run, up to its end. Iterate it once. */
export class RunStream implements AsyncIterable<Item> {
  private retryMs: number;
  private aliveAt = 0;
  private failures = 0; // in a row, without an event between them
  private damages = 0;
  private suspect: { id: number | null; data: string; readings: number } | null = null;
  private trustsCharacters = false;

  /** @internal `AuraClient.run` and `attach` make these. */
  constructor(
    private readonly open: Opener,
    private readonly options: ClientOptions,
    private readonly signal: AbortSignal | undefined,
    private readonly start: { body: object; headers: Record<string, string> } | null,
    /** The run; null until the service has answered. */
    public sessionId: string | null,
    /** The last event that came. */
    public lastEventId: number | null,
  ) {
    this.retryMs = options.pauseMs ?? 500;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined> {
    this.aliveAt = Date.now();
    for (;;) {
      let interrupted: Interrupted;
      const link = new Link(this.signal, this.options.silenceMs ?? 60_000);
      try {
        const body = await this.connect(link);
        if (this.failures > 0) yield { kind: "resumed" };
        for await (const frame of this.frames(body, link)) {
          this.signal?.throwIfAborted();
          if (frame.data === DONE) return;
          const item = this.received(frame);
          if (item !== null) yield item;
        }
        interrupted = this.interrupted("the service closed the stream");
      } catch (error) {
        this.signal?.throwIfAborted();
        interrupted = this.judged(error);
      } finally {
        link.close();
      }
      yield interrupted;
      await sleep(interrupted.pauseMs, this.signal);
    }
  }

  /** POST until the run is known, then attach to it. */
  private async connect(link: Link): Promise<ReadableStream<Uint8Array>> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    let response: Response;
    if (this.sessionId === null && this.start !== null) {
      Object.assign(headers, this.start.headers, { "Content-Type": "application/json" });
      const body = JSON.stringify(this.start.body);
      response = await this.open(STREAM_PATH, { method: "POST", headers, body, signal: link.signal });
    } else {
      if (this.lastEventId !== null) headers["Last-Event-ID"] = String(this.lastEventId);
      const path = `${STREAM_PATH}?sessionId=${encodeURIComponent(this.sessionId ?? "")}`;
      response = await this.open(path, { method: "GET", headers, signal: link.signal });
    }
    if (!response.ok) throw await refused(response);
    if (!isStream(response) || response.body === null) {
      throw new Refused(response.status, "", "the answer is no event stream: is this Aura's address?");
    }
    this.sessionId = response.headers.get("X-Session-ID") ?? this.sessionId;
    return response.body;
  }

  private async *frames(body: ReadableStream<Uint8Array>, link: Link): AsyncGenerator<Frame, void, undefined> {
    const reader = body.getReader();
    const parser = new FrameParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      link.alive();
      this.aliveAt = Date.now();
      for (const frame of parser.feed(value)) {
        if (frame.retryMs !== null) this.retryMs = Math.min(frame.retryMs, MOST_PAUSE_MS);
        if (frame.data !== "") yield frame;
      }
    }
  }

  /** The frame's event; null where it was seen before. */
  private received(frame: Frame): Received | Unknown | null {
    if (frame.id !== null && this.lastEventId !== null && frame.id <= this.lastEventId) return null;
    const fields = eventFields(frame.data);
    if (isBroken(fields)) this.doubt(frame);
    if (frame.id !== null) this.lastEventId = frame.id;
    if (fields.type === "start") this.sessionId = String(fields.sessionId ?? this.sessionId);
    this.failures = this.damages = 0;
    const type = String(fields.type ?? "");
    return EVENT_TYPES.has(type)
      ? { kind: "event", id: frame.id, event: fields as unknown as AuraEvent }
      : { kind: "unknown", id: frame.id, type, fields };
  }

  /** A character that was cut in two on the way is read again; one that stays is the model's own. */
  private doubt(frame: Frame): void {
    if (this.trustsCharacters) return;
    const before = this.suspect !== null && this.suspect.id === frame.id ? this.suspect : null;
    if (before?.data === frame.data) this.trustsCharacters = true;
    const readings = (before?.readings ?? 0) + 1;
    this.suspect = { id: frame.id, data: frame.data, readings };
    if (!this.trustsCharacters && readings < MOST_READINGS) throw new StreamDamaged("a broken character");
  }

  /** Whether to come back after an error. Throws where that is of no use. */
  private judged(error: unknown): Interrupted {
    if (error instanceof Refused) {
      const isFinal = !TRANSIENT.has(error.status) || (FINAL_AT_START.has(error.status) && this.sessionId === null);
      if (isFinal) throw error;
      return this.interrupted(error.message, error.retryAfterMs);
    }
    if (error instanceof StreamDamaged) {
      this.damages += 1;
      if (this.damages >= MOST_DAMAGES) throw new StreamLost(`the stream comes damaged: ${error.message}`);
    }
    return this.interrupted(words(error));
  }

  private interrupted(cause: string, atLeastMs = 0): Interrupted {
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
  private readonly controller = new AbortController();
  private readonly stop = (): void => this.controller.abort(this.given?.reason);
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly given: AbortSignal | undefined,
    private readonly silenceMs: number,
  ) {
    if (given?.aborted) this.stop();
    given?.addEventListener("abort", this.stop);
    this.alive();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  alive(): void {
    clearTimeout(this.timer);
    const silence = (): void => this.controller.abort(new Error(`silence for ${this.silenceMs / 1000} s`));
    this.timer = setTimeout(silence, this.silenceMs);
  }

  close(): void {
    clearTimeout(this.timer);
    this.given?.removeEventListener("abort", this.stop);
    this.controller.abort();
  }
}

export interface Frame { id: number | null; data: string; retryMs: number | null }

/** Bytes in, in any pieces; whole frames out. What is incomplete at the end of a connection is not a frame. */
export class FrameParser {
  private readonly decoder = new TextDecoder();
  private rest = "";
  private held = "";
  private lines: string[] = [];

  feed(piece: Uint8Array): Frame[] {
    const pieces = (this.rest + this.decoder.decode(piece, { stream: true })).split("\n");
    this.rest = pieces.pop() ?? "";
    if (this.rest.length > LINE_LIMIT) throw new StreamDamaged("a line without an end");
    const frames: Frame[] = [];
    for (const piece of pieces) {
      const line = this.held + piece.replace(/\r$/, "");
      const madeUp = MADE_UP.exec(line);
      this.held = madeUp === null ? "" : line.slice(0, madeUp.index);
      if (madeUp !== null) continue; // the line goes on where it was cut
      if (line !== "") {
        this.lines.push(line);
        continue;
      }
      const frame = frameOf(this.lines);
      this.lines = [];
      if (frame !== null) frames.push(frame);
    }
    return frames;
  }
}

/** null: nothing but comments. Of several ids the first counts. */
function frameOf(lines: string[]): Frame | null {
  let id: number | null = null;
  let retryMs: number | null = null;
  const data: string[] = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "id" && id === null) id = numberOf(value);
    else if (name === "retry") retryMs = numberOf(value);
  }
  return data.length === 0 && retryMs === null ? null : { id, data: data.join("\n"), retryMs };
}

function numberOf(text: string): number | null {
  return /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/** An event's fields, from the flat or the nested ones, whichever there are; of two copies the one that came whole. */
function eventFields(data: string): Record<string, unknown> {
  let message: unknown;
  try {
    message = JSON.parse(data);
  } catch {
    throw new StreamDamaged("an event that is not JSON");
  }
  if (!isObject(message)) throw new StreamDamaged("an event that is not a JSON object");
  const { data: nested, ...fields } = message;
  for (const [name, value] of Object.entries(isObject(nested) ? nested : {})) {
    if (!(name in fields) || !isBroken(value)) fields[name] = value;
  }
  return fields;
}

/** Whether a character of it was cut in two on the way; or it is one of the model's own making. */
function isBroken(value: unknown): boolean {
  return JSON.stringify(value).includes(BROKEN_CHARACTER);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isStream(response: Response): boolean {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** The service's own words for its no. */
async function refused(response: Response): Promise<Refused> {
  const text = await response.text().catch(() => "");
  let told: Record<string, unknown> = {};
  try {
    if (isStream(response)) {
      const frames = new FrameParser().feed(new TextEncoder().encode(text));
      const events = frames.filter((frame) => frame.data !== DONE).map((frame) => eventFields(frame.data));
      told = events.find((event) => event.type === "error") ?? {};
    } else {
      told = eventFields(text);
    }
  } catch {
    // not one of Aura's answers
  }
  const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
  const message = String(told.message ?? (response.statusText || "no reason given"));
  return new Refused(response.status, String(told.errorCode ?? ""), message, retryAfter > 0 ? retryAfter * 1000 : 0);
}

function claimsOf(token: string): Record<string, unknown> {
  try {
    const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return isObject(claims) ? claims : {};
  } catch {
    return {}; // the service says what is wrong with it
  }
}

/** `crypto.randomUUID` is there in secure contexts only. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function words(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return error.message + cause;
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
