"""Fair admission: the flood of a tenant or of a user does not delay others, nor does it shed their requests."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.errors import ServiceBusy
from app.runs.admission import AdmissionQueue
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import STREAM, headers, running
from tests.harness.waiting import eventually


class Processor:
    """A processor clock that moves with each reading, so that every iteration of the event loop seems busy."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.seconds = 0.0
        self.step_seconds = step_seconds

    def __call__(self) -> float:
        self.seconds += self.step_seconds
        return self.seconds


class Arrivals:
    """Requests that wait for their admission; `admitted` has them in the order of it."""

    def __init__(self, admission: AdmissionQueue) -> None:
        self._admission = admission
        self.admitted: list[tuple[str, str]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def add(self, tenant_id: str, user_id: str = "u", count: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._wait(tenant_id, user_id)) for _ in range(count)]
        await asyncio.sleep(0)

    async def _wait(self, tenant_id: str, user_id: str) -> None:
        await self._admission.acquire(tenant_id, user_id)
        self.admitted.append((tenant_id, user_id))

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_tenant_without_a_run_does_not_wait_behind_the_flood_of_another() -> None:
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0))
    await arrivals.add("flood", count=500)
    before = len(arrivals.admitted)
    assert before < 500
    await arrivals.add("quiet")
    assert arrivals.admitted[before] == ("quiet", "u")
    await arrivals.end()


async def test_tenants_that_all_wait_are_admitted_in_turn() -> None:
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0))
    for tenant in ("a", "b", "c"):
        await arrivals.add(tenant, count=40)
    await asyncio.gather(*arrivals.tasks)
    order = [tenant for tenant, _ in arrivals.admitted]
    start = order.index("c") + 1
    assert all(set(order[at : at + 3]) == {"a", "b", "c"} for at in range(start + 3, 60, 3))


async def test_users_of_a_tenant_start_their_runs_in_turn() -> None:
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0))
    await arrivals.add("t", "flood", 500)
    before = len(arrivals.admitted)
    await arrivals.add("t", "colleague", 3)
    await eventually(lambda: [user for _, user in arrivals.admitted].count("colleague") == 3)
    assert len(arrivals.admitted) < before + 50
    await arrivals.end()


async def test_runs_of_one_user_start_in_the_order_of_their_arrival() -> None:
    admission, admitted = AdmissionQueue(max_wait_seconds=0), list[int]()

    async def wait(number: int) -> None:
        await admission.acquire("t", "u")
        admitted.append(number)

    await asyncio.gather(*(wait(number) for number in range(100)))
    assert admitted == list(range(100))


async def test_while_several_tenants_start_runs_a_busy_process_admits_few_of_them() -> None:
    processor = Processor(step_seconds=1.0)
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0, processor_seconds=processor))
    await arrivals.add("a")
    await arrivals.add("b")
    await arrivals.add("a", count=200)
    before, loop = len(arrivals.admitted), asyncio.get_running_loop()
    began = loop.time()
    await eventually(lambda: len(arrivals.admitted) >= before + 3)
    assert loop.time() - began >= 0.15, "one in a tenth of a second"
    processor.step_seconds = 0.0
    idle_at = loop.time()
    await eventually(lambda: len(arrivals.admitted) >= before + 10)
    assert loop.time() - idle_at < 0.6, "one in each slice of 5 ms, once the process is idle"
    await arrivals.end()


async def test_a_tenant_that_starts_its_next_run_later_does_not_wait_either() -> None:
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0, processor_seconds=Processor(step_seconds=1.0)))
    await arrivals.add("quiet")
    await arrivals.add("flood", count=500)
    for _ in range(5):
        await asyncio.sleep(0.02)
        await arrivals.add("quiet")
        assert arrivals.admitted[-1] == ("quiet", "u")
    await arrivals.end()


async def test_tenants_that_wait_leave_the_share_of_one_more_tenant_free() -> None:
    loop, began = asyncio.get_running_loop(), time.monotonic()
    admission = AdmissionQueue(max_wait_seconds=0, processor_seconds=lambda: 0.6 * (time.monotonic() - began))
    arrivals = Arrivals(admission)
    for tenant in ("a", "b", "a"):
        await arrivals.add(tenant, count=60)
    before, at = len(arrivals.admitted), loop.time()
    await eventually(lambda: len(arrivals.admitted) >= before + 60)
    assert loop.time() - at < 1, "busy for 60 % of the time, two tenants may start runs in each slice"
    await eventually(lambda: [tenant for tenant, _ in arrivals.admitted].count("b") == 60)
    before, at = len(arrivals.admitted), loop.time()
    await eventually(lambda: len(arrivals.admitted) >= before + 3)
    assert loop.time() - at > 0.15, "and one alone may not"
    await arrivals.end()


async def test_one_tenant_alone_may_use_the_whole_processor() -> None:
    arrivals = Arrivals(AdmissionQueue(max_wait_seconds=0, processor_seconds=Processor(step_seconds=1.0)))
    await arrivals.add("a", count=200)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*arrivals.tasks)
    assert asyncio.get_running_loop().time() - began < 2, "one in a tenth of a second would take 20 s"


async def test_refusals_are_sent_one_after_another_while_several_tenants_start_runs() -> None:
    admission = AdmissionQueue(max_wait_seconds=0, processor_seconds=Processor(step_seconds=1.0))
    loop = asyncio.get_running_loop()
    await admission.acquire("a")
    await admission.acquire("b")
    left = asyncio.create_task(admission.wait_to_refuse())
    await asyncio.sleep(0)
    gone = asyncio.create_task(admission.wait_to_refuse())
    await asyncio.sleep(0)
    gone.cancel()
    began = loop.time()
    await asyncio.gather(left, *(admission.wait_to_refuse() for _ in range(20)))
    assert loop.time() - began >= 0.09
    assert gone.cancelled()


async def test_the_flood_of_one_tenant_does_not_shed_the_runs_of_another() -> None:
    processor = Processor()
    admission = AdmissionQueue(max_wait_seconds=2, processor_seconds=processor)
    arrivals = Arrivals(admission)
    await arrivals.add("flood", count=2000)
    processor.seconds += 0.1
    await eventually(lambda: len(arrivals.admitted) > 16)
    processor.seconds += 5
    with pytest.raises(ServiceBusy, match="wait to be started"):
        admission.check("flood")
    admission.check("quiet")
    await arrivals.end()


@pytest.mark.slow
async def test_a_request_of_another_tenant_is_served_while_a_flood_is_shed(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.runs.admission._PERSISTENCE_SECONDS", 0.0)
    async with running(settings(aura_max_wait_seconds=0.1, openai_api_key=None)) as aura:
        arrivals = Arrivals(aura.service.admission)
        await arrivals.add("tenant1", count=20_000)
        await eventually(lambda: len(arrivals.admitted) > 16)
        shed = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers(Accept="application/json"))
        stream, _ = await read_stream(aura, headers=headers("user1", "tenant2"))
        await arrivals.end()
    assert (shed.status_code, shed.json()["errorCode"]) == (503, "E5003")
    assert stream.response.status_code == 200


async def test_a_tenant_that_is_named_falsely_starts_no_run(settings: MakeSettings) -> None:
    """The header is not verified when a flood is shed: a token of another tenant does not pass it."""
    async with running(settings(openai_api_key=None)) as aura:
        sent = {**headers("user1", "tenant1", Accept="application/json"), "X-Tenant-ID": "tenant2"}
        assert (await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=sent)).status_code == 403
