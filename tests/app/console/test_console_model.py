"""Events → what the console shows of a run: the page's pure module, under Node."""

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

pytestmark = pytest.mark.skipif(NODE is None, reason="the console's pure modules are tested under Node, not here")

_REDUCE = """
let run = module.freshRun({ prompt: "p" });
let id = 1000;
for (const event of EVENTS) run = module.reduced(run, event, (id += 1000));
"""


def in_node(file: str, program: str, **values: Any) -> Any:
    assert NODE is not None
    given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    order = {"source": (STATIC / file).read_text(encoding="utf-8"), "program": given + program}
    done = subprocess.run([NODE, DRIVER], input=json.dumps(order), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def passage(source: str, dest: str, trigger: str) -> dict[str, Any]:
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
ASKED = [
    START,
    passage("planning", "tool", "request_tools"),
    tool("pending"),
    passage("tool", "awaiting_approval", "ask_approval"),
    HITL,
]


def reduced(*events: dict[str, Any]) -> Any:
    return in_node(
        "reduce.js",
        _REDUCE + "return { run, open: module.openApproval(run), over: module.isOver(run) };",
        EVENTS=events,
    )


def test_a_run_that_waits_has_its_way_and_one_open_request() -> None:
    shown = reduced(*ASKED)
    run = shown["run"]
    assert (run["state"], run["sessionId"], run["prompt"], shown["over"]) == ("awaiting_approval", "s", "p", False)
    assert [(step["number"], step["trigger"], step["at"]) for step in run["path"]] == [
        (1, "request_tools", 3000),
        (2, "ask_approval", 5000),
    ]
    assert shown["open"]["requestId"] == "req-1"
    assert shown["open"]["expiresAt"] == 300_000
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
def test_a_decision_made_anywhere_closes_the_request(trigger: str, dest: str, verdict: str) -> None:
    shown = reduced(*ASKED, passage("awaiting_approval", dest, trigger))
    assert shown["open"] is None
    assert [entry["verdict"] for entry in shown["run"]["entries"] if entry["kind"] == "approval"] == [verdict]


def test_a_tool_call_is_one_entry_from_question_to_result() -> None:
    run = reduced(*ASKED, tool("executing"), tool("completed", result={"ok": True}, truncated=True))["run"]
    (call,) = [entry for entry in run["entries"] if entry["kind"] == "tool"]
    assert (call["status"], call["startedAt"], call["endedAt"]) == ("completed", 7000, 8000)
    assert (call["result"], call["isShortened"]) == ({"ok": True}, True)


def test_the_answer_is_all_pieces_joined_and_the_end_ends_it() -> None:
    pieces = [
        {"type": "content", "content": text, "chunk": more}
        for text, more in (("가", True), ("나", True), ("다", False))
    ]
    end = {"type": "end", "status": "completed", "message": "완료", "usage": {"totalTokens": 3}}
    shown = reduced(START, *pieces, end)
    assert (shown["run"]["answer"], shown["run"]["isAnswering"], shown["over"]) == ("가나다", False, True)
    assert shown["run"]["end"]["usage"] == {"totalTokens": 3}


def test_plan_steps_are_kept_in_order_and_updated_in_place() -> None:
    def step(id: str, order: int, **more: Any) -> dict[str, Any]:
        fields = {"title": id.upper(), "description": "", "status": "pending", "order": order}
        return {"type": "plan_step", "stepId": id, **fields, "confidence": 0.5, "confidenceSource": "none", **more}

    second = step("b", 2, confidence=0.9, confidenceSource="model")
    update = {"type": "plan_step_update", "stepId": "a", "status": "completed", "progress": 1}
    plan = reduced(START, second, step("a", 1), update)["run"]["plan"]
    assert [(it["id"], it["title"], it["status"], it["confidence"]) for it in plan] == [
        ("a", "A", "completed", None),  # a confidence that nobody stated is not shown as one half
        ("b", "B", "pending", 0.9),
    ]


def test_what_did_not_change_stays_the_same_object_and_the_unknown_changes_nothing() -> None:
    kept = (
        _REDUCE
        + """
    const more = module.reduced(run, { type: "content", content: "x", chunk: true }, 9e6);
    const odd = module.reduced(run, { type: "of tomorrow" }, 9e6);
    return [more.entries === run.entries, more.path === run.path, odd === run];
    """
    )
    assert in_node("reduce.js", kept, EVENTS=ASKED) == [True, True, True]


def test_durations_and_countdowns_are_short() -> None:
    program = "return [40, 1234, 125000, 3720000].map(module.duration).concat([299001, 0, -5].map(module.countdown));"
    assert in_node("words.js", program) == ["40 ms", "1.2 s", "2 m 05 s", "1 h 02 m", "5:00", "0:00", "0:00"]
