"""One process's connections to Redis: two, bounded in time, the driver's errors translated.

What all runs and readers ask goes over one line, each without waiting for the answers before: nobody waits for a
connection of his own, so a burst starves neither a request nor the lease. Knows standalone servers and clusters; the
caller does not.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import takewhile
from typing import Any

from hiredis import PushNotification, pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from app.errors import StorageUnavailable
from app.redis.wire.driver_protocol import attach
from app.redis.wire.protocol import RedisProtocol

_MOST = 512
"""Commands under way; the others wait here. A page of a log is an answer of up to two hundred kilobytes, so it is not
thousands of them; nor is it few, since a busy event loop hears its answers but some ten times in a second."""

_WATCHES = 8
"""How often it is looked for who waits too long, in the time that they may."""

Command = tuple[Any, ...]

_PASSING = ("OOM", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF")
"""Error replies of a server that will, or whose successor will, accept the same command later."""


TROUBLE = (RedisError, OSError, RuntimeError)
"""What the driver raises when a connection cannot be had; `RuntimeError` is uvloop's word for a write to a closed
transport."""


_CLOSED = "Redis: the connection is closed"


class _Asked:
    """Somebody's commands, of which a cluster wants the parts and a server the bytes, who waits for the answers, and
    since when (`Connection._watched`)."""

    __slots__ = ("answers", "asked_at", "commands", "heard", "is_again", "packed", "said_at")

    def __init__(self, commands: Sequence[Command], asked_at: int) -> None:
        # Here what cannot be packed is the caller's own trouble. Not the driver's packing, which is a dozen Python
        # calls a command.
        self.packed = b"".join([pack_command(command) for command in commands])
        self.commands = commands
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.asked_at = self.said_at = asked_at
        self.heard: list[Any] = []
        self.is_again = False

    def fail(self, cause: str) -> None:
        if not self.answers.done():
            self.answers.set_exception(StorageUnavailable(cause))

    def settle(self) -> None:
        if not self.answers.done():
            self.answers.set_result(self.heard)


class Script:
    """A Lua script and its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class Connection:
    """Commands to Redis. Every method raises `StorageUnavailable` within twice `timeout_seconds` or a little more, and
    `UnicodeEncodeError` or `TypeError` for what cannot be said to Redis at all."""

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._driver = self._made(retries=1)
        # Its reader alone connects again. RESP 3 would make a message something that is only logged by the way.
        self._listening_driver = self._made(retries=0, protocol=2)
        self._line: RedisProtocol | None = None
        self._listening: RedisProtocol | None = None
        self._cluster: RedisCluster | None = None
        self._is_known = False  # what kind of server this is
        self._scripts: dict[str, Script] = {}
        self._asked: deque[_Asked] = deque()  # not said yet
        self._said: deque[_Asked] = deque()  # the answers come in this order
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._watched = self._heard_at = 0
        self._patience: asyncio.TimerHandle | None = None

    def register(self, text: str) -> Script:
        """A script that `many` may be asked to run; loaded into the server when it is missing there."""
        script = Script(text)
        self._scripts[script.sha] = script
        return script

    async def configuration_advice(self) -> list[str]:
        """What about this server could lose runs; empty where all is well, or where it may not be asked."""
        try:
            found = await self.execute("CONFIG", "GET", "maxmemory-policy", "appendonly")
        except StorageUnavailable:
            return []
        values = {_text(name): _text(value) for name, value in dict(found).items()}
        words = []
        if values.get("maxmemory-policy", "noeviction") != "noeviction":
            words.append("maxmemory-policy is not noeviction: Redis may throw runs away; set it to noeviction")
        if values.get("appendonly", "yes") != "yes":
            words.append("appendonly is off: a restart of Redis loses all runs; set appendonly yes")
        return words

    def _made(self, *, retries: int, protocol: int = 3) -> AbstractConnection:
        """It watches no time itself: it would set a timer for each answer."""
        pool = ConnectionPool.from_url(
            self._address,
            socket_timeout=None,
            socket_connect_timeout=self._timeout_seconds,
            protocol=protocol,
            retry=Retry(ConstantBackoff(0.05), retries),
        )
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def close(self) -> None:
        self._fail(_CLOSED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._line = None
        for driver in (self._driver, self._listening_driver):
            await driver.disconnect(nowait=True)
        if self._cluster is not None:
            await self._cluster.aclose()

    async def listen(self, hear: Callable[[Any], None], lose: Callable[[], None]) -> RedisProtocol:
        """A new line for Pub/Sub, instead of the last. Raises one of `TROUBLE`."""
        driver = self._listening_driver
        await driver.disconnect(nowait=True)
        async with asyncio.timeout(2 * self._timeout_seconds):  # a server may accept and not answer
            await driver.connect()  # type: ignore[no-untyped-call]
        self._listening = attach(driver, hear, lose)
        return self._listening

    async def execute(self, *command: Any) -> Any:
        """One command's answer."""
        (answer,) = await self._ask([command])
        if isinstance(answer, Exception):
            raise StorageUnavailable(_cause(answer)) from answer
        return answer

    async def run_script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        (answer,) = await self.pipeline_results([script.command(keys, args)])
        if isinstance(answer, Exception):
            raise StorageUnavailable(_cause(answer)) from answer
        return answer

    async def pipeline_results(self, commands: Sequence[Command]) -> list[Any]:
        """The answers in order, in one round trip; an error reply is an answer too.

        `ResponseError`s that will pass are `StorageUnavailable`, in their command's place.
        """
        answers = await self._ask(commands)
        missing = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            for sha in {commands[i][1] for i in missing}:
                await self._load(self._scripts[sha])
            for i, answer in zip(missing, await self._ask([commands[i] for i in missing]), strict=True):
                answers[i] = answer
        return [_translated(answer) for answer in answers]

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip and return their replies in order. Raises `StorageUnavailable` where one of
        them is an error reply; the others have been executed all the same."""
        replies = await self.pipeline_results(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply if isinstance(reply, StorageUnavailable) else StorageUnavailable(_cause(reply)) from reply
        return replies

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Many strings at once."""
        if self._cluster is not None:  # whose nodes hold some of them each
            found = await self.pipeline_results([("GET", key) for key in keys])
        else:
            found = await self.execute("MGET", *keys) if keys else []
        for value in found:
            if isinstance(value, Exception):
                raise StorageUnavailable(_cause(value)) from value
        return found

    # --- the line -----------------------------------------------------------------------------------------------------

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        asked = _Asked(commands, self._watched)
        self._asked.append(asked)
        self._say()
        if self._patience is None:
            self._watch()
        return await asked.answers

    def _say(self) -> None:
        """As much as may be under way. Whoever gave up before is left out: his is not done after all."""
        while self._asked and self._under_way < _MOST:
            asked = self._asked[0]
            if asked.answers.done():
                self._asked.popleft()
            elif self._cluster is not None:
                self._asked.popleft()
                self._under_way += len(asked.commands)
                self._begin(self._ask_nodes(self._cluster, asked))
            elif self._line is None:
                if self._opening is None:
                    self._opening = self._begin(self._open())
                return
            elif not self._line.is_open:
                return  # `_lose` goes on
            else:
                self._said.append(self._asked.popleft())
                self._under_way += len(asked.commands)
                asked.said_at = self._watched
                self._line.send(asked.packed)

    def _hear(self, answer: Any) -> None:
        if isinstance(answer, PushNotification) or not self._said:
            return  # nobody asked
        asked = self._said[0]
        asked.heard.append(answer)
        self._heard_at = self._watched
        self._under_way -= 1
        if len(asked.heard) == len(asked.commands):
            self._said.popleft()
            asked.settle()
            self._say()
        if isinstance(answer, RedisError) and (_is_read_only(answer) or isinstance(answer, RedisConnectionError)):
            self._leave()

    def _leave(self) -> None:
        """The server was demoted, and would refuse every write for ever: who is at the address now is asked next."""
        for line in (self._line, self._listening):
            if line is not None:
                line.abort()

    def _lose(self) -> None:
        """It may have died of a restart, or the way has become silent: what has no answer is said once more."""
        unanswered, self._said = self._said, deque()
        self._line, self._under_way = None, 0
        for asked in reversed(unanswered):
            if asked.is_again:
                asked.fail("Redis: ConnectionError: the connection broke again")
            else:
                asked.is_again, asked.heard = True, []
                self._asked.appendleft(asked)
        self._say()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In a context of its own: what is opened would keep the asker's for as long as it lasts."""
        task = asyncio.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                await self._driver.disconnect(nowait=True)
                await self._driver.connect()  # type: ignore[no-untyped-call]
                if not self._is_known:
                    await self._find_out()
            if self._cluster is None:
                self._line = attach(self._driver, self._hear, self._lose)
        except TROUBLE as error:
            self._fail(_cause(error))
        finally:
            self._opening = None
        self._say()

    async def _find_out(self) -> None:
        """At the first contact: is it a cluster? It may have been away when this process started."""
        await self._driver.send_command("INFO", "cluster")
        try:
            info = await self._driver.read_response()
        except ResponseError:  # it may not be asked
            info = b""
        if isinstance(info, bytes) and b"cluster_enabled:1" in info:
            await self._driver.disconnect(nowait=True)
            self._cluster = RedisCluster.from_url(
                self._address, socket_timeout=self._timeout_seconds, socket_connect_timeout=self._timeout_seconds
            )
        self._is_known = True

    async def _ask_nodes(self, cluster: RedisCluster, asked: _Asked) -> None:
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                asked.heard = await asyncio.gather(
                    *(cluster.execute_command(*command) for command in asked.commands), return_exceptions=True
                )
            asked.settle()
        except TimeoutError as error:
            asked.fail(_cause(error))
        finally:
            self._under_way -= len(asked.commands)
            asked.fail(_CLOSED)  # unless there is an answer
        self._say()

    def _watch(self) -> None:
        """One timer for all who wait. A line that is silent for so long though there are answers to come is dead; who
        has waited twice as long waits no longer. What is counted is how often this was called, not seconds: for as long
        as the process is busy itself, answers may lie there unread.
        """
        self._watched += 1
        if self._line is not None and self._said:
            silent_since = max(self._said[0].said_at, self._heard_at)
            if silent_since + _WATCHES < self._watched:
                self._line.abort()
        for waiting in (self._said, self._asked):  # the oldest first
            for asked in takewhile(lambda each: each.asked_at + 2 * _WATCHES < self._watched, waiting):
                asked.fail(_cause(TimeoutError()))
        is_needed = self._said or self._asked
        pause = self._timeout_seconds / _WATCHES
        self._patience = asyncio.get_running_loop().call_later(pause, self._watch) if is_needed else None

    def _fail(self, cause: str) -> None:
        for asked in (*self._said, *self._asked):
            asked.fail(cause)
        self._asked.clear()

    async def _load(self, script: Script) -> None:
        if self._cluster is None:
            await self.execute("SCRIPT", "LOAD", script.text)
            return
        try:
            await self._cluster.script_load(script.text)  # on every node that holds keys
        except TROUBLE as error:
            raise StorageUnavailable(_cause(error)) from error


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _translated(answer: Any) -> Any:
    if isinstance(answer, ResponseError) and not _is_passing(answer):
        return answer
    if isinstance(answer, TROUBLE):
        return StorageUnavailable(_cause(answer))
    return answer


def _is_passing(error: ResponseError) -> bool:
    """redis-py takes the code off some errors' text and makes it a class instead; Redis 6 hides that of a command in a
    script: `ERR Error running script (call to f_…): @user_script:5: -OOM command not allowed …`."""
    text = str(error)
    return type(error) is not ResponseError or text.startswith(_PASSING) or any(f" -{it} " in text for it in _PASSING)


def _is_read_only(answer: Any) -> bool:
    return isinstance(answer, ReadOnlyError) or (isinstance(answer, ResponseError) and " -READONLY " in str(answer))


def _cause(error: BaseException) -> str:
    """What went wrong, without the address: it may hold a password."""
    return f"Redis: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer in time'}"[:200]
