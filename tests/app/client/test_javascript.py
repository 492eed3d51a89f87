"""The TypeScript client: its generated files are current, and it works under Node."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.text.hidden import find_hidden
from app.web.openapi.typescript import MODULES, bundle, generate_types
from statemachine.events import EVENT_TYPES
from tests.harness.approvals import StartWaitingRun
from tests.harness.clients import ANSWER, MakeSettings, token
from tests.harness.hidden_texts import VISIBLE_FORMS
from tests.harness.javascript import CLIENT, needs_node, run_client
from tests.harness.service import running
from tests.harness.tools import calling, risky

TSC = shutil.which("tsc", path=f"{Path(__file__).parents[3]}/.venv/node/node_modules/.bin")
needs_tsc = pytest.mark.skipif(TSC is None, reason="types are checked by tsc, which `.ci/clients tsc` installs")

# --- generated files -------------------------------------------------------------------------------------------------


def source(suffix: str) -> str:
    return CLIENT.with_suffix(suffix).read_text(encoding="utf-8")


def modules() -> dict[str, str]:
    return {name: (CLIENT.parent / "src" / f"{name}.ts").read_text(encoding="utf-8") for name in MODULES}


def test_types_are_generated_from_those_of_the_service() -> None:
    """`.ci/clients` generates them."""
    assert modules()["types"] == generate_types()
    for type in EVENT_TYPES:
        assert f'type: "{type}";' in generate_types()


def test_client_is_bundled_from_its_modules() -> None:
    """`.ci/clients` bundles them."""
    assert {path.stem for path in (CLIENT.parent / "src").iterdir()} == set(MODULES)
    assert source(".ts") == bundle(modules())
    public = re.findall(r"^export function (\w+)", source(".ts"), re.MULTILINE)
    assert public == ["visibleParts", "visibleJson"], "other functions are internal"


@pytest.mark.parametrize("suffix", [".js", ".d.ts"])
def test_served_files_are_compiled_from_the_bundle(suffix: str) -> None:
    """`.ci/clients` compiles it."""
    digest = hashlib.sha256(source(".ts").encode()).hexdigest()
    assert source(suffix).endswith(f"// Generated from client.ts (SHA-256 {digest}).\n")
    if suffix == ".d.ts":
        assert all(line in source(suffix) for line in ("export type AuraEvent =", 'type: "hitl";', "class RunStream"))
    else:
        assert all(f'"{type}"' in source(suffix) for type in EVENT_TYPES)
        assert "import " not in source(suffix).partition("*/")[2], "the module has no dependencies"


USE = """
import { AuraClient, type HitlEvent, type RunPage } from "./client.mjs";
const aura = new AuraClient({ token: async () => "t", baseUrl: "/api" });
const stream = aura.run("hi", { context: { activeApp: "mail" }, signal: new AbortController().signal });
let answer = "";
for await (const item of stream) {
  if (item.kind === "interrupted") console.log(item.cause, item.retryDelayMs);
  if (item.kind !== "event") continue;
  const { event } = item;
  if (event.type === "content") answer += event.content;
  if (event.type === "hitl") {
    const hitl: HitlEvent = event;
    await aura.approve(hitl.requestId, hitl.argumentsDigest, hitl.context);
  }
  if (event.type === "end" && event.status === "timed_out") break;
  // @ts-expect-error there is no event of this type
  if (event.type === "weather") break;
  // @ts-expect-error the event has no such field
  if (event.type === "content") console.log(event.text);
}
const page: RunPage = await aura.runs({ state: "done", limit: 5 });
console.log(page.runs[0]?.pendingApproval?.requestId, answer);
"""


@pytest.mark.slow
@needs_tsc
async def test_declarations_describe_the_interface(tmp_path: Path) -> None:
    assert TSC is not None
    shutil.copy(CLIENT.with_suffix(".d.ts"), tmp_path / "client.d.mts")
    (tmp_path / "use.mts").write_text(USE, encoding="utf-8")
    options = "--strict --noEmit --skipLibCheck --target es2022 --module nodenext --lib es2022,dom,dom.asynciterable"
    process = await asyncio.create_subprocess_exec(
        TSC, *options.split(), "use.mts", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


# --- under Node -----------------------------------------------------------------------------------------------------


@needs_node
async def test_run_with_an_approval_from_prompt_to_end(settings: MakeSettings, model: ScriptedModelServer) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text=ANSWER))
    async with running(settings(), tools=[tool]) as aura:
        run = {"context": {"activeApp": "mail"}, "threadId": "t-1", "agentId": "a-1"}
        items = await run_client("follow", url=aura.url, token=token(), prompt="메모", run=run)
        session_id = next(item["event"]["sessionId"] for item in items if "event" in item)
        again = await run_client("follow", url=aura.url, token=token(), sessionId=session_id)
    (reply,) = (item for item in items if "accepted" in item)
    assert (reply["status"], reply["accepted"]) == ("approved", True)
    events = [item["event"] for item in items if "event" in item]
    assert "".join(event["content"] for event in events if event["type"] == "content") == ANSWER
    assert (events[0]["threadId"], events[-1]["status"]) == ("t-1", "completed")
    assert [item["event"] for item in again if "event" in item] == events
    assert len(tool.ran) == 1


@needs_node
async def test_requests_beside_the_stream(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        request, session = waiting.request_id, waiting.session_id
        printed = await run_client(
            "calls",
            url=waiting.aura.url,
            token=token(),
            calls=[
                ["info"],
                ["runs", {"state": "awaiting_approval", "limit": 5}],
                ["pending"],
                ["request", request],
                ["details", session],
                ["cancel", session],
                ["reject", "req-000000000000"],
            ],
        )
        await waiting.stream.rest()
        ended = await run_client("calls", url=waiting.aura.url, token=token(), calls=[["cancel", session]])
    info, runs, pending, stored, details, cancelled, error = printed
    assert info["name"] == "aura-platform"
    assert runs["runs"][0]["sessionId"] == pending["requests"][0]["sessionId"] == session
    assert (stored["requestId"], details["state"]) == (request, "awaiting_approval")
    assert (cancelled, ended) == (True, [False])
    assert (error["error"], error["status"], error["code"]) == ("ApiError", 404, "E1004")


@pytest.mark.slow
@needs_node
async def test_leaving_or_aborting_ends_the_reader_at_once_and_not_the_run(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        printed = await run_client("leave", url=waiting.aura.url, token=token(), sessionId=waiting.session_id)
        assert [item.get("kind", item) for item in printed] == ["event", "event", {"aborted": "enough"}]
        (reply,) = await run_client(
            "calls", url=waiting.aura.url, token=token(), calls=[["reject", waiting.request_id, {"reason": "아니오"}]]
        )
        assert reply["status"] == "rejected"
        await waiting.expect_rejected("아니오")


@needs_node
@pytest.mark.parametrize(("given", "code"), [("not-a-token", "E2003"), ("", "E2000")])
async def test_error_has_the_message_of_the_service(settings: MakeSettings, given: str, code: str) -> None:
    async with running(settings()) as aura:
        (error,) = await run_client(
            "follow", url=aura.url, token=given, prompt="안녕", client={"tenantId": "t", "userId": "u"}
        )
    assert (error["error"], error["status"], error["code"]) == ("ApiError", 401, code)


@needs_node
async def test_unreachable_address_raises_after_the_retry_timeout() -> None:
    (*items, lost) = await run_client(
        "follow", url="http://127.0.0.1:9", token=token(), prompt="안녕", client={"retryTimeoutMs": 200}
    )
    assert {item["kind"] for item in items} <= {"interrupted"}
    assert lost["error"] == "ConnectionLost"


@pytest.mark.slow
@needs_node
async def test_read_timeout_breaks_the_connection_and_the_retry_field_sets_the_delay() -> None:
    requests: list[Request] = []
    start = {"type": "start", "sessionId": "s-1", "threadId": "s-1", "message": "", "state": "planning"}
    end = {"type": "end", "message": "", "status": "completed"}

    async def handle(request: Request, answer: Response) -> None:
        requests.append(request)
        if len(requests) == 1:
            await answer.json(503, {"message": "later", "errorCode": "E5003"}, {"Retry-After": "0"})
            return
        await answer.begin("text/event-stream")
        if len(requests) == 2:
            await answer.write(f": id:\nretry: 30\n\nid: 1000\ndata: {json.dumps(start)}\n\n".encode())
            await answer.wait_until_client_closes()
        else:
            await answer.write(f"id: 1002\ndata: {json.dumps(end)}\n\nid: 1003\ndata: [DONE]\n\n".encode())
            await answer.end()

    async with HttpServer(handle) as server:
        items = await run_client(
            "follow", url=server.origin, token=token(), prompt="안녕", client={"readTimeoutMs": 1500}
        )
    assert [item["kind"] for item in items] == ["interrupted", "resumed", "event", "interrupted", "resumed", "event"]
    assert "no data for" in items[3]["cause"]
    assert 20 < items[3]["retryDelayMs"] < 40
    assert [request.method for request in requests] == ["POST", "POST", "GET"]
    assert len({request.headers["idempotency-key"] for request in requests[:2]}) == 1
    assert (requests[2].query, requests[2].headers["last-event-id"]) == (
        {"events": "aura", "sessionId": "s-1"},
        "1000",
    )


@needs_node
async def test_hidden_characters_are_shown_as_the_service_shows_them() -> None:
    shown = await run_client("visible", texts=list(VISIBLE_FORMS))
    assert [text for text, _ in shown] == list(VISIBLE_FORMS.values())
    for (text, _), (_, escaped) in zip(VISIBLE_FORMS.items(), shown, strict=True):
        assert json.loads(escaped) == {"text": text}
        assert list(find_hidden(escaped)) == []
