"""The kit for tests of tools: a running service with a scripted model on a real Redis, for code without an event loop.

    def test_a_person_approves_an_order(aura):
        aura.use(order_stock)
        aura.model.calls("order_stock", item="볼트", count=3).answers("주문했습니다.")
        assert aura.run("볼트 3개를 주문해줘").approve().answer == "주문했습니다."

The names are imported when they are used, so that pytest loads the plugin of the kit quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.dev.demo.model import ScriptedModelServer
    from app.dev.demo.redis import RedisServer
    from app.dev.demo.script import ScriptedCall, ScriptedTurn
    from app.testing.clock import ClockAhead
    from app.testing.model import ScriptedModel
    from app.testing.outcomes import Call, OpenRequest, UnexpectedOutcome
    from app.testing.run import AuraRun
    from app.testing.service import AuraService

_MODULES = {
    "AuraRun": "app.testing.run",
    "AuraService": "app.testing.service",
    "Call": "app.testing.outcomes",
    "ClockAhead": "app.testing.clock",
    "OpenRequest": "app.testing.outcomes",
    "RedisServer": "app.dev.demo.redis",
    "ScriptedCall": "app.dev.demo.script",
    "ScriptedModel": "app.testing.model",
    "ScriptedModelServer": "app.dev.demo.model",
    "ScriptedTurn": "app.dev.demo.script",
    "UnexpectedOutcome": "app.testing.outcomes",
}

__all__ = [
    "AuraRun",
    "AuraService",
    "Call",
    "ClockAhead",
    "OpenRequest",
    "RedisServer",
    "ScriptedCall",
    "ScriptedModel",
    "ScriptedModelServer",
    "ScriptedTurn",
    "UnexpectedOutcome",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
