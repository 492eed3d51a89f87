"""An MCP server as a process of ours: its messages as lines on standard input and output, bounded in size and number.

The SDK's own transport reads lines of any length, in time that grows with the square of it, and gives its servers more
of the environment. This one starts the process in a group of its own, and ends the whole group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from app.ports.mcp_servers import McpServer
from app.tools.mcp.inflow import MAX_MESSAGE_BYTES, Flood, Inflow

_log = logging.getLogger(__name__)

_EXIT_SECONDS = 1.0
_CODE_SECONDS = 0.2
_MAX_GARBAGE_LINES = 100
_MAX_ERROR_LINE_BYTES = 64 * 1024
_MAX_ERROR_LINES = 2000
_LOGGED_CHARACTERS = 500


class CommandFailed(Exception):
    """The command cannot be started; the message has the cause without its arguments."""


Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


@asynccontextmanager
async def stdio_transport(
    server: McpServer, mask: Callable[[str], str], on_lost: Callable[[str], None]
) -> AsyncIterator[Streams]:
    """Start the command of the server, and end it with all that it started when the context exits.

    `mask` removes secrets from what the server writes on standard error. `on_lost` is called once when the process has
    ended or is given up, with the cause. Raises `CommandFailed`.
    """
    process = await _start(server)
    lines = _Lines(server.name, process, mask, on_lost)
    try:
        yield lines.streams
    finally:
        await asyncio.shield(asyncio.ensure_future(lines.close()))


async def _start(server: McpServer) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            server.command or "",
            *server.args,
            env=dict(server.environment),
            cwd=server.cwd,
            limit=MAX_MESSAGE_BYTES,
            start_new_session=True,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise CommandFailed("the command does not exist; install it, or name it with its whole path") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or type(error).__name__
        raise CommandFailed(f"the command cannot be started ({cause})") from None


class _Lines:
    """The messages of a running process as the two streams that the SDK needs."""

    def __init__(self, name: str, process: Any, mask: Callable[[str], str], on_lost: Callable[[str], None]) -> None:
        self._name = name
        self._process = process
        self._mask = mask
        self._on_lost = on_lost
        self._received, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, self._to_send = anyio.create_memory_object_stream[SessionMessage](0)
        self.streams: Streams = (read, write)
        work = (self._read(), self._write(), self._log_errors())
        self._tasks = [asyncio.create_task(each) for each in work]  # a task group would cancel the task that entered it

    async def close(self) -> None:
        """End the process: first by closing its input, then by killing its whole group."""
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what the command started may still run
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # a process that left the group may keep the pipes open
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        self._process._transport.close()  # noqa: SLF001 - a pipe that was not read to its end would warn later
        for stream in (self._received, self._to_send, *self.streams):
            stream.close()

    async def _read(self) -> None:
        """Parse lines until the output ends; closing the stream ends the session, whose calls fail at once."""
        inflow, garbage = Inflow(), 0
        async with self._received:
            try:
                while line := await self._process.stdout.readline():
                    inflow.count(len(line))
                    try:
                        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                    except ValueError:
                        garbage += 1
                        _log.debug("MCP server %s wrote a line that is not a message", self._name)
                        if garbage > _MAX_GARBAGE_LINES:
                            raise Flood(
                                f"it wrote more than {_MAX_GARBAGE_LINES} lines that are not messages"
                            ) from None
                        await asyncio.sleep(0)
                        continue
                    await self._received.send(SessionMessage(message))
                cause = await self._end()
            except Flood as error:
                cause = str(error)
            except ValueError:  # readline: the limit
                cause = f"it sent a message of more than {MAX_MESSAGE_BYTES // 1024} KiB"
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                cause = "the connection was closed"
        self._on_lost(cause)

    async def _end(self) -> str:
        """Return how the process has ended, whose output has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CODE_SECONDS):
                return f"its process has ended with the exit code {await self._process.wait()}"
        return "its process has closed its output"

    async def _write(self) -> None:
        try:
            async with self._to_send:
                async for sent in self._to_send:
                    text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                    self._process.stdin.write(text.encode() + b"\n")
                    await self._process.stdin.drain()
        except OSError:
            await self._received.aclose()

    async def _log_errors(self) -> None:
        """Log what the server writes on standard error, as lines at debug; a flood of them is read and dropped."""
        lines = 0
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue  # a line over the limit was dropped
            if not line:
                return
            lines += 1
            if lines <= _MAX_ERROR_LINES:
                text = line[:_MAX_ERROR_LINE_BYTES].decode("utf-8", "replace").strip()
                _log.debug("MCP server %s: %s", self._name, self._mask(text)[:_LOGGED_CHARACTERS])
