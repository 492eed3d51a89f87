"""The targets: the figures of comparable services, and the upper limits of this one.

The comparable services are FastAPI + LangGraph + uvicorn + Redis with three different model clients. They are well
written but guarantee less: they have no takeover, and a list instead of a fenced journal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table: `at_most` is the upper limit of this service; the other figures are given as text."""

    work: str
    unit: str
    at_most: float
    langchain: str = ""
    openai_sdk: str = ""
    hand_tuned: str = ""


TARGETS: dict[str, Target] = {
    "chat": Target("chat, 200 answer tokens, 32 clients", "ms CPU", 2.5, "56", "23", "2.7–3.5"),
    "paced": Target("paced, 200 tokens 10 ms apart, 16 clients", "ms CPU", 15, "102", "60", "30"),
    "tools": Target("5 tool calls + 20 tokens, 32 clients", "ms CPU", 5, "57", "27", "6.2"),
    "approval": Target("approval + 20 tokens, 32 clients", "ms CPU", 4, "27", "10.5", "5.8"),
    "decision_p50": Target("decision published → next event, p50", "ms", 0.8, "", "1.3", "1.3"),
    "decision_p99": Target("decision published → next event, p99", "ms", 1.6, "", "2.0", "2.1"),
    "memory_streaming": Target("memory per waiting run, stream open", "KB", 35, "43", "40", "39"),
    "memory_gone": Target("memory per waiting run, client gone", "KB", 6),
    "redis_waiting": Target("Redis per waiting run", "KB", 7),
    "redis_ended": Target("Redis per run that was approved and has ended", "KB", 11),
    "redis_answered": Target("Redis per run that has answered", "KB", 5),
    "approved_2000": Target("2,000 waiting runs approved at once: all done after", "s", 4, "40", "13", "5.5"),
    "connections": Target("Redis connections of a process", "", 8, "2–32", "2–32"),
}
