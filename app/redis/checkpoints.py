"""Checkpoints as they are stored: with a MAC, and without the texts that many runs share.

The instructions of an operator (`AURA_SYSTEM_PROMPT_FILE`) can have 64 KiB, and every conversation begins with them.
They are stored once, under their digest, for as long as a run refers to them. So each replica can continue each run,
whatever file it has itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.errors import RecordChanged
from app.ports.clock import Clock
from app.redis import keys
from app.redis.seals import CheckpointSeal
from app.redis.wire.connection import Connection
from statemachine.checkpoint import Checkpoint
from statemachine.errors import SharedTextMissing
from statemachine.instructions import shared_beginning, text_digest

_MIN_BYTES = 256
"""A shorter text is not worth a reference of 64 characters and a key of its own."""
_KEEP_SECONDS = 60
"""A text that runs refer to is written again after this time, so it comes back even if Redis has lost it."""
_UNKNOWN_TEXTS = 100
"""How many texts of other replicas a process remembers; files are replaced rarely."""


class Checkpoints:
    """Stores checkpoints with references to shared texts, and keeps these texts while runs refer to them."""

    def __init__(
        self,
        connection: Connection,
        seal: CheckpointSeal,
        clock: Clock,
        texts: Iterable[str],
        *,
        retention_seconds: int,
    ) -> None:
        """`texts` are those with which the system prompts of this process begin."""
        self._connection = connection
        self._seal = seal
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._shared = {text_digest(text): text for text in texts if len(text.encode()) >= _MIN_BYTES}
        self._own_count = len(self._shared)
        self._kept_at: dict[str, float] = {}

    async def seal(self, checkpoint: Checkpoint) -> bytes:
        """Return the checkpoint as it is stored. The text that it refers to is stored before. Raises
        `StorageUnavailable`."""
        await self._keep_text_of(checkpoint)
        return self._seal.seal(checkpoint, self._shared)

    async def open(self, session_id: str, stored: bytes) -> Checkpoint:
        """Return a stored checkpoint of this session.

        Raises `RecordChanged`, `CheckpointTooNew`, `CheckpointUnreadable`, `StorageUnavailable`.
        """
        try:
            checkpoint = self._seal.open(session_id, stored, self._shared)
        except SharedTextMissing as missing:
            await self._fetch_text(missing)
            checkpoint = self._seal.open(session_id, stored, self._shared)
        await self._keep_text_of(checkpoint)  # reading a thread prolongs the life of its checkpoints
        return checkpoint

    async def _keep_text_of(self, checkpoint: Checkpoint) -> None:
        digest = shared_beginning(checkpoint.messages, self._shared)
        if digest is None:
            return
        now, every = self._clock.now(), min(_KEEP_SECONDS, self._retention_seconds / 2)
        if now - self._kept_at.get(digest, 0) < every:
            return
        # What refers to it is written within half a retention time, and lives for one.
        lifetime = 2 * self._retention_seconds
        await self._connection.execute("SET", keys.shared_text(digest), self._shared[digest], "EX", lifetime)
        self._kept_at[digest] = now

    async def _fetch_text(self, missing: SharedTextMissing) -> None:
        """Get a text that another replica has stored.

        Raises `RecordChanged` where it is gone or is another one: the run must not continue with other instructions.
        """
        (stored,) = await self._connection.get_many([keys.shared_text(missing.digest)])
        text = "" if stored is None else stored.decode("utf-8", "replace")
        if text_digest(text) != missing.digest:
            raise RecordChanged(f"{keys.shared_text(missing.digest)}, the instructions of runs, is gone or was changed")
        if len(self._shared) >= self._own_count + _UNKNOWN_TEXTS:
            del self._shared[list(self._shared)[self._own_count]]  # the one that was fetched first
        self._shared[missing.digest] = text
