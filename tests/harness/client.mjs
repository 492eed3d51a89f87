// What the tests ask of the JavaScript client, a command each; options are JSON on stdin, answers JSON lines on stdout.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [path, command] = process.argv.slice(2);
const { AuraClient, FrameParser, Refused } = await import(pathToFileURL(path).href);
const options = JSON.parse(readFileSync(0));
const tell = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const aura = () => new AuraClient({ token: options.token, baseUrl: options.url, pauseMs: 10, ...options.client });

const commands = {
  // every item of a run; approvals are approved
  async follow() {
    const { prompt, sessionId } = options;
    const client = aura();
    const stream = sessionId ? client.attach(sessionId) : client.run(prompt, options.run);
    for await (const item of stream) {
      tell(item);
      if (item.kind === "event" && item.event.type === "hitl") tell(await client.approve(item.event.requestId));
    }
  },

  // one method after the other
  async calls() {
    const client = aura();
    for (const [method, ...values] of options.calls) tell(await client[method](...values));
  },

  // leave the loop at the first event, then abort a second reader: both end at once
  async leave() {
    const client = aura();
    for await (const item of client.attach(options.sessionId)) {
      tell(item);
      break;
    }
    const controller = new AbortController();
    try {
      for await (const item of client.attach(options.sessionId, { signal: controller.signal })) {
        tell(item);
        controller.abort(new Error("enough"));
      }
    } catch (error) {
      tell({ aborted: error.message });
    }
  },

  // frames of many byte streams, each given as pieces
  async frames() {
    for (const pieces of options.streams) {
      const parser = new FrameParser();
      tell(pieces.flatMap((piece) => parser.feed(Buffer.from(piece, "base64"))));
    }
  },
};

try {
  await commands[command]();
} catch (error) {
  tell({ error: error.name, message: error.message, status: error.status, code: error.code });
  if (!(error instanceof Refused) && error.name !== "StreamLost") throw error;
}
