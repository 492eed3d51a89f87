/** Reduces the events of a run to the state that is shown. Pure functions, without page, clock or network. */

const VERDICTS = {
  approve: "approved",
  decline: "skipped",
  reject: "rejected",
  expire: "expired",
  cancel: "cancelled",
  fail: "cancelled",
};
export const FINAL_STATES = new Set(["done", "failed", "rejected", "timed_out", "cancelled"]);

/** A run without events; `known` are fields that are known already. Times are in milliseconds. */
export function emptyRun(known = {}) {
  return {
    sessionId: null,
    threadId: null,
    prompt: "",
    userId: null,
    startedAt: null,
    state: null,
    path: [],
    entries: [],
    plan: [],
    answer: "",
    isAnswering: false,
    error: null,
    end: null,
    ...known,
  };
}

/** The run after one more event, whose `id` is a time in milliseconds (§3). Unchanged parts are the same objects. */
export function applyEvent(run, event, id) {
  const at = id ?? event.timestamp * 1000;
  const next = { ...run, startedAt: run.startedAt ?? at };
  switch (event.type) {
    case "start":
      return { ...next, sessionId: event.sessionId, threadId: event.threadId, state: next.state ?? event.state };
    case "thought":
      return withEntry(next, { kind: "thought", key: `thought-${at}`, at, text: event.content, thoughtType: event.thoughtType, sources: event.sources ?? [] });
    case "plan_step":
      return { ...next, plan: withStep(run.plan, { ...planStep(event), title: event.title, order: event.order }) };
    case "plan_step_update":
      return { ...next, plan: withStep(run.plan, { ...planStep(event), progress: event.progress }) };
    case "timeline_step_update":
      return withTransition(next, event, at);
    case "tool_execution":
      return withEntry(next, toolEntry(run, event, at));
    case "hitl":
      return withEntry(next, approvalEntry(event, run.path.length, at));
    case "content":
      return { ...next, answer: run.answer + event.content, isAnswering: event.chunk };
    case "error":
      return { ...next, error: { message: event.message, type: event.errorType, code: event.errorCode, retryable: event.retryable } };
    case "end":
      return { ...next, isAnswering: false, end: { status: event.status, message: event.message, usage: event.usage ?? null, at } };
    default:
      return run;
  }
}

/** Why a request must not be approved here: the text key of the problem; empty where the service, which alone knows it,
 * answers the same `request` as the event showed. */
export function approvalProblem(event, request) {
  const names = ["requestId", "sessionId", "actionType", "message", "context", "argumentsDigest"];
  const isSame = names.every((name) => isSameJson(event[name], request[name])) && isSameJson(event.warnings ?? [], request.warnings ?? []);
  return isSame ? "" : "approval.differs";
}

/** The run after a request was compared with what the service answers; `problem` is as in `approvalProblem`. */
export function withCheckedApproval(run, requestId, problem, cause = "") {
  const check = (entry) => (entry.kind === "approval" && entry.requestId === requestId ? { ...entry, problem, cause } : entry);
  return { ...run, entries: run.entries.map(check) };
}

/** The open approval request, or null. */
export function openApproval(run) {
  return run.end ? null : (run.entries.findLast((entry) => entry.kind === "approval" && entry.verdict === null) ?? null);
}

export const isEnded = (run) => run.end !== null || FINAL_STATES.has(run.state);

/** The tool calls and requests that followed the n-th transition. */
export function entriesAfter(run, number) {
  return run.entries.filter((entry) => entry.step === number);
}

function withTransition(run, event, at) {
  const { from, to, trigger } = event.metadata;
  const path = [...run.path, { number: run.path.length + 1, from, to, trigger, at }];
  const verdict = from === "awaiting_approval" ? VERDICTS[trigger] : undefined;
  const entries = verdict === undefined ? run.entries : run.entries.map((entry) => withVerdict(entry, verdict, at));
  return { ...run, state: to, path, entries };
}

function withVerdict(entry, verdict, at) {
  return entry.kind === "approval" && entry.verdict === null ? { ...entry, verdict, decidedAt: at } : entry;
}

function toolEntry(run, event, at) {
  const key = `tool-${event.toolCallId}`;
  const known = run.entries.find((entry) => entry.key === key);
  const hasOutcome = event.status !== "pending" && event.status !== "executing";
  return {
    kind: "tool",
    key,
    at: known?.at ?? at,
    step: known?.step ?? run.path.length,
    startedAt: event.status === "executing" ? at : (known?.startedAt ?? null),
    endedAt: hasOutcome ? at : null,
    callId: event.toolCallId,
    name: event.toolName,
    args: event.toolArgs,
    status: event.status,
    result: event.result ?? null,
    error: event.error ?? null,
    needsApproval: event.requiresApproval,
    isTruncated: event.truncated ?? false,
  };
}

function approvalEntry(event, step, at) {
  return {
    kind: "approval",
    key: `approval-${event.requestId}`,
    at,
    step,
    requestId: event.requestId,
    argumentsDigest: event.argumentsDigest,
    sessionId: event.sessionId,
    action: event.actionType,
    message: event.message,
    args: event.context,
    warnings: event.warnings ?? [],
    expiresAt: event.expiresAt * 1000,
    timeoutSeconds: event.timeoutSeconds,
    outcomeUnknown: event.outcomeUnknown ?? false,
    confidence: event.confidenceSource && event.confidenceSource !== "none" ? event.confidence : null,
    problem: null, // not known yet: see `approvalProblem`
    verdict: null,
    decidedAt: null,
  };
}

function withEntry(run, entry) {
  const index = run.entries.findIndex((known) => known.key === entry.key);
  const entries = index < 0 ? [...run.entries, entry] : run.entries.with(index, entry);
  return { ...run, entries };
}

function planStep(event) {
  const step = { id: event.stepId, status: event.status };
  if (event.description !== undefined) step.description = event.description;
  if (event.confidence !== undefined) step.confidence = event.confidenceSource === "none" ? null : event.confidence;
  return step;
}

function withStep(plan, step) {
  const index = plan.findIndex((known) => known.id === step.id);
  if (index >= 0) return plan.with(index, { ...plan[index], ...step });
  const added = { title: "", description: "", order: plan.length, progress: 0, confidence: null, ...step };
  return [...plan, added].sort((one, other) => one.order - other.order);
}

/** Whether two JSON values are equal, in whatever order the keys of their objects are. */
function isSameJson(one, other) {
  return JSON.stringify(one, sortKeys) === JSON.stringify(other, sortKeys);
}

function sortKeys(_, value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
