"""Crashes and time in tests of other people's tools: what a killed process leaves, and deadlines."""

from __future__ import annotations

import pytest

from app.dev.demo.redis import RedisServer
from app.testing import AuraService, UnexpectedOutcome
from tests.app.testing import shop
from tests.app.testing.shop import Stock, order_stock, reserve


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    monkeypatch.setattr(shop, "STOCK", Stock())
    return shop.STOCK


def test_a_call_that_a_crash_has_interrupted_is_not_repeated_before_a_person_agrees(
    aura: AuraService, stock: Stock
) -> None:
    aura.use(order_stock)
    aura.model.calls("order_stock", item="볼트", count=3).answers("주문했습니다.")
    run = aura.crash(after="order_stock").run("볼트 3개를 주문해줘").approve()
    assert len(stock.orders) == 1
    assert stock.opened == 2
    assert run.waiting is not None
    assert run.waiting.outcome_unknown
    assert run.reject(skip=True).answer == "주문했습니다."
    assert len(stock.orders) == 1


@pytest.mark.slow
def test_a_call_is_repeated_where_the_person_agrees(aura: AuraService, stock: Stock) -> None:
    aura.use(order_stock)
    aura.model.calls("order_stock", item="볼트", count=3).answers("주문했습니다.")
    run = aura.crash(before="order_stock").run("볼트 3개를 주문해줘").approve()
    assert stock.orders == []
    assert run.approve().answer == "주문했습니다."
    assert len(stock.orders) == 1


@pytest.mark.slow
def test_an_idempotent_call_is_repeated_with_the_same_key(aura: AuraService, stock: Stock) -> None:
    aura.use(reserve).model.calls("reserve", item="볼트").answers("예약했습니다.")
    run = aura.crash(after="reserve").run("예약해줘")
    assert run.answer == "예약했습니다."
    first, second = stock.orders
    assert first.key == second.key
    assert [call.status for call in run.calls()] == ["completed"]


@pytest.mark.slow
def test_a_second_process_may_crash_too(aura: AuraService, stock: Stock) -> None:
    aura.use(reserve, aura_lease_seconds=2).model.calls("reserve", item="볼트").calls("reserve", item="너트").answers(
        "네."
    )
    run = aura.crash(before="reserve").run("예약해줘")
    aura.crash()
    assert run.answer == "네."
    assert [order.item for order in stock.orders] == ["볼트", "너트"]


@pytest.mark.slow
def test_a_run_that_waits_outlives_crashes(aura: AuraService, stock: Stock) -> None:
    aura.use(order_stock)
    aura.model.calls("order_stock", item="볼트", count=3).answers("주문했습니다.")
    run = aura.run("볼트 3개를 주문해줘")
    aura.crash().crash()
    assert run.approve().answer == "주문했습니다."
    assert len(stock.orders) == 1


def test_a_crash_that_has_not_happened_fails_the_test(redis_server: RedisServer) -> None:
    with AuraService(redis_server).use(reserve) as aura:
        aura.crash(before="reserve").model.answers("네.")
        aura.run("안녕")
        with pytest.raises(UnexpectedOutcome, match="the crash before reserve has not happened"):
            aura.check()
        with pytest.raises(ValueError, match="not both"):
            aura.crash(before="reserve", after="reserve")


def test_a_request_expires_when_the_clock_is_advanced(aura: AuraService, stock: Stock) -> None:
    aura.use(order_stock).model.calls("order_stock", item="볼트", count=3)
    run = aura.run("볼트 3개를 주문해줘")
    assert aura.advance(200) is aura
    assert run.status == "waiting"
    aura.advance(seconds=100)
    assert run.status == "timed_out"
    assert run.error is not None
    assert run.error.error_type == "TimeoutError"
    assert stock.orders == []
    with pytest.raises(ValueError, match="forward only"):
        aura.advance(-1)
