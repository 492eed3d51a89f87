"""A run as the Main Service's `AgentTask` (§6): what it should know, and which call brings it nearer to that.

Pure: a function of the checkpoint alone. So nothing of it is stored, and whoever loads the checkpoint goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from statemachine.checkpoint import CallStatus, Checkpoint, JsonObject, PlanStep, ToolCall
from statemachine.frames import compact_json
from statemachine.states import STATE_TITLES, State

TASK_TYPE = "AURA_RUN"
_DESCRIPTION_CHARACTERS = 200
_CONTEXT_BYTES = 16 * 1024
_RESULT_CHARACTERS = 1000
_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Create:
    """`POST /main/agent/tasks`."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class Start:
    """`POST …/{taskId}/start`."""


@dataclass(frozen=True, slots=True)
class Report:
    """`PATCH …/{taskId}/progress`: 0–100, what is being done, the plan (JSON of `AgentStep[]`)."""

    progress: int
    description: str
    plan: str

    @property
    def body(self) -> JsonObject:
        return {"progress": self.progress, "description": self.description, "planSteps": self.plan}


@dataclass(frozen=True, slots=True)
class Complete:
    """`POST …/{taskId}/complete` with the result as body."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class Fail:
    """`POST …/{taskId}/fail?errorMessage=…`."""

    error_message: str


Call = Create | Start | Report | Complete | Fail


@dataclass(slots=True)
class Delivered:
    """How far the Main Service has followed. `report` is the newest that it has."""

    task_id: str | None = None
    is_started: bool = False
    report: Report | None = None
    is_ended: bool = False


def next_call(run: Checkpoint, delivered: Delivered) -> Call | None:
    """The one call to make now; None: the Main Service knows all there is. States between are not made up for."""
    if delivered.is_ended:
        return None
    if delivered.task_id is None:
        return creation(run)
    if not delivered.is_started:
        return Start()
    report = report_of(run)
    if run.plan and report != delivered.report:
        return report
    return end_of(run) if run.state.is_final else None


def creation(run: Checkpoint) -> Create:
    request = run.request
    given: JsonObject = {
        "prompt": request.prompt,
        "sessionId": request.session_id,
        "threadId": request.thread_id,
        "context": request.context,
    }
    if len(json.dumps(request.context)) > _CONTEXT_BYTES:
        del given["context"]  # it is in the run's own record
    return Create(
        {
            "taskType": TASK_TYPE,
            "userId": request.user_id,
            "tenantId": request.tenant_id,
            "description": request.prompt[:_DESCRIPTION_CHARACTERS],
            "inputData": compact_json(given),
        }
    )


def report_of(run: Checkpoint) -> Report:
    return Report(_progress(run), _doing(run), compact_json([agent_step(run, step) for step in run.plan]))


def end_of(run: Checkpoint) -> Complete | Fail:
    if run.state is State.DONE:
        return Complete(
            {
                "sessionId": run.session_id,
                "status": "completed",
                "answer": str(run.messages[-1].get("content") or ""),
                "usage": run.usage.to_json_object(),
            }
        )
    ending = run.ending
    said = f"{ending.error_type}: {ending.message}" if ending is not None else STATE_TITLES[run.state]
    return Fail(said[:_ERROR_CHARACTERS])


def agent_step(run: Checkpoint, step: PlanStep) -> JsonObject:
    """An `AgentStep` (§6). It has no word for a skipped step: one that began has failed, any other is as it was."""
    call = run.call(step.id)
    if step.status == "skipped":
        status = "failed" if step.started_at is not None else "pending"
        result: str | None = "skipped"
    else:
        status, result = step.status, _result(call)
    fields = {
        "id": step.id,
        "title": step.title,
        "description": step.description,
        "status": status,
        "confidence": step.confidence.value,
        "result": result,
        "startedAt": _seconds(step.started_at),
        "completedAt": _seconds(step.ended_at),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _result(call: ToolCall | None) -> str | None:
    """What a tool call came to, as its event shows it, shortened."""
    if call is None or call.status not in (CallStatus.COMPLETED, CallStatus.FAILED):
        return None
    if call.error is not None:
        return call.error[:_RESULT_CHARACTERS]
    text = call.result if isinstance(call.result, str) else compact_json(call.result)
    return text[:_RESULT_CHARACTERS]


def _progress(run: Checkpoint) -> int:
    """The plan's own progress; 100 is for what has come to a good end."""
    if run.state is State.DONE:
        return 100
    return min(99, round(100 * run.plan_progress))


def _doing(run: Checkpoint) -> str:
    """What the person is waiting for, or the step under way, or the state."""
    if run.open_approval is not None:
        return run.open_approval.message[:_DESCRIPTION_CHARACTERS]
    under_way = next((step.title for step in run.plan if step.status == "in_progress"), None)
    return (under_way or STATE_TITLES[run.state])[:_DESCRIPTION_CHARACTERS]


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
