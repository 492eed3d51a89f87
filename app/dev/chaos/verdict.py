"""Compares what clients received with what is stored, and the executed tool calls with the decisions. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from app.dev.chaos.clients import DONE_BODY, Frame, RunRecord
from app.dev.chaos.plan import MCP_TOOL, NOTICE_TOOL, RunKind, RunPlan, did_not_run
from app.dev.chaos.takeover import Takeovers
from statemachine.outside_text import WARNING_CODE
from statemachine.sessions import user_id_of

_EXCERPT_CHARACTERS = 40


@dataclass(slots=True)
class Counts:
    """The figures that must all be zero."""

    lost_events: int = 0
    duplicate_ids: int = 0
    gaps: int = 0
    foreign_frames: int = 0
    """Frames that are missing in the run's event log, or are different there."""
    wrong_answers: int = 0
    wrong_ends: int = 0
    tools_run_twice: int = 0
    """Executions of a tool beyond the number of approvals."""
    calls_lost: int = 0
    """Approved tool calls that were neither executed nor requested again."""
    changed_keys: int = 0
    """Idempotency keys with which a service got the attempts of a call, beyond one for each call."""
    unguarded_calls: int = 0
    """Calls that send something after text from outside, about which a person was not asked, or not warned."""
    not_finished: int = 0
    second_ends: int = 0
    runs_too_many: int = 0
    """Stored runs that no client started."""
    broken: int = 0
    """Nodes that failed without a fault, and responses that no client should receive."""
    late_takeovers: int = 0


@dataclass(slots=True)
class Verdict:
    """The figures, and a text for each that is not zero."""

    counts: Counts = field(default_factory=Counts)
    findings: list[str] = field(default_factory=list)
    lost_by_replication: list[str] = field(default_factory=list)
    """A text for each run of which a failover has lost acknowledged writes, as an asynchronous one may. They are not
    among the counts."""

    @property
    def is_good(self) -> bool:
        return not any(getattr(self.counts, name) for name in Counts.__slots__)

    def add(self, name: str, words: str, count: int = 1) -> None:
        if count > 0:
            setattr(self.counts, name, getattr(self.counts, name) + count)
            self.findings.append(f"{name.replace('_', ' ')}: {words}")

    def merge(self, other: Verdict) -> None:
        for name in Counts.__slots__:
            setattr(self.counts, name, getattr(self.counts, name) + getattr(other.counts, name))
        self.findings += other.findings


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that an experiment left to be judged."""

    records: Sequence[RunRecord]
    planned: int
    logs: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    """The frames in the Redis Stream of each run, by session id; of an absent run, the stream could not be read."""
    executions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How often each tool was executed, for each mark of a run (`RunPlan.mark`)."""
    keys: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """With how many different idempotency keys each tool was executed, likewise, where its service gets them."""
    has_mcp: bool = False
    """Whether there was an MCP server."""
    away_times: Sequence[tuple[float, float]] = ()
    """From when to when (Unix s) some node may have been without the MCP server."""
    stored_runs: frozenset[str] = frozenset()
    node_problems: Sequence[str] = ()
    takeovers: Takeovers = field(default_factory=Takeovers)
    lossy_times: Sequence[tuple[float, float]] = ()
    """From when to when (Unix s) a master was replaced by one that may lack acknowledged writes."""
    has_replicas: bool = False
    """Whether replicas have acknowledged what must happen at most once: then no failover excuses a second time."""
    is_interrupted: bool = False
    """Whether the experiment was ended early: then runs may be unfinished."""


