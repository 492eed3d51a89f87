"""The summary of a run: small, complete for a list, and readable by older and newer releases."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from statemachine.states import State
from statemachine.views.summary import Summary
from tests.statemachine.runs import NOW, SESSION, Run, in_state, request, risky


def test_a_summary_has_what_a_list_shows() -> None:
    run = Run("긴 요청 " * 100)
    run.request_tools(risky("a"), risky("b"))
    summary = Summary.of(run.checkpoint)
    assert (summary.state, summary.created_at, summary.user_id, summary.thread_id) == (
        State.AWAITING_APPROVAL,
        NOW,
        "user1",
        "thread-1",
    )
    assert summary.prompt_head == ("긴 요청 " * 100)[:120]
    assert run.checkpoint.open_approval is not None
    assert summary.request_id == run.checkpoint.open_approval.request_id


def test_a_summary_is_small_however_large_its_run_is() -> None:
    run = Run("질문 " * 10_000)
    run.request_tools(risky("a", question="?" * 10_000, arguments={"body": "x" * 60_000}))
    assert len(Summary.of(run.checkpoint).to_json()) < 1500


@pytest.mark.parametrize("state", State)
def test_a_summary_round_trips_in_every_state(state: State) -> None:
    summary = Summary.of(in_state(state).checkpoint)
    assert Summary.from_json(summary.to_json()) == summary
    assert (summary.request_id is not None) == (state is State.AWAITING_APPROVAL)


def test_a_thread_of_its_own_is_not_written_twice() -> None:
    checkpoint = replace(Run().checkpoint, request=request(thread_id=SESSION))
    assert Summary.of(checkpoint).thread_id == ""


def test_fields_of_a_newer_release_are_ignored() -> None:
    summary = Summary.of(Run().checkpoint)
    longer = [*json.loads(summary.to_json()), {"more": 1}]
    assert Summary.from_json(json.dumps(longer).encode()) == summary


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"[" * 100_000])
def test_a_summary_that_cannot_be_read_is_none(text: bytes) -> None:
    assert Summary.from_json(text) is None
