"""The TypeScript client: one source, and what it does under Node beside reading streams that are cut."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.web.openapi.typescript import generated, with_types
from statemachine.events import EVENT_TYPES
from tests.harness.approvals import StartWaitingRun
from tests.harness.clients import ANSWER, MakeSettings, token
from tests.harness.javascript import CLIENT, needs_node, node
from tests.harness.service import running
from tests.harness.tools import calling, risky

TSC = shutil.which("tsc", path=f"{Path(__file__).parents[3]}/.venv/node/node_modules/.bin")
needs_tsc = pytest.mark.skipif(TSC is None, reason="types are checked by tsc, which `.ci/clients tsc` installs")

# --- one source -------------------------------------------------------------------------------------------------------


def source(suffix: str) -> str:
    return CLIENT.with_suffix(suffix).read_text(encoding="utf-8")


def test_types_in_the_source_are_those_of_the_models() -> None:
    """Where they are not: `.ci/clients` writes them."""
    assert source(".ts") == with_types(source(".ts"))
    for type in EVENT_TYPES:
        assert f'type: "{type}";' in generated()


@pytest.mark.parametrize("suffix", [".js", ".d.ts"])
def test_what_is_served_was_made_from_the_source(suffix: str) -> None:
    """Where it was not: `.ci/clients` makes it."""
    digest = hashlib.sha256(source(".ts").encode()).hexdigest()
    assert source(suffix).endswith(f"// Made from client.ts (SHA-256 {digest}).\n")
    if suffix == ".d.ts":
        assert all(line in source(suffix) for line in ("export type AuraEvent =", 'type: "hitl";', "class RunStream"))
    else:
        assert all(f'"{type}"' in source(suffix) for type in EVENT_TYPES)
        assert "import " not in source(suffix).partition("*/")[2], "it has no dependencies"


USE = """
import { AuraClient, type HitlEvent, type RunPage } from "./client.mjs";
const aura = new AuraClient({ token: async () => "t", baseUrl: "/api" });
const stream = aura.run("hi", { context: { activeApp: "mail" }, signal: new AbortController().signal });
let answer = "";
for await (const item of stream) {
  if (item.kind === "interrupted") console.log(item.cause, item.pauseMs);
  if (item.kind !== "event") continue;
  const { event } = item;
  if (event.type === "content") answer += event.content;
  if (event.type === "hitl") { const asked: HitlEvent = event; await aura.approve(asked.requestId, asked.context); }
  if (event.type === "end" && event.status === "timed_out") break;
  // @ts-expect-error no event has that type
  if (event.type === "weather") break;
  // @ts-expect-error the answer has no such field
  if (event.type === "content") console.log(event.text);
}
const page: RunPage = await aura.runs({ state: "done", limit: 5 });
console.log(page.runs[0]?.pendingApproval?.requestId, answer);
"""


@needs_tsc
async def test_types_say_what_may_be_used(tmp_path: Path) -> None:
    assert TSC is not None
    shutil.copy(CLIENT.with_suffix(".d.ts"), tmp_path / "client.d.mts")
    (tmp_path / "use.mts").write_text(USE, encoding="utf-8")
    options = "--strict --noEmit --skipLibCheck --target es2022 --module nodenext --lib es2022,dom,dom.asynciterable"
    process = await asyncio.create_subprocess_exec(
        TSC, *options.split(), "use.mts", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


# --- under Node -------------------------------------------------------------------------------------------------------


@needs_node
async def test_run_with_an_approval_from_prompt_to_end(settings: MakeSettings, model: ScriptedModelServer) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text=ANSWER))
    async with running(settings(), tools=[tool]) as aura:
        run = {"context": {"activeApp": "mail"}, "threadId": "t-1", "agentId": "a-1"}
        items = await node("follow", url=aura.url, token=token(), prompt="메모", run=run)
        session_id = next(item["event"]["sessionId"] for item in items if "event" in item)
        again = await node("follow", url=aura.url, token=token(), sessionId=session_id)
    (decided,) = (item for item in items if "here" in item)
    assert (decided["status"], decided["here"]) == ("approved", True)
    events = [item["event"] for item in items if "event" in item]
    assert "".join(event["content"] for event in events if event["type"] == "content") == ANSWER
    assert (events[0]["threadId"], events[-1]["status"]) == ("t-1", "completed")
    assert [item["event"] for item in again if "event" in item] == events
    assert len(tool.ran) == 1


@needs_node
async def test_calls_beside_the_stream(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        request, session = waiting.request_id, waiting.session_id
        told = await node(
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
        ended = await node("calls", url=waiting.aura.url, token=token(), calls=[["cancel", session]])
    info, runs, pending, stored, details, cancelled, refused = told
    assert info["name"] == "aura-platform"
    assert runs["runs"][0]["sessionId"] == pending["requests"][0]["sessionId"] == session
    assert (stored["requestId"], details["state"]) == (request, "awaiting_approval")
    assert (cancelled, ended) == (True, [False])
    assert (refused["error"], refused["status"], refused["code"]) == ("Refused", 404, "E1004")


@needs_node
async def test_reader_who_leaves_or_aborts_is_gone_at_once_and_the_run_goes_on(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        told = await node("leave", url=waiting.aura.url, token=token(), sessionId=waiting.session_id)
        assert [item.get("kind", item) for item in told] == ["event", "event", {"aborted": "enough"}]
        (decided,) = await node(
            "calls", url=waiting.aura.url, token=token(), calls=[["reject", waiting.request_id, {"reason": "아니오"}]]
        )
        assert decided["status"] == "rejected"
        await waiting.expect_rejected("아니오")


@needs_node
@pytest.mark.parametrize(("given", "code"), [("not-a-token", "E2003"), ("", "E2000")])
async def test_refusal_has_the_services_own_words(settings: MakeSettings, given: str, code: str) -> None:
    async with running(settings()) as aura:
        (refused,) = await node(
            "follow", url=aura.url, token=given, prompt="안녕", client={"tenantId": "t", "userId": "u"}
        )
    assert (refused["error"], refused["status"], refused["code"]) == ("Refused", 401, code)


@needs_node
async def test_nobody_at_the_address_is_told_in_time() -> None:
    (*items, lost) = await node(
        "follow", url="http://127.0.0.1:9", token=token(), prompt="안녕", client={"patienceMs": 200}
    )
    assert {item["kind"] for item in items} <= {"interrupted"}
    assert lost["error"] == "StreamLost"


@needs_node
async def test_silence_is_a_broken_connection_and_the_word_to_come_back_is_honoured() -> None:
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
        items = await node("follow", url=server.origin, token=token(), prompt="안녕", client={"silenceMs": 1500})
    assert [item["kind"] for item in items] == ["interrupted", "resumed", "event", "interrupted", "resumed", "event"]
    assert "silence" in items[3]["cause"]
    assert 20 < items[3]["pauseMs"] < 40
    assert [request.method for request in requests] == ["POST", "POST", "GET"]
    assert len({request.headers["idempotency-key"] for request in requests[:2]}) == 1
    assert (requests[2].query, requests[2].headers["last-event-id"]) == ({"sessionId": "s-1"}, "1000")
