"""One process's connections to Redis: few, bounded in time, the driver's errors translated.

What all runs and readers ask at the same time goes out together: nobody waits for a connection of his own, so a burst
starves neither a request nor the lease. Knows standalone servers and clusters; the caller does not.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from app.errors import StorageUnavailable

POOL_SIZE = 5
"""Connections for commands; Pub/Sub has one more."""

_BATCH = 64
"""Commands of one round trip; the rest goes at the same time over the next connection. A page of a log is an answer
of some hundred kilobytes, so it is not thousands of them."""

Command = tuple[Any, ...]

_WHAT_IT_IS: Command = ("INFO", "cluster")

_PASSING = ("OOM", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF")
"""Error replies of a server that will, or whose successor will, accept the same command later."""


TROUBLE = (RedisError, OSError, RuntimeError)
"""What a connection raises when it breaks; `RuntimeError` is uvloop's word for a write to a closed transport."""


class _Asked(NamedTuple):
    """Somebody's commands, of which a cluster wants the parts and a server the bytes, and who waits for the answers."""

    commands: Sequence[Command]
    packed: bytes
    answers: asyncio.Future[list[Any]]


class Script:
    """A Lua script and its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class Connection:
    """Commands to Redis. Every method raises `StorageUnavailable` within `timeout_seconds` or a little more, and
    `UnicodeEncodeError` or `TypeError` for what cannot be said to Redis at all."""

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: Redis | RedisCluster = self._standalone(POOL_SIZE)
        self._idle: list[AbstractConnection] = []  # of a standalone server
        # Its reader alone connects again. RESP 3 would make a message something that is only logged by the way.
        self.subscriber = _made(self._standalone(1, retries=0, protocol=2))
        self._scripts: dict[str, Script] = {}
        self._asked: deque[_Asked] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._is_known = False  # what kind of server this is
        self._finding_out = asyncio.Lock()

    def register(self, text: str) -> Script:
        """A script that `many` may be asked to run; loaded into the server when it is missing there."""
        script = Script(text)
        self._scripts[script.sha] = script
        return script

    async def _find_out(self) -> None:
        """At the first contact: is it a cluster? It may have been away when this process started."""
        async with self._finding_out:
            if self._is_known or isinstance(self._client, RedisCluster):
                return
            (info,) = await self._exchange(self._client, pack_command(_WHAT_IT_IS), 1)
            if isinstance(info, bytes) and b"cluster_enabled:1" in info:
                await self._hang_up()
                self._client = RedisCluster.from_url(
                    self._address, socket_timeout=self._timeout_seconds, socket_connect_timeout=self._timeout_seconds
                )
            self._is_known = True

    async def advice(self) -> list[str]:
        """What about this server could lose runs; empty where all is well, or where it may not be asked."""
        try:
            found = await self.call("CONFIG", "GET", "maxmemory-policy", "appendonly")
        except StorageUnavailable:
            return []
        values = {_text(name): _text(value) for name, value in dict(found).items()}
        words = []
        if values.get("maxmemory-policy", "noeviction") != "noeviction":
            words.append("maxmemory-policy is not noeviction: Redis may throw runs away; set it to noeviction")
        if values.get("appendonly", "yes") != "yes":
            words.append("appendonly is off: a restart of Redis loses all runs; set appendonly yes")
        return words

    def _standalone(self, size: int, retries: int = 1, protocol: int = 3) -> Redis:
        """Its connections watch no time themselves: they would set a timer for each answer."""
        pool = BlockingConnectionPool.from_url(
            self._address,
            max_connections=size,
            timeout=self._timeout_seconds,
            socket_timeout=None,
            socket_connect_timeout=self._timeout_seconds,
            protocol=protocol,
            retry=Retry(ConstantBackoff(0.05), retries),  # a pooled connection may have died of a restart
        )
        return Redis(connection_pool=pool)

    async def close(self) -> None:
        await self._hang_up()
        await self.subscriber.disconnect(nowait=True)
        await self._client.aclose()

    async def call(self, *command: Any) -> Any:
        """One command's answer."""
        (answer,) = await self._ask([command])
        if isinstance(answer, Exception):
            raise StorageUnavailable(_cause(answer)) from answer
        return answer

    async def script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        (answer,) = await self.many([script.command(keys, args)])
        if isinstance(answer, Exception):
            raise StorageUnavailable(_cause(answer)) from answer
        return answer

    async def many(self, commands: Sequence[Command]) -> list[Any]:
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

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Many strings at once."""
        if isinstance(self._client, RedisCluster):  # whose nodes hold some of them each
            found = await self.many([("GET", key) for key in keys])
        else:
            found = await self.call("MGET", *keys) if keys else []
        for value in found:
            if isinstance(value, Exception):
                raise StorageUnavailable(_cause(value)) from value
        return found

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        # Here what cannot be packed is the caller's own trouble, not that of all who share his batch. Not the driver's
        # packing, which is a dozen Python calls a command.
        packed = b"".join([pack_command(command) for command in commands])
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._asked.append(_Asked(commands, packed, future))
        if len(self._senders) < POOL_SIZE:
            sender = asyncio.create_task(self._send_all())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        patience = loop.call_later(self._timeout_seconds * 2, _give_up, future)
        try:
            return await future
        finally:
            patience.cancel()

    async def _send_all(self) -> None:
        """Round trips until nobody waits. Whoever gave up before his was sent is left out: it is not done after all."""
        while self._asked:
            batch: list[_Asked] = []
            size = 0
            while self._asked and size < _BATCH:
                asked = self._asked.popleft()
                if not asked.answers.done():
                    batch.append(asked)
                    size += len(asked.commands)
            await self._send_batch(batch)

    async def _send_batch(self, batch: Sequence[_Asked]) -> None:
        try:
            answers = iter(await self._send(batch))
        except Exception as error:  # noqa: BLE001 - it is everybody's who asked
            for asked in batch:
                if not asked.answers.done():
                    asked.answers.set_exception(error)
            return
        for asked in batch:
            own = list(islice(answers, len(asked.commands)))
            if not asked.answers.done():
                asked.answers.set_result(own)

    async def _load(self, script: Script) -> None:
        if not isinstance(self._client, RedisCluster):
            await self.call("SCRIPT", "LOAD", script.text)
            return
        try:
            await self._client.script_load(script.text)  # on every node that holds keys
        except TROUBLE as error:
            raise StorageUnavailable(_cause(error)) from error

    async def _send(self, batch: Sequence[_Asked]) -> list[Any]:
        commands = [command for asked in batch for command in asked.commands]
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout_seconds * 2):
                if not self._is_known:
                    await self._find_out()
                if isinstance(self._client, RedisCluster):
                    client = self._client
                    return await asyncio.gather(
                        *(client.execute_command(*command) for command in commands), return_exceptions=True
                    )
                packed = b"".join([asked.packed for asked in batch])
                answers = await self._exchange(self._client, packed, len(commands))
                if any(_is_read_only(answer) for answer in answers):
                    await self._leave_replica()
                return answers
        except TROUBLE as error:
            raise StorageUnavailable(_cause(error)) from error

    async def _exchange(self, client: Redis, packed: bytes, count: int) -> list[Any]:
        """One round trip of so many commands. There are never more connections than senders."""
        connection: AbstractConnection = self._idle.pop() if self._idle else _made(client)

        async def attempt() -> list[Any]:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await connection.send_packed_command(packed, check_health=False)
                    return [await _answer(connection) for _ in range(count)]
            except TimeoutError as error:
                raise RedisTimeout(str(error)) from error  # which is tried again
            except RuntimeError as error:
                raise RedisConnectionError(str(error)) from error

        async def hang_up(_: Exception) -> None:
            await connection.disconnect(nowait=True)

        try:
            # A connection may have died of a restart, or of a way that has become silent.
            return list(await connection.retry.call_with_retry(attempt, hang_up))
        finally:
            self._idle.append(connection)

    async def _leave_replica(self) -> None:
        """The server was demoted, and would refuse every write for ever: whoever is at the address now is asked next.

        A connection that is in use hangs up when it hears the same.
        """
        await self._hang_up()
        await self.subscriber.disconnect(nowait=True)

    async def _hang_up(self) -> None:
        for connection in self._idle:
            await connection.disconnect(nowait=True)


def _made(client: Redis) -> AbstractConnection:
    connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


async def _answer(connection: AbstractConnection) -> Any:
    """The next answer; an error reply is one, too. A connection that was left in the middle has hung up."""
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error


def _give_up(future: asyncio.Future[list[Any]]) -> None:
    if not future.done():
        future.set_exception(StorageUnavailable(_cause(TimeoutError())))


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
