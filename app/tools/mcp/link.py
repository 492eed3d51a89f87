"""One connection to an MCP server by the SDK's client, from its start to its end.

A task of its own enters and leaves the client, as the SDK requires. Calls come from the tasks of runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import httpx2
import structlog
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError
from mcp_types import ElicitResult, Implementation, ToolListChangedNotification

from app.ports.mcp_servers import McpServer
from app.tools.mcp import texts
from app.tools.mcp.http import RemoteTransport, http_client, remote_transport
from app.tools.mcp.oauth import ClientCredentialsAuth
from app.tools.mcp.stdio import CommandFailed, stdio_transport

CONNECT_SECONDS = 60.0
"""A command such as npx may have to download its packages first."""
CHECK_SECONDS = 10.0
_CLOSE_SECONDS = 3.0
_CANCEL_SECONDS = 2.0
_LISTEN_PAUSE_SECONDS = (2.0, 10.0, 60.0)
_MAX_CAUSE_CHARACTERS = 300
_METHOD_NOT_FOUND = -32601
log = structlog.get_logger(__name__)

_ResultT = TypeVar("_ResultT")


class LinkFailed(Exception):
    """The server could not be connected to; the message is the cause."""


class CallTimedOut(Exception):
    """There was no answer in time. The server was notified that the call is cancelled."""


class Link:
    """A connection that is opened once and closed once. `lost` is set when it cannot be used any more."""

    def __init__(self, server: McpServer, mask: Callable[[str], str], on_change: Callable[[], None]) -> None:
        self._server = server
        self._mask = mask
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Client] = self._loop.create_future()
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self._is_checking = False
        self.transport: RemoteTransport | None = None
        self.lost = asyncio.Event()
        self.cause = ""

    @property
    def client(self) -> Client:
        return self._opened.result()

    @property
    def is_modern(self) -> bool:
        """Whether the protocol is that of 2026, which has no session."""
        return self.client.protocol_version >= "2026"

    async def open(self) -> None:
        """Connect and negotiate the protocol. Raises `LinkFailed`."""
        self._owner = asyncio.create_task(self._own(), name=f"mcp {self._server.name}")
        waits: list[asyncio.Future[Any]] = [self._owner, self._opened]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            raise LinkFailed(self.cause or "the connection has ended")
        self._spawn(self._listen())

    async def close(self) -> None:
        """End the calls that still run, and the connection. A process is ended with all that it started."""
        self.lose("the service closes the connection")
        for task in tuple(self._work):
            task.cancel()
        if self._work:
            await asyncio.wait(self._work, timeout=_CANCEL_SECONDS)  # the server is notified of each
        self._stop.set()
        if self._owner is not None:
            if not self._opened.done():
                self._owner.cancel()  # it still connects
            _, running = await asyncio.wait({self._owner}, timeout=_CLOSE_SECONDS)
            for owner in running:
                owner.cancel()
                await asyncio.wait({owner}, timeout=_CLOSE_SECONDS)

    async def close_when_idle(self, seconds: float, hurry: asyncio.Event) -> None:
        """Wait for the calls that still run, at most so many seconds and until `hurry`, and close."""
        calls = [task for task in self._work if task.get_name() == "call"]
        if calls and seconds:
            hurried = asyncio.create_task(hurry.wait())
            ended = asyncio.ensure_future(asyncio.wait(calls, timeout=seconds))
            await asyncio.wait([hurried, ended], return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            ended.cancel()
        await self.close()

    async def send(self, request: Coroutine[Any, Any, _ResultT], seconds: float) -> _ResultT:
        """Send a request and return the answer. Raises `CallTimedOut`, `ConnectionError`, or what the SDK raises.

        A caller that is cancelled does not wait for the server: the notification is sent in the background.
        """
        task = self._spawn(request, name="call")
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise CallTimedOut
        if task.cancelled():
            raise ConnectionError("the connection has ended")
        return task.result()

    def check(self) -> None:
        """After a call without an answer, find out in the background whether the server still answers at all."""
        if self.transport is not None and not self.is_modern:
            self.lose("a call had no answer in time")  # what the SDK sends next would wait for that call
        elif not self._is_checking:
            self._is_checking = True
            self._spawn(self._check())

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.client.list_tools(cache_mode="bypass")
        except TimeoutError:
            self.lose(f"it hangs: it did not answer within {CHECK_SECONDS:g} s")
        finally:
            self._is_checking = False

    def lose(self, cause: str) -> None:
        """Mark the connection as unusable; the first cause is kept."""
        if not self.lost.is_set():
            self.cause = cause
            self.lost.set()
            self._on_change()

    def _spawn(self, work: Coroutine[Any, Any, _ResultT], name: str = "listener") -> asyncio.Task[_ResultT]:
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # one that nobody waits for any more is not logged as forgotten

    async def _own(self) -> None:
        cause = "the connection has ended"
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as limit, self._client() as client:
                limit.reschedule(None)
                self._opened.set_result(client)
                await self._stop.wait()
        except TimeoutError:
            cause = f"it did not answer within {CONNECT_SECONDS:g} s"
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the SDK wraps errors and cancellations
            cause = _cause(error)
        finally:
            self.lose(cause)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        """Enter the client over the server's transport, and leave both."""
        async with AsyncExitStack() as stack:
            client = Client(
                await self._transport(stack),
                client_info=Implementation(name="aura-platform", version="0.1.0"),
                elicitation_callback=_decline,
                message_handler=self._receive,
                cache=None,
            )
            yield await stack.enter_async_context(client)

    async def _transport(self, stack: AsyncExitStack) -> Any:
        server = self._server
        if server.url is None:
            return stdio_transport(server, self._mask, self.lose)
        self.transport = remote_transport(self.lose)
        auth: httpx2.Auth | None = None
        if server.oauth is not None:
            auth = ClientCredentialsAuth(server.name, server.url, server.oauth, self.transport)
        client = await stack.enter_async_context(http_client(self.transport, dict(server.headers), auth))
        return streamable_http_client(server.url, http_client=client)

    async def _receive(self, message: Any) -> None:
        """Notice that the tools have changed, as servers before 2026 notify it."""
        if isinstance(message, ToolListChangedNotification):
            self._on_change()

    async def _listen(self) -> None:
        """Notice that the tools have changed, as servers of 2026 notify it, for as long as the connection lasts."""
        tools = self.client.server_capabilities.tools
        if not self.is_modern or tools is None or not tools.list_changed:
            return
        lost = 0
        while not self.lost.is_set():
            try:
                async with self.client.listen(tools_list_changed=True) as changes:
                    if lost:
                        self._on_change()  # what changed meanwhile was not notified
                    async for _ in changes:
                        lost = 0
                        self._on_change()
            except ListenNotSupportedError:
                return
            except MCPError as error:
                if error.code == _METHOD_NOT_FOUND:
                    return
            except Exception as error:  # noqa: BLE001 - of whatever kind: calls go on, and it listens again
                log.debug("mcp.listening_lost", server=self._server.name, cause=type(error).__name__)
            await asyncio.sleep(_LISTEN_PAUSE_SECONDS[min(lost, len(_LISTEN_PAUSE_SECONDS) - 1)])
            lost += 1


async def _decline(context: Any, params: Any) -> ElicitResult:  # noqa: ARG001 - the SDK's signature
    """The answer to a server that requests input during a call, as those before 2026 do."""
    return ElicitResult(action="decline")


def _cause(error: BaseException) -> str:
    """Return the cause of a connection's end in one line. The SDK wraps errors in groups of one."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    if isinstance(error, CommandFailed):
        return str(error)
    return texts.one_line(str(error) or type(error).__name__, _MAX_CAUSE_CHARACTERS)
