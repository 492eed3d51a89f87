/** The service, spoken to as by everybody: `/aura/client.js` with the caller's token, which lives in this object alone. */

import { AuraClient } from "../client.js";

/** What stands before `/aura/…`: nothing, or the gateway's `/api`. */
export const BASE = new URL("../..", import.meta.url).pathname.replace(/\/+$/, "");

export class Service {
  /** Throws `TypeError` where the token is none. */
  constructor(token) {
    this.claims = claims(token);
    this.aheadMs = 0;
    const asked = { token, baseUrl: BASE, fetch: (input, init) => this.fetch(input, init) };
    this.client = new AuraClient(asked);
    /** One try: for what is asked again in a moment anyway, and where a person waits for the answer. */
    this.glimpse = new AuraClient({ ...asked, patienceMs: 0, silenceMs: 15_000 });
  }

  /** The service's time in milliseconds, as far as its answers tell. */
  now() {
    return Date.now() + this.aheadMs;
  }

  /** The machine as an SVG; everybody may see it. */
  async diagram() {
    const response = await fetch(`${BASE}/aura/fsm/diagram?format=svg`, { signal: AbortSignal.timeout(15_000) });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    return response.text();
  }

  async fetch(input, init) {
    const response = await fetch(input, init);
    const ahead = Date.parse(response.headers.get("Date") ?? "") - Date.now();
    if (Number.isFinite(ahead)) this.aheadMs = Math.abs(ahead) > 2000 ? ahead : 0; // the header has whole seconds
    return response;
  }
}

/** The token behind a one-time code; null: it was used, or has expired. */
export async function redeemed(code) {
  const response = await fetch(`${BASE}/aura/console/token`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
  });
  return response.ok ? (await response.json()).data.token : null;
}

function claims(token) {
  const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
  try {
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(bytes));
    if (found.sub && found.tenant_id) return found;
  } catch {
    // said below
  }
  throw new TypeError("not a JWT with sub and tenant_id");
}
