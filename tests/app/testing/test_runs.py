"""Runs as a test of other people's tools follows them: approvals, answers, calls, errors that say what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from app.client import ApiError, Content, Thought
from app.dev.demo.redis import RedisServer
from app.errors import ConfigurationError
from app.testing import AuraService, ScriptedTurn, UnexpectedOutcome
from app.tools import resource, tool
from tests.app.testing import shop
from tests.app.testing.shop import Order, Stock, order_stock, reserve, send_parcel

PROMPT = "볼트 3개를 주문해줘"


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stock]:
    monkeypatch.setattr(shop, "STOCK", Stock())
    yield shop.STOCK
    assert shop.STOCK.opened == shop.STOCK.closed or shop.STOCK.opened == shop.STOCK.closed + 1


def ordering(aura: AuraService, **changes: object) -> AuraService:
    aura.use(order_stock)
    aura.model.calls("order_stock", **{"item": "볼트", "count": 3, **changes})
    return aura


def test_a_person_approves_an_order(aura: AuraService, stock: Stock) -> None:
    ordering(aura).model.answers("주문했습니다.")
    run = aura.run(PROMPT)
    assert run.status == "waiting"
    assert run.waiting is not None
    assert (run.waiting.tool, run.waiting.arguments) == ("order_stock", {"item": "볼트", "count": 3})
    assert run.waiting.question == "재고를 3개 주문하시겠습니까?"
    assert run.waiting.warnings == ()
    assert stock.orders == []
    assert run.approve() is run
    assert run.waiting is None
    assert (run.status, run.answer) == ("completed", "주문했습니다.")
    (call,) = run.calls("order_stock")
    assert (call.status, call.approved, call.error) == ("completed", True, None)
    assert call.result == {"item": "볼트", "count": 3, "key": stock.orders[0].key}
    assert run.calls("another") == []
    assert any(isinstance(event, Content) for event in run.events)


def test_the_approver_changes_an_argument_or_all_of_them(aura: AuraService, stock: Stock) -> None:
    aura.use(order_stock)
    aura.model.calls("order_stock", item="볼트", count=3).calls("order_stock", item="볼트", count=3).answers("네.")
    run = aura.run(PROMPT).approve(count=2)
    assert run.waiting is not None
    run.approve({"item": "너트", "count": 9})
    assert [(order.item, order.count) for order in stock.orders] == [("볼트", 2), ("너트", 9)]
    assert run.answer == "네."


def test_arguments_of_the_approver_that_do_not_fit_are_refused_and_the_run_still_waits(aura: AuraService) -> None:
    run = ordering(aura).run(PROMPT)
    with pytest.raises(ApiError, match="count"):
        run.approve(count="many")
    assert run.status == "waiting"


def test_a_rejected_run_has_an_error_and_no_answer(aura: AuraService, stock: Stock) -> None:
    run = ordering(aura).run(PROMPT).reject("너무 많습니다")
    assert run.status == "rejected"
    assert run.error is not None
    assert (run.error.error_type, run.error.message) == ("RejectionError", "너무 많습니다")
    with pytest.raises(UnexpectedOutcome, match="there is no answer: the run ended as rejected: RejectionError: 너무"):
        _ = run.answer
    assert run.calls()[0].status == "rejected"
    assert stock.orders == []


def test_a_call_is_skipped_and_another_is_approved(aura: AuraService, stock: Stock) -> None:
    ordering(aura).model.and_calls("order_stock", {"item": "너트"}, count=1).answers("너트만 주문했습니다.")
    run = aura.run(PROMPT)
    assert run.reject("필요 없음", skip=True).waiting is not None
    assert run.approve().answer == "너트만 주문했습니다."
    assert [call.status for call in run.calls()] == ["rejected", "completed"]
    assert [order.item for order in stock.orders] == ["너트"]


def test_settings_are_given_by_their_names(aura: AuraService) -> None:
    ordering(aura.use(aura_on_reject="replan")).model.answers("그만두겠습니다.")
    assert aura.run(PROMPT).reject("아니요").answer == "그만두겠습니다."


def test_an_unknown_setting_is_named(aura: AuraService) -> None:
    with pytest.raises(ConfigurationError, match="AURA_ON_REJECT"):
        aura.use(aura_on_reject="perhaps").run(PROMPT)


def test_tools_are_chosen_before_the_first_run(aura: AuraService) -> None:
    aura.model.answers("네.")
    aura.run("안녕")
    with pytest.raises(RuntimeError, match="before the first run"):
        aura.use(order_stock)


def test_a_resource_of_the_test_replaces_that_of_the_module(aura: AuraService, stock: Stock) -> None:
    other = Stock()

    @resource
    async def other_stock() -> AsyncIterator[Stock]:
        yield other

    ordering(aura.use(other_stock)).model.answers("네.")
    aura.run(PROMPT).approve()
    assert [order.item for order in other.orders] == ["볼트"]
    assert stock.opened == 0


def test_a_tool_of_the_test_and_the_failure_of_a_tool(aura: AuraService) -> None:
    @tool()
    async def add(first: int, second: int = 1) -> int:
        """Add two numbers."""
        return first + second

    aura.use(add, order_stock)
    aura.model.calls("add", first=1).calls("add", '{"first": ').calls("order_stock", item="금", count=1).answers("못함")
    run = aura.run("더해줘").approve()
    added, malformed, gold = run.calls()
    assert (added.result, added.approved) == (2, False)
    assert (malformed.status, malformed.result) == ("failed", None)
    assert (gold.status, gold.error) == ("failed", "도구 실행에 실패했습니다. the catalogue has no gold")
    assert run.answer == "못함"


def test_the_model_thinks_and_says_something_before_its_call(aura: AuraService) -> None:
    aura.use(reserve)
    aura.model.thinks("재고를 봅니다").writes("확인하겠습니다.").calls("reserve", item="볼트").answers("네.")
    run = aura.run("예약")
    thoughts = [event.content for event in run.events if isinstance(event, Thought)]
    assert "재고를 봅니다" in "".join(thoughts)
    assert aura.model.requests[1]["messages"][-1]["role"] == "tool"


def test_a_model_that_fails_once_is_asked_again(aura: AuraService) -> None:
    aura.model.fails("overloaded", status=503).answers("이제 됩니다.")
    assert aura.run("안녕").answer == "이제 됩니다."


def test_turns_that_the_words_cannot_write_are_played(aura: AuraService) -> None:
    aura.use(aura_model_attempts=1).model.play(ScriptedTurn(text="끊긴", cut_after=0))
    run = aura.run("안녕")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.error_type == "ModelError"


def test_another_person_may_decide_only_as_an_approver(aura: AuraService) -> None:
    ordering(aura).model.answers("네.")
    run = aura.run(PROMPT).as_user("user2")
    with pytest.raises(ApiError, match="E2001"):
        run.approve()
    assert run.as_user("boss", role="approver").approve().answer == "네."


def test_a_run_of_another_tenant_is_decided_in_that_tenant(aura: AuraService) -> None:
    ordering(aura).model.answers("네.")
    run = aura.run(PROMPT, user="lee", tenant="acme", email="lee@acme.test")
    with pytest.raises(ApiError) as refused:
        run.as_user("boss", role="approver", tenant="tenant1").approve()
    assert refused.value.status == 404
    assert run.as_user("boss", role="approver").approve().answer == "네."


def test_a_resource_that_does_not_start_is_named(aura: AuraService) -> None:
    @resource
    async def broken() -> AsyncIterator[Stock]:
        raise ConnectionError("no database")
        yield Stock()

    with pytest.raises(Exception, match=r"broken.*it did not start: ConnectionError: no database"):
        aura.use(order_stock, broken).start()


def test_a_decision_that_another_client_has_made_is_followed(aura: AuraService) -> None:
    ordering(aura).model.answers("네.")
    run = aura.run(PROMPT)
    (request,) = aura.client().pending()["requests"]
    aura.client("boss", role="admin").approve(request["requestId"], request["argumentsDigest"])
    with pytest.raises(UnexpectedOutcome, match="too late: the request is approved already"):
        run.reject()
    assert run.go_on().answer == "네."


def test_a_run_that_waits_is_cancelled(aura: AuraService) -> None:
    assert ordering(aura).run(PROMPT).cancel().status == "cancelled"


def test_a_thread_and_the_screen_of_the_user_reach_the_model(aura: AuraService) -> None:
    aura.model.answers("첫 번째").answers("두 번째")
    aura.run("하나", {"activeApp": "mail"}, thread_id="thread-1")
    assert aura.run("둘", thread_id="thread-1").answer == "두 번째"
    first, second = aura.model.requests
    assert "mail" in first["messages"][0]["content"]
    assert "첫 번째" in str(second["messages"])


def test_an_answer_is_refused_while_the_run_waits(aura: AuraService) -> None:
    run = ordering(aura).run(PROMPT)
    waits = 'there is no answer: the run waits for a person to decide order_stock(item="볼트", count=3)'
    with pytest.raises(UnexpectedOutcome) as raised:
        _ = run.answer
    assert str(raised.value).startswith(waits)
    assert "재고를 3개 주문하시겠습니까?" in repr(run)


def test_a_run_that_has_ended_cannot_be_approved(aura: AuraService) -> None:
    aura.model.answers("네.")
    run = aura.run("안녕")
    with pytest.raises(UnexpectedOutcome, match="nothing that can be approved: the run ended as completed"):
        run.approve()
    with pytest.raises(UnexpectedOutcome, match="nothing that can be rejected"):
        run.reject()


def test_a_call_of_a_tool_that_does_not_exist_is_named_where_the_run_differs(aura: AuraService) -> None:
    aura.use(order_stock)
    aura.model.calls("order_stick", item="볼트").answers("네.")
    run = aura.run(PROMPT)
    with pytest.raises(
        UnexpectedOutcome, match=r"completed: order_stick failed: The tool 'order_stick' does not exist"
    ):
        run.approve()


def test_what_is_not_a_tool_and_a_setting_that_does_not_exist_are_named(aura: AuraService) -> None:
    not_a_tool: Any = "shop"
    with pytest.raises(ConfigurationError, match=r"aura\.use\(\): builtins:str is not a tool"):
        aura.use(not_a_tool)
    aura.use(order_stock, aura_on_rejct="replan")
    with pytest.raises(
        ConfigurationError, match=r"AURA_ON_REJCT: there is no such setting; did you mean AURA_ON_REJECT"
    ):
        aura.run(PROMPT)


def test_a_request_to_the_model_without_a_turn_is_named_in_the_error(redis_server: RedisServer) -> None:
    with AuraService(redis_server).use(aura_model_attempts=1) as aura:
        run = aura.run("안녕하세요")
        with pytest.raises(UnexpectedOutcome, match=r"no turn; add aura.model.answers.*안녕하세요"):
            _ = run.answer
        with pytest.raises(UnexpectedOutcome, match="for which the test has no turn"):
            aura.check()


def test_turns_that_are_left_over_are_named(redis_server: RedisServer) -> None:
    with AuraService(redis_server) as aura:
        aura.model.answers("네.").calls("reserve", item="볼트").and_calls("reserve", "{").fails()
        aura.run("안녕")
        aura.model.answers("또")
        with pytest.raises(UnexpectedOutcome) as raised:
            aura.check()
    left = 'calls reserve(item="볼트") and reserve({); fails with HTTP 500; answers "또"'
    assert str(raised.value) == f"3 turn(s) of the scripted model were not used (the service sent 1 request(s)): {left}"


def test_a_script_that_makes_no_sense_is_refused(redis_server: RedisServer) -> None:
    with AuraService(redis_server) as aura:
        with pytest.raises(ValueError, match="directly before it"):
            aura.model.and_calls("reserve")
        with pytest.raises(ValueError, match="give one of them"):
            aura.model.calls("reserve", "{}", item="볼트")
        aura.model.thinks("…")
        with pytest.raises(UnexpectedOutcome, match="begin a turn"):
            aura.check()


@pytest.mark.slow
def test_a_step_that_takes_too_long_names_the_last_events(redis_server: RedisServer) -> None:
    @tool()
    async def hang() -> None:
        """Never return."""
        await asyncio.Event().wait()

    with AuraService(redis_server).use(hang) as aura:
        assert aura.timeout_seconds == 30
        aura.timeout_seconds = 1
        aura.model.calls("hang")
        with pytest.raises(UnexpectedOutcome, match=r"for 1 s the run has neither .*: hang\(\) executing"):
            aura.run("기다려")
        assert "tool_execution: hang() executing" in aura.describe()


def test_a_refused_run_says_why(aura: AuraService) -> None:
    with pytest.raises(ApiError, match="prompt"):
        aura.run("")


async def test_a_test_with_an_event_loop_uses_the_same_words(aura: AuraService, stock: Stock) -> None:
    ordering(aura).model.answers("네.")
    assert aura.run(PROMPT).approve().answer == "네."
    assert [type(order) for order in stock.orders] == [Order]


def test_a_call_whose_outcome_is_unknown_asks_a_person(aura: AuraService) -> None:
    aura.use(send_parcel).model.calls("send_parcel", to="서울").answers("확인해 주세요.")
    run = aura.run("택배 보내줘")
    assert run.waiting is not None
    assert run.waiting.outcome_unknown
    assert run.calls()[0].outcome_unknown
    assert run.reject(skip=True).answer == "확인해 주세요."


def test_the_service_has_a_redis_of_its_own_where_none_is_given() -> None:
    with AuraService() as aura:
        aura.model.answers("네.")
        assert aura.run("안녕").answer == "네."
        assert aura.client().info()["model"]
        aura.check()