def judge(evidence: Evidence) -> Verdict:
    verdict = Verdict()
    if not evidence.is_interrupted:
        verdict.add("not_finished", "runs that were never started", evidence.planned - len(evidence.records))
    users_with_losses = {record.plan.user for record in evidence.records if _judge_run(verdict, record, evidence)}
    known = {record.session_id for record in evidence.records}
    unknown = sorted(evidence.stored_runs - known)
    if evidence.is_interrupted:  # a client may not have read yet which run it has started
        unknown = unknown[sum(record.session_id is None for record in evidence.records) :]
    for session_id in unknown:
        # A request that a node handles late starts a run again where a failover has lost its idempotency key.
        if user_id_of(session_id) in users_with_losses:
            verdict.lost_by_replication.append(f"{session_id}: one run too many")
        else:
            verdict.add("runs_too_many", f"no client started {session_id}")
    for problem in evidence.node_problems:
        verdict.add("broken", problem)
    for late in evidence.takeovers.late:
        verdict.add("late_takeovers", late)
    return verdict


def _judge_run(verdict: Verdict, record: RunRecord, evidence: Evidence) -> bool:
    """Judge one run; what an asynchronous failover has lost of it is noted apart. Return whether it has lost any."""
    log = evidence.logs.get(record.session_id or "", ())
    found = Verdict()
    if record.session_id is None or record.session_id in evidence.logs:
        _judge_stream(found, record, log)
    _judge_end(found, record, log, is_interrupted=evidence.is_interrupted)
    _judge_failed_calls(found, record, log, evidence)
    for problem in record.problems:
        found.add("broken", f"{_name(record)}: {problem}")
    tools = Verdict()
    _judge_tool_calls(tools, record, log, evidence)
    _judge_guard(tools, record, log)
    lost = Verdict()
    for part, is_excused in ((found, _knows_its_end(record)), (tools, not evidence.has_replicas)):
        (lost if is_excused and _overlaps(record, evidence.lossy_times) else verdict).merge(part)
    if not lost.is_good:
        counts = ", ".join(f"{count} {name}" for name, count in asdict(lost.counts).items() if count)
        verdict.lost_by_replication.append(f"{_name(record)}: {counts.replace('_', ' ')}")
    return not lost.is_good


def _overlaps(record: RunRecord, times: Sequence[tuple[float, float]]) -> bool:
    """Return whether the run was under way in one of these times, such as when a failover could lose writes."""
    return any(since <= record.ended_at and record.started_at <= until for since, until in times)


def _knows_its_end(record: RunRecord) -> bool:
    """Return whether the client knows how its run has ended: well, or that storage has lost it."""
    events = _events(record.frames)
    if record.is_gone or any(event.get("errorType") == "StorageUnavailable" for event in events):
        return True
    end = next((event["status"] for event in events if event["type"] == "end"), None)
    is_expected = end == _expected_end(record) or (end == "cancelled" and record.cancelled)
    return record.is_done and is_expected and _is_right(record, end)


def _judge_stream(verdict: Verdict, record: RunRecord, log: Sequence[Frame]) -> None:
    """A client must receive exactly the frames of the event log, in their order."""
    stored = dict(log)
    seen: Counter[int] = Counter(id for id, _ in record.frames)
    name = _name(record)
    disorder = [at for at, ((earlier, _), (later, _)) in enumerate(pairwise(record.frames), 1) if later <= earlier]
    verdict.add("duplicate_ids", f"{name}: {_places(record, disorder[:5])}", len(disorder))
    verdict.add("duplicate_ids", f"{name}: its log holds ids twice", len(log) - len(stored))
    foreign = [id for id, body in record.frames if stored.get(id) != body]
    verdict.add("foreign_frames", f"{name}: {foreign[:5]}", len(foreign))
    if not record.is_done:
        log = [frame for frame in log if record.frames and frame[0] <= record.frames[-1][0]]
    missing = [id not in seen for id, _ in log]
    lost = [id for id, _ in log if id not in seen]
    verdict.add("lost_events", f"{name}: {lost[:5]}", len(lost))
    verdict.add("gaps", f"{name}", sum(now and not before for before, now in pairwise([False, *missing])))


