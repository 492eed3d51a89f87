"""Checks what the Redis user of this process may do (`ports.storage.StorageRights`).

A user without rights on channels is the usual case: since Redis 7 a new user has none. Commands then work, but no run
could wait for a decision. So the missing rights are named at the start and by `/ready`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import structlog

from app.errors import StorageForbidden, StorageUnavailable
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_forbidden
from app.redis.wire.script import Command, Script

_ANY = "*"
_CALLS = re.compile(r"redis\.call\('(\w+)'")
DATA_COMMANDS = (
    *("GET", "MGET", "SET", "DEL", "EXISTS", "EXPIRE", "PEXPIRE", "INCR", "STRLEN"),
    *("HGET", "HMGET", "HGETALL", "HSET", "HDEL"),
    *("ZADD", "ZREM", "ZRANGE", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZREMRANGEBYSCORE", "ZCARD", "ZCOUNT", "ZSCORE"),
    *("XADD", "XDEL", "XLEN", "XRANGE", "XREVRANGE", "XTRIM"),
)
"""Those that are sent outside scripts."""
_WITHOUT_KEY: tuple[Command, ...] = (
    ("WAIT", "0", "0"),
    ("PING",),
    ("TIME",),
    ("SCAN", "0"),
    ("SCRIPT", "LOAD", ""),
    ("UNSUBSCRIBE", "aura:*"),
)
_NOT_BY_NAME = frozenset({"PUBLISH", "TIME", "MEMORY"})
"""Commands of scripts whose first argument is no key; they are checked on their own."""

# Returns the numbers (from 1) of the commands that the user may not send; none where the server is too old to say so
# (before Redis 7). A command is the number of its words, and its words.
CHECK = Script(
    """
local refused, number = {}, 0
if not redis.acl_check_cmd then return refused end
while words_start <= #ARGV do
  local size = tonumber(ARGV[words_start])
  number = number + 1
  local known, allowed = pcall(redis.acl_check_cmd, unpack(ARGV, words_start + 1, words_start + size))
  if known and not allowed then refused[#refused + 1] = number end
  words_start = words_start + size + 1
end
return refused
""",
    keys=(),
    rest="words_start",
)

log = structlog.get_logger(__name__)


class RedisRights:
    """The rights of this process's user. `event_channels` are those of domain events that it receives."""

    def __init__(self, connection: Connection, event_channels: Collection[str]) -> None:
        self._connection = connection
        self._event_channels = sorted(event_channels)
        self._check = connection.register(CHECK)
        self._logged: tuple[str, ...] = ()

    async def check(self) -> None:
        missing = await self._missing()
        if missing != self._logged:  # not with each request, because a health check comes every few seconds
            if missing:
                log.error("redis.rights_missing", rights=list(missing), remedy="app/redis/README.md, access rights")
            else:
                log.info("redis.rights_granted")
            self._logged = missing
        if missing:
            raise StorageForbidden(missing)

    async def report(self) -> None:
        """Logs what is missing when the service starts. It starts all the same: the rights may be granted later."""
        try:
            await self.check()
        except (StorageForbidden, StorageUnavailable):
            return

    async def _missing(self) -> tuple[str, ...]:
        needed = list(self._needed())
        words = [part for command in needed for part in (str(len(command)), *command)]
        try:
            refused = await self._connection.run_script(self._check, words)
        except StorageUnavailable as error:
            if is_forbidden(error):
                return ("EVALSHA and SCRIPT LOAD",)
            raise
        return tuple(dict.fromkeys(_describe(needed[number - 1]) for number in refused))

    def _needed(self) -> Iterator[Command]:
        """Yields an example of each command that this process sends, for each kind of key and channel."""
        called = {name for script in self._connection.scripts.values() for name in _CALLS.findall(script.text)}
        for name in sorted({*DATA_COMMANDS, *called} - _NOT_BY_NAME):
            yield (name, "aura:*")
        yield ("MEMORY", "USAGE", "aura:*")
        yield from _WITHOUT_KEY
        examples = (keys.hitl_request, keys.hitl_session, keys.hitl_signal, keys.hitl_task)
        for pattern in ("checkpoint:*", *(example(_ANY) for example in examples)):
            yield from ((name, pattern) for name in ("GET", "SET"))
        yield ("SUBSCRIBE", keys.keep_alive(_ANY))
        is_sharded = self._connection.sharded is not None
        for channel in (keys.hitl_channel(_ANY), keys.ANY_WAKE, keys.node(_ANY), keys.KNOWLEDGE_CHANNEL):
            kind = "S" if is_sharded and channel == keys.ANY_WAKE else ""
            yield (f"{kind}SUBSCRIBE", channel)
            yield (f"{kind}PUBLISH", channel, "")
        if is_sharded:
            yield ("SUNSUBSCRIBE", keys.ANY_WAKE)
        yield from (("SUBSCRIBE", channel) for channel in self._event_channels)


def _describe(command: Sequence[str]) -> str:
    name = " ".join(command[:2]) if command[0] in ("MEMORY", "SCRIPT") else command[0]
    target = command[2] if command[0] == "MEMORY" else command[1] if len(command) > 1 and name == command[0] else ""
    return f"{name} {target}".strip()
