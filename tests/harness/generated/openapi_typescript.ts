// A client of the types that openapi-typescript generates: it starts a run and approves what the run asks for.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

declare const process: { env: Record<string, string>; exitCode: number };
type StreamData = components["schemas"]["Event"] | "[DONE]";

const { SERVICE_URL, TOKEN, TENANT, USER } = process.env;
const header = { "X-Tenant-ID": TENANT, "X-User-ID": USER };
const aura = createClient<paths>({ baseUrl: SERVICE_URL, headers: { Authorization: `Bearer ${TOKEN}` } });

async function* read(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamData> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const frames = text.split("\n\n");
    text = frames.pop() ?? "";
    for (const frame of frames) {
      const data = frame.split("\n").find((line) => line.startsWith("data: "))?.slice("data: ".length);
      if (data !== undefined) yield data === "[DONE]" ? data : (JSON.parse(data) as components["schemas"]["Event"]);
    }
  }
}

async function main(): Promise<void> {
  const unknown = await aura.GET("/aura/approvals/{requestId}", { params: { header, path: { requestId: "req-none" } } });
  console.log(unknown.error?.errorCode);
  const started = await aura.POST("/aura/test/stream", {
    params: { header },
    body: { prompt: "메모" },
    parseAs: "stream",
  });
  if (!started.data) throw new Error(`the run was refused: ${JSON.stringify(started.error)}`);
  for await (const data of read(started.data)) {
    if (data === "[DONE]") return;
    const event = data as components["schemas"]["KnownEvent"];
    if (event.type === "hitl") {
      const params = { header, path: { requestId: event.requestId } };
      const body = { argumentsDigest: event.argumentsDigest };
      const decided = await aura.POST("/aura/approvals/{requestId}/approve", { params, body });
      if (!decided.data) throw new Error("the approval was refused");
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
