"""Maps a run to an `AgentTask` of the Main Service (§6), and finds the request that must be sent next.

It depends on the checkpoint alone, so nothing of it is stored, and any node that loads the checkpoint can continue.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from statemachine.call import CallStatus, ToolCall
from statemachine.checkpoint import Checkpoint, PlanStep
from statemachine.frames import compact_json
from statemachine.states import STATE_TITLES, State
from statemachine.stored import JsonObject

TASK_TYPE = "AURA_RUN"
_MAX_DESCRIPTION_CHARACTERS = 200
_MAX_CONTEXT_BYTES = 16 * 1024
_MAX_RESULT_CHARACTERS = 1000
_MAX_RESULT_BYTES = 4 * 1024
_MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class CreateTask:
    """`POST /main/agent/tasks`."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class StartTask:
    """`POST …/{taskId}/start`."""


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """`PATCH …/{taskId}/progress`: progress 0–100, the present activity, the plan (JSON of `AgentStep[]`)."""

    progress: int
    description: str
    plan: str

    @property
    def body(self) -> JsonObject:
        return {**self.body_without_plan, "planSteps": self.plan}

    @property
    def body_without_plan(self) -> JsonObject:
        """The body for a Main Service that refuses the field `planSteps`."""
        return {"progress": self.progress, "description": self.description}


@dataclass(frozen=True, slots=True)
class CompleteTask:
    """`POST …/{taskId}/complete`, with the result as body."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class FailTask:
    """`POST …/{taskId}/fail?errorMessage=…`."""

    error_message: str


TaskRequest = CreateTask | StartTask | ReportProgress | CompleteTask | FailTask


@dataclass(slots=True)
class DeliveredState:
    """What the Main Service has received of a run. `report` is the newest progress report."""

    task_id: str | None = None
    is_started: bool = False
    report: ReportProgress | None = None
    is_ended: bool = False


def next_request(run: Checkpoint, delivered: DeliveredState) -> TaskRequest | None:
    """Return the request to send now, or None if the Main Service is up to date. Intermediate states are skipped."""
    if delivered.is_ended:
        return None
    if delivered.task_id is None:
        return create_task(run)
    if not delivered.is_started:
        return StartTask()
    report = progress_report(run)
    if run.plan and report != delivered.report:
        return report
    return final_request(run) if run.state.is_final else None


def create_task(run: Checkpoint) -> CreateTask:
    request = run.request
    input_data: JsonObject = {
        "prompt": request.prompt,
        "sessionId": request.session_id,
        "threadId": request.thread_id,
        "context": request.context,
    }
    if len(json.dumps(request.context)) > _MAX_CONTEXT_BYTES:
        del input_data["context"]  # the run's record contains it
    return CreateTask(
        {
            "taskType": TASK_TYPE,
            "userId": request.user_id,
            "tenantId": request.tenant_id,
            "description": request.prompt[:_MAX_DESCRIPTION_CHARACTERS],
            "inputData": compact_json(input_data),
        }
    )


def progress_report(run: Checkpoint) -> ReportProgress:
    return ReportProgress(_progress(run), _activity(run), compact_json([agent_step(run, step) for step in run.plan]))


def final_request(run: Checkpoint) -> CompleteTask | FailTask:
    if run.state is State.DONE:
        return CompleteTask(
            {
                "sessionId": run.session_id,
                "status": "completed",
                "answer": str(run.messages[-1].get("content") or ""),
                "usage": run.usage.to_json_object(),
            }
        )
    ending = run.ending
    message = f"{ending.error_type}: {ending.message}" if ending is not None else STATE_TITLES[run.state]
    return FailTask(message[:_MAX_ERROR_CHARACTERS])


def agent_step(run: Checkpoint, step: PlanStep) -> JsonObject:
    """Return the `AgentStep` (§6) of a plan step.

    It has no status for a skipped step: such a step is `failed` if it has begun, else `pending`.
    """
    call = run.call(step.id)
    if step.status == "skipped":
        status = "failed" if step.started_at is not None else "pending"
        result: JsonObject | str | None = "skipped"
    else:
        status, result = step.status, _result(call)
    fields = {
        "id": step.id,
        "title": step.title,
        "description": step.description,
        "status": status,
        "confidence": step.confidence.value,
        "result": result,
        "startedAt": _whole_seconds(step.started_at),
        "completedAt": _whole_seconds(step.ended_at),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _result(call: ToolCall | None) -> JsonObject | str | None:
    """Return the result of a tool call, or its error as a text; None if it has neither.

    A result that is an object stays one. The beginning of one that is too long is in its field `text`.
    """
    if call is None or call.status not in (CallStatus.COMPLETED, CallStatus.FAILED):
        return None
    if call.error is not None:
        return call.error[:_MAX_RESULT_CHARACTERS]
    result = call.result
    text = result if isinstance(result, str) else compact_json(result)
    if not isinstance(result, dict):
        return text[:_MAX_RESULT_CHARACTERS]
    if len(text.encode("utf-8", "replace")) <= _MAX_RESULT_BYTES:
        return result
    return {"truncated": True, "text": text[:_MAX_RESULT_CHARACTERS]}


def _progress(run: Checkpoint) -> int:
    """Return the progress of the plan in percent. Only a completed run has 100."""
    if run.state is State.DONE:
        return 100
    return min(99, round(100 * run.plan_progress))


def _activity(run: Checkpoint) -> str:
    """Return the question of the open approval, else the title of the step in progress, else that of the state."""
    if run.open_approval is not None:
        return run.open_approval.message[:_MAX_DESCRIPTION_CHARACTERS]
    title = next((step.title for step in run.plan if step.status == "in_progress"), None)
    return (title or STATE_TITLES[run.state])[:_MAX_DESCRIPTION_CHARACTERS]


def _whole_seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
