"""How long each run was without an owner: from the nodes' logs and the faults that happened. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.dev.chaos.cluster import InjectedFault
from app.dev.chaos.plan import FaultKind

MARGIN_SECONDS = 2.0

LogLine = Mapping[str, Any]


@dataclass(slots=True)
class Takeovers:
    """The slowest and the number of claims by what made the owner lose its runs, and those that were too slow."""

    slowest_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)

    @property
    def slowest_bounded_seconds(self) -> float:
        """Of those whose time the lease bounds, Redis' own absence taken off."""
        return max((self.slowest_seconds.get(kind.value, 0.0) for kind in FaultKind if kind.is_bounded), default=0.0)


def parse_log(text: str) -> list[dict[str, Any]]:
    """The JSON lines of a log; others are somebody else's."""
    found = []
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # cut off by a kill
    return found


def measure(logs: Sequence[Iterable[LogLine]], injected: Sequence[InjectedFault], lease_seconds: float) -> Takeovers:
    """`logs` are the nodes', in their order. A claim's cause is the first fault of its former owner since that one
    had its name; of a node that lost its lease by itself (Redis was away, or the machine slow) nothing is counted.
    A run that came to be only after the fault (a cut node's request got through late) was without an owner since then:
    one whose creation was not answered, when the node was cut off no more.
    """
    owners = {
        str(line["node"]): (index, _time(line))
        for index, log in enumerate(logs)
        for line in log
        if line["event"] == "node.joined"
    }
    started_at = {
        (index, str(line["sessionId"])): _time(line)
        for index, log in enumerate(logs)
        for line in log
        if line["event"] == "run.started"
    }
    doubtful = {
        (index, str(line["sessionId"]))
        for index, log in enumerate(logs)
        for line in log
        if line["event"] == "run.doubtful"
    }
    result = Takeovers()
    for line in (line for log in logs for line in log if line["event"] == "run.taken_over"):
        at, former = _time(line), str(line["from_node"])
        owner = owners.get(former)
        cause = _cause(owner, at, injected)
        if cause is None or owner is None:
            result.counts["other"] = result.counts.get("other", 0) + 1
            continue
        run = (owner[0], str(line["session_id"]))
        since = max(cause.since, started_at.get(run, 0.0))
        if run in doubtful and at >= cause.until:
            since = max(since, cause.until)
        away = sum(
            max(0.0, min(at, fault.until) - max(since, fault.since)) for fault in injected if fault.kind.affects_redis
        )
        seconds, kind = at - since - away, cause.kind.value
        result.counts[kind] = result.counts.get(kind, 0) + 1
        result.slowest_seconds[kind] = max(result.slowest_seconds.get(kind, 0.0), seconds)
        if cause.kind.is_bounded and seconds > lease_seconds + MARGIN_SECONDS:
            result.late.append(
                f"{line['session_id']} was taken from {former} {seconds:.2f} s after its {kind}"
                f" (and {away:.2f} s in which Redis was away)"
            )
    return result


def _cause(owner: tuple[int, float] | None, at: float, injected: Sequence[InjectedFault]) -> InjectedFault | None:
    if owner is None:
        return None
    index, since = owner
    upon_it = [fault for fault in injected if fault.node == index and since <= fault.since <= at]
    return min(upon_it, key=lambda fault: fault.since, default=None)


def _time(line: LogLine) -> float:
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()
