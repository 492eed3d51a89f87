"""Measures how long each run had no owner, from the logs of the nodes and the injected faults. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.dev.chaos.faults import FaultKind
from app.dev.chaos.injected import InjectedFault

MARGIN_SECONDS = 2.0
_LINES_SECONDS = 1.0
"""How much later than the takeover that it leads to the log line about a run that was listed again may be."""

LogLine = Mapping[str, Any]


@dataclass(slots=True)
class Takeovers:
    """Takeovers by their cause (a `FaultKind`, or `other`): the slowest, the number, and texts about late ones."""

    slowest_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)

    @property
    def slowest_bounded_seconds(self) -> float:
        """The slowest takeover whose time the lease bounds, without the time in which Redis was unavailable (s)."""
        return max((self.slowest_seconds.get(kind.value, 0.0) for kind in FaultKind if kind.is_bounded), default=0.0)


def parse_log(text: str) -> list[dict[str, Any]]:
    """The lines of a log that are JSON objects; other lines are not the service's and are skipped."""
    found = []
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # a kill can cut a line short
    return found


def measure(logs: Sequence[Iterable[LogLine]], injected: Sequence[InjectedFault], lease_seconds: float) -> Takeovers:
    """Measure the takeovers. `logs` are the log lines of each node, in the order of the nodes.

    The cause of a takeover is the first fault of the former owner since that process joined. Where there is none (the
    node lost its lease because Redis was unavailable or the machine was slow), the takeover counts as `other`. A run
    that was created after the fault (a request of a disconnected node arrived late) had no owner since its creation;
    if the node never received the reply to that creation, since the end of the fault. The takeover of a run that had to
    be listed again with its former owner, because a failover had lost what was known of it, has no bound.
    """
    found_again = {
        (str(line["sessionId"]), str(line["ofNode"])): time_of(line) for _, line in _lines(logs, "run.listed_again")
    }
    runs = _Runs(
        owners={str(line["nodeId"]): (index, time_of(line)) for index, line in _lines(logs, "node.joined")},
        started_at={(index, str(line["sessionId"])): time_of(line) for index, line in _lines(logs, "run.started")},
        unconfirmed={(index, str(line["sessionId"])) for index, line in _lines(logs, "run.creation_unconfirmed")},
    )
    result = Takeovers()
    for _, line in _lines(logs, "run.taken_over"):
        at, former, session_id = time_of(line), str(line["fromNode"]), str(line["sessionId"])
        owner = runs.owners.get(former)
        cause = _cause(owner, at, injected)
        if cause is None or owner is None or found_again.get((session_id, former), math.inf) <= at + _LINES_SECONDS:
            result.counts["other"] = result.counts.get("other", 0) + 1
            continue
        since = runs.without_owner_since((owner[0], session_id), cause, at)
        outage = _outage_seconds(since, at, injected)
        seconds, kind = at - since - outage, cause.kind.value
        result.counts[kind] = result.counts.get(kind, 0) + 1
        result.slowest_seconds[kind] = max(result.slowest_seconds.get(kind, 0.0), seconds)
        if cause.kind.is_bounded and seconds > lease_seconds + MARGIN_SECONDS:
            result.late.append(
                f"{session_id} was taken over from {former} {seconds:.2f} s after its {kind}"
                f" (and {outage:.2f} s in which Redis was unavailable)"
            )
    return result


@dataclass(frozen=True, slots=True)
class _Runs:
    """The nodes and runs in the cluster's logs. A run is identified by the index of its node and its session id."""

    owners: Mapping[str, tuple[int, float]]
    """The index of each node and when it joined, by its id; a node joins under a new id after every start."""
    started_at: Mapping[tuple[int, str], float]
    unconfirmed: AbstractSet[tuple[int, str]]
    """The runs for whose creation the node received no reply."""

    def without_owner_since(self, run: tuple[int, str], cause: InjectedFault, taken_over_at: float) -> float:
        since = max(cause.since, self.started_at.get(run, 0.0))
        return max(since, cause.until) if run in self.unconfirmed and taken_over_at >= cause.until else since


def _lines(logs: Sequence[Iterable[LogLine]], event: str) -> Iterator[tuple[int, LogLine]]:
    """The lines of an event, each with the index of its node."""
    return ((index, line) for index, log in enumerate(logs) for line in log if line["event"] == event)


def _cause(owner: tuple[int, float] | None, at: float, injected: Sequence[InjectedFault]) -> InjectedFault | None:
    if owner is None:
        return None
    index, since = owner
    faults = [
        fault for fault in injected if fault.kind.ends_lease and fault.node == index and since <= fault.since <= at
    ]
    return min(faults, key=lambda fault: fault.since, default=None)


def _outage_seconds(since: float, until: float, injected: Sequence[InjectedFault]) -> float:
    """Return for how long of this time at least one fault interrupted Redis."""
    seconds, covered = 0.0, since
    for start, end in sorted(fault.outage for fault in injected if fault.outage is not None):
        seconds += max(0.0, min(until, end) - max(covered, start))
        covered = max(covered, end)
    return seconds


def time_of(line: LogLine) -> float:
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()
