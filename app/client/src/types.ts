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
export const EVENT_TYPES: ReadonlySet<string> = new Set(["start", "thought", "plan_step", "plan_step_update", "timeline_step_update", "tool_execution", "hitl", "content", "error", "end"]);
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
