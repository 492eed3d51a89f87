"""Responses of model servers, played to the whole service: each run ends as its case in `fixtures/model_streams/` says.

One service runs all cases; a case with settings of its own gets its own service.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from app.dev.demo.redis import RedisServer
from app.dev.demo.request_rules import problems
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.clock import HurriedClock
from tests.harness.frames import Frame, StreamReader, answer, check
from tests.harness.outcomes import KEY
from tests.harness.patterns import matches
from tests.harness.service import NO_LIMITS, SECRET, Aura, running
from tests.harness.stream_cases import Case, Expectation, load_cases
from tests.harness.stream_player import StreamPlayer

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CASE_SECONDS = 20

_ADDED_FIELDS = frozenset(
    {
        *("reasoning", "reasoning_content", "reasoning_text", "reasoning_details", "content"),
        *("extra_content", "provider_specific_fields", "citations", "signature"),
    }
)
"""What the servers of the cases add to their messages and calls; `content` where it is a list of parts."""

_ID = re.compile(rb'"id": ?"([^"]+)"')

_IN_SMALL_WRITES = {
    *("sse-crlf", "sse-bom", "sse-half-characters", "whole-json-calls", "idx0-mail", "idx0-split", "call-again"),
    *("fin-network-error", "cut-after-stop", "usage-in-every-chunk", "think", "content-list", "err-400-mid"),
    *("reasoning-back", "extra-content-on-call"),
}
"""Cases of each kind whose runs are repeated with many small writes of the server."""


class Stage:
    """A model server, a mail server, and services that use both."""

    def __init__(self, redis_url: str, player: StreamPlayer, mail: SmtpSink) -> None:
        self.player = player
        self._given: dict[str, Any] = {
            "jwt_secret": SECRET,
            "redis_url": redis_url,
            "openai_api_key": KEY,
            "openai_base_url": player.base_url,
            "smtp_host": mail.host,
            "smtp_port": mail.port,
            "smtp_tls": "none",
            "smtp_from": "aura@example.com",
            "aura_lease_seconds": 600,  # on a clock that runs ten times as fast
            "aura_drain_seconds": 0.5,
            "aura_max_wait_seconds": 0,
            **NO_LIMITS,
        }

    @asynccontextmanager
    async def service(self, overrides: dict[str, Any] | None = None) -> AsyncIterator[Aura]:
        made = Settings.from_environment({}, **{**self._given, **(overrides or {})})
        async with running(made, clock=HurriedClock()) as aura:
            yield aura


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="stage")
async def _stage(redis_server: RedisServer) -> AsyncIterator[Stage]:
    async with StreamPlayer() as player, SmtpSink() as mail:
        yield Stage(redis_server.url, player, mail)


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="shared_service")
async def _shared_service(stage: Stage) -> AsyncIterator[Aura]:
    async with stage.service() as aura:
        yield aura


@pytest.mark.slow
@pytest.mark.parametrize("case", load_cases(), ids=str)
async def test_the_run_of_a_case_ends_as_it_should(stage: Stage, shared_service: Aura, case: Case) -> None:
    stage.player.play(case)
    async with asyncio.timeout(_CASE_SECONDS):
        if case.settings is None:
            frames = await _last_run(shared_service, case)
        else:
            async with stage.service(case.settings) as aura:
                frames = await _last_run(aura, case)
    _compare(case.expect, frames, stage.player)
    _check_portable(case, stage.player)


@pytest.mark.parametrize("max_write_bytes", [1, 13])
@pytest.mark.parametrize("case", [case for case in load_cases() if case.name in _IN_SMALL_WRITES], ids=str)
@pytest.mark.slow
async def test_the_run_does_not_depend_on_the_writes_of_the_server(
    stage: Stage, shared_service: Aura, case: Case, max_write_bytes: int
) -> None:
    """Through real sockets; tests/app/model/test_stream_splits.py tries all cases without them."""
    stage.player.play(case, max_write_bytes=max_write_bytes)
    async with asyncio.timeout(_CASE_SECONDS):
        _compare(case.expect, await _last_run(shared_service, case), stage.player)


async def _last_run(aura: Aura, case: Case) -> list[Frame]:
    """Run the prompts of the case in one thread, approve whatever they ask for, and return the frames of the last."""
    frames: list[Frame] = []
    thread = f"{case.name}-{asyncio.get_running_loop().time()}"  # a thread of its own, also where a test is repeated
    for prompt in case.prompts:
        async with aura.stream(body={"prompt": prompt, "thread_id": thread}) as stream:
            frames = await _approved(aura, stream)
        check(frames)
    return frames


async def _approved(aura: Aura, stream: StreamReader) -> list[Frame]:
    while True:
        try:
            frame = await stream.next()
        except StopAsyncIteration:
            return stream.seen
        if frame.type == "hitl":
            assert (await aura.decide("approve", frame["requestId"])).status_code == 200


def _compare(expect: Expectation, frames: list[Frame], player: StreamPlayer) -> None:
    expected = {name: getattr(expect, name) for name in ("status", "answer", "approvals", "requests", "error")}
    expected |= {"calls": [list(call) for call in expect.calls], "retryable": expect.retryable, "usage": expect.usage}
    seen = _outcome(frames, player)
    is_compared = {name for name, value in expected.items() if value is not None or name == "error"}
    if expect.status == "failed" and expect.error is None:
        is_compared.remove("error")
    assert {name: seen[name] for name in is_compared} == {name: expected[name] for name in is_compared}
    if expect.thoughts is not None:
        assert matches(expect.thoughts, seen["thoughts"]), (seen["thoughts"], expect.thoughts)
    assert _is_each_matched(expect.refused, seen["refused"]), (seen["refused"], expect.refused)
    _compare_texts(expect, frames)
    _compare_requests(expect, player)


def _outcome(frames: list[Frame], player: StreamPlayer) -> dict[str, Any]:
    """What a client has seen of the run, and how many requests the server got."""
    error = next((frame.data for frame in frames if frame.type == "error"), {})
    end = frames[-2]
    calls = [frame for frame in frames if frame.type == "tool_execution"]
    completed = {frame["toolCallId"] for frame in calls if frame["status"] == "completed"}
    ran = [frame for frame in calls if frame["status"] == "executing" and frame["toolCallId"] in completed]
    return {
        "status": end["status"],
        "answer": answer(frames),
        "thoughts": "".join(frame["content"] for frame in _thoughts(frames)),
        "calls": [[frame["toolName"], frame["toolArgs"]] for frame in ran],  # in the order in which they began
        "refused": [frame["toolName"] for frame in calls if frame["status"] == "failed"],
        "approvals": [frame["context"] for frame in frames if frame.type == "hitl"],
        "requests": len(player.requests),
        "error": error.get("errorType"),
        "retryable": error.get("retryable"),
        "usage": end.data.get("usage") or {},
    }


def _thoughts(frames: list[Frame]) -> Iterator[Frame]:
    """Yield what the model thought, without the words that the service itself adds."""
    return (frame for frame in frames if frame.type == "thought" and frame["thoughtType"] != "analysis")


def _is_each_matched(patterns: list[Any], values: list[Any]) -> bool:
    return len(patterns) == len(values) and all(map(matches, patterns, values))


def _compare_texts(expect: Expectation, frames: list[Frame]) -> None:
    message = next((frame["message"] for frame in frames if frame.type == "error"), "")
    assert [word for word in expect.words if word not in message] == [], message
    raw = "".join(frame.raw for frame in frames)
    assert [text for text in [KEY, "Traceback", *expect.hides] if text in raw] == []
    last_pieces = [frame["chunk"] for frame in frames if frame.type == "content" and frame["chunk"] is False]
    assert len(last_pieces) == (1 if expect.status == "completed" else 0), "only a whole answer has a last piece"


def _compare_requests(expect: Expectation, player: StreamPlayer) -> None:
    last = player.requests[-1].body
    assert matches(expect.sent, last), last["messages"]
    assert expect.not_sent is None or not matches(expect.not_sent, last), last["messages"]
    if expect.waits:
        waited = player.requests[1].received_at - player.requests[0].received_at
        assert waited * HurriedClock.FACTOR >= expect.waits * 0.95


def _check_portable(case: Case, player: StreamPlayer) -> None:
    """No server refuses what was sent. A server accepts what it has added itself, and its own ids."""
    known_ids = {id.decode() for turn in case.responses for id in _ID.findall(turn.body)}
    for request in player.requests:
        assert problems(request.body, allowed_extras=_ADDED_FIELDS, known_ids=known_ids) == []
