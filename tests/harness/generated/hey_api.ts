// A client that @hey-api/openapi-ts generates: it starts a run and approves what the run asks for.

import { approve, getApproval, startRun, type KnownEvent } from "./hey";
import { createClient } from "./hey/client";

declare const process: { env: Record<string, string>; exitCode: number };

const { SERVICE_URL, TOKEN, TENANT, USER } = process.env;
const headers = { "X-Tenant-ID": TENANT, "X-User-ID": USER };
const client = createClient({ baseUrl: SERVICE_URL, auth: TOKEN });

async function main(): Promise<void> {
  const unknown = await getApproval({ client, headers, path: { requestId: "req-none" } });
  console.log(unknown.error?.errorCode);
  const { stream } = await startRun({ client, headers, body: { prompt: "메모" } });
  for await (const data of stream) {
    if (typeof data === "string") return; // [DONE]
    const event = data as KnownEvent;
    if (event.type === "hitl") {
      const path = { requestId: event.requestId };
      const body = { argumentsDigest: event.argumentsDigest };
      const decided = await approve({ client, headers, path, body, throwOnError: true });
      console.log(decided.data.data.status);
    } else if (event.type === "end") {
      console.log(event.status);
    }
  }
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
