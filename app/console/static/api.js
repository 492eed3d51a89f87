/** Requests to the service by `/aura/client.js`. The caller's token is kept in this object only. */

import { AuraClient } from "../client.js";

/** The prefix of `/aura/…`: empty, or the gateway's `/api`. */
export const BASE = new URL("../..", import.meta.url).pathname.replace(/\/+$/, "");

export class Service {
  /** Throws `TypeError` where the token is not a JWT. */
  constructor(token) {
    this.claims = readClaims(token);
    this.clockOffsetMs = 0;
    const options = { token, baseUrl: BASE, fetch: (input, init) => this.fetch(input, init) };
    this.client = new AuraClient(options);
    /** A client without retries: for polling, and for requests whose result a person waits for. */
    this.singleTryClient = new AuraClient({ ...options, retryTimeoutMs: 0, readTimeoutMs: 15_000 });
  }

  /** The service's time in milliseconds, estimated from its responses. */
  now() {
    return Date.now() + this.clockOffsetMs;
  }

  /** The state machine as an SVG, which is public. */
  async diagram() {
    const response = await fetch(`${BASE}/aura/fsm/diagram?format=svg`, { signal: AbortSignal.timeout(15_000) });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    return response.text();
  }

  async fetch(input, init) {
    const response = await fetch(input, init);
    const offset = Date.parse(response.headers.get("Date") ?? "") - Date.now();
    if (Number.isFinite(offset)) this.clockOffsetMs = Math.abs(offset) > 2000 ? offset : 0; // the header has whole seconds
    return response;
  }
}

/** The token for a one-time code; null where the code is invalid, expired or already used. */
export async function exchangeCode(code) {
  const response = await fetch(`${BASE}/aura/console/token`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
  });
  return response.ok ? (await response.json()).data.token : null;
}

function readClaims(token) {
  const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
  try {
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    if (claims.sub && claims.tenant_id) return claims;
  } catch {
    // The error below is thrown in this case, too.
  }
  throw new TypeError("the token is not a JWT with the claims sub and tenant_id");
}
