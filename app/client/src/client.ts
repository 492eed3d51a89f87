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

import {
  MAX_RETRY_DELAY_MS,
  READ_TIMEOUT_MS,
  RETRYABLE_STATUSES,
  RETRY_DELAY_MS,
  RETRY_TIMEOUT_MS,
  ReadTimeout,
  randomKey,
  readApiError,
  readClaims,
  sleep,
  type SendRequest,
} from "./connection.js";
import { ApiError, ConnectionLost, errorText } from "./errors.js";
import { RunStream, type RetryOptions } from "./stream.js";
import {
  type DecisionResult,
  type RequestPage,
  type RunDetails,
  type RunPage,
  type ServiceInfo,
  type State,
  type ApprovalDetails,
  type Timeline,
} from "./types.js";

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
