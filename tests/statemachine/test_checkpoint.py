"""Checkpoints: saved runs load in every later release and continue; digests use the canonical JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from statemachine.call import CallStatus
from statemachine.checkpoint import SCHEMA_VERSION, Checkpoint, Limits, Review, Usage
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable, FactRefused, SharedTextMissing, WorkflowError
from statemachine.instructions import BEGINNINGS, INSTRUCTIONS, shared_beginning, text_digest
from statemachine.messages import ApprovalGranted, AwaitDecision, CallModel, Effect, RunRecovered, RunTools
from statemachine.prompt import system_prompt
from statemachine.states import OPEN_STATES, State
from statemachine.stored import JsonObject, canonical_json, digest
from statemachine.tokens import estimate_tokens
from statemachine.workflow import advance
from tests.statemachine.runs import NOW, Run, check_history, in_state, risky, safe

SAVED = Path(__file__).parents[2] / "fixtures" / "checkpoints"
FILES = sorted(SAVED.glob("v*_*.json"))


def load(name: str) -> Checkpoint:
    return Checkpoint.from_json((SAVED / name).read_bytes())


def test_every_schema_version_has_fixtures_of_each_open_state_and_an_ended_run() -> None:
    names = {path.stem for path in FILES}
    for version in range(1, SCHEMA_VERSION + 1):
        assert {f"v{version}_{state}" for state in (*OPEN_STATES, State.DONE)} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_saved_run_loads_and_continues(path: Path) -> None:
    checkpoint = Checkpoint.from_json(path.read_text(encoding="utf-8"))
    version, _, state = path.stem.partition("_")
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == int(version[1:])
    assert checkpoint.state == state
    assert checkpoint.path[-1].dest == state
    if checkpoint.state.is_final:
        with pytest.raises(FactRefused):
            advance(checkpoint, RunRecovered(), NOW + 60)
        return
    step = advance(checkpoint, RunRecovered(streamed="안녕하세요! 무엇을"), NOW + 60)
    expected: dict[str, type[Effect]] = {
        "planning": CallModel,
        "tool": AwaitDecision,  # a mail with an unknown outcome
        "awaiting_approval": AwaitDecision,
        "content": CallModel,
    }
    assert type(step.effect) is expected[state]
    check_history(step.checkpoint.messages, finished=False)


def test_saved_wait_keeps_its_deadline_and_queue() -> None:
    checkpoint = load("v1_awaiting_approval.json")
    assert checkpoint.open_approval is not None
    assert checkpoint.open_approval.call_id == "call_m1"
    assert [approval.call_id for approval in checkpoint.pending_approvals] == ["call_m1", "call_m2"]
    assert checkpoint.deadline_at == checkpoint.updated_at + 300
    assert checkpoint.limits.on_reject == "replan"


def test_run_of_an_older_version_is_saved_as_one_of_this_version() -> None:
    """An older release must not take what this one writes for its own: it would lose the new fields."""
    old = load("v1_planning.json")
    saved = json.loads(old.to_json())
    assert saved["schema_version"] == SCHEMA_VERSION
    assert Checkpoint.from_json(old.to_json()) == old


def test_saved_thread_keeps_its_history_and_the_fields_of_the_provider() -> None:
    checkpoint = load("v2_planning.json")
    assert (checkpoint.history_messages, checkpoint.omitted_turns, checkpoint.is_history_shortened) == (2, 3, True)
    assert checkpoint.messages[1]["content"] == "지난주 PR을 요약해주세요"
    (called,) = [message for message in checkpoint.messages if "tool_calls" in message]
    assert called["provider_fields"] == {
        "origin": "origin-1f0c",
        "message": {"reasoning_content": "먼저 PR을 읽어야 한다."},
        "calls": [{"extra_content": {"google": {"thought_signature": "abc"}}}],
    }
    step = advance(checkpoint, RunRecovered(), checkpoint.updated_at)
    assert isinstance(step.effect, CallModel)
    assert step.effect.messages == tuple(checkpoint.messages)
    assert step.effect.not_before == checkpoint.updated_at + 2


def test_saved_model_turn_keeps_its_reservation_until_it_is_settled() -> None:
    checkpoint = load("v2_content.json")
    assert checkpoint.spent_tokens == checkpoint.reserved_tokens == 171
    assert [turn.outcome for turn in checkpoint.model_turns] == ["lost", None]
    streamed = "안녕하세요! 무엇을"
    lost = advance(checkpoint, RunRecovered(streamed), NOW + 60).checkpoint
    assert lost.spent_tokens == 2 * 171 + estimate_tokens(streamed)
    assert lost.spent_tokens + lost.reserved_tokens <= lost.limits.tokens
    done = load("v2_done.json")
    assert (done.spent_tokens, done.reserved_tokens) == (171 + 876, 0)
    assert done.model_turns[-1].model == "small-model"
    assert done.usage.cached_tokens == 640


def test_saved_run_whose_budget_was_spent_has_ended() -> None:
    checkpoint = load("v2_failed.json")
    assert checkpoint.ending is not None
    assert (checkpoint.ending.error_type, checkpoint.reserved_tokens) == ("LimitExceeded", 0)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_saved_wait_can_be_approved_and_the_mail_is_sent(version: int) -> None:
    checkpoint = load(f"v{version}_awaiting_approval.json")
    assert checkpoint.open_approval is not None
    granted = ApprovalGranted(checkpoint.open_approval.request_id, checkpoint.updated_at + 1, "boss")
    step = advance(checkpoint, granted, checkpoint.updated_at + 1)
    assert isinstance(step.effect, RunTools)
    assert [call.id for call in step.effect.calls] == ["call_m1"]


def test_saved_tool_call_keeps_its_grant_for_edited_arguments() -> None:
    (mail,) = load("v1_tool.json").running
    assert mail.status is CallStatus.STARTED
    assert mail.grant is not None
    assert mail.grant.edited
    assert mail.grant.arguments_digest == digest(mail.arguments)


@pytest.mark.parametrize("state", State)
def test_run_in_any_state_round_trips_through_json(state: State) -> None:
    checkpoint = in_state(state).checkpoint
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
    assert Checkpoint.from_json(checkpoint.to_json().decode()) == checkpoint


def test_a_saved_run_has_the_prompt_once_and_refers_to_the_built_in_instructions() -> None:
    run = in_state(State.AWAITING_APPROVAL).checkpoint
    conversation = [
        {"role": "system", "content": system_prompt(run.request.context)},
        {"role": "user", "content": run.request.prompt},
        *run.messages[2:],
    ]
    run = replace(run, messages=conversation, request=replace(run.request, thread_id=run.session_id))
    text = run.to_json()
    assert text.count(run.request.prompt.encode()) == 1
    assert INSTRUCTIONS.encode() not in text
    assert "thread_id" not in json.loads(text)["request"]
    assert Checkpoint.from_json(text) == run


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "메일을 보내주세요"}],
        [{"role": "system", "content": None}, {"role": "assistant", "content": "메일을 보내주세요"}],
        [{"role": "system", "content": "You help."}, {"role": "user", "content": "다른 말"}],
    ],
)
def test_a_run_with_another_conversation_is_saved_whole(messages: list[JsonObject]) -> None:
    run = replace(Run().checkpoint, messages=messages)
    assert json.loads(run.to_json())["messages"] == messages
    assert Checkpoint.from_json(run.to_json()) == run


@pytest.mark.parametrize(
    "messages", [[], [{}, {"role": "user", "content": None}], [{"begins_with": 99}, {}], [{"begins_with": []}]]
)
def test_a_saved_run_that_lacks_what_was_left_out_cannot_be_read(messages: list[JsonObject]) -> None:
    raw = json.loads(Run().checkpoint.to_json())
    raw["messages"] = messages
    raw["request"]["prompt"] = "p" if messages and "begins_with" in messages[0] else ""
    with pytest.raises(CheckpointUnreadable, match=r"no prompt|does not have"):
        Checkpoint.from_json(json.dumps(raw))


def test_a_shared_text_is_saved_as_its_digest() -> None:
    text = "You are a helper of the sales department."
    shared = {text_digest("another text"): "another text", text_digest(text): text}
    messages = [{"role": "system", "content": f"{text}\n\nmore"}, {"role": "user", "content": "안녕하세요"}]
    run = replace(Run().checkpoint, messages=messages)
    saved = run.to_json(shared)
    assert json.loads(saved)["messages"][0] == {
        "role": "system",
        "content": "\n\nmore",
        "begins_with": text_digest(text),
    }
    assert Checkpoint.from_json(saved, shared) == run
    with pytest.raises(SharedTextMissing) as missing:
        Checkpoint.from_json(saved)
    assert missing.value.digest == text_digest(text)
    assert shared_beginning(messages, shared) == text_digest(text)
    assert shared_beginning(messages[1:], shared) is None
    assert shared_beginning(messages, {}) is None


def test_a_shared_text_that_extends_the_built_in_one_is_saved_as_its_own_digest() -> None:
    text = f"{INSTRUCTIONS}\n항상 존댓말을 쓰세요."
    shared = {text_digest(text): text}
    run = replace(Run().checkpoint, messages=[{"role": "system", "content": text}, {"role": "user", "content": "네"}])
    saved = run.to_json(shared)
    assert json.loads(saved)["messages"][0] == {"role": "system", "content": "", "begins_with": text_digest(text)}
    assert Checkpoint.from_json(saved, shared) == run


def test_a_text_to_which_saved_runs_refer_never_changes() -> None:
    """Where this fails, do not change a digest: `statemachine/instructions.py` says how to change a text."""
    assert {number: digest(text) for number, text in BEGINNINGS.items()} == {
        1: "dbd52943a52f646dc73b809f5b91fdd03344e80983edee11dd1d5d2625fe1978",
        2: "4d434dc134f60e407aa4359aab9a412a59ccd6d9cc5af7d7d1d3e04c8176d623",
    }


def test_json_has_the_fields_that_other_systems_read() -> None:
    raw = json.loads(in_state(State.AWAITING_APPROVAL).checkpoint.to_json())
    assert raw["state"] == "awaiting_approval"
    assert raw["pending_approvals"][0]["action_type"] == "send_email"
    assert raw["deadline_at"] == NOW + 300
    assert raw["messages"][0]["role"] == "system"
    assert raw["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("more", [{"unheard_of": True}, {}], ids=["other fields", "the same fields"])
def test_checkpoint_of_a_newer_release_is_reported_as_too_new(more: dict[str, bool]) -> None:
    raw = json.loads(Run().checkpoint.to_json()) | {"schema_version": SCHEMA_VERSION + 1, **more}
    with pytest.raises(CheckpointTooNew) as newer:
        Checkpoint.from_json(json.dumps(raw))
    assert (newer.value.found, newer.value.known) == (SCHEMA_VERSION + 1, SCHEMA_VERSION)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", b"\xff"),
        *('{"schema_version":"1"}', '{"schema_version":null}', '{"schema_version":1}'),
        pytest.param('{"messages":' + "[" * 100_000, id="deep"),
    ],
)
def test_broken_checkpoint_is_distinguished_from_a_newer_one(text: str | bytes) -> None:
    with pytest.raises(CheckpointUnreadable, match="checkpoint cannot be read") as broken:
        Checkpoint.from_json(text)
    assert isinstance(broken.value, WorkflowError)


def test_what_people_see_of_a_call_is_made_from_its_arguments() -> None:
    raw = json.loads(in_state(State.AWAITING_APPROVAL).checkpoint.to_json())
    assert "shown_arguments" not in raw["calls"][0]
    raw["calls"][0] |= {"arguments": {"to": "thief@example.com", "password": "1234"}, "secret_fields": [["password"]]}
    (call,) = Checkpoint.from_json(json.dumps(raw)).calls
    assert call.shown_arguments == {"to": "thief@example.com", "password": "***"}


def test_secrets_of_a_call_that_an_older_release_saved_stay_hidden() -> None:
    raw = json.loads((SAVED / "v2_awaiting_approval.json").read_bytes())
    raw["calls"][0] |= {
        "arguments": {"to": "a", "login": {"password": "1234"}, "list": [1, "geheim"]},
        "shown_arguments": {"to": "a", "login": {"password": "***"}, "list": [1, "***"]},
    }
    call = Checkpoint.from_json(json.dumps(raw)).calls[0]
    assert call.secret_fields == [["login", "password"], ["list", 1]]
    assert call.shown_arguments == raw["calls"][0]["shown_arguments"]


@pytest.mark.parametrize("calls", [5, [5], [{"arguments": 5}], [{"shown_arguments": {}}]])
def test_older_checkpoint_with_malformed_calls_is_unreadable(calls: object) -> None:
    raw = json.loads((SAVED / "v2_awaiting_approval.json").read_bytes()) | {"calls": calls}
    with pytest.raises(CheckpointUnreadable):
        Checkpoint.from_json(json.dumps(raw))


def test_unknown_field_of_the_same_version_is_refused() -> None:
    raw = json.loads(Run().checkpoint.to_json()) | {"unheard_of": True}
    with pytest.raises(CheckpointUnreadable, match="unheard_of"):
        Checkpoint.from_json(json.dumps(raw))


def test_checkpoint_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Run().checkpoint.state = State.DONE  # type: ignore[misc]


def test_run_deadline_is_counted_from_its_start() -> None:
    assert Run(run_seconds=60).checkpoint.run_deadline_at == NOW + 60


def test_run_deadline_leaves_out_the_waits_for_a_person() -> None:
    waits = [
        Review("req-1", "a", asked_at=NOW + 10, expires_at=NOW + 310, verdict="approved", ended_at=NOW + 40),
        Review("req-2", "b", asked_at=NOW + 50, expires_at=NOW + 350),  # it is open: it may last until its deadline
        Review("req-3", "c", asked_at=NOW + 360, expires_at=NOW + 60),  # requested too late
    ]
    checkpoint = replace(Run(run_seconds=60).checkpoint, reviews=waits)
    assert checkpoint.run_deadline_at == NOW + 60 + 30 + 300


def test_default_limits_are_those_of_the_contract() -> None:
    assert Limits().to_json_object() == {
        "turns": 12,
        "model_attempts": 3,
        "run_seconds": 3600,
        "approval_seconds": 300,
        "on_reject": "stop",
        "tokens": 0,
        "completion_tokens": 0,
        "calls_per_turn": 32,
        "open_approvals": 5,
    }


def test_fields_with_their_default_are_not_saved_except_those_that_other_systems_read() -> None:
    run = Run()
    run.request_tools(risky())
    raw = json.loads(run.checkpoint.to_json())
    assert not {"ending", "cancelled_by", "history_messages", "is_history_shortened"} & raw.keys()
    assert not {"grant", "result", "error", "answer"} & raw["calls"][0].keys()
    raw = json.loads(Run().checkpoint.to_json())
    assert raw["schema_version"] == SCHEMA_VERSION
    assert (raw["state"], raw["calls"], raw["pending_approvals"], raw["deadline_at"]) == ("planning", [], [], None)


def test_json_object_of_a_saved_struct_has_every_field() -> None:
    run = Run()
    run.request_tools(safe())
    (step,) = run.checkpoint.plan
    shown = step.to_json_object()
    assert shown["confidence"] == {"value": 0.5, "source": "none"}
    assert (shown["description"], shown["ended_at"]) == ("", None)


def test_call_is_found_by_its_id() -> None:
    run = Run()
    run.request_tools(safe("a"), risky("b"))
    found = run.checkpoint.call("b")
    assert found is not None
    assert found.name == "send_email"
    assert run.checkpoint.call("c") is None


def test_queued_approvals_are_not_open_while_a_call_runs() -> None:
    run = Run()
    run.request_tools(safe("a"), risky("b"))
    assert run.checkpoint.pending_approvals
    assert run.checkpoint.open_approval is None


def test_usages_are_added() -> None:
    one = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cached_tokens=1)
    assert one.plus(one) == Usage(prompt_tokens=2, completion_tokens=4, total_tokens=6, cached_tokens=2)
    assert one.plus(None) is one


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_saved_confidence_must_be_between_0_and_1(value: float) -> None:
    run = Run()
    run.request_tools(safe())
    raw = json.loads(run.checkpoint.to_json())
    raw["calls"][0]["confidence"] = {"value": value}
    with pytest.raises(CheckpointUnreadable, match="confidence"):
        Checkpoint.from_json(json.dumps(raw))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON))
def test_digest_depends_on_the_value_and_not_on_its_formatting(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert digest(value) == digest(turned) == digest(json.loads(json.dumps(value, indent=2)))
    assert digest(value) != digest({**value, "one more": 1})
    assert " " not in canonical_json({"a": [1, 2], "b": None})


@settings(max_examples=40, deadline=None)
@given(JSON)
def test_arguments_and_results_round_trip_through_json(value: object) -> None:
    run = Run()
    run.request_tools(safe(arguments={"value": value}))
    run.finish_call(result=value)
    loaded = Checkpoint.from_json(run.checkpoint.to_json())
    assert digest(loaded.calls[0].arguments) == digest({"value": value})
    assert loaded.calls[0].result == value
