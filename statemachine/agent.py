"""The agent of a run: the model, the options and the tools with which it began, and with which it ends.

The definition is stored once for all runs that have it, under its digest (`statemachine/instructions.py`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from statemachine.instructions import text_digest
from statemachine.stored import JsonObject, StoredStruct, canonical_json


class Agent(StoredStruct, frozen=True, kw_only=True):
    """The definition of a named agent, as it was when the run began.

    `version` is the SHA-256 (hex) of the rest. `model` is a name at the main model server, None for the name in the
    settings; `options` are all options of the requests to that server. `tools` are names or patterns with `*`; None:
    all tools. `instructions` is the SHA-256 of the text with which the system prompt begins. `limits` are those that
    the definition sets; what counts for the run is in its `Limits`.
    """

    version: str = ""
    name: str
    model: str | None = None
    options: JsonObject = {}
    tools: tuple[str, ...] | None = None
    language: str | None = None
    instructions: str = ""
    limits: JsonObject = {}

    @classmethod
    def of(cls, **fields: Any) -> Agent:
        """Return the agent of these fields with its version."""
        agent = cls(**fields)
        return replace(agent, version=text_digest(agent.definition))

    @classmethod
    def from_definition(cls, text: str) -> Agent:
        """Return the agent of a `definition`. Raises `ValueError` where it is none."""
        return replace(_decode(text), version=text_digest(text))

    @property
    def definition(self) -> str:
        """The canonical JSON of everything but the version, which is its digest."""
        return canonical_json(msgspec.to_builtins(replace(self, version="")))

    @property
    def short_version(self) -> str:
        """The first twelve characters of the version, as people see it."""
        return self.version[:12]


_decode = msgspec.json.Decoder(Agent).decode
