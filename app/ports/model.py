"""The language model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from statemachine.checkpoint import JsonObject
from statemachine.turn import ModelDelta


class Model(Protocol):
    """The language model."""

    @property
    def name(self) -> str: ...

    def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """One turn as it arrives: what came together is one. Leaving the context ends it. Raises `ModelError`."""
        ...
