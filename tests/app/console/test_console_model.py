"""The pure modules of the console under Node: the state of a run from its events, and formatting."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.console import files

NODE = shutil.which("node")
STATIC = Path(files.__file__).with_name("static")
DRIVER = Path(__file__).parents[2] / "harness" / "module.mjs"

pytestmark = pytest.mark.skipif(
    NODE is None, reason="the tests of the console's modules need Node, which is not installed"
)

_APPLY_ALL = """
let run = module.emptyRun({ prompt: "p" });
let id = 1000;
for (const event of EVENTS) run = module.applyEvent(run, event, (id += 1000));
"""


def run_in_node(file: str, program: str, **values: Any) -> Any:
    assert NODE is not None
    given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    request = {"source": (STATIC / file).read_text(encoding="utf-8"), "program": given + program}
    done = subprocess.run([NODE, DRIVER], input=json.dumps(request), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def transition(source: str, dest: str, trigger: str) -> dict[str, Any]:
    return {"type": "timeline_step_update", "metadata": {"from": source, "to": dest, "trigger": trigger}}


def tool(status: str, **more: Any) -> dict[str, Any]:
    fields = {"toolName": "send_email", "toolArgs": {"to": "a"}, "toolCallId": "c1", "requiresApproval": True}
    return {"type": "tool_execution", **fields, "status": status, "result": None, "error": None, **more}


HITL = {
    "type": "hitl",
    "requestId": "req-1",
    "sessionId": "s",
    "actionType": "send_email",
    "message": "보낼까요?",
    "context": {"to": "a"},
    "expiresAt": 300,
    "timeoutSeconds": 300,
}
START = {"type": "start", "sessionId": "s", "threadId": "t", "state": "planning"}
WAITING = [
    START,
    transition("planning", "tool", "request_tools"),
    tool("pending"),
    transition("tool", "awaiting_approval", "ask_approval"),
    HITL,
]


def apply_events(*events: dict[str, Any]) -> Any:
    return run_in_node(
        "run_state.js",
        _APPLY_ALL + "return { run, open: module.openApproval(run), ended: module.isEnded(run) };",
        EVENTS=events,
    )


def test_waiting_run_has_its_transitions_and_one_open_request() -> None:
    result = apply_events(*WAITING)
    run = result["run"]
    assert (run["state"], run["sessionId"], run["prompt"], result["ended"]) == ("awaiting_approval", "s", "p", False)
    assert [(step["number"], step["trigger"], step["at"]) for step in run["path"]] == [
        (1, "request_tools", 3000),
        (2, "ask_approval", 5000),
    ]
    assert result["open"]["requestId"] == "req-1"
    assert result["open"]["expiresAt"] == 300_000
    assert [(entry["kind"], entry["step"]) for entry in run["entries"]] == [("tool", 1), ("approval", 2)]


@pytest.mark.parametrize(
    ("trigger", "dest", "verdict"),
    [
        ("approve", "tool", "approved"),
        ("decline", "tool", "skipped"),
        ("reject", "rejected", "rejected"),
        ("expire", "timed_out", "expired"),
        ("cancel", "cancelled", "cancelled"),
    ],
)
def test_transition_after_a_decision_closes_the_request(trigger: str, dest: str, verdict: str) -> None:
    result = apply_events(*WAITING, transition("awaiting_approval", dest, trigger))
    assert result["open"] is None
    assert [entry["verdict"] for entry in result["run"]["entries"] if entry["kind"] == "approval"] == [verdict]


def test_events_of_a_tool_call_are_one_entry() -> None:
    run = apply_events(*WAITING, tool("executing"), tool("completed", result={"ok": True}, truncated=True))["run"]
    (call,) = [entry for entry in run["entries"] if entry["kind"] == "tool"]
    assert (call["status"], call["startedAt"], call["endedAt"]) == ("completed", 7000, 8000)
    assert (call["result"], call["isTruncated"]) == ({"ok": True}, True)


def test_answer_is_all_content_joined_and_end_ends_the_run() -> None:
    chunks = [
        {"type": "content", "content": text, "chunk": more}
        for text, more in (("가", True), ("나", True), ("다", False))
    ]
    end = {"type": "end", "status": "completed", "message": "완료", "usage": {"totalTokens": 3}}
    result = apply_events(START, *chunks, end)
    assert (result["run"]["answer"], result["run"]["isAnswering"], result["ended"]) == ("가나다", False, True)
    assert result["run"]["end"]["usage"] == {"totalTokens": 3}


def test_plan_steps_are_ordered_and_updated_in_place() -> None:
    def step(id: str, order: int, **more: Any) -> dict[str, Any]:
        fields = {"title": id.upper(), "description": "", "status": "pending", "order": order}
        return {"type": "plan_step", "stepId": id, **fields, "confidence": 0.5, "confidenceSource": "none", **more}

    second = step("b", 2, confidence=0.9, confidenceSource="model")
    update = {"type": "plan_step_update", "stepId": "a", "status": "completed", "progress": 1}
    plan = apply_events(START, second, step("a", 1), update)["run"]["plan"]
    assert [(it["id"], it["title"], it["status"], it["confidence"]) for it in plan] == [
        ("a", "A", "completed", None),  # an unknown confidence is not shown as 0.5
        ("b", "B", "pending", 0.9),
    ]


def test_unchanged_parts_are_the_same_objects_and_unknown_events_change_nothing() -> None:
    program = (
        _APPLY_ALL
        + """
    const more = module.applyEvent(run, { type: "content", content: "x", chunk: true }, 9e6);
    const unknown = module.applyEvent(run, { type: "unknown" }, 9e6);
    return [more.entries === run.entries, more.path === run.path, unknown === run];
    """
    )
    assert run_in_node("run_state.js", program, EVENTS=WAITING) == [True, True, True]


def test_durations_and_countdowns_are_formatted() -> None:
    program = "return [40, 1234, 125000, 3720000].map(module.duration).concat([299001, 0, -5].map(module.countdown));"
    assert run_in_node("format.js", program) == ["40 ms", "1.2 s", "2 m 05 s", "1 h 02 m", "5:00", "0:00", "0:00"]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{"to": "a", "body": "to: b", "more": [{"to": 1}, {"to": 2}]}', None),
        ('{"to": "a", "to": "b"}', '"to" × 2'),
        ('{"to": "a", "t\\u006f" : "b"}', '"to" × 2'),
        ('{"a": {"b": "}\\"{", "b": 1}}', '"b" × 2'),
        ("[1]", "[1] …"),
        ("null", "null …"),
    ],
)
def test_object_with_a_key_twice_is_refused(text: str, result: str | None) -> None:
    program = "const value = module.parseJsonObject(TEXT); return value instanceof Error ? value.message : null;"
    assert run_in_node("json.js", program, TEXT=text) == result


def test_request_keeps_its_warnings() -> None:
    warnings = [{"code": "invisible", "field": "to", "message": "m"}]
    run = apply_events(*WAITING[:-1], {**HITL, "warnings": warnings})["run"]
    assert run["entries"][-1]["warnings"] == warnings
    assert apply_events(*WAITING)["run"]["entries"][-1]["warnings"] == []


def test_request_can_be_approved_only_as_the_service_answers_it() -> None:
    event: dict[str, Any] = {
        "requestId": "r",
        "sessionId": "s",
        "actionType": "a",
        "message": "m",
        "argumentsDigest": "d",
    }
    event |= {"context": {"to": "x", "list": [1, {"b": 1, "a": 2}]}, "warnings": []}
    same = {**event, "context": {"list": [1, {"a": 2, "b": 1}], "to": "x"}, "status": "pending"}
    changes: list[dict[str, Any]] = [
        {"context": {"to": "y", "list": [1, {"b": 1, "a": 2}]}},
        {"context": {"to": "x", "list": [{"b": 1, "a": 2}, 1]}},
        {"argumentsDigest": "e"},
        {"message": "n"},
        {"warnings": [{"code": "invisible", "field": "to", "message": "w"}]},
    ]
    program = """
    let run = module.emptyRun();
    run = module.applyEvent(run, { type: "hitl", expiresAt: 1, timeoutSeconds: 1, ...event }, 1000);
    const before = module.openApproval(run).problem;
    const problems = requests.map((request) => module.approvalProblem(event, request));
    run = module.withCheckedApproval(run, "r", problems[1], "");
    return { before, problems, after: module.openApproval(run).problem };
    """
    requests = [same, *({**same, **change} for change in changes)]
    result = run_in_node("run_state.js", program, event=event, requests=requests)
    assert result["problems"] == ["", *["approval.differs"] * len(changes)]
    assert (result["before"], result["after"]) == (None, "approval.differs")
