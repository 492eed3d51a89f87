"""`aura serve --workers 2`: several processes on one port, and their supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import mail_settings, mail_turn
from tests.harness.follow import CONNECTION_ERRORS, Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.process import ServeProcess
from tests.harness.service import headers
from tests.harness.waiting import eventually

DONE = "메일을 보냈습니다."


def worker_pids(node: ServeProcess) -> list[int]:
    """The process ids of the supervisor's children."""
    with contextlib.suppress(FileNotFoundError):
        return [int(id) for id in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()]
    return []


async def read_to_end(client: Follower, node: ServeProcess) -> None:
    while not client.is_done:
        with contextlib.suppress(*CONNECTION_ERRORS, StopAsyncIteration):
            await client.read(node)


@pytest.mark.slow
async def test_killed_worker_loses_nothing(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        node = await nodes.start("--workers", "2", **mail_settings(smtp))
        await eventually(lambda: len(node.logged("server.started")) == 2)
        count = 6
        model.play(*(mail_turn() for _ in range(count)))
        clients = [Follower("메일", f"user{number}") for number in range(count)]

        async def follow(client: Follower) -> None:
            async with node.stream("메일", headers=_headers(client)) as stream:
                await client.collect(stream, of_type("hitl"))
                all_wait.release()
                with contextlib.suppress(*CONNECTION_ERRORS, StopAsyncIteration):
                    await client.collect(stream)

        all_wait = asyncio.Semaphore(0)
        waiting = [asyncio.create_task(follow(client)) for client in clients]
        for _ in clients:
            await all_wait.acquire()
        victim = worker_pids(node)[0]
        os.kill(victim, signal.SIGKILL)
        model.play(*(ScriptedTurn(text=DONE) for _ in range(count)))
        await eventually(lambda: len(worker_pids(node)) == 2 and victim not in worker_pids(node))
        assert node.code is None
        for client in clients:  # any worker may accept the request
            response = await node.decide("approve", client.seen[-1]["requestId"], as_=_headers(client))
            assert response.status_code == 200
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)
            for client in clients:
                await read_to_end(client, node)
        for client in clients:
            check(client.seen)
            assert answer(client.seen) == DONE
        assert len(smtp.messages) == count
        await eventually(lambda: len(node.logged("server.started")) == 3)
        node.terminate()
        assert await node.wait_for_exit() == 0
        assert worker_pids(node) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel signals the workers")
async def test_workers_drain_when_their_supervisor_is_killed(nodes: Nodes) -> None:
    node = await nodes.start("--workers", "2")
    await eventually(lambda: len(node.logged("server.started")) == 2, 15)
    node.kill()
    await eventually(lambda: len(node.logged("server.stop_requested", signal="SIGTERM")) == 2, 10)

    def is_closed() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port), timeout=1):
            return False
        return True

    await eventually(is_closed, 10)


@pytest.mark.slow
async def test_sigterm_during_the_start_of_workers_exits(nodes: Nodes) -> None:
    node = await nodes.start("--workers", "2")  # one worker is ready, the other may not be
    node.terminate()
    assert await node.wait_for_exit() == 0


def _headers(client: Follower) -> dict[str, str]:
    return headers(client.user)
