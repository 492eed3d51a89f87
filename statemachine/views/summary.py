"""The summary of a run: what a list shows of it, kept beside the checkpoint so that a list never loads one."""

from __future__ import annotations

import msgspec

from statemachine.checkpoint import Checkpoint
from statemachine.states import State

_PROMPT_HEAD_CHARACTERS = 120


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """A run in a few hundred bytes, as a JSON array: a newer release may append fields, which an older one ignores.

    `thread_id` is empty if it is the session id. `prompt_head` is the beginning of the prompt. `request_id` is the
    approval request that the run waits for: what an approver sees is read from the request itself. `agent` is the name
    of its agent, `agent_id` the browser's agent session.
    """

    state: State
    created_at: float
    updated_at: float
    user_id: str
    trace_id: str
    thread_id: str
    prompt_head: str
    agent_id: str | None = None
    request_id: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Summary:
        """Return the summary of a run."""
        request, approval = checkpoint.request, checkpoint.open_approval
        return cls(
            state=checkpoint.state,
            created_at=checkpoint.created_at,
            updated_at=checkpoint.updated_at,
            user_id=request.user_id,
            trace_id=request.trace_id,
            thread_id="" if request.thread_id == request.session_id else request.thread_id,
            prompt_head=request.prompt[:_PROMPT_HEAD_CHARACTERS],
            agent_id=request.agent_id,
            request_id=approval.request_id if approval is not None else None,
            agent=None if checkpoint.agent is None else checkpoint.agent.name,
        )

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Summary | None:
        """Return a stored summary, or None if it cannot be read."""
        try:
            return _decode(text)
        except (ValueError, RecursionError):
            return None


_decode = msgspec.json.Decoder(Summary).decode
