"""A process that is late for long refuses runs, early and clearly; a burst is worked off."""

from __future__ import annotations

from app.demo.model import ScriptedModelServer
from app.demo.script import ScriptedTurn
from app.load import Load
from tests.harness.frames import check
from tests.harness.raw import MakeSettings, whole
from tests.harness.service import STREAM, headers, running
from tests.harness.waiting import eventually


def after(load: Load, late_seconds: float, for_seconds: float, *, busy_share: float = 0.9) -> Load:
    passed = 0.0
    while passed < for_seconds:
        load.notice(late_seconds, busy_share)
        passed += late_seconds + 0.05
    return load


def test_a_burst_is_no_overload() -> None:
    load = after(Load(most_seconds=0.5), 1.0, 2)
    assert load.lag_seconds > 0.3
    assert not load.is_too_much
    assert not after(load, 0.0, 5).is_too_much


def test_lateness_that_lasts_is_overload_until_it_has_passed_for_as_long() -> None:
    load = after(Load(most_seconds=0.5), 1.0, 8)
    assert load.is_too_much
    assert not after(load, 0.0, 1).is_too_much  # now and here there is room
    assert after(load, 2.0, 4).is_too_much  # but it is soon gone
    assert not after(load, 0.0, 5).is_too_much
    assert not after(load, 2.0, 2).is_too_much  # a burst again


def test_who_is_late_because_others_have_the_processor_refuses_nothing() -> None:
    assert not after(Load(most_seconds=0.5), 2.0, 60, busy_share=0.2).is_too_much


def test_where_no_lateness_is_too_long_nothing_is_refused() -> None:
    assert not after(Load(most_seconds=0), 10.0, 100).is_too_much


async def test_a_run_that_would_be_late_is_refused_with_the_time_to_come_back(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with running(settings(aura_max_lag_milliseconds=500)) as aura:
        await aura.service.load.stop()  # its own samples
        after(aura.service.load, 2.0, 20)
        refused = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers(Accept="application/json"))
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5003")
        assert int(refused.headers["Retry-After"]) >= 1
        assert "ms late" in refused.json()["message"]
        assert (await aura.client.get("/health")).status_code == 200
        await aura.service.load.start()
        await eventually(lambda: not aura.service.load.is_too_much)
        model.play(ScriptedTurn(text="네."))
        _, frames = await whole(aura)
    check(frames)
