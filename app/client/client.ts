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

// --- types.ts

// The types of events and responses, generated from the service's own by `.ci/clients`.

/** The fields that all events have. */
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
/** What the model thinks. Each of the `sources` has a `title`, and the same text as `name`. */
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
/** A status of a tool call. All events of one call have the same `toolCallId`; the last one has its outcome: completed, failed or rejected. The arguments are never shortened. `truncated` is true if the result was cut at 16 KiB; the run's record contains it in full. */
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
/** A person is asked for an approval. The arguments are never shortened: what is shown is what would run. `arguments_digest` is the digest of what would run, which an approval sends back. `position` and `total` say which of the approvals of this turn it is. `warnings` say what in the arguments may deceive a person, such as characters that are not seen. */
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
  argumentsDigest: string;
  position: number;
  total: number;
  warnings: ArgumentWarning[];
}
/** A piece of the answer, which clients append. `chunk` is true if more pieces follow. The last piece has `metadata`: its `result` is `{type: "markdown", title, content}` with the whole answer, if that has at most 16 KiB. It is added when the frame is read. */
export interface ContentEvent extends EventBase {
  type: "content";
  content: string;
  format: "markdown";
  chunk: boolean;
  metadata?: Record<string, unknown>;
}
export interface ErrorRaisedEvent extends EventBase {
  type: "error";
  message: string;
  errorType: "ValidationError" | "AuthenticationError" | "PermissionError" | "LLMNotConfigured" | "ModelError" | "ModelTimeout" | "ToolError" | "TimeoutError" | "RejectionError" | "ResumeExpired" | "LimitExceeded" | "StorageUnavailable" | "Cancelled" | "InternalError";
  errorCode: string;
  retryable: boolean;
}
/** The run has ended. `usage` are the tokens that the model reported: `promptTokens`, `completionTokens` and `totalTokens`, and `cachedTokens` where the server had a part of the prompt in its cache. */
export interface EndEvent extends EventBase {
  type: "end";
  message: string;
  status: "completed" | "rejected" | "timed_out" | "cancelled" | "failed";
  usage?: Record<string, number>;
}
/** Any event; `type` is the name of its kind. */
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
/** @internal The event types that this client knows. */
const EVENT_TYPES: ReadonlySet<string> = new Set(["start", "thought", "plan_step", "plan_step_update", "timeline_step_update", "tool_execution", "hitl", "content", "error", "end"]);
/** An approval request with what it shows, and its decision, if there is one. `context` holds the arguments of the tool call, and an approval sends `argumentsDigest` back. `createdAt` is in milliseconds. `via` is the way by which the decision came; `deciderTold`: another service told who decided. */
export interface ApprovalDetails {
  requestId: string;
  sessionId: string;
  userId: string;
  tenantId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  argumentsDigest: string;
  warnings: ArgumentWarning[];
  position: number;
  total: number;
  status: RequestStatus;
  createdAt: number;
  expiresAt: number;
  taskId?: string;
  reason?: string;
  decidedAt?: number;
  decidedBy?: string;
  via?: "http" | "redis";
  deciderTold?: boolean;
}
/** Whether this process reaches the archive; if not, how many runs wait to be copied. `lost` expired before. */
export interface ArchiveInfo {
  status: "UP" | "DOWN";
  due: number;
  lost: number;
}
/** What may deceive an approver in the arguments of a call. `code` is the kind, such as `invisible`; `field` is the path of the argument, such as `to[1]`; `message` is for people. It is a part of events too, so fields that a later version adds are ignored. */
export interface ArgumentWarning {
  code: string;
  field: string;
  message: string;
}
/** The status of a tool call: requested, started, then one outcome. Each is committed before the next. */
export type CallStatus = "requested" | "started" | "completed" | "failed" | "rejected";
/** How sure the model is (0–1) and the source of that number; `none` means that the value is unknown (§2.2). */
export interface Confidence {
  value: number;
  source: "logprobs" | "model" | "none";
}
/** The status of an approval request after a decision. */
export interface DecisionResult {
  requestId: string;
  sessionId: string;
  status: RequestStatus;
  reason?: string;
}
/** The error with which a run ended that did not complete. */
export interface Ending {
  error_type: string;
  error_code: string;
  message: string;
}
/** A person's approval of one call with exactly the arguments of `arguments_digest`. It is used at most once. `decider_told`: another service told who decided; else the name is from a token that Aura has verified. */
export interface Grant {
  request_id: string;
  arguments_digest: string;
  decided_by?: string | null;
  decided_at: number;
  edited: boolean;
  via?: "http" | "redis" | null;
  decider_told: boolean;
}
/** The limits that a run started with. They do not change when another node takes the run over. `tokens` is the budget of the whole run, prompts included; 0 means that there is none. `completion_tokens` is the number that the model may write in one turn, where that is configured; it is reserved with the prompt. `calls_per_turn` tool calls of one turn are considered, and `open_approvals` of them may ask a person; the model reads that further ones were not run. */
export interface Limits {
  turns: number;
  model_attempts: number;
  run_seconds: number;
  approval_seconds: number;
  on_reject: "stop" | "replan";
  tokens: number;
  completion_tokens: number;
  calls_per_turn: number;
  open_approvals: number;
}
/** One attempt at a turn of the model. `model` is the name of the model that answered, null where none did. `usage` is null where the model's server reported none. An attempt that goes on has no `outcome` yet. */
export interface ModelTurnRecord {
  turn: number;
  attempt: number;
  model: string | null;
  outcome: "tools" | "answer" | "failed" | "lost" | "stopped" | null;
  usage: TokenUsage | null;
  startedAt: number;
  endedAt: number | null;
}
/** The approval request that a run waits for. `context` holds the arguments of the tool call. An approval sends `argumentsDigest` back. `position` of `total`: which of the approvals of this turn it is. */
export interface PendingApproval {
  requestId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  warnings: ArgumentWarning[];
  expiresAt: number;
  secondsLeft: number;
  outcomeUnknown: boolean;
  queued: number;
  argumentsDigest: string;
  position: number;
  total: number;
}
/** An open approval request, with the session id of the run that waits for it. */
export interface PendingRequest {
  requestId: string;
  actionType: string;
  message: string;
  context: Record<string, unknown>;
  warnings: ArgumentWarning[];
  expiresAt: number;
  secondsLeft: number;
  outcomeUnknown: boolean;
  queued: number;
  argumentsDigest: string;
  position: number;
  total: number;
  sessionId: string;
}
/** One step of the plan: declared by the model (`update_plan`) or, without such a plan, made from a tool call. */
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
/** Open approval requests. `nextOffset` is the offset of the next page; it is absent on the last page. */
export interface RequestPage {
  requests: PendingRequest[];
  nextOffset?: number;
}
/** The status of an approval request, as `hitl:request:{requestId}` spells it. */
export type RequestStatus = "pending" | "approved" | "rejected" | "expired" | "cancelled";
/** A complete run: its checkpoint without secrets. `taskId` is its task in the Main Service. `spentTokens` counts against the run's token budget: the reported tokens and, where a model turn has no report, an estimate. `reservedTokens` is the estimate for the model turn in progress. `agentVersion` is the digest of the agent's definition with which the run began and ends. */
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
  agent?: string;
  pendingApproval?: PendingApproval;
  agentVersion: string | null;
  taskId: string | null;
  schemaVersion: number;
  prompt: string;
  context: Record<string, unknown>;
  turn: number;
  history: ThreadHistory;
  plan: PlanStep[];
  ledger: ToolCallRecord[];
  modelTurns: ModelTurnRecord[];
  path: TransitionRecord[];
  answer: string | null;
  usage: TokenUsage;
  spentTokens: number;
  reservedTokens: number;
  limits: Limits;
  ending: Ending | null;
  cancelledBy: string | null;
  runDeadlineAt: number;
}
/** Runs, newest first. `nextOffset` is the offset of the next page; it is absent on the last page. */
export interface RunPage {
  runs: RunSummary[];
  nextOffset?: number;
}
/** A run as it is listed. `promptHead` is the beginning of its prompt. `agent` is the name of its agent, and `agentId` the browser's agent session. */
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
  agent?: string;
  pendingApproval?: PendingApproval;
}
/** The name, version, model and states of the service, and its archive of ended runs if it has one. */
export interface ServiceInfo {
  name: string;
  version: string;
  model: string;
  states: State[];
  archive?: ArchiveInfo;
}
/** An interval of time. Times are Unix seconds; an open span lasts until the moment the timeline was made. A span of kind `state` is the time in a state, which the run entered from `source` by `trigger`. Model turns, tools and waits have an `outcome`. `model` is the name of the model that answered a turn. */
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
  model?: string | null;
  tokens?: Tokens | null;
  decision?: SpanDecision | null;
}
/** The result of a wait for a person's decision. `via` is the way by which the decision came. `decider_told`: another service told who decided. */
export interface SpanDecision {
  requestId: string;
  verdict?: string | null;
  decidedBy?: string | null;
  decidedAt?: number | null;
  reason?: string | null;
  edited: boolean;
  via?: "http" | "redis" | null;
  deciderTold: boolean;
}
/** The state of a run. */
export type State = "planning" | "tool" | "awaiting_approval" | "content" | "done" | "failed" | "rejected" | "timed_out" | "cancelled";
/** What the model got of the earlier turns of the thread. `messages` counts their messages, `omittedTurns` the turns that were left out because they did not fit. `isShortened`: the newest earlier turn is in the messages, but was cut in its middle. */
export interface ThreadHistory {
  messages: number;
  omittedTurns: number;
  isShortened: boolean;
}
/** The spans of a run, ordered by their start. `waited_seconds` is the part of `duration_seconds` spent on waits. */
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
/** The tokens of a run, as the model reported them. `cachedTokens` is the part of `promptTokens` that the model's server had in its cache, where it reported that. */
export interface TokenUsage {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
  cachedTokens?: number;
}
/** Reported tokens. `cached_tokens` is set where the server had a part of the prompt in its cache. */
export interface Tokens {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
  cachedTokens?: number | null;
}
/** One tool call of a run, with its status, its result or error, and the decision on it. */
export interface ToolCallRecord {
  toolCallId: string;
  toolName: string;
  toolArgs: Record<string, unknown>;
  warnings: ArgumentWarning[];
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
/** A transition that the run has made, with its time. */
export interface TransitionRecord {
  trigger: Trigger;
  source: State;
  dest: State;
  at: number;
}
/** The cause of a transition. */
export type Trigger = "request_tools" | "answer" | "finish" | "ask_approval" | "report_results" | "approve" | "decline" | "reject" | "expire" | "fail" | "cancel";

// --- errors.ts

// The errors that the client throws.

/** The service answered with an error: an HTTP status, an error code and a message. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterMs: number = 0,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The connection broke and could not be restored within the retry timeout. The run itself continues. */
export class ConnectionLost extends Error {
  constructor(message: string) {
    super(message);
    this.name = "ConnectionLost";
  }
}

/** @internal The bytes are not an event stream of the service: resume after the last valid event. */
class StreamDamaged extends Error {}

/** @internal The message of an error, with that of its cause. */
function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
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
function parseEventFields(data: string): Record<string, unknown> {
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
function hasDamagedCharacter(value: unknown): boolean {
  return JSON.stringify(value).includes(REPLACEMENT_CHARACTER);
}

/** @internal Whether a value is a JSON object. */
function isObject(value: unknown): value is Record<string, unknown> {
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

/** @internal What a request consists of, besides the headers that authenticate it. */
interface RequestOptions { method: string; headers: Record<string, string>; body?: string; signal: AbortSignal }
/** @internal Sends an authenticated request. */
type SendRequest = (path: string, options: RequestOptions) => Promise<Response>;

/** @internal Aborts one request: with the caller's signal, after the read timeout, or when it is closed. */
class ReadTimeout {
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
function isStream(response: Response): boolean {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** @internal The error of a response, with the code and message of the service. */
async function readApiError(response: Response): Promise<ApiError> {
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
function readClaims(token: string): Record<string, unknown> {
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
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @internal Resolves after `ms`; rejects as soon as the signal aborts. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
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

// --- stream.ts

// Reads one run's events across broken connections: each event once, in order, without gaps.


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

// --- visible.ts

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

// --- client.ts

export interface ClientOptions extends RetryOptions {
  /** The JWT, or a function that returns a valid one; it is called before every request. */
  token: string | (() => string | Promise<string>);
  /** The prefix of every path: an origin, or "/api" behind the gateway. Default: the origin of the page. */
  baseUrl?: string;
  /** Default: the token's `tenant_id`. */
  tenantId?: string;
  /** Default: the token's `sub`. */
  userId?: string;
  fetch?: typeof fetch;
}

export interface StreamOptions { signal?: AbortSignal }
export interface RunOptions extends StreamOptions {
  context?: Record<string, unknown>;
  threadId?: string;
  /** The name of the agent that runs the prompt. Default: the service decides. */
  agent?: string;
  /** The browser's agent session, which groups the runs that have no thread. */
  agentId?: string;
  /** A second run with the same key attaches to the first. Default: a new key for each run. */
  idempotencyKey?: string;
}
export interface AttachOptions extends StreamOptions {
  /** Read only the events after this one. Default: from the start. */
  lastEventId?: number;
}
export interface PageOptions { offset?: number; limit?: number; signal?: AbortSignal }
export interface RunsOptions extends PageOptions { state?: State; scope?: "own" | "all" }

/** The status of a request after a decision. `accepted` is false where an earlier decision applies, or where the
 * deadline had passed. */
export interface DecisionReply extends DecisionResult { accepted: boolean }

interface SendOptions {
  body?: object;
  query?: object;
  /** An error status that is returned instead of thrown. */
  acceptedStatus?: number;
  signal?: AbortSignal;
}

export class AuraClient {
  readonly baseUrl: string;
  private readonly options: ClientOptions;
  private readonly fetch: typeof fetch;

  constructor(options: ClientOptions) {
    this.options = options;
    this.baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "");
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  /** The stream of a new run, which starts when the stream is iterated. */
  run(prompt: string, options: RunOptions = {}): RunStream {
    const body: Record<string, unknown> = { prompt, context: options.context ?? {} };
    if (options.threadId !== undefined) body.thread_id = options.threadId;
    if (options.agent !== undefined) body.agent = options.agent;
    const headers: Record<string, string> = { "Idempotency-Key": options.idempotencyKey ?? randomKey() };
    if (options.agentId !== undefined) headers["X-Agent-ID"] = options.agentId;
    return new RunStream(this.sendRequest, this.options, options.signal, { body, headers }, null, null);
  }

  /** The stream of an existing run. */
  attach(sessionId: string, options: AttachOptions = {}): RunStream {
    return new RunStream(this.sendRequest, this.options, options.signal, null, sessionId, options.lastEventId ?? null);
  }

  /** Approve a request, with the `argumentsDigest` of what the person saw; `params` replace the arguments of the tool
   * call. */
  approve(requestId: string, argumentsDigest: string, params?: Record<string, unknown>): Promise<DecisionReply> {
    return this.decide("approve", requestId, { argumentsDigest, ...(params && { params }) });
  }

  /** Reject a request; with `skip` the run continues without this call. */
  reject(requestId: string, options: { reason?: string; skip?: boolean } = {}): Promise<DecisionReply> {
    return this.decide("reject", requestId, options);
  }

  /** Cancel a run. Resolves to false where it has already ended. */
  async cancel(sessionId: string): Promise<boolean> {
    const path = `/aura/runs/${encodeURIComponent(sessionId)}/cancel`;
    const response = await this.sendWithRetries("POST", path, { acceptedStatus: 409 });
    return response.status !== 409;
  }

  /** List runs, newest first: the caller's own, or for approvers those of the tenant. */
  async runs({ signal, ...query }: RunsOptions = {}): Promise<RunPage> {
    return (await this.sendWithRetries("GET", "/aura/runs", { query, signal })).data as RunPage;
  }

  /** A complete run, with its tool calls, transitions, token usage and answer. */
  async details(sessionId: string): Promise<RunDetails> {
    return (await this.sendWithRetries("GET", `/aura/runs/${encodeURIComponent(sessionId)}`)).data as RunDetails;
  }

  /** The timeline of a run until now: states, model turns, tools, waiting for decisions. */
  async timeline(sessionId: string): Promise<Timeline> {
    const path = `/aura/runs/${encodeURIComponent(sessionId)}/timeline`;
    return (await this.sendWithRetries("GET", path)).data as Timeline;
  }

  /** List open approval requests: the caller's own, or for approvers those of the tenant. */
  async pending({ signal, ...query }: PageOptions = {}): Promise<RequestPage> {
    return (await this.sendWithRetries("GET", "/aura/approvals", { query, signal })).data as RequestPage;
  }

  /** An approval request: what it shows, and its decision. */
  async request(requestId: string): Promise<ApprovalDetails> {
    return (await this.sendWithRetries("GET", `/aura/approvals/${encodeURIComponent(requestId)}`)).data as ApprovalDetails;
  }

  /** The name, version, model and states of the service. */
  async info(): Promise<ServiceInfo> {
    return (await this.sendWithRetries("GET", "/aura/info")).data as ServiceInfo;
  }

  /** Send a decision. It may be repeated: the service answers a second one with the status of the first. */
  private async decide(verdict: string, requestId: string, fields: object): Promise<DecisionReply> {
    const { userId } = await this.credentials();
    const path = `/aura/approvals/${encodeURIComponent(requestId)}/${verdict}`;
    const response = await this.sendWithRetries("POST", path, { body: { userId, ...fields }, acceptedStatus: 409 });
    return { ...(response.data as DecisionResult), accepted: response.status !== 409 };
  }

  private async credentials(): Promise<{ userId: string; headers: Record<string, string> }> {
    const given = this.options.token;
    const token = typeof given === "string" ? given : await given();
    const claims = readClaims(token);
    const userId = this.options.userId ?? String(claims.sub ?? "");
    const tenantId = this.options.tenantId ?? String(claims.tenant_id ?? "");
    return { userId, headers: { Authorization: `Bearer ${token}`, "X-Tenant-ID": tenantId, "X-User-ID": userId } };
  }

  private readonly sendRequest: SendRequest = async (path, options) => {
    const { headers } = await this.credentials();
    const init = { cache: "no-store" as const, ...options, headers: { ...headers, ...options.headers } };
    return this.fetch(this.baseUrl + path, init);
  };

  /** The status and `data` of a response. The request is repeated while the network or the service is unavailable. */
  private async sendWithRetries(method: string, path: string, options: SendOptions = {}): Promise<{ status: number; data: unknown }> {
    const until = Date.now() + (this.options.retryTimeoutMs ?? RETRY_TIMEOUT_MS);
    let delayMs = this.options.retryDelayMs ?? RETRY_DELAY_MS;
    for (;;) {
      let failure: unknown;
      try {
        return await this.sendOnce(method, path, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        if (error instanceof ApiError && !RETRYABLE_STATUSES.has(error.status)) throw error;
        failure = error;
        if (error instanceof ApiError) delayMs = Math.max(delayMs, error.retryAfterMs);
      }
      if (Date.now() + delayMs > until) {
        throw failure instanceof ApiError ? failure : new ConnectionLost(`no response to ${method} ${path}: ${errorText(failure)}`);
      }
      await sleep(delayMs, options.signal);
      delayMs = Math.min(delayMs * 2, MAX_RETRY_DELAY_MS);
    }
  }

  private async sendOnce(method: string, path: string, options: SendOptions): Promise<{ status: number; data: unknown }> {
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
      if (!response.ok && response.status !== acceptedStatus) throw await readApiError(response);
      const envelope = (await response.json()) as { data?: unknown };
      return { status: response.status, data: envelope.data };
    } finally {
      timeout.close();
    }
  }
}