def _places(record: RunRecord, places: Sequence[int]) -> str:
    """Return the ids of the frames at these places, and over which connections the frames of the run came."""
    connections = ", ".join(f"{it.node_url} after {it.frames_before} frames" for it in record.connections)
    return f"{[record.frames[at][0] for at in places]} after {[*places]} frames; connected to {connections}"


def _judge_end(verdict: Verdict, record: RunRecord, log: Sequence[Frame], *, is_interrupted: bool) -> None:
    name, plan = _name(record), record.plan
    if not record.is_done and not is_interrupted:
        last = str(record.frames[-1:])[:300]
        verdict.add("not_finished", f"{name}: after {len(record.frames)} frames, the last {last}")
    ends = [event["status"] for event in _events(log) if event["type"] == "end"]
    marks = [index for index, (_, body) in enumerate(log) if body == DONE_BODY]
    verdict.add("second_ends", f"{name}: {ends}", max(len(ends), len(marks)) - 1)
    if marks and marks[0] != len(log) - 1:
        verdict.add("second_ends", f"{name}: a frame follows the end")
    if not ends:
        return
    expected = _expected_end(record)
    if ends[0] != expected and not (ends[0] == "cancelled" and record.cancelled):
        messages = [event.get("message") for event in _events(log) if event["type"] in ("error", "end")]
        verdict.add("wrong_ends", f"{name}: {ends[0]} instead of {expected}, {messages}")
    if record.is_done and not _is_right(record, ends[0]):
        verdict.add("wrong_answers", f"{name}: {_difference(plan.text, _answer(record))}")


def _expected_end(record: RunRecord) -> str:
    return "rejected" if any(decision.verdict == "rejected" for decision in record.decisions) else "completed"


def _is_right(record: RunRecord, end: str | None) -> bool:
    """Return whether the client has the whole answer, or the beginning of it where the run was stopped."""
    answer, text = _answer(record), record.plan.text
    return answer == text if end == "completed" else text.startswith(answer)


def _answer(record: RunRecord) -> str:
    return "".join(event["content"] for event in _events(record.frames) if event["type"] == "content")


def _judge_tool_calls(verdict: Verdict, record: RunRecord, log: Sequence[Frame], evidence: Evidence) -> None:
    """A tool may run at most once for each approval, and not for one whose call is reported as not made.

    In a run that completed, the last approval of a tool must be executed, and each call must have its outcome.
    """
    plan, name = record.plan, _name(record)
    ends_of_run = [event["status"] for event in _events(log) if event["type"] == "end"]
    is_completed = "completed" in ends_of_run
    calls = _calls(log)
    for tool, executions_by_mark in evidence.executions.items():
        executions = executions_by_mark.get(plan.mark(tool), 0)
        decisions = [decision.verdict for decision in record.decisions if decision.tool == tool]
        approvals = decisions.count("approved")
        ends = [call.last for call in calls if call.tool == tool]
        completed, not_made = ends.count("completed"), sum(call.tool == tool and call.was_not_made for call in calls)
        words = f"approved {approvals} times" + (f", {not_made} of them reported as not made" if not_made else "")
        excess = executions - max(0, approvals - not_made)
        verdict.add("tools_run_twice", f"{name}: {tool} ran {executions} times, {words}", excess)
        keys = evidence.keys.get(tool, {}).get(plan.mark(tool), 0)
        started = sum(call.tool == tool and call.was_started for call in calls)
        if ends_of_run:  # else a call can have been started after its log was read
            verdict.add("changed_keys", f"{name}: {keys} keys for {started} calls of {tool}", keys - started)
        reported = f"{name}: {tool} is reported as completed {completed} times, and ran {executions} times"
        verdict.add("calls_lost", reported, completed - executions)
        is_missing = not decisions or (decisions[-1] == "approved" and not executions)
        if is_completed and tool in plan.kind.tools and is_missing:
            words = f"{tool} was {decisions or 'never requested'}, and ran {executions} times"
            verdict.add("calls_lost", f"{name}: {words}")
    for call in calls if is_completed else ():
        if call.last not in _OUTCOMES:
            verdict.add("calls_lost", f"{name}: {call.tool} has no outcome, its last status is {call.last}")


