"""The language model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from statemachine.stored import JsonObject
from statemachine.turn import ModelDelta


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model of an agent, and the options of its requests, instead of those of the settings.

    `name` is a model at the main server; None: the one of the settings. Servers that stand in for the main one have
    other models, so they keep their own name and options.
    """

    name: str | None
    options: JsonObject


class Model(Protocol):
    """The language model."""

    @property
    def name(self) -> str: ...

    def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, choice: ModelChoice | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """Requests one turn and yields it as it arrives, in order: chunks that arrive together are one `ModelDelta`.

        `tools` is the `tools` array of a chat completion request, `choice` that of the run's agent. Leaving the context
        ends the turn. Entering it and iterating raise `ModelError`.
        """
        ...
