"""Admission: in order of arrival; a run that would wait too long is refused early, a burst is worked off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ServiceBusy
from app.runs.admission import AdmissionQueue
from tests.harness.frames import check, parse_frame
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.waiting import eventually

Crowd = list[asyncio.Task[None]]


class Processor:
    """A processor clock that the test advances."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def crowd(
    admission: AdmissionQueue, count: int, came_in: list[int] | None = None, *, tenant: str = ""
) -> list[asyncio.Task[None]]:
    """Start so many waiters of one user at once; each is in the queue when this returns."""

    async def one(number: int) -> None:
        await admission.acquire(tenant, "user1")
        if came_in is not None:
            came_in.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks


async def queued(processor: Processor, admission: AdmissionQueue, *, beat_seconds: float) -> list[asyncio.Task[None]]:
    """A long queue whose first time slice took so much processor time."""
    tasks = await crowd(admission, 2000)
    processor.seconds += beat_seconds
    await eventually(lambda: sum(task.done() for task in tasks) > 16)  # of whom the first did not wait
    return tasks


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_runs_are_admitted_in_order_of_arrival_a_bounded_number_per_slice() -> None:
    admission, came_in = AdmissionQueue(max_wait_seconds=1), list[int]()
    tasks = await crowd(admission, 100, came_in)
    assert 0 < len(came_in) < 100
    await asyncio.gather(*tasks)
    assert came_in == list(range(100))


async def test_a_cancelled_waiter_does_not_block_the_queue() -> None:
    admission, came_in = AdmissionQueue(max_wait_seconds=1), list[int]()
    tasks = await crowd(admission, 100, came_in)
    await ended(tasks[20:90])
    await asyncio.gather(*tasks[90:])
    assert came_in == [*range(20), *range(90, 100)]


@pytest.mark.parametrize(
    ("beat_seconds", "stood_seconds"),
    [
        pytest.param(1, 1.5, id="a burst is worked off, however long its queue is"),
        pytest.param(0.001, 60, id="a queue that stands is no overload while it is short"),
    ],
)
async def test_a_queue_that_is_only_long_or_only_persistent_is_no_overload(
    beat_seconds: float, stood_seconds: float
) -> None:
    processor = Processor()
    admission = AdmissionQueue(max_wait_seconds=2, processor_seconds=processor)
    tasks = await queued(processor, admission, beat_seconds=beat_seconds)
    processor.seconds += stood_seconds
    admission.check()
    await ended(tasks)


@pytest.mark.slow
async def test_a_long_and_persistent_queue_is_overload_until_it_is_short() -> None:
    processor = Processor()
    admission = AdmissionQueue(max_wait_seconds=2, processor_seconds=processor)
    tasks = await queued(processor, admission, beat_seconds=0.1)
    processor.seconds += 5
    with pytest.raises(ServiceBusy, match="wait to be started"):
        admission.check()
    await asyncio.gather(*tasks)
    admission.check()


async def test_without_a_limit_no_run_is_refused() -> None:
    processor = Processor()
    admission = AdmissionQueue(max_wait_seconds=0, processor_seconds=processor)
    tasks = await queued(processor, admission, beat_seconds=10)
    processor.seconds += 60
    admission.check()
    await ended(tasks)


@pytest.fixture
async def overrun(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Aura, Crowd]]:
    """A service with more waiting runs than it admits, until the test cancels them."""
    monkeypatch.setattr("app.runs.admission._PERSISTENCE_SECONDS", 0.0)
    async with running(settings(aura_max_wait_seconds=1e-9)) as aura:
        waiting = await crowd(aura.service.admission, 20_000, tenant="tenant1")
        await eventually(lambda: sum(task.done() for task in waiting) > 16)
        yield aura, waiting
        await ended(waiting)


async def test_a_run_that_would_wait_too_long_is_refused_with_retry_after(
    overrun: tuple[Aura, Crowd], model: ScriptedModelServer
) -> None:
    aura, waiting = overrun
    refused = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers(Accept="application/json"))
    assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5003")
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["traceId"] == refused.headers["X-Correlation-ID"]
    assert "wait to be started" in refused.json()["message"]
    await ended(waiting)
    model.play(ScriptedTurn(text="네."))
    _, frames = await read_stream(aura)
    check(frames)


@pytest.mark.slow
async def test_a_refused_stream_is_read_to_its_end(overrun: tuple[Aura, Crowd]) -> None:
    aura, _ = overrun
    refused = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers(**{"X-Correlation-ID": "t-1"}))
    assert (refused.status_code, refused.headers["Content-Type"]) == (503, "text/event-stream")
    assert (refused.headers["X-Correlation-ID"], refused.headers["Retry-After"]) == ("t-1", "1")
    frames = [parse_frame(raw) for raw in refused.text.split("\n\n") if raw]
    assert [frame.type for frame in frames[:-1]] == ["error", "end"]
    assert frames[0].data["errorCode"] == "E5003"
    assert frames[-1].is_done


@pytest.mark.slow
async def test_requests_that_start_no_run_are_served_under_overload(overrun: tuple[Aura, Crowd]) -> None:
    aura, _ = overrun
    resumed = await aura.client.post(STREAM, headers=headers(**{"Last-Event-ID": "1"}))
    assert (resumed.status_code, "ResumeExpired" in resumed.text) == (200, True)
    assert (await aura.client.get(STREAM, headers=headers(Accept="application/json"))).status_code == 404
    assert (await aura.client.get("/health")).status_code == 200
    assert (await aura.client.put(STREAM, headers=headers(Accept="application/json"))).status_code == 405


@pytest.mark.slow
async def test_a_client_that_still_sends_its_body_gets_the_refusal_and_may_retry(overrun: tuple[Aura, Crowd]) -> None:
    aura, _ = overrun

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"prompt":'
        await asyncio.sleep(0.1)
        yield b'"x"}'

    with_json = headers(Accept="application/json", **{"Content-Type": "application/json"})
    assert (await aura.client.post(STREAM, content=slowly(), headers=with_json)).status_code == 503
    assert (await aura.client.get("/health")).status_code == 200


async def test_a_waiting_request_is_refused_when_the_replica_drains(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        waiting = await crowd(aura.service.admission, 1000, tenant="tenant1")
        request = asyncio.create_task(
            aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers(Accept="application/json"))
        )
        await eventually(lambda: aura.service.stats().starting_runs == 1)
        draining = asyncio.create_task(aura.service.runs.drain())
        refused = await request
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5003")
        await draining
        await ended(waiting)
