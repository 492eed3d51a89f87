"""A proved, or disproved, property of the state machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    """One property: its claim, what was checked, and a path on which it does not hold, if there is one."""

    claim: str
    coverage: str
    counterexample: str | None = None

    @property
    def holds(self) -> bool:
        return self.counterexample is None
