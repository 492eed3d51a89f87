"""What is recorded of a fault that was injected, and of the outage of Redis that it causes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from app.dev.chaos.faults import FaultKind


@dataclass(slots=True)
class Outage:
    """From when to when (Unix s) some runs cannot be written. It is noted meanwhile: a fault can be cancelled."""

    since: float = 0.0
    until: float = 0.0
    replaces_master: bool = False
    """Whether another server becomes the master, which may lack writes that the former one has acknowledged."""
    replaces_successor: bool = False
    """Whether that one is replaced, too, in the same failover: the last one lacks what it acknowledged meanwhile."""
    calls_under_way: int = 0
    """How many calls were under way in the MCP server when it was killed."""

    @property
    def is_open(self) -> bool:
        """Whether the outage has begun and has not ended."""
        return self.until == math.inf

    def begin(self) -> None:
        """Note that runs cannot be written from now on."""
        self.since, self.until = time.time(), math.inf

    def end(self) -> None:
        """Note that all runs can be written again."""
        self.until = time.time()


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault that was injected, with its start and end (Unix s). `node` is -1 for a fault of another server.

    A fault of Redis ends when the servers have healed, which can be long after its outage.
    """

    kind: FaultKind
    node: int
    since: float
    until: float
    outage: tuple[float, float] | None = None
    """From when to when (Unix s) some runs could not be written; None where all could."""
    replaced_master: bool = False
    """Whether another server became the master, which may lack writes that the former one had acknowledged."""
    replaced_successor: bool = False
    """Whether that one was replaced, too, by a server that lacks what it had acknowledged."""
    calls_under_way: int = 0
    """How many calls were under way in the MCP server when it was killed."""
