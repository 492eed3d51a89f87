"""The client for code without an event loop. It has no logic of its own: it runs `AuraClient` in a thread of its own.

with SyncAuraClient("http://127.0.0.1:9000", Credentials.from_token(token)) as aura:
    for received in aura.run("메일을 보내주세요").events():
        match received.event:
            case Content(content=text): print(text, end="")
            case Hitl() as request: aura.approve(request.request_id, request.arguments_digest)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Literal, Self, TypeVar

from .client import AuraClient, Credentials, DecisionReply
from .decoding import JsonObject
from .frames import ReceivedEvent
from .loop_thread import LoopClosed, LoopThread
from .response_types import ApprovalDetails, RequestPage, RunDetails, RunPage, ServiceInfo, State, Timeline
from .responses import ClientError
from .stream import Item, RunStream

T = TypeVar("T")
_CLOSED = "the client was closed"


class SyncAuraClient:
    """The client of the service at `url`. Several threads may use it at once, also beside a running event loop.

    It is a context manager. Its thread starts with the first request and ends with `close`. A process that was forked
    from this one needs a client of its own.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        read_timeout_seconds: float = 60,
        retry_timeout_seconds: float = 120,
        retry_delay_seconds: float = 0.5,
    ) -> None:
        """The arguments are those of `AuraClient`. Raises `ClientError` for an invalid `url`."""
        self._client = AuraClient(
            url,
            credentials,
            read_timeout_seconds=read_timeout_seconds,
            retry_timeout_seconds=retry_timeout_seconds,
            retry_delay_seconds=retry_delay_seconds,
        )
        self.url, self.credentials = self._client.url, credentials
        self._thread = LoopThread(at_end=self._client.__aexit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Requests and streams of other threads raise `ClientError`; the runs go on."""
        self._thread.close()

    def run(
        self,
        prompt: str,
        context: JsonObject | None = None,
        *,
        thread_id: str | None = None,
        agent: str | None = None,
        idempotency_key: str | None = None,
    ) -> SyncRunStream:
        """Return the stream of a new run, which starts when the stream is iterated.

        `agent` is the name of the agent that runs it; without it the service decides. A second run with the same
        `idempotency_key` attaches to the first.
        """
        stream = self._client.run(prompt, context, thread_id=thread_id, agent=agent, idempotency_key=idempotency_key)
        return SyncRunStream(stream, self._thread)

    def attach(self, session_id: str, *, last_event_id: int | None = None) -> SyncRunStream:
        """Return the stream of an existing run, from its first event or from the one after `last_event_id`."""
        return SyncRunStream(self._client.attach(session_id, last_event_id=last_event_id), self._thread)

    def fetch(self, path: str, **parameters: str) -> bytes:
        """Return the body of a GET request, without retries. Raises `ServiceUnreachable` or `ApiError`."""
        return _result(self._thread, self._client.fetch(path, **parameters))

    # Each of the following methods raises `ApiError`, or `ConnectionLost` where no response arrived in time.

    def approve(self, request_id: str, arguments_digest: str, arguments: JsonObject | None = None) -> DecisionReply:
        """Approve a request, with the digest of the arguments that the person saw; `arguments` replace those."""
        return _result(self._thread, self._client.approve(request_id, arguments_digest, arguments))

    def reject(self, request_id: str, reason: str | None = None, *, skip: bool = False) -> DecisionReply:
        """Reject a request; with `skip` the run continues without this call."""
        return _result(self._thread, self._client.reject(request_id, reason, skip=skip))

    def cancel(self, session_id: str) -> bool:
        """Cancel a run. Returns False if it has already ended."""
        return _result(self._thread, self._client.cancel(session_id))

    def runs(
        self,
        *,
        state: State | None = None,
        scope: Literal["own", "all"] = "all",
        offset: int = 0,
        limit: int = 20,
    ) -> RunPage:
        """List runs, newest first: the caller's own, or for approvers those of the tenant."""
        return _result(self._thread, self._client.runs(state=state, scope=scope, offset=offset, limit=limit))

    def details(self, session_id: str) -> RunDetails:
        """Return a complete run, with its tool calls, transitions, token usage and answer."""
        return _result(self._thread, self._client.details(session_id))

    def timeline(self, session_id: str) -> Timeline:
        """Return where the time of a run went: its states, model turns, tool calls and waits."""
        return _result(self._thread, self._client.timeline(session_id))

    def pending(self, *, offset: int = 0, limit: int = 20) -> RequestPage:
        """List open approval requests: the caller's own, or for approvers those of the tenant."""
        return _result(self._thread, self._client.pending(offset=offset, limit=limit))

    def request(self, request_id: str) -> ApprovalDetails:
        """Return an approval request: what it shows, and its decision."""
        return _result(self._thread, self._client.request(request_id))

    def info(self) -> ServiceInfo:
        """Return the name, version, model and states of the service."""
        return _result(self._thread, self._client.info())


class SyncRunStream:
    """The events of one run up to its end. Iterate over `events()` or `items()` once, in one thread."""

    def __init__(self, stream: RunStream, thread: LoopThread) -> None:
        self._stream, self._thread = stream, thread

    @property
    def session_id(self) -> str | None:
        """The session id of the run; None until the service has answered."""
        return self._stream.session_id

    @property
    def last_event_id(self) -> int | None:
        """The id of the last event that was received."""
        return self._stream.last_event_id

    def events(self) -> Generator[ReceivedEvent, None, None]:
        """Yield the events without the items about the connection. Raises as `items` does."""
        return self._iterate(self._stream.events())

    def items(self) -> Generator[Item, None, None]:
        """Yield the events, and an item for each interruption of the connection.

        A loop that is left before the end closes the connection, as `close()` of what this returns does; the run goes
        on. Raises `ServiceUnreachable` (first connection), `ApiError` (a retry is pointless), `ConnectionLost`
        (timeout) or `ClientError` (the client was closed).
        """
        return self._iterate(self._stream.items())

    def _iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        try:
            yield from self._thread.iterate(items)
        except LoopClosed:
            raise ClientError(_CLOSED) from None


def _result(thread: LoopThread, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine. Raises what it raises, and `ClientError` where the client is closed."""
    try:
        return thread.run(coroutine)
    except LoopClosed:
        raise ClientError(_CLOSED) from None
