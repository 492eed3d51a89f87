"""Approvals: the request, valid and late decisions, grants, rejections and the queue (§4)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from statemachine.call import ArgumentWarning, CallStatus, Confidence
from statemachine.checkpoint import Checkpoint, Limits, PlanStep
from statemachine.errors import FactRefused
from statemachine.events import End, ErrorRaised, Hitl, TimelineStepUpdated, ToolExecution
from statemachine.messages import (
    ApprovalGranted,
    ApprovalRejected,
    AwaitDecision,
    CallModel,
    Continue,
    DeadlinePassed,
    RunRecovered,
    RunTools,
    Stop,
    ToolFinished,
    ToolsRequested,
)
from statemachine.prompt import conversation
from statemachine.states import State
from statemachine.stored import digest
from statemachine.workflow import advance, begin
from tests.statemachine.runs import NOW, SESSION, Run, in_state, of_type, request, risky, safe


def waiting(**limits: object) -> Run:
    run = Run(**limits)
    run.request_tools(risky())
    return run


def test_risky_call_requests_an_approval_and_hitl_is_the_last_event() -> None:
    run = Run()
    effect = run.request_tools(risky(), confidence=Confidence(value=0.8, source="logprobs"))
    approval = run.checkpoint.pending_approvals[0]
    assert effect == AwaitDecision(approval, NOW + 300)
    assert run.outcomes() == ["pending"]
    assert [type(event) for event in run.last_events[-3:]] == [ToolExecution, TimelineStepUpdated, Hitl]
    assert run.last_events[-1] == Hitl(
        request_id=approval.request_id,
        session_id=SESSION,
        action_type="send_email",
        message="이메일을 발송하시겠습니까?",
        context={"to": "a@example.com", "subject": "회의"},
        confidence=0.8,
        confidence_source="logprobs",
        step_id="c1",
        expires_at=int(NOW) + 300,
        timeout_seconds=300,
        arguments_digest=digest({"to": "a@example.com", "subject": "회의"}),
    )
    assert approval.request_id.startswith("req-")
    assert len(approval.request_id) == len("req-") + 12


def test_call_without_a_question_gets_a_default_question() -> None:
    run = Run()
    run.request_tools(risky(question=""))
    assert of_type(Hitl, run.last_events)[0].message == "이메일 발송: 실행하시겠습니까?"
    run = Run()
    run.request_tools(risky(question="", title=""))
    assert of_type(Hitl, run.last_events)[0].message == "send_email: 실행하시겠습니까?"


def test_approval_timeout_is_shown_as_at_least_one_second() -> None:
    run = waiting(approval_seconds=0.25)
    assert of_type(Hitl, run.last_events)[0].timeout_seconds == 1


def test_approval_request_names_the_plan_step_in_progress() -> None:
    run = Run()
    plan = (PlanStep(id="s1", title="쓰기", status="in_progress"), PlanStep(id="s2", title="보내기"))
    run.request_tools(safe("p", name="update_plan", plan=plan), risky())
    assert of_type(Hitl, run.last_events)[0].step_id == "s1"
    run = Run()
    run.request_tools(safe("p", name="update_plan", plan=(PlanStep(id="s1", title="쓰기"),)), risky())
    assert of_type(Hitl, run.last_events)[0].step_id is None


def test_approved_call_starts_with_a_grant_for_its_arguments() -> None:
    run = waiting()
    request = run.open_request_id
    effect = run.approve(at=10)
    assert isinstance(effect, RunTools)
    (call,) = effect.calls
    assert call.grant is not None
    assert call.grant.to_json_object() == {
        "request_id": request,
        "arguments_digest": digest({"subject": "회의", "to": "a@example.com"}),
        "decided_by": "boss",
        "decided_at": NOW + 10,
        "edited": False,
        "via": "http",
        "decider_told": False,
    }
    run.finish_call()
    assert run.outcomes() == ["pending", "executing", "completed"]
    assert run.state is State.PLANNING


def test_edited_arguments_run_are_shown_and_are_recorded() -> None:
    run = waiting()
    edited = {"to": "b@example.com", "subject": "새 회의", "password": "x"}
    warnings = (ArgumentWarning("invisible", "to", "message"),)
    effect = run.approve(arguments=edited, secret_fields=(["password"],), warnings=warnings)
    assert isinstance(effect, RunTools)
    (call,) = effect.calls
    assert (call.arguments, call.warnings) == (edited, warnings)
    assert call.grant is not None
    assert call.grant.edited
    assert call.grant.arguments_digest == digest(edited)
    (executing,) = of_type(ToolExecution, run.last_events)
    assert executing.tool_args == {**edited, "password": "***"}
    assert run.checkpoint.messages[-1]["tool_calls"][0]["function"]["arguments"].find("a@example.com") > 0


def test_warnings_about_the_arguments_are_in_the_request_and_stay_with_the_call() -> None:
    warnings = (ArgumentWarning("confusable", "to[0]", "message"),)
    run = Run()
    run.request_tools(risky(warnings=warnings))
    (request,) = of_type(Hitl, run.last_events)
    assert request.warnings == warnings
    assert list(request.fields()["warnings"]) == [{"code": "confusable", "field": "to[0]", "message": "message"}]
    run.approve()
    assert run.checkpoint.calls[0].warnings == warnings
    assert run.checkpoint.calls[0].warnings_as_json() == list(request.fields()["warnings"])
    assert Checkpoint.from_json(run.checkpoint.to_json()) == run.checkpoint


def test_grant_is_for_the_arguments_that_the_approver_saw() -> None:
    run = waiting()
    tampered = replace(run.checkpoint.calls[0], arguments={"to": "evil@example.com"})
    checkpoint = replace(run.checkpoint, calls=[tampered])
    step = advance(checkpoint, ApprovalGranted(run.open_request_id, NOW), NOW)
    grant = step.checkpoint.calls[0].grant
    assert grant is not None
    assert grant.arguments_digest != digest(tampered.arguments)


def test_decision_a_millisecond_before_the_deadline_counts() -> None:
    run = waiting()
    assert isinstance(run.approve(at=299.999), RunTools)


def test_decision_at_the_deadline_is_refused() -> None:
    run = waiting()
    with pytest.raises(FactRefused, match="before the deadline"):
        run.approve(at=300)
    assert run.state is State.AWAITING_APPROVAL


def test_decision_made_in_time_counts_if_it_is_received_late() -> None:
    run = waiting()
    assert isinstance(run.apply(ApprovalGranted(run.open_request_id, NOW + 299.999), at=301), RunTools)


def test_approval_timeout_ends_the_run() -> None:
    run = waiting()
    with pytest.raises(FactRefused, match="no deadline has passed"):
        run.apply(DeadlinePassed(), at=299.999)
    assert isinstance(run.apply(DeadlinePassed(), at=300), Stop)
    message = "HITL 승인 요청이 300초 내에 응답되지 않아 작업이 중단되었습니다."
    assert run.last_events[-2:] == (
        ErrorRaised(message=message, error_type="TimeoutError", error_code="E5001", retryable=True),
        End(message=message, status="timed_out"),
    )
    assert run.outcomes() == ["pending", "rejected"]
    with pytest.raises(FactRefused):
        run.apply(ApprovalGranted("req-any", NOW + 1))


def test_decision_for_another_request_is_refused() -> None:
    run = waiting()
    with pytest.raises(FactRefused, match="for the open request"):
        run.apply(ApprovalGranted("req-000000000000", NOW))
    with pytest.raises(FactRefused, match="for the open request"):
        run.apply(ApprovalRejected("req-000000000000", NOW))


def test_second_decision_is_refused() -> None:
    run = waiting()
    request = run.open_request_id
    run.approve()
    for second in (ApprovalGranted(request, NOW), ApprovalRejected(request, NOW)):
        with pytest.raises(FactRefused):
            run.apply(second)
    run.finish_call()
    run.request_tools(risky("c2"))
    with pytest.raises(FactRefused):
        run.apply(ApprovalGranted(request, NOW))


def test_denied_approval_ends_the_run() -> None:
    run = waiting()
    assert isinstance(run.reject(reason="수신자가 틀렸습니다"), Stop)
    transition, tool, *_, error, end = run.last_events
    assert isinstance(transition, TimelineStepUpdated)
    assert transition.metadata["to"] == "rejected"
    assert isinstance(tool, ToolExecution)
    assert (tool.status, tool.error) == ("rejected", "수신자가 틀렸습니다")
    assert error == ErrorRaised(
        message="수신자가 틀렸습니다", error_type="RejectionError", error_code="E2001", retryable=False
    )
    assert end == End(message="수신자가 틀렸습니다", status="rejected")


def test_denial_without_a_reason_gets_a_default_reason() -> None:
    run = waiting()
    run.reject()
    assert run.last_events[-1] == End(message="User rejected", status="rejected")


def test_denied_approval_is_reported_to_the_model_if_the_run_replans() -> None:
    run = waiting(on_reject="replan")
    assert isinstance(run.reject(reason="내일 보내세요"), CallModel)
    assert run.outcomes() == ["pending", "rejected"]
    assert run.model_answers["c1"].startswith("A person refused this call: 내일 보내세요 It was not run;")
    assert run.checkpoint.path[-2].trigger == "decline"


def test_skipped_call_lets_the_run_continue_under_any_policy() -> None:
    run = waiting(on_reject="stop")
    assert isinstance(run.reject(skip=True), CallModel)
    assert run.checkpoint.calls[0].status is CallStatus.REJECTED


def test_risky_calls_wait_for_the_safe_ones_and_are_approved_one_by_one() -> None:
    run = Run(on_reject="replan")
    effect = run.request_tools(risky("r1"), safe("s1"), risky("r2"), safe("s2"))
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["s1", "s2"]
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["r1", "r2"]
    assert run.checkpoint.open_approval is None
    assert of_type(Hitl, run.events) == []
    assert isinstance(run.finish_call("s2"), Continue)
    assert isinstance(run.finish_call("s1"), AwaitDecision)
    first = run.open_request_id
    assert isinstance(run.approve(at=100), RunTools)
    assert isinstance(run.finish_call("r1"), AwaitDecision)
    assert run.open_request_id != first
    assert run.checkpoint.deadline_at == NOW + 400, "each request has its own 300 seconds"
    assert isinstance(run.reject(), CallModel)
    assert run.checkpoint.messages[-5]["role"] == "assistant"
    assert set(run.model_answers) == {"r1", "s1", "r2", "s2"}
    assert [hitl.action_type for hitl in of_type(Hitl, run.events)] == ["send_email", "send_email"]


def test_queued_call_is_not_pending_yet() -> None:
    run = Run()
    run.request_tools(risky("r1"), risky("r2"))
    assert run.outcomes("r1") == ["pending"]
    assert run.outcomes("r2") == []


def test_run_time_does_not_pass_while_the_run_waits() -> None:
    run = waiting(run_seconds=60)
    with pytest.raises(FactRefused, match="no deadline has passed"):
        run.apply(DeadlinePassed(), at=299.999)
    run.approve(at=200)
    with pytest.raises(FactRefused, match="no deadline has passed"):
        run.apply(DeadlinePassed(), at=259.999)
    assert isinstance(run.apply(DeadlinePassed(), at=260), Stop)
    assert run.state is State.FAILED


def test_failed_risky_call_has_its_error_as_outcome() -> None:
    run = waiting()
    run.approve()
    run.apply(ToolFinished("c1", "The tool failed: smtp", error="smtp"))
    assert run.outcomes() == ["pending", "executing", "failed"]
    assert in_state(State.PLANNING).state is run.state


def test_approval_deadline_may_be_after_the_run_time() -> None:
    run = Run(run_seconds=100)
    effect = run.request_tools(risky())
    assert isinstance(effect, AwaitDecision)
    assert effect.deadline_at == NOW + 300
    hitl = of_type(Hitl, run.last_events)[0]
    assert (hitl.expires_at, hitl.timeout_seconds) == (NOW + 300, 300)


def test_approved_repetition_clears_the_unknown_outcome() -> None:
    run = waiting()
    run.approve()
    run.apply(RunRecovered())
    run.approve()
    run.finish_call()
    (call,) = run.checkpoint.calls
    assert (call.status, call.outcome_unknown) == (CallStatus.COMPLETED, False)


# --- who may find and decide a request --------------------------------------------------------------------------------


def test_request_ids_are_made_from_the_runs_random_seed() -> None:
    ids = set()
    for seed in ("", "5eed", "5eed2"):
        step = begin(request(), conversation("보내주세요", {}), Limits(), NOW, seed=seed)
        for _ in range(2):  # the same facts lead to the same id
            asked = advance(step.checkpoint, ToolsRequested((risky(),)), NOW)
            assert asked.checkpoint.open_approval is not None
            ids.add(asked.checkpoint.open_approval.request_id)
    assert len(ids) == 3


def test_decision_records_the_way_it_came_and_who_told_of_its_decider() -> None:
    run = waiting()
    run.approve(via="redis")
    (review,), (call,) = run.checkpoint.reviews, run.checkpoint.calls
    assert call.grant is not None
    assert (review.via, review.decider_told) == (call.grant.via, call.grant.decider_told) == ("redis", True)
    by_http = waiting()
    by_http.reject()
    (review,) = by_http.checkpoint.reviews
    assert (review.verdict, review.via, review.decider_told) == ("rejected", "http", False)
    expired = waiting()
    expired.apply(DeadlinePassed(), at=300)
    (review,) = expired.checkpoint.reviews
    assert (review.verdict, review.via, review.decider_told) == ("expired", None, False)


def test_request_shows_its_digest_and_its_place_among_the_approvals_of_the_turn() -> None:
    run = Run()
    run.request_tools(safe("s"))
    run.finish_call("s")
    run.request_tools(risky("a"), safe("b"), risky("c", arguments={"to": "c@example.com"}))
    run.finish_call("b")
    (first,) = of_type(Hitl, run.last_events)
    run.approve()
    run.apply(RunRecovered())  # the mail may have been sent: it is asked again, and is the same of the two
    (again,) = of_type(Hitl, run.last_events)
    run.approve()
    run.finish_call("a")
    (second,) = of_type(Hitl, run.last_events)
    assert [(asked.position, asked.total) for asked in (first, again, second)] == [(1, 2), (1, 2), (2, 2)]
    assert [asked.arguments_digest for asked in (first, second)] == [
        digest({"to": "a@example.com", "subject": "회의"}),
        digest({"to": "c@example.com"}),
    ]
    run.approve()
    run.finish_call("c")
    run.request_tools(risky("d"))
    (alone,) = of_type(Hitl, run.last_events)
    assert (alone.position, alone.total) == (1, 1)
