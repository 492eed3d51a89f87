// Drives the JavaScript client for the tests: one command per process, options as JSON on stdin, results as JSON lines.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [path, command] = process.argv.slice(2);
const { AuraClient, ApiError, FrameParser, visibleJson, visibleParts } = await import(pathToFileURL(path).href);
const options = JSON.parse(readFileSync(0));
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const createClient = () => new AuraClient({ token: options.token, baseUrl: options.url, retryDelayMs: 10, ...options.client });

const commands = {
  // Print every item of a run, and approve every request.
  async follow() {
    const { prompt, sessionId } = options;
    const client = createClient();
    const stream = sessionId ? client.attach(sessionId) : client.run(prompt, options.run);
    for await (const item of stream) {
      print(item);
      if (item.kind === "event" && item.event.type === "hitl") print(await client.approve(item.event.requestId, item.event.argumentsDigest));
    }
  },

  // Print each text as a person sees it, and as JSON for an editor.
  visible() {
    const shown = (part) => part.text ?? (part.codePoint ? `⟨${part.codePoint}⟩` : part.hidden === "lines" ? `\n⟨${part.count} empty lines⟩\n` : `⟨${part.count} blanks⟩`);
    for (const text of options.texts) print([visibleParts(text).map(shown).join(""), visibleJson({ text })]);
  },

  // Call one method after the other, and print what each returns.
  async calls() {
    const client = createClient();
    for (const [method, ...values] of options.calls) print(await client[method](...values));
  },

  // Leave the loop at the first event, then abort a second reader: both must end at once.
  async leave() {
    const client = createClient();
    for await (const item of client.attach(options.sessionId)) {
      print(item);
      break;
    }
    const controller = new AbortController();
    try {
      for await (const item of client.attach(options.sessionId, { signal: controller.signal })) {
        print(item);
        controller.abort(new Error("enough"));
      }
    } catch (error) {
      print({ aborted: error.message });
    }
  },

  // Parse the frames of many byte streams, each given as chunks.
  async frames() {
    for (const chunks of options.streams) {
      const parser = new FrameParser();
      print(chunks.flatMap((chunk) => parser.feed(Buffer.from(chunk, "base64"))));
    }
  },
};

try {
  await commands[command]();
} catch (error) {
  print({ error: error.name, message: error.message, status: error.status, code: error.code });
  if (!(error instanceof ApiError) && error.name !== "ConnectionLost") throw error;
}
