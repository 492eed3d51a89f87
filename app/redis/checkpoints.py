"""Checkpoints as they are stored: with a MAC, and without the texts that many runs share.

The instructions of an operator (`AURA_SYSTEM_PROMPT_FILE`, `AURA_AGENTS`) can have 64 KiB, and every conversation
begins with them. They are stored once, under their digest, for as long as a run refers to them, and so is the
definition of an agent. So each replica can continue each run, whatever files it has itself.
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
_OTHER_TEXTS = 200
"""How many texts of other replicas and of earlier files a process remembers; files are replaced rarely."""
_TEXTS_OF_A_RUN = 2
"""A checkpoint can refer to its instructions and to the definition of its agent."""


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
        self._shared = _by_digest(texts)
        self._own = frozenset(self._shared)
        self._of_agents: frozenset[str] = frozenset()
        self._kept_at: dict[str, float] = {}

    def share(self, texts: Iterable[str], definitions: Iterable[str]) -> None:
        """Refer from now on to the `texts` and the `definitions` of agents too.

        Those of an earlier call become texts as other replicas have them: runs may still refer to them.
        """
        given = _by_digest(texts) | {text_digest(text): text for text in definitions}
        self._shared.update(given)
        self._of_agents = frozenset(given)
        self._forget_oldest()

    async def seal(self, checkpoint: Checkpoint) -> bytes:
        """Return the checkpoint as it is stored. The texts that it refers to are stored before. Raises
        `StorageUnavailable`."""
        return self._seal.seal(checkpoint, await self._keep_texts_of(checkpoint))

    async def open(self, session_id: str, stored: bytes) -> Checkpoint:
        """Return a stored checkpoint of this session.

        Raises `RecordChanged`, `CheckpointTooNew`, `CheckpointUnreadable`, `StorageUnavailable`.
        """
        for _ in range(_TEXTS_OF_A_RUN):
            try:
                checkpoint = self._seal.open(session_id, stored, self._shared)
                break
            except SharedTextMissing as missing:
                await self._fetch_text(missing)
        else:
            checkpoint = self._seal.open(session_id, stored, self._shared)
        await self._keep_texts_of(checkpoint)  # reading a thread prolongs the life of its checkpoints
        return checkpoint

    async def _keep_texts_of(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Store the texts that a checkpoint can refer to, and return them by their digests: a text that this process
        learns of meanwhile may not be stored."""
        agent = checkpoint.agent
        digests = shared_beginning(checkpoint.messages, self._shared), None if agent is None else agent.version
        texts = {digest: self._shared[digest] for digest in digests if digest is not None and digest in self._shared}
        for digest, text in texts.items():
            await self._keep(digest, text)
        return texts

    async def _keep(self, digest: str, text: str) -> None:
        now, every = self._clock.now(), min(_KEEP_SECONDS, self._retention_seconds / 2)
        if now - self._kept_at.get(digest, 0) < every:
            return
        # What refers to it is written within half a retention time, and lives for one.
        lifetime = 2 * self._retention_seconds
        await self._connection.execute("SET", keys.shared_text(digest), text, "EX", lifetime)
        self._kept_at[digest] = now

    async def _fetch_text(self, missing: SharedTextMissing) -> None:
        """Get a text that another replica has stored.

        Raises `RecordChanged` where it is gone or is another one: the run must not continue with other instructions.
        """
        (stored,) = await self._connection.get_many([keys.shared_text(missing.digest)])
        text = "" if stored is None else stored.decode("utf-8", "replace")
        if text_digest(text) != missing.digest:
            raise RecordChanged(f"{keys.shared_text(missing.digest)}, a text of runs, is gone or was changed")
        self._shared[missing.digest] = text
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Forget what has been here for longest of the texts that new runs do not refer to."""
        others = [digest for digest in self._shared if digest not in self._own and digest not in self._of_agents]
        for digest in others[: max(0, len(others) - _OTHER_TEXTS)]:
            del self._shared[digest]
            self._kept_at.pop(digest, None)


def _by_digest(texts: Iterable[str]) -> dict[str, str]:
    return {text_digest(text): text for text in texts if len(text.encode()) >= _MIN_BYTES}
