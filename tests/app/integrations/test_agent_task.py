"""What the Main Service is told of a run (§6): a function of its checkpoint, one call at a time."""

from __future__ import annotations

import json

from msgspec.structs import replace

from app.integrations.agent_task import (
    Call,
    Complete,
    Create,
    Delivered,
    Fail,
    Report,
    Start,
    agent_step,
    creation,
    end_of,
    next_call,
    report_of,
)
from statemachine.checkpoint import Checkpoint, PlanStep
from statemachine.messages import AnswerFinished, CancelRequested
from tests.statemachine.runs import NOW, SESSION, Run, request, risky, safe

READ = PlanStep(id="1", title="읽기", description="메일을 읽습니다", status="in_progress")
SEND = PlanStep(id="2", title="보내기")


def planned(*steps: PlanStep) -> Run:
    run = Run()
    run.request_tools(safe("p1", name="update_plan", plan=steps))
    return run


def calls(checkpoint: Checkpoint, delivered: Delivered) -> list[Call]:
    """All calls to the end, each done at once."""
    made: list[Call] = []
    while (call := next_call(checkpoint, delivered)) is not None:
        made.append(call)
        match call:
            case Create():
                delivered.task_id = "task-1"
            case Start():
                delivered.is_started = True
            case Report():
                delivered.report = call
            case _:
                delivered.is_ended = True
    return made


def test_a_run_without_a_plan_is_created_started_and_completed() -> None:
    run, delivered = Run(), Delivered()
    assert [type(call) for call in calls(run.checkpoint, delivered)] == [Create, Start]
    run.apply(AnswerFinished("안녕하세요", "안녕하세요"))
    (end,) = calls(run.checkpoint, delivered)
    assert isinstance(end, Complete)
    assert end.body["answer"] == "안녕하세요"
    assert end.body["status"] == "completed"
    assert calls(run.checkpoint, delivered) == []


def test_only_the_newest_plan_is_told_and_before_the_end() -> None:
    run, delivered = planned(READ, SEND), Delivered()
    run.request_tools(safe("c1"))
    run.finish_call("c1")
    run.apply(AnswerFinished("끝", "끝"))
    created, started, report, end = calls(run.checkpoint, delivered)
    assert (type(created), type(started), type(end)) == (Create, Start, Complete)
    assert isinstance(report, Report)
    assert report.progress == 100
    assert [(step["title"], step["status"]) for step in json.loads(report.plan)] == [
        ("읽기", "completed"),
        ("보내기", "pending"),  # it was skipped, and never began
    ]


def test_a_plan_that_stays_is_told_once() -> None:
    run, delivered = planned(READ, SEND), Delivered()
    assert [type(call) for call in calls(run.checkpoint, delivered)] == [Create, Start, Report]
    assert calls(run.checkpoint, delivered) == []
    report = delivered.report
    assert report is not None
    assert (report.progress, report.description) == (25, "읽기")
    assert report.body["planSteps"] == report.plan


def test_a_step_has_its_times_and_its_calls_result() -> None:
    run = Run()
    run.request_tools(safe("c1"))
    (step,) = run.checkpoint.plan
    assert agent_step(run.checkpoint, step) == {
        "id": "c1",
        "title": step.title,
        "description": step.description,
        "status": "in_progress",
        "confidence": step.confidence.value,
        "startedAt": int(NOW),
    }
    run.finish_call("c1", result={"found": "가" * 2000})
    (step,) = run.checkpoint.plan
    told = agent_step(run.checkpoint, step)
    assert told["status"] == "completed"
    assert told["completedAt"] >= told["startedAt"]
    assert told["result"].startswith('{"found":"가')
    assert len(told["result"]) == 1000


def test_a_failed_call_tells_why() -> None:
    run = Run()
    run.request_tools(safe("c1"))
    run.finish_call("c1", error="없는 파일입니다", result=None)
    (step,) = run.checkpoint.plan
    assert agent_step(run.checkpoint, step)["result"] == "없는 파일입니다"
    assert agent_step(run.checkpoint, step)["status"] == "failed"


def test_while_it_waits_the_question_is_what_is_being_done() -> None:
    run = Run()
    run.request_tools(risky("c1"))
    approval = run.checkpoint.open_approval
    assert approval is not None
    assert report_of(run.checkpoint).description == approval.message
    assert report_of(run.checkpoint).progress < 100


def test_every_other_end_is_a_failure_that_says_which() -> None:
    run = Run()
    run.request_tools(safe("c1"))
    run.apply(CancelRequested("user1"))
    end = end_of(run.checkpoint)
    assert isinstance(end, Fail)
    assert end.error_message.startswith("Cancelled: ")
    assert report_of(run.checkpoint).progress == 99
    assert [agent_step(run.checkpoint, step)["status"] for step in run.checkpoint.plan] == ["failed"]


def test_a_large_context_stays_with_the_run() -> None:
    def asked(context: dict[str, str]) -> dict[str, object]:
        asked_for = request(prompt="가" * 500, context=context)
        body = creation(replace(Run().checkpoint, request=asked_for)).body
        assert (body["userId"], body["tenantId"], body["taskType"]) == ("user1", "tenant1", "AURA_RUN")
        assert body["description"] == "가" * 200
        given: dict[str, object] = json.loads(body["inputData"])
        return given

    assert asked({"path": "/mail"})["context"] == {"path": "/mail"}
    assert asked({"path": "/mail"})["sessionId"] == SESSION
    assert "context" not in asked({"text": "x" * 20_000})
