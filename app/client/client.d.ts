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
export type AuraEvent = StartEvent | ThoughtEvent | PlanStepDeclaredEvent | PlanStepUpdatedEvent | TimelineStepUpdatedEvent | ToolExecutionEvent | HitlEvent | ContentEvent | ErrorRaisedEvent | EndEvent;
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
/** The service answered with an error: an HTTP status, an error code and a message. */
export declare class ApiError extends Error {
    readonly status: number;
    readonly code: string;
    readonly retryAfterMs: number;
    constructor(status: number, code: string, message: string, retryAfterMs?: number);
}
/** The connection broke and could not be restored within the retry timeout. The run itself continues. */
export declare class ConnectionLost extends Error {
    constructor(message: string);
}
/** One frame of a stream. A frame may have `retryMs` and no data. */
export interface Frame {
    id: number | null;
    data: string;
    retryMs: number | null;
}
/** Parses bytes into frames. The bytes may be split anywhere; an incomplete frame at the end is dropped. */
export declare class FrameParser {
    private readonly decoder;
    private rest;
    private lineStart;
    private lines;
    /** The frames that these bytes complete. */
    feed(bytes: Uint8Array): Frame[];
}
/** An event was received. */
export interface ReceivedEvent {
    kind: "event";
    id: number | null;
    event: AuraEvent;
}
/** An event was received whose type this client does not know. */
export interface UnknownEvent {
    kind: "unknown";
    id: number | null;
    type: string;
    fields: Record<string, unknown>;
}
/** The connection broke. The client reconnects after `retryDelayMs`. */
export interface Interrupted {
    kind: "interrupted";
    cause: string;
    retryDelayMs: number;
}
/** The connection was restored. The next event follows the last one. */
export interface Resumed {
    kind: "resumed";
}
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
/** The items of one run up to its end. Iterate over it once. */
export declare class RunStream implements AsyncIterable<Item> {
    private readonly send;
    private readonly options;
    private readonly signal;
    private readonly start;
    /** The session id of the run; null until the service has answered. */
    sessionId: string | null;
    /** The id of the last event that was received. */
    lastEventId: number | null;
    private retryDelayMs;
    private lastByteAt;
    private failures;
    private damagedStreams;
    private damagedFrame;
    private acceptsDamagedCharacters;
    [Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined>;
    /**
     * Start the run by POST until its session id is known, then attach to it by GET. Null (204): the last event that was
     * received is the end marker.
     */
    private connect;
    private frames;
    /** The event of a frame; null where it was received before. */
    private nextEvent;
    /** Accept U+FFFD only where it is unchanged at a second read, so that the model generated it. */
    private checkDamagedFrame;
    /** When to retry after this error. Throws it where a retry is pointless. */
    private interruptionAfter;
    private interruption;
}
export interface VisibleText {
    text: string;
}
/** A hidden character (`U+200B`), or a long run of empty lines or blanks with its length. */
export interface HiddenText {
    hidden: "character" | "lines" | "blanks";
    codePoint?: string;
    count?: number;
}
export type TextPart = VisibleText | HiddenText;
/**
 * The parts of a text as an approver must see them: hidden characters, such as those that change the writing direction,
 * and long runs of empty lines or blanks, behind which more text may stand, become marks.
 */
export declare function visibleParts(text: string): TextPart[];
/** JSON text with hidden characters as `\u` escapes, so that a person sees them in an editor. */
export declare function visibleJson(value: unknown): string;
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
export interface StreamOptions {
    signal?: AbortSignal;
}
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
export interface PageOptions {
    offset?: number;
    limit?: number;
    signal?: AbortSignal;
}
export interface RunsOptions extends PageOptions {
    state?: State;
    scope?: "own" | "all";
}
/** The status of a request after a decision. `accepted` is false where an earlier decision applies, or where the
 * deadline had passed. */
export interface DecisionReply extends DecisionResult {
    accepted: boolean;
}
export declare class AuraClient {
    readonly baseUrl: string;
    private readonly options;
    private readonly fetch;
    constructor(options: ClientOptions);
    /** The stream of a new run, which starts when the stream is iterated. */
    run(prompt: string, options?: RunOptions): RunStream;
    /** The stream of an existing run. */
    attach(sessionId: string, options?: AttachOptions): RunStream;
    /** Approve a request, with the `argumentsDigest` of what the person saw; `params` replace the arguments of the tool
     * call. */
    approve(requestId: string, argumentsDigest: string, params?: Record<string, unknown>): Promise<DecisionReply>;
    /** Reject a request; with `skip` the run continues without this call. */
    reject(requestId: string, options?: {
        reason?: string;
        skip?: boolean;
    }): Promise<DecisionReply>;
    /** Cancel a run. Resolves to false where it has already ended. */
    cancel(sessionId: string): Promise<boolean>;
    /** List runs, newest first: the caller's own, or for approvers those of the tenant. */
    runs({ signal, ...query }?: RunsOptions): Promise<RunPage>;
    /** A complete run, with its tool calls, transitions, token usage and answer. */
    details(sessionId: string): Promise<RunDetails>;
    /** The timeline of a run until now: states, model turns, tools, waiting for decisions. */
    timeline(sessionId: string): Promise<Timeline>;
    /** List open approval requests: the caller's own, or for approvers those of the tenant. */
    pending({ signal, ...query }?: PageOptions): Promise<RequestPage>;
    /** An approval request: what it shows, and its decision. */
    request(requestId: string): Promise<ApprovalDetails>;
    /** The name, version, model and states of the service. */
    info(): Promise<ServiceInfo>;
    /** Send a decision. It may be repeated: the service answers a second one with the status of the first. */
    private decide;
    private credentials;
    private readonly sendRequest;
    /** The status and `data` of a response. The request is repeated while the network or the service is unavailable. */
    private sendWithRetries;
    private sendOnce;
}
// Generated from client.ts (SHA-256 e0d9ec8cc6e2054a426b4fb39690248540e306e5b7dc558f209a57b514411505).
