"""The language model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from statemachine.stored import JsonObject
from statemachine.turn import ModelDelta


class Model(Protocol):
    """The language model."""

    @property
    def name(self) -> str: ...

    def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """Requests one turn and yields it as it arrives, in order: chunks that arrive together are one `ModelDelta`.

        `tools` is the `tools` array of a chat completion request. Leaving the context ends the turn. Entering it and
        iterating raise `ModelError`.
        """
        ...
