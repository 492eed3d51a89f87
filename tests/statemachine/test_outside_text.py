"""Text that others wrote: once it is in a run, a tool that sends something to others needs a person's approval."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from statemachine.call import CallStatus, ToolCall
from statemachine.checkpoint import Checkpoint
from statemachine.errors import FactRefused
from statemachine.events import Hitl, ToolExecution
from statemachine.ledger import start_call
from statemachine.messages import AnswerFinished, AwaitDecision, CallModel, RequestedCall, RunRecovered, RunTools
from statemachine.outside_text import WARNING_CODE, joined
from statemachine.prompt import History, history
from statemachine.states import State
from statemachine.step_builder import StepBuilder
from tests.statemachine.runs import NOW, Run, of_type, risky, safe
from tests.statemachine.test_checkpoint import SAVED


def reading(id: str = "r1") -> RequestedCall:
    return safe(id, name="search_workspace", title="업무 자료 검색", untrusted=True)


def sending(id: str = "s1") -> RequestedCall:
    """Return a call whose own tool needs no approval."""
    return safe(id, name="post_message", title="메시지 게시", outward=True, idempotent=False)


def after_reading() -> Run:
    run = Run()
    run.request_tools(reading())
    run.finish_call("r1")
    return run


def test_before_anything_was_read_a_sending_call_runs_at_once() -> None:
    run = Run()
    assert isinstance(run.request_tools(sending()), RunTools)
    assert run.checkpoint.outside_text == ()


def test_after_text_from_outside_a_sending_call_waits_for_a_person_and_the_card_says_why() -> None:
    run = after_reading()
    assert isinstance(run.request_tools(sending()), AwaitDecision)
    (hitl,) = of_type(Hitl, run.last_events)
    (warning,) = hitl.warnings
    assert warning.code == WARNING_CODE
    assert "업무 자료 검색 (search_workspace)" in warning.message
    (pending,) = of_type(ToolExecution, run.last_events)
    assert pending.requires_approval
    assert isinstance(run.approve(), RunTools)


def test_a_tool_that_needs_an_approval_of_its_own_gets_the_warning_too() -> None:
    run = after_reading()
    run.request_tools(risky(outward=True))
    assert [warning.code for warning in run.checkpoint.calls[-1].warnings] == [WARNING_CODE]


def test_a_call_that_sends_nothing_runs_without_a_person_after_text_from_outside() -> None:
    assert isinstance(after_reading().request_tools(safe()), RunTools)


def test_an_edit_keeps_the_warning() -> None:
    run = after_reading()
    run.request_tools(sending())
    run.approve(arguments={"text": "다른 내용"})
    assert [warning.code for warning in run.checkpoint.calls[-1].warnings] == [WARNING_CODE]


def test_calls_of_the_turn_that_reads_were_written_before_and_run() -> None:
    run = Run()
    assert isinstance(run.request_tools(reading(), sending()), RunTools)


@pytest.mark.parametrize("error", [None, "the server is down"])
def test_the_error_of_an_untrusted_tool_is_text_from_outside_too(error: str | None) -> None:
    run = Run()
    run.request_tools(reading())
    run.finish_call("r1", error=error)
    assert run.checkpoint.outside_text == ("업무 자료 검색 (search_workspace)",)


def test_what_earlier_runs_of_the_thread_have_read_counts() -> None:
    earlier = after_reading()
    earlier.apply(AnswerFinished("요약입니다.", "요약입니다."))
    carried = history([earlier.checkpoint], 10_000)
    assert carried.outside_text == earlier.checkpoint.outside_text
    run = Run("보내줘", carried)
    assert isinstance(run.request_tools(sending()), AwaitDecision)
    assert history([earlier.checkpoint], 0) == History((), 1)


def test_many_sources_are_named_in_short() -> None:
    run = Run("보내줘", History(outside_text=("가", "나", "다", "라")))
    run.request_tools(sending())
    assert "가, 나, 다 외 1건" in run.checkpoint.calls[0].warnings[0].message
    assert len(joined(str(n) for n in range(30))) == 10
    assert joined(["a", "b"], ["b", "c"]) == ("a", "b", "c")


def test_a_source_without_a_title_has_its_name() -> None:
    run = Run()
    run.request_tools(safe("r1", name="crm__find", title="", untrusted=True))
    run.finish_call("r1")
    assert run.checkpoint.outside_text == ("crm__find",)


def test_no_call_that_needs_an_approval_can_be_started_without_one() -> None:
    run = after_reading()
    builder = StepBuilder(run.checkpoint, "test", NOW)
    call = ToolCall.of(sending(), id="s1", confidence=run.checkpoint.calls[0].confidence, turn=2)
    with pytest.raises(FactRefused, match="s1 needs an approval"):
        start_call(builder, call)


def test_results_of_older_releases_count_as_text_from_outside() -> None:
    saved = json.loads((SAVED / "v5_planning.json").read_text(encoding="utf-8"))
    ended = [call["name"] for call in saved["calls"] if call["status"] in ("completed", "failed")]
    loaded = Checkpoint.from_json((SAVED / "v5_planning.json").read_bytes())
    assert ended
    assert loaded.outside_text == tuple(dict.fromkeys(ended))
    assert all(call.untrusted for call in loaded.calls)


def test_the_history_of_a_run_of_an_older_release_counts_as_text_from_outside() -> None:
    saved = json.loads((SAVED / "v5_planning.json").read_text(encoding="utf-8"))
    call = {"id": "c0", "type": "function", "function": {"name": "search_workspace", "arguments": "{}"}}
    earlier = [
        {"role": "user", "content": "찾아줘"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": "found"},
        {"role": "assistant", "content": "찾았습니다"},
    ]
    messages = [saved["messages"][0], *earlier, *saved["messages"][1:]]
    changed = {**saved, "messages": messages, "history_messages": 4, "calls": []}
    assert Checkpoint.from_json(json.dumps(changed)).outside_text == ("search_workspace",)


# --- calls with an unknown outcome ------------------------------------------------------------------------------------


def test_a_call_whose_outcome_is_unknown_asks_a_person_before_it_is_repeated() -> None:
    run = Run()
    run.request_tools(risky())
    run.approve()
    effect = run.finish_call(error="the connection broke", outcome_unknown=True)
    assert isinstance(effect, AwaitDecision)
    (hitl,) = of_type(Hitl, run.last_events)
    assert hitl.outcome_unknown
    assert "이미 실행되었을 수 있습니다" in hitl.message
    (pending,) = of_type(ToolExecution, run.last_events)
    assert (pending.status, pending.error) == ("pending", "the connection broke")
    assert isinstance(run.approve(), RunTools)
    assert run.checkpoint.calls[0].error is None
    assert isinstance(run.finish_call(), CallModel)
    assert run.outcomes() == ["pending", "executing", "pending", "executing", "completed"]


def test_a_person_who_skips_it_lets_the_model_know_that_it_may_have_run() -> None:
    run = Run()
    run.request_tools(risky())
    run.approve()
    run.finish_call(error="the connection broke", outcome_unknown=True)
    assert isinstance(run.reject(skip=True), CallModel)
    assert "It may have run before" in run.model_answers["c1"]


def test_an_idempotent_call_with_an_unknown_outcome_has_simply_failed() -> None:
    run = Run()
    run.request_tools(safe())
    assert isinstance(run.finish_call(error="the connection broke", outcome_unknown=True), CallModel)
    assert run.outcomes()[-1] == "failed"


def test_the_other_calls_of_the_turn_end_before_the_person_is_asked() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("b", idempotent=False))
    run.finish_call("b", error="the connection broke", outcome_unknown=True)
    assert run.state is State.TOOL
    assert isinstance(run.finish_call("a"), AwaitDecision)
    assert isinstance(run.apply(RunRecovered()), AwaitDecision)
    assert run.checkpoint.calls[1].status is CallStatus.REQUESTED


def test_marks_are_saved() -> None:
    run = after_reading()
    call = replace(run.checkpoint.calls[0], definition="0123", outward=True)
    checkpoint = replace(run.checkpoint, calls=[call])
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
