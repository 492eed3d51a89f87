"""The requests that report a run to the Main Service (§6): they depend on its checkpoint alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from app.integrations.agent_task import (
    CompleteTask,
    CreateTask,
    DeliveredState,
    FailTask,
    ReportProgress,
    StartTask,
    TaskRequest,
    agent_step,
    create_task,
    final_request,
    next_request,
    progress_report,
)
from statemachine.checkpoint import Checkpoint, PlanStep
from statemachine.messages import AnswerFinished, CancelRequested
from tests.statemachine.runs import NOW, SESSION, Run, request, risky, safe

READ = PlanStep(id="1", title="읽기", description="메일을 읽습니다", status="in_progress")
SEND = PlanStep(id="2", title="보내기")


def run_with_plan(*steps: PlanStep) -> Run:
    run = Run()
    run.request_tools(safe("p1", name="update_plan", plan=steps))
    return run


def send_all(checkpoint: Checkpoint, delivered: DeliveredState) -> list[TaskRequest]:
    """Return all requests until the Main Service is up to date; each is delivered at once."""
    sent: list[TaskRequest] = []
    while (task_request := next_request(checkpoint, delivered)) is not None:
        sent.append(task_request)
        match task_request:
            case CreateTask():
                delivered.task_id = "task-1"
            case StartTask():
                delivered.is_started = True
            case ReportProgress():
                delivered.report = task_request
            case _:
                delivered.is_ended = True
    return sent


def test_run_without_a_plan_is_created_started_and_completed() -> None:
    run, delivered = Run(), DeliveredState()
    assert [type(sent) for sent in send_all(run.checkpoint, delivered)] == [CreateTask, StartTask]
    run.apply(AnswerFinished("안녕하세요", "안녕하세요"))
    (end,) = send_all(run.checkpoint, delivered)
    assert isinstance(end, CompleteTask)
    assert end.body["answer"] == "안녕하세요"
    assert end.body["status"] == "completed"
    assert send_all(run.checkpoint, delivered) == []


def test_only_the_newest_plan_is_reported_before_the_end() -> None:
    run, delivered = run_with_plan(READ, SEND), DeliveredState()
    run.request_tools(safe("c1"))
    run.finish_call("c1")
    run.apply(AnswerFinished("끝", "끝"))
    created, started, report, end = send_all(run.checkpoint, delivered)
    assert (type(created), type(started), type(end)) == (CreateTask, StartTask, CompleteTask)
    assert isinstance(report, ReportProgress)
    assert report.progress == 100
    assert [(step["title"], step["status"]) for step in json.loads(report.plan)] == [
        ("읽기", "completed"),
        ("보내기", "pending"),  # it was skipped before it began
    ]


def test_unchanged_plan_is_reported_once() -> None:
    run, delivered = run_with_plan(READ, SEND), DeliveredState()
    assert [type(sent) for sent in send_all(run.checkpoint, delivered)] == [CreateTask, StartTask, ReportProgress]
    assert send_all(run.checkpoint, delivered) == []
    report = delivered.report
    assert report is not None
    assert (report.progress, report.description) == (25, "읽기")
    assert report.body["planSteps"] == report.plan


def test_step_has_its_times_and_the_result_of_its_call() -> None:
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
    agent = agent_step(run.checkpoint, step)
    assert agent["status"] == "completed"
    assert agent["completedAt"] >= agent["startedAt"]
    assert agent["result"]["truncated"] is True
    assert agent["result"]["text"].startswith('{"found":"가')
    assert len(agent["result"]["text"]) == 1000


@pytest.mark.parametrize("result", [{"found": "가", "count": 2}, {}, "한 줄", [1, 2]])
def test_result_of_a_step_that_is_an_object_stays_one(result: Any) -> None:
    run = Run()
    run.request_tools(safe("c1"))
    run.finish_call("c1", result=result)
    (step,) = run.checkpoint.plan
    expected = "[1,2]" if isinstance(result, list) else result
    assert agent_step(run.checkpoint, step)["result"] == expected
    (sent,) = json.loads(progress_report(run.checkpoint).plan)
    assert sent["result"] == expected


def test_failed_call_has_its_error_as_result() -> None:
    run = Run()
    run.request_tools(safe("c1"))
    run.finish_call("c1", error="없는 파일입니다", result=None)
    (step,) = run.checkpoint.plan
    assert agent_step(run.checkpoint, step)["result"] == "없는 파일입니다"
    assert agent_step(run.checkpoint, step)["status"] == "failed"


def test_description_of_a_waiting_run_is_its_question() -> None:
    run = Run()
    run.request_tools(risky("c1"))
    approval = run.checkpoint.open_approval
    assert approval is not None
    assert progress_report(run.checkpoint).description == approval.message
    assert progress_report(run.checkpoint).progress < 100


def test_every_other_end_is_reported_as_a_failure_with_its_cause() -> None:
    run = Run()
    run.request_tools(safe("c1"))
    run.apply(CancelRequested("user1"))
    end = final_request(run.checkpoint)
    assert isinstance(end, FailTask)
    assert end.error_message.startswith("Cancelled: ")
    assert progress_report(run.checkpoint).progress == 99
    assert [agent_step(run.checkpoint, step)["status"] for step in run.checkpoint.plan] == ["failed"]


def test_large_context_is_not_sent() -> None:
    def input_data(context: dict[str, str]) -> dict[str, object]:
        run_request = request(prompt="가" * 500, context=context)
        body = create_task(replace(Run().checkpoint, request=run_request)).body
        assert (body["userId"], body["tenantId"], body["taskType"]) == ("user1", "tenant1", "AURA_RUN")
        assert body["description"] == "가" * 200
        data: dict[str, object] = json.loads(body["inputData"])
        return data

    assert input_data({"path": "/mail"})["context"] == {"path": "/mail"}
    assert input_data({"path": "/mail"})["sessionId"] == SESSION
    assert "context" not in input_data({"text": "x" * 20_000})