_OUTCOMES = ("completed", "failed", "rejected")


@dataclass(slots=True)
class _Call:
    """What the log says of one call: its last status and error, and whether it was started."""

    tool: str
    last: str = ""
    error: str = ""
    was_started: bool = False

    @property
    def was_not_made(self) -> bool:
        """Whether it was started, and then found to be impossible: its MCP server was away."""
        return self.tool == MCP_TOOL and self.was_started and self.last == "failed" and did_not_run(self.error)


def _calls(log: Sequence[Frame]) -> list[_Call]:
    """Return the calls in the log of a run, in the order in which they first appear."""
    calls: dict[str, _Call] = {}
    for event in _events(log):
        if event["type"] == "tool_execution":
            call = calls.setdefault(event["toolCallId"], _Call(event["toolName"]))
            call.last, call.error = event["status"], str(event.get("error") or "")
            call.was_started |= event["status"] == "executing"
    return list(calls.values())


def _judge_guard(verdict: Verdict, record: RunRecord, log: Sequence[Frame]) -> None:
    """After text from outside, a person must be asked about a tool that sends something, and must see why."""
    if record.plan.kind is not RunKind.OUTSIDE_TEXT:
        return
    name, is_asked = _name(record), False
    for event in _events(log):
        if event["type"] == "hitl" and event["actionType"] == NOTICE_TOOL:
            is_asked = True
            codes = [warning["code"] for warning in event.get("warnings") or ()]
            if WARNING_CODE not in codes:
                verdict.add("unguarded_calls", f"{name}: the request for {NOTICE_TOOL} has no warning, but {codes}")
        started = event["type"] == "tool_execution" and event["status"] in ("executing", "completed")
        if started and event["toolName"] == NOTICE_TOOL and not is_asked:
            verdict.add("unguarded_calls", f"{name}: {NOTICE_TOOL} was started, and nobody was asked")
            return


def _judge_failed_calls(verdict: Verdict, record: RunRecord, log: Sequence[Frame], evidence: Evidence) -> None:
    """No call may fail, but one that was not made while its MCP server was away."""
    failed = [event for event in _events(log) if event["type"] == "tool_execution" and event["status"] == "failed"]
    for event in failed if not record.cancelled else ():
        error = str(event.get("error"))
        is_honest = event["toolName"] == MCP_TOOL and did_not_run(error)
        if not (is_honest and _overlaps(record, evidence.away_times)):
            verdict.add("calls_lost", f"{_name(record)}: {event['toolName']} failed: {error}")


def _events(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    data = (body.partition(b"data: ")[2] for _, body in frames if body != DONE_BODY)
    return [json.loads(one) for one in data]


def _difference(expected: str, answer: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, answer, strict=False)) if a != b), None)
    at = min(len(expected), len(answer)) if at is None else at
    return (
        f"{len(answer)} of {len(expected)} characters, from {at} on {answer[at : at + _EXCERPT_CHARACTERS]!r}"
        f" instead of {expected[at : at + _EXCERPT_CHARACTERS]!r}"
    )


def _name(record: RunRecord) -> str:
    plan: RunPlan = record.plan
    return f"run {plan.number} ({plan.kind.value}, {record.session_id})"


def outcomes_asked(records: Sequence[RunRecord]) -> Counter[str]:
    """How often an approver was asked about a call that may already have been executed, for each tool."""
    return Counter(decision.tool for record in records for decision in record.decisions if decision.outcome_unknown)


def calls_not_made(evidence: Evidence) -> int:
    """How many approved calls are reported as not made, because their MCP server was away."""
    return sum(call.was_not_made for log in evidence.logs.values() for call in _calls(log))
