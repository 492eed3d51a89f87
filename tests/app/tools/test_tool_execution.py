"""The execution of tools: which calls may run, and the outcome of a success, an error and a cancellation."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from pydantic import BaseModel

from app.errors import ToolError
from app.ports.tools import CitedResult, ToolContext
from app.tools.registry import ApprovalMissing, ToolRegistry
from statemachine.call import CallStatus, Grant, ToolCall
from statemachine.stored import digest

SECRET = "hunter2-hunter2"


class NoteArguments(BaseModel):
    text: str = ""


class Note:
    """Write something down."""

    name: str = "note"
    title: str = "메모"
    arguments: type[BaseModel] = NoteArguments
    needs_approval: bool = False
    idempotent: bool = False
    timeout_seconds: float | None = None

    def __init__(self, work: Callable[[], Awaitable[Any]] | None = None, *, needs_approval: bool = False) -> None:
        self.needs_approval = needs_approval
        self.ran: list[str] = []
        self._work = work

    def question(self, arguments: NoteArguments) -> str:
        return "메모하시겠습니까?"

    async def run(self, arguments: NoteArguments, context: ToolContext) -> Any:
        self.ran.append(arguments.text)
        return await self._work() if self._work else {"written": arguments.text}


def granted(arguments: Any, **changes: Any) -> Grant:
    return Grant(request_id="req-1", arguments_digest=digest(arguments), decided_at=1.0, **changes)


def started(arguments: Any = None, **changes: Any) -> ToolCall:
    given = {"text": "a"} if arguments is None else arguments
    fields: dict[str, Any] = {"status": CallStatus.STARTED, "name": "note"} | changes
    return ToolCall(id="c1", arguments=given, **fields)


def tool_returning(value: Any) -> Note:
    async def work() -> Any:
        return value

    return Note(work)


def tool_raising(error: BaseException) -> Note:
    async def work() -> Any:
        raise error

    return Note(work)


# --- permission -------------------------------------------------------------------------------------------------------


async def test_safe_call_runs_without_a_grant(context: ToolContext) -> None:
    finished = await ToolRegistry([Note()]).execute(started(), context)
    assert (finished.call_id, finished.result, finished.error) == ("c1", {"written": "a"}, None)
    assert finished.answer == '{"written":"a"}'


async def test_granted_call_runs(context: ToolContext) -> None:
    note = Note(needs_approval=True)
    finished = await ToolRegistry([note]).execute(started(grant=granted({"text": "a"})), context)
    assert (note.ran, finished.error) == (["a"], None)


@pytest.mark.parametrize(
    ("note", "call"),
    [
        pytest.param(Note(needs_approval=True), started(), id="no grant"),
        pytest.param(Note(needs_approval=True), started(grant=granted({"text": "b"})), id="grant for other arguments"),
        pytest.param(Note(needs_approval=True), started({"text": 1}, grant=granted({"text": "1"})), id="looks alike"),
        pytest.param(Note(), started(needs_approval=True), id="the call needs an approval"),
        pytest.param(Note(), started(status=CallStatus.REQUESTED), id="not started"),
        pytest.param(Note(), started(status=CallStatus.COMPLETED, grant=granted({"text": "a"})), id="used before"),
        pytest.param(Note(), started(name="gone", needs_approval=True), id="unknown and risky"),
    ],
)
async def test_call_without_its_permission_does_not_run(context: ToolContext, note: Note, call: ToolCall) -> None:
    with pytest.raises(ApprovalMissing, match="c1"):
        await ToolRegistry([note]).execute(call, context)
    assert note.ran == []


async def test_approval_that_the_settings_require_is_checked_before_execution(context: ToolContext) -> None:
    note = Note()
    with pytest.raises(ApprovalMissing):
        await ToolRegistry([note], frozenset({"note"})).execute(started(), context)
    assert note.ran == []


async def test_arguments_are_validated_again(context: ToolContext) -> None:
    note = Note()
    finished = await ToolRegistry([note]).execute(started({"text": ["x"]}), context)
    assert note.ran == []
    assert finished.error is not None
    assert "text: Input should be a valid string" in finished.answer


async def test_call_of_a_removed_tool_ends_with_an_error(context: ToolContext) -> None:
    finished = await ToolRegistry([]).execute(started(name="gone"), context)
    assert finished.error is not None
    assert "'gone' is not available" in finished.answer


# --- changed arguments ------------------------------------------------------------------------------------------------


async def test_model_reads_that_a_person_changed_the_arguments(context: ToolContext) -> None:
    call = started(grant=granted({"text": "a"}, edited=True), secret_fields=[["text"]])
    finished = await ToolRegistry([Note()]).execute(call, context)
    first, second = finished.answer.split("\n")
    assert first == 'A person changed the arguments before approving. What ran: note({"text":"***"})'
    assert second == '{"written":"a"}'


async def test_model_reads_of_the_change_even_if_the_tool_failed(context: ToolContext) -> None:
    registry = ToolRegistry([tool_raising(ToolError("no paper"))], result_limit_bytes=512)
    long = {"text": "가" * 5000}
    call = started(long, grant=granted(long, edited=True))
    finished = await registry.execute(call, context)
    assert "A person changed the arguments" in finished.answer
    assert finished.answer.endswith("The tool failed: no paper")
    assert len(finished.answer.encode()) <= 512


# --- errors, timeouts and cancellation --------------------------------------------------------------------------------


async def test_tool_error_is_shown_to_the_model_and_to_people(context: ToolContext) -> None:
    finished = await ToolRegistry([tool_raising(ToolError("no paper"))]).execute(started(), context)
    assert finished.answer == "The tool failed: no paper"
    assert finished.error == "도구 실행에 실패했습니다. no paper"


async def test_only_the_class_of_an_unexpected_exception_is_shown(
    context: ToolContext, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        finished = await ToolRegistry([tool_raising(RuntimeError("password pa55word"))]).execute(started(), context)
    assert finished.answer == "The tool failed: note failed with an unexpected RuntimeError"
    assert "RuntimeError" in caplog.text
    assert "pa55word" not in caplog.text + finished.answer + str(finished.error)


@pytest.mark.parametrize("own_limit", [True, False])
async def test_tool_that_takes_too_long_is_stopped(context: ToolContext, own_limit: bool) -> None:
    stopped = asyncio.Event()

    async def work() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    note = Note(work)
    note.timeout_seconds = 0.01 if own_limit else None
    finished = await ToolRegistry([note], default_timeout_seconds=60 if own_limit else 0.01).execute(started(), context)
    assert stopped.is_set()
    assert "note did not finish within 0.01 s; it may have taken effect" in finished.answer


async def test_timeout_inside_a_tool_differs_from_the_limit(context: ToolContext) -> None:
    finished = await ToolRegistry([tool_raising(TimeoutError())]).execute(started(), context)
    assert finished.answer == "The tool failed: note failed with an unexpected TimeoutError"


async def test_cancellation_stops_the_tool(context: ToolContext) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> Any:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    task = asyncio.create_task(ToolRegistry([Note(work)]).execute(started(), context))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_cancellation_raised_inside_a_tool_is_an_error(context: ToolContext) -> None:
    finished = await ToolRegistry([tool_raising(asyncio.CancelledError())]).execute(started(), context)
    assert finished.answer == "The tool failed: note failed with an unexpected CancelledError"


@pytest.mark.parametrize("error", [SystemExit(1), BaseExceptionGroup("two", [asyncio.CancelledError()])])
async def test_an_exception_that_would_end_the_process_or_its_task_is_an_error(
    context: ToolContext, error: BaseException
) -> None:
    finished = await ToolRegistry([tool_raising(error)]).execute(started(), context)
    assert finished.answer == f"The tool failed: note failed with an unexpected {type(error).__name__}"


# --- the result -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "stored", "answer"),
    [
        (None, None, "The tool finished; it gives no result."),
        ("그대로", "그대로", "그대로"),
        ({"한": [1, 2.5, None]}, {"한": [1, 2.5, None]}, '{"한":[1,2.5,null]}'),
        ([math.nan, math.inf], [None, None], "[null,null]"),
        (datetime(2024, 1, 25, 3, tzinfo=UTC), "2024-01-25T03:00:00Z", "2024-01-25T03:00:00Z"),
        ({1: (2, 3)}, {"1": [2, 3]}, '{"1":[2,3]}'),
        (NoteArguments(text="x"), {"text": "x"}, '{"text":"x"}'),
        ("\ud800", "?", "?"),
        (b"\xff\xfe", "__4=", "__4="),
    ],
)
async def test_result_is_json(context: ToolContext, result: Any, stored: Any, answer: str) -> None:
    finished = await ToolRegistry([tool_returning(result)]).execute(started(), context)
    assert (finished.result, finished.answer, finished.error) == (stored, answer, None)
    json.dumps(finished.result, allow_nan=False)


async def test_unknown_object_becomes_text(context: ToolContext) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    finished = await ToolRegistry([tool_returning({"a": Broken()})]).execute(started(), context)
    assert finished.error is None
    assert "Broken" in finished.answer


async def test_result_that_is_not_json_is_an_error(context: ToolContext) -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    finished = await ToolRegistry([tool_returning(cyclic)]).execute(started(), context)
    assert "the tool finished, but its result is not JSON" in finished.answer


async def test_a_result_whose_own_code_fails_is_an_error(context: ToolContext) -> None:
    def lines() -> Iterator[str]:
        yield "first"
        raise RuntimeError("hunter2")

    finished = await ToolRegistry([tool_returning(lines())]).execute(started(), context)
    assert finished.answer == "The tool failed: the tool finished, but its result is not JSON and cannot be shown"


async def test_deep_result_fits_into_a_checkpoint(context: ToolContext) -> None:
    deep: Any = "end"
    for _ in range(200):
        deep = [deep]
    finished = await ToolRegistry([tool_returning(deep)]).execute(started(), context)
    assert "[nested too deeply]" in finished.answer
    msgspec.json.encode(replace(started(), result=finished.result))


@pytest.mark.parametrize("text", ["한" * 1000, "a" * 3000, "😀" * 800])
async def test_long_answer_is_truncated_between_characters_with_a_mark(context: ToolContext, text: str) -> None:
    finished = await ToolRegistry([tool_returning(text)], result_limit_bytes=1000).execute(started(), context)
    kept, mark = finished.answer.split("…")
    assert text.startswith(kept)
    assert mark == f"[truncated: {len(kept.encode())} of {len(text.encode())} bytes]"
    assert 990 <= len(finished.answer.encode()) <= 1000
    assert finished.result == text


async def test_answer_of_exactly_the_limit_is_not_truncated(context: ToolContext) -> None:
    finished = await ToolRegistry([tool_returning("a" * 1000)], result_limit_bytes=1000).execute(started(), context)
    assert finished.answer == "a" * 1000


async def test_secrets_are_masked_in_results(context: ToolContext) -> None:
    result = {"a": [f"x{SECRET}y{SECRET}"], SECRET: SECRET + "-longer", "short": "abc"}
    registry = ToolRegistry([tool_returning(result)], secrets=[SECRET, SECRET + "-longer", "abc"])
    finished = await registry.execute(started(), context)
    assert finished.result == {"a": ["x***y***"], "***": "***", "short": "abc"}
    assert "hunter2" not in finished.answer


async def test_secrets_are_masked_in_errors(context: ToolContext) -> None:
    registry = ToolRegistry([tool_raising(ToolError(f"login {SECRET} refused"))], secrets=[SECRET])
    finished = await registry.execute(started(), context)
    assert finished.answer == "The tool failed: login *** refused"
    assert finished.error == "도구 실행에 실패했습니다. login *** refused"


async def test_sources_of_a_result_are_returned_with_secrets_masked(context: ToolContext) -> None:
    cited = CitedResult({"found": 1}, ({"id": "e1", "title": f"about {SECRET}"},))
    finished = await ToolRegistry([tool_returning(cited)], secrets=[SECRET]).execute(started(), context)
    assert (finished.result, finished.answer) == ({"found": 1}, '{"found":1}')
    assert finished.sources == ({"id": "e1", "title": "about ***"},)
