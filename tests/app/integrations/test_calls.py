"""Calls to the Main Service: how an answer is sorted, when the circuit opens, how a token is kept."""

from __future__ import annotations

import pytest

from app.dev.demo.http import HttpServer, Request, Response
from app.integrations.agent_task import Complete, Create, Fail, Report, Start
from app.integrations.breaker import Breaker
from app.integrations.main_service import Away, Caller, CallerRefused, CallRefused, MainService
from app.integrations.token_cipher import TokenCipher
from tests.harness.process import free_port
from tests.statemachine.runs import request

CALLER = Caller("the-token", 2e9)
CREATED = {"data": {"taskId": 7}}


class Answering(HttpServer):
    """Gives every request the same answer, and keeps it."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(self._answer)
        self.status, self.body, self.headers = status, body, headers
        self.asked: list[Request] = []

    async def _answer(self, request: Request, answer: Response) -> None:
        self.asked.append(request)
        await answer.json(self.status, self.body, self.headers)


@pytest.mark.parametrize(
    ("status", "body", "comes_to"),
    [
        (500, {}, Away),
        (503, {}, Away),
        (429, {}, Away),
        (408, {}, Away),
        (401, {}, CallerRefused),
        (403, {}, CallerRefused),
        (400, {}, CallRefused),
        (409, {}, CallRefused),
        (302, {}, CallRefused),
        (201, {}, CallRefused),
        (201, [], CallRefused),
        (201, {"data": {"taskId": ""}}, CallRefused),
        (201, {"data": {"taskId": True}}, CallRefused),
        (201, {"data": {"taskId": 5, "rest": "x" * 100_000}}, CallRefused),
    ],
)
async def test_an_answer_is_sorted_by_what_helps(status: int, body: object, comes_to: type[Exception]) -> None:
    async with Answering(status, body) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(comes_to):
            await service.send(Create({}), None, request(), CALLER)
        await service.close()


async def test_an_id_may_be_a_number_and_may_need_quoting() -> None:
    async with Answering(201, CREATED) as server:
        service = MainService(f"{server.origin}/", timeout_seconds=5)
        assert await service.send(Create({}), None, request(), CALLER) == "7"
        for call in (Start(), Report(5, "읽기", "[]"), Complete({"answer": "가"}), Fail("왜? 이유 & 더")):
            assert await service.send(call, "a/b?c", request(), CALLER) is None
        await service.close()
    asked = [(it.method, it.path) for it in server.asked]
    tasks = "/main/agent/tasks"
    assert asked == [
        ("POST", tasks),
        ("POST", f"{tasks}/a/b?c/start"),  # as it is after unquoting
        ("PATCH", f"{tasks}/a/b?c/progress"),
        ("POST", f"{tasks}/a/b?c/complete"),
        ("POST", f"{tasks}/a/b?c/fail"),
    ]
    assert server.asked[-1].query == {"errorMessage": "왜? 이유 & 더"}
    assert server.asked[2].json() == {"progress": 5, "description": "읽기", "planSteps": "[]"}
    sent = server.asked[1].headers
    assert sent["authorization"] == "Bearer the-token"
    assert (sent["x-tenant-id"], sent["x-user-id"], sent["x-correlation-id"]) == ("tenant1", "user1", "trace-1")
    assert (sent["x-dwp-source"], sent["x-dwp-caller-type"]) == ("AURA", "AGENT")
    assert "idempotency-key" not in sent
    assert server.asked[0].headers["idempotency-key"] == request().session_id


async def test_how_long_to_wait_is_what_the_service_says() -> None:
    async with Answering(503, {}, {"Retry-After": "7"}) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(Away) as away:
            await service.send(Start(), "t", request(), CALLER)
        await service.close()
    assert away.value.retry_after_seconds == 7


async def test_no_service_is_one_that_is_away() -> None:
    service = MainService(f"http://127.0.0.1:{free_port()}", timeout_seconds=5)
    with pytest.raises(Away):
        await service.send(Start(), "t", request(), CALLER)
    await service.close()


async def test_what_can_be_no_header_is_never_tried_again() -> None:
    async with Answering(200, {}) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(CallRefused):
            await service.send(Start(), "t", request(trace_id="a\r\nb: c"), CALLER)
        await service.send(Start(), "t", request(user_id="김"), CALLER)
        await service.close()
    assert len(server.asked) == 1


class Hours:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_circuit_opens_after_ten_failures_and_lets_one_trial_through() -> None:
    hours = Hours()
    breaker = Breaker(hours)
    assert [breaker.failed() for _ in range(10)] == [False] * 9 + [True]
    assert breaker.wait_seconds() == 1.0
    hours.now += 1
    assert breaker.wait_seconds() == 0.0
    assert breaker.wait_seconds() == 1.0, "the trial is under way"
    assert not breaker.failed(), "it was open before"
    assert breaker.wait_seconds() == 2.0
    hours.now += 2
    assert breaker.wait_seconds() == 0.0
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.wait_seconds() == 0.0


def test_the_rest_has_a_longest() -> None:
    hours = Hours()
    breaker = Breaker(hours)
    for _ in range(40):
        breaker.failed()
    assert breaker.wait_seconds() == 15.0


def test_a_token_opens_only_for_its_run_and_with_the_secret() -> None:
    cipher = TokenCipher("a secret of at least thirty-two bytes!!")
    encrypted_token = cipher.close("session_1", CALLER)
    assert CALLER.token not in encrypted_token
    assert cipher.open("session_1", encrypted_token) == CALLER
    assert cipher.open("session_2", encrypted_token) is None
    assert cipher.open("session_1", encrypted_token[:-2]) is None
    assert cipher.open("session_1", "no.t.a.t.oken") is None
    assert TokenCipher("another secret of at least thirty-two").open("session_1", encrypted_token) is None
    assert "the-token" not in repr(CALLER)
