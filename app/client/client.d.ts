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
export type AuraEvent = StartEvent | ThoughtEvent | PlanStepDeclaredEvent | PlanStepUpdatedEvent | TimelineStepUpdatedEvent | ToolExecutionEvent | HitlEvent | ContentEvent | ErrorRaisedEvent | EndEvent;
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
/** An event came. */
export interface Received {
    kind: "event";
    id: number | null;
    event: AuraEvent;
}
/** An event of a type that this client does not know. */
export interface Unknown {
    kind: "unknown";
    id: number | null;
    type: string;
    fields: Record<string, unknown>;
}
/** The connection broke; it is tried again after that pause. */
export interface Interrupted {
    kind: "interrupted";
    cause: string;
    pauseMs: number;
}
/** Connected again; the next event follows the last one. */
export interface Resumed {
    kind: "resumed";
}
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
export interface StreamOptions {
    signal?: AbortSignal;
}
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
export interface PageOptions {
    offset?: number;
    limit?: number;
    signal?: AbortSignal;
}
export interface RunsOptions extends PageOptions {
    state?: State;
    scope?: "own" | "all";
}
/** How a request stands. `here` is false where an earlier decision stands, or this one came too late. */
export interface Decided extends Outcome {
    here: boolean;
}
/** The service said no to a request. */
export declare class Refused extends Error {
    readonly status: number;
    readonly code: string;
    readonly retryAfterMs: number;
    constructor(status: number, code: string, message: string, retryAfterMs?: number);
}
/** The connection broke and did not come back in time; the run goes on without a reader. */
export declare class StreamLost extends Error {
    constructor(message: string);
}
export declare class AuraClient {
    readonly baseUrl: string;
    private readonly options;
    private readonly fetch;
    constructor(options: ClientOptions);
    /** A new run; it starts when its items are asked for. */
    run(prompt: string, options?: RunOptions): RunStream;
    /** A run that exists. */
    attach(sessionId: string, options?: AttachOptions): RunStream;
    /** Say yes; `params` replace the tool's arguments. Repeated, it answers what stands. */
    approve(requestId: string, params?: Record<string, unknown>): Promise<Decided>;
    /** Say no; with `skip` the run goes on without this call. */
    reject(requestId: string, options?: {
        reason?: string;
        skip?: boolean;
    }): Promise<Decided>;
    /** Whether the run is being cancelled; false: it has ended already. */
    cancel(sessionId: string): Promise<boolean>;
    /** Runs, newest first: one's own, for approvers the tenant's. */
    runs({ signal, ...query }?: RunsOptions): Promise<RunPage>;
    /** One run whole: ledger, path, usage, answer. */
    details(sessionId: string): Promise<RunDetails>;
    /** Where a run's time went until now: states, model turns, tools, waits. */
    timeline(sessionId: string): Promise<Timeline>;
    /** Approval requests that wait for a decision. */
    pending({ signal, ...query }?: PageOptions): Promise<RequestPage>;
    /** An approval request as it is stored. */
    request(requestId: string): Promise<StoredRequest>;
    /** Name, version, model and states of the service. */
    info(): Promise<ServiceInfo>;
    private decide;
    private caller;
    private opener;
    /** A request and its envelope; asked again while network or service are away. */
    private call;
}
/** The items of one run, up to its end. Iterate it once. */
export declare class RunStream implements AsyncIterable<Item> {
    private readonly open;
    private readonly options;
    private readonly signal;
    private readonly start;
    /** The run; null until the service has answered. */
    sessionId: string | null;
    /** The last event that came. */
    lastEventId: number | null;
    private retryMs;
    private aliveAt;
    private failures;
    private damages;
    private suspect;
    private trustsCharacters;
    [Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined>;
    /** POST until the run is known, then attach to it. */
    private connect;
    private frames;
    /** The frame's event; null where it was seen before. */
    private received;
    /** A character that was cut in two on the way is read again; one that stays is the model's own. */
    private doubt;
    /** Whether to come back after an error. Throws where that is of no use. */
    private judged;
    private interrupted;
}
export interface Frame {
    id: number | null;
    data: string;
    retryMs: number | null;
}
/** Bytes in, in any pieces; whole frames out. What is incomplete at the end of a connection is not a frame. */
export declare class FrameParser {
    private readonly decoder;
    private rest;
    private held;
    private lines;
    feed(piece: Uint8Array): Frame[];
}
// Made from client.ts (SHA-256 68b3ea5e30c0e624ca8f0af872b83641755ce1e5585f91dca302665a05cc38d8).
