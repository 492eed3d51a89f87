"""Asks several model servers in order: the next one where one is down (`ports.model.Model`).

A turn moves to the next server only before its first word. What breaks later is the run's to request again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from app.errors import ModelError
from app.ports.model import Model, ModelChoice
from statemachine.stored import JsonObject
from statemachine.turn import ModelDelta

log = structlog.get_logger(__name__)

REST_SECONDS = 30.0
"""So long a server that was down is asked last: not every turn shall wait for it again."""

_MAX_REST_SECONDS = 300.0
"""The limit of a longer rest that the server itself demands (`Retry-After`)."""

_MAY_PASS = frozenset({"unavailable", "timeout", "interrupted"})
_ACCOUNT_STATUSES = frozenset({401, 402, 403, 404, 429})
"""Statuses of a refusal for the key, the credit, the permission, the model's name, or the quota."""


class ClosableModel(Model, Protocol):
    """A model with connections of its own."""

    async def close(self) -> None: ...


_WHOLE_SERVER = ""


@dataclass(slots=True)
class _Server:
    """A server, and the monotonic times until which it is asked last: as a whole, or for the model of that name.

    There is no time where it was not down when it was last asked.
    """

    model: ClosableModel
    rests_until: dict[str, float] = field(default_factory=dict)

    def rests(self, name: str, now: float) -> bool:
        return any(now < self.rests_until.get(key, now) for key in (_WHOLE_SERVER, name))

    def extend_rest(self, name: str, until: float) -> None:
        """Let a server that was down rest until it has answered this turn, so that other turns do not wait for it."""
        for key in (_WHOLE_SERVER, name):
            if key in self.rests_until:
                self.rests_until[key] = max(self.rests_until[key], until)

    def end_rest(self, name: str) -> None:
        for key in (_WHOLE_SERVER, name):
            self.rests_until.pop(key, None)


class FallbackModel:
    """Several models, of which the first one that is not down answers a turn. Its name is that of the first model."""

    def __init__(self, models: Sequence[ClosableModel], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`monotonic` returns the time in seconds by which servers rest."""
        if not models:
            raise ValueError("at least one model is required")
        self.name = models[0].name
        self._servers = [_Server(model) for model in models]
        self._monotonic = monotonic

    async def close(self) -> None:
        for server in self._servers:
            await server.model.close()

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, choice: ModelChoice | None = None
    ) -> AsyncIterator[AsyncIterator[ModelDelta]]:
        failures: list[ModelError] = []
        for server, own, name in self._in_order(choice):
            async with AsyncExitStack() as stack:
                server.extend_rest(name, self._monotonic() + REST_SECONDS)
                try:
                    arrivals = await stack.enter_async_context(server.model.stream(messages, tools, choice=own))
                    beginning = await _read_until_word(arrivals)
                except ModelError as error:
                    failures.append(_with_cause(error, f"{name}: {error.cause}"))
                    if not _is_down(error):
                        server.end_rest(name)
                        raise failures[-1] from error
                    # A wrong name or a quota can concern this model alone, and other agents have others.
                    resting = name if error.server_status in _ACCOUNT_STATUSES else _WHOLE_SERVER
                    server.rests_until[resting] = self._monotonic() + _rest_seconds(error)
                    log.warning(
                        "model.failed",
                        model=name,
                        kind=error.kind,
                        cause=error.cause,
                        detail=error.detail or None,
                    )
                    continue
                server.end_rest(name)
                yield await stack.enter_async_context(aclosing(_continued(beginning, arrivals)))
                return
        raise _decisive(failures)

    def _in_order(self, choice: ModelChoice | None) -> list[tuple[_Server, ModelChoice | None, str]]:
        """Return the servers in the order in which a turn asks them: those that rest come last.

        With each is what it gets of the choice, which is for the main server alone, and the name of its model.
        """
        now, main = self._monotonic(), self._servers[0]
        chosen = main.model.name if choice is None or choice.name is None else choice.name
        asked = [(main, choice, chosen), *((server, None, server.model.name) for server in self._servers[1:])]
        return sorted(asked, key=lambda one: one[0].rests(one[2], now))


def _is_down(error: ModelError) -> bool:
    """Return whether another server may answer a turn that failed with this error before its first word.

    Errors of the request itself (400, 422, a context that is too long) would only be repeated. A wrong key or model
    name, an exhausted quota or a missing permission concerns this server alone: the run must not fail for it, and the
    log says what the operator has to correct. A stream that breaks before its first word is the same as no response.
    """
    if error.kind == "refused":
        return error.server_status in _ACCOUNT_STATUSES or (error.server_status or 0) >= 500
    return error.kind in _MAY_PASS or error.kind == "not_configured"


def _rest_seconds(error: ModelError) -> float:
    demanded = error.model_retry_after_seconds
    return REST_SECONDS if demanded is None else min(demanded, _MAX_REST_SECONDS)


async def _read_until_word(arrivals: AsyncIterator[ModelDelta]) -> list[ModelDelta]:
    """Read up to the first text, thought or call, or to the reason of the end. Raises `ModelError`."""
    read: list[ModelDelta] = []
    async for delta in arrivals:
        read.append(delta)
        if delta.text or delta.reasoning or delta.calls or delta.finish_reason:
            return read
    raise ModelError("interrupted", "the stream ended before its first word")


async def _continued(
    beginning: Sequence[ModelDelta], arrivals: AsyncIterator[ModelDelta]
) -> AsyncGenerator[ModelDelta, None]:
    for delta in beginning:
        yield delta
    async for delta in arrivals:
        yield delta


def _decisive(failures: Sequence[ModelError]) -> ModelError:
    """Return the error of a turn that no server answered: the last one that may pass, else the last one.

    So the turn is requested again if that can help.
    """
    passing = [error for error in failures if error.kind in _MAY_PASS]
    error = (passing or failures)[-1]
    return _with_cause(error, f"none of {len(failures)} models answered; {error.cause}")


def _with_cause(error: ModelError, cause: str) -> ModelError:
    return ModelError(
        error.kind,
        cause,
        error.model_retry_after_seconds,
        detail=error.detail,
        server_status=error.server_status,
    )
