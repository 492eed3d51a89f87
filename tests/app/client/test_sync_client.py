"""The client for code without an event loop: it does what `AuraClient` does, in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from app.client import ApiError, AuraClient, ClientError, Content, Credentials, Hitl, SyncAuraClient, SyncRunStream
from app.client.loop_thread import LoopThread
from app.client.stream import RunStream
from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.approvals import StartWaitingRun
from tests.harness.clients import ANSWER, client, mail_call, token
from tests.harness.service import running
from tests.test_architecture import ROOT

START = {"type": "start", "message": "", "sessionId": "s-1", "threadId": "s-1", "state": "planning"}
END = {"type": "end", "message": "", "status": "completed"}


def sync_client(url: str, **kwargs: Any) -> SyncAuraClient:
    return SyncAuraClient(url, Credentials.from_token(token()), retry_delay_seconds=0.01, **kwargs)


async def in_thread(url: str, use: Callable[[SyncAuraClient], Any]) -> Any:
    """Return what `use` does with a client, in a thread without an event loop."""

    def work() -> Any:
        with sync_client(url) as aura:
            return use(aura)

    return await asyncio.to_thread(work)


class Service:
    """A service whose runs have one event; with `is_endless` it is followed by silence, not by the end."""

    def __init__(self, *, is_endless: bool) -> None:
        self._is_endless = is_endless
        self.origin = ""
        self.was_left = asyncio.Event()

    async def handle(self, _: Request, answer: Response) -> None:
        await answer.begin("text/event-stream")
        await answer.write(f"id: 1000\ndata: {json.dumps(START)}\n\n".encode())
        if self._is_endless:
            await answer.wait_until_client_closes()
            self.was_left.set()
        else:
            await answer.write(f"id: 1001\ndata: {json.dumps(END)}\n\nid: 1002\ndata: [DONE]\n\n".encode())
            await answer.end()


@asynccontextmanager
async def serve(*, is_endless: bool = True) -> AsyncIterator[Service]:
    service = Service(is_endless=is_endless)
    async with HttpServer(service.handle) as server:
        service.origin = server.origin
        yield service


@contextmanager
def serve_in_a_thread() -> Iterator[str]:
    """Serve complete runs from another thread, and yield the address."""

    async def nothing() -> None: ...

    thread, service = LoopThread(nothing), Service(is_endless=False)
    server = HttpServer(service.handle)
    thread.run(server.start())
    try:
        yield server.origin
    finally:
        thread.run(server.stop())
        thread.close()


@pytest.mark.parametrize(("sync", "original"), [(SyncAuraClient, AuraClient), (SyncRunStream, RunStream)])
def test_it_has_the_methods_of_the_other_client(sync: type[Any], original: type[Any]) -> None:
    names = [name for name in vars(original) if not name.startswith("_")]
    assert [name for name in vars(sync) if not name.startswith("_")] == [
        *(["close"] if sync is SyncAuraClient else ["session_id", "last_event_id"]),
        *names,
    ]
    for name in names:
        one, other = inspect.signature(getattr(sync, name)), inspect.signature(getattr(original, name))
        assert one.parameters == other.parameters, name
        if sync is SyncAuraClient:
            assert inspect.getdoc(getattr(sync, name)) == inspect.getdoc(getattr(original, name))
    assert inspect.signature(SyncAuraClient.__init__).parameters == inspect.signature(AuraClient.__init__).parameters


async def test_run_with_an_approval_gives_the_events_that_the_other_client_reads(
    mailing: Settings, model: ScriptedModelServer
) -> None:
    model.play(mail_call(), ScriptedTurn(text=ANSWER))

    def follow(aura: SyncAuraClient) -> Any:
        stream = aura.run("메일을 보내주세요", {"activeApp": "mail"}, thread_id="t-1", idempotency_key="k-1")
        received = []
        for event in stream.events():
            received.append(event)
            if isinstance(event.event, Hitl):
                assert aura.approve(event.event.request_id, event.event.arguments_digest).accepted
        return stream, received

    async with running(mailing) as aura, client(aura.url) as other:
        stream, received = await in_thread(aura.url, follow)
        assert [event async for event in other.attach(stream.session_id).events()] == received
    assert "".join(event.event.content for event in received if isinstance(event.event, Content)) == ANSWER
    assert stream.last_event_id > received[0].id


async def test_requests_beside_the_stream_have_the_answers_of_the_other_client(waiting_run: StartWaitingRun) -> None:
    def read(aura: SyncAuraClient) -> Any:
        (run,) = aura.runs(state="awaiting_approval", limit=5)["runs"]
        (request,) = aura.pending()["requests"]
        details, timeline = aura.details(run["sessionId"]), aura.timeline(run["sessionId"])
        assert json.loads(aura.fetch("/aura/info"))["data"] == aura.info()
        return request["requestId"], details["sessionId"], timeline["sessionId"], aura.request(request["requestId"])

    def decide(aura: SyncAuraClient) -> Any:
        with pytest.raises(ApiError, match="E1004"):
            aura.reject("req-000000000000", "아니오")
        return aura.cancel(session_id), [item.type for item in aura.attach(session_id).items()][-1]  # type: ignore[union-attr]

    async with waiting_run() as waiting, client(waiting.aura.url) as other:
        request_id, session_id, of_timeline, request = await in_thread(waiting.aura.url, read)
        assert (request_id, session_id, of_timeline) == (waiting.request_id, waiting.session_id, waiting.session_id)
        assert request == await other.request(request_id)
        assert await other.info() == await in_thread(waiting.aura.url, lambda aura: aura.info())
        assert (await other.timeline(session_id))["isOpen"]
        assert await in_thread(waiting.aura.url, decide) == (True, "end")
        await waiting.stream.rest()


async def test_loop_that_is_left_early_closes_the_connection() -> None:
    def leave(aura: SyncAuraClient) -> Any:
        for _ in aura.run("안녕").items():
            break
        stream = aura.run("안녕")
        events = stream.events()
        first = next(events)
        events.close()
        return first.type, list(events), stream.session_id

    async with serve() as service:
        assert await in_thread(service.origin, leave) == ("start", [], "s-1")
        await service.was_left.wait()


async def test_it_works_where_an_event_loop_runs_in_the_calling_thread() -> None:
    with serve_in_a_thread() as url, sync_client(url) as aura:
        assert asyncio.get_running_loop().is_running()
        assert [event.type for event in aura.run("안녕").events()] == ["start", "end"]


def test_several_threads_use_one_client_at_once() -> None:
    with serve_in_a_thread() as url, sync_client(url) as aura, ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(lambda: [event.id for event in aura.run("안녕").events()]) for _ in range(40)]
        assert [stream.result() for stream in streams] == [[1000, 1001]] * 40


async def test_closing_the_client_ends_the_streams_of_other_threads() -> None:
    async with serve() as service:
        aura, has_begun = sync_client(service.origin), threading.Event()

        def follow() -> None:
            for _ in aura.run("안녕").events():
                has_begun.set()

        following = asyncio.create_task(asyncio.to_thread(follow))
        await asyncio.to_thread(has_begun.wait)
        await asyncio.to_thread(aura.close)
        with pytest.raises(ClientError, match="the client was closed"):
            await following
        await service.was_left.wait()
        with pytest.raises(ClientError, match="the client was closed"):
            aura.info()
        aura.close()


async def test_thread_ends_with_a_client_that_is_no_longer_used() -> None:
    async with serve() as service:

        def forget() -> weakref.ref[SyncAuraClient]:
            aura = sync_client(service.origin)
            next(aura.run("안녕").events())
            return weakref.ref(aura)

        forgotten = await asyncio.to_thread(forget)
        await service.was_left.wait()
    assert forgotten() is None
    assert "aura-client" not in {thread.name for thread in threading.enumerate()}


def test_unused_client_has_no_thread() -> None:
    with sync_client("http://127.0.0.1:9"):
        assert "aura-client" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ClientError, match="not a URL"):
        sync_client("127.0.0.1:9000")


PROGRAM = """
import sys
from app.client import Credentials, SyncAuraClient
aura = SyncAuraClient(sys.argv[1], Credentials.from_token(sys.argv[2]))
events = aura.run("안녕").events()
"""
LEAVE = """
print(next(events).type, flush=True)
"""
WAIT = """
try:
    for event in events:
        print(event.type, flush=True)
except KeyboardInterrupt:
    events.close()
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("program", "signals", "output"), [(LEAVE, 0, ""), (WAIT, 1, "interrupted\n")], ids=["open stream", "Ctrl-C"]
)
async def test_program_ends_with_an_open_stream_or_with_ctrl_c(program: str, signals: int, output: str) -> None:
    async with serve() as service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM + program, service.origin, token()),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"start\n"
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        printed, errors = await process.communicate()
        await service.was_left.wait()
    assert (process.returncode, printed.decode(), errors.decode()) == (0, output, "")
