"""How the readers of a log learn that another process has added to it: the one choice between two kinds of Pub/Sub.

In a cluster a classic message goes to all nodes, wherever its listeners are. A wake-up comes with each commit, so there
it is sharded: it stays with the master of the run's slot. A single server gains nothing by that, and neither kind costs
a round trip: the script of the commit publishes. A reader that gets no wake-up, for example since an older release has
sent it in another way, reads again after two seconds (`Feeds.poll_later`).
"""

from __future__ import annotations

from app.redis import keys
from app.redis.wire.channels import Channels, Listener
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub


class WakeUps:
    """The wake-ups of all runs, as one process sends and receives them."""

    def __init__(self, connection: Connection, pubsub: PubSub) -> None:
        self._connection = connection
        self._pubsub = pubsub

    @property
    def is_ready(self) -> bool:
        """Whether the kind of server is known, and with it the kind of Pub/Sub."""
        return self._connection.stats().is_known

    @property
    def command(self) -> str:
        """The command with which the scripts wake the readers of a run, on the channel `keys.wake`."""
        return "PUBLISH" if self._connection.sharded is None else "SPUBLISH"

    async def subscribe(self, session_id: str, listener: Listener) -> None:
        """Subscribe to the wake-ups of a run, as `Channels.subscribe` does. Raises `StorageUnavailable`."""
        await self._channels.subscribe(keys.wake(session_id), listener)

    def unsubscribe(self, session_id: str) -> None:
        """Remove the listener."""
        self._channels.unsubscribe(keys.wake(session_id))

    @property
    def _channels(self) -> Channels:
        return self._connection.sharded or self._pubsub
