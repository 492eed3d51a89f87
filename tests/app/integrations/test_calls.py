"""Requests to the Main Service: how responses are mapped, when the circuit opens, how tokens are encrypted."""

from __future__ import annotations

import json

import pytest

from app.crypto.purpose_keys import PurposeKeys
from app.dev.demo.http import HttpServer, Request, Response
from app.integrations.agent_task import CompleteTask, CreateTask, FailTask, ReportProgress, StartTask
from app.integrations.circuit_breaker import CircuitBreaker
from app.integrations.main_service import (
    Caller,
    MainService,
    RequestFailed,
    RequestRejected,
    ServiceUnavailable,
    TokenRejected,
)
from app.integrations.token_cipher import TokenCipher
from tests.harness.process import free_port
from tests.statemachine.runs import request

CALLER = Caller("the-token", 2e9)
CREATED = {"data": {"taskId": 7}}


class Answering(HttpServer):
    """Sends the same response to every request, and keeps the requests."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(self._answer)
        self.status, self.body, self.headers = status, body, headers
        self.requests: list[Request] = []

    async def _answer(self, request: Request, answer: Response) -> None:
        self.requests.append(request)
        await answer.json(self.status, self.body, self.headers)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, {}, RequestFailed),
        (501, {}, RequestFailed),
        (502, {}, ServiceUnavailable),
        (503, {}, ServiceUnavailable),
        (429, {}, ServiceUnavailable),
        (408, {}, ServiceUnavailable),
        (401, {}, TokenRejected),
        (403, {}, TokenRejected),
        (400, {}, RequestRejected),
        (409, {}, RequestRejected),
        (302, {}, RequestRejected),
        (201, {}, RequestRejected),
        (201, [], RequestRejected),
        (201, {"data": {"taskId": ""}}, RequestRejected),
        (201, {"data": {"taskId": True}}, RequestRejected),
        (201, {"data": {"taskId": 5, "rest": "x" * 1_000_000}}, RequestRejected),
        (201, {"data": [5]}, RequestRejected),
        (201, {"data": {"taskId": {"a": 1}}}, RequestRejected),
        (201, {"data": {"taskId": 5.5}}, RequestRejected),
        (201, json.loads("[" * 200 + "]" * 200), RequestRejected),
        (500, "x" * 1_000_000, RequestFailed),
    ],
)
async def test_response_is_mapped_to_an_error(status: int, body: object, error: type[Exception]) -> None:
    async with Answering(status, body) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(error):
            await service.send(CreateTask({}), None, request(), CALLER)
        await service.close()


async def test_odd_task_id_can_be_stored() -> None:
    for sent, stored in ((10**400, "1" + "0" * 199), ("a\ud83d", "a\ufffd"), ("x" * 900, "x" * 200)):
        async with Answering(201, {"data": {"taskId": sent}}) as server:
            service = MainService(server.origin, timeout_seconds=5)
            assert await service.send(CreateTask({}), None, request(), CALLER) == stored
            await service.close()


async def test_task_id_may_be_a_number_and_is_quoted_in_the_path() -> None:
    async with Answering(201, CREATED) as server:
        service = MainService(f"{server.origin}/", timeout_seconds=5)
        assert await service.send(CreateTask({}), None, request(), CALLER) == "7"
        for task_request in (
            StartTask(),
            ReportProgress(5, "읽기", "[]"),
            CompleteTask({"answer": "가"}),
            FailTask("왜? 이유 & 더"),
        ):
            assert await service.send(task_request, "a/b?c", request(), CALLER) is None
        await service.close()
    requests = [(it.method, it.path) for it in server.requests]
    tasks = "/main/agent/tasks"
    assert requests == [
        ("POST", tasks),
        ("POST", f"{tasks}/a/b?c/start"),  # the server has unquoted it
        ("PATCH", f"{tasks}/a/b?c/progress"),
        ("POST", f"{tasks}/a/b?c/complete"),
        ("POST", f"{tasks}/a/b?c/fail"),
    ]
    assert server.requests[-1].query == {"errorMessage": "왜? 이유 & 더"}
    assert server.requests[2].json() == {"progress": 5, "description": "읽기", "planSteps": "[]"}
    sent = server.requests[1].headers
    assert sent["authorization"] == "Bearer the-token"
    assert (sent["x-tenant-id"], sent["x-user-id"], sent["x-correlation-id"]) == ("tenant1", "user1", "trace-1")
    assert (sent["x-dwp-source"], sent["x-dwp-caller-type"]) == ("AURA", "AGENT")
    assert "idempotency-key" not in sent
    assert server.requests[0].headers["idempotency-key"] == request().session_id


async def test_retry_after_of_the_service_is_kept() -> None:
    async with Answering(503, {}, {"Retry-After": "7"}) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(ServiceUnavailable) as unavailable:
            await service.send(StartTask(), "t", request(), CALLER)
        await service.close()
    assert unavailable.value.retry_after_seconds == 7


async def test_refused_connection_means_unavailable() -> None:
    service = MainService(f"http://127.0.0.1:{free_port()}", timeout_seconds=5)
    with pytest.raises(ServiceUnavailable):
        await service.send(StartTask(), "t", request(), CALLER)
    await service.close()


async def test_invalid_header_value_is_rejected_without_a_request() -> None:
    async with Answering(200, {}) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(RequestRejected):
            await service.send(StartTask(), "t", request(trace_id="a\r\nb: c"), CALLER)
        await service.send(StartTask(), "t", request(user_id="김"), CALLER)
        await service.close()
    assert len(server.requests) == 1


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_circuit_opens_after_ten_failures_and_allows_one_trial() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(clock)
    assert [breaker.record_failure() for _ in range(10)] == [False] * 9 + [True]
    assert breaker.acquire() == 1.0
    clock.now += 1
    assert breaker.acquire() == 0.0
    assert breaker.acquire() == 1.0, "the trial has no result yet"
    assert not breaker.record_failure(), "the circuit was open before"
    assert breaker.acquire() == 2.0
    clock.now += 2
    assert breaker.acquire() == 0.0
    breaker.record_success()
    assert not breaker.is_open
    assert breaker.acquire() == 0.0


def test_open_time_has_a_maximum() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(clock)
    for _ in range(40):
        breaker.record_failure()
    assert breaker.acquire() == 15.0


def test_token_is_decrypted_only_for_its_run_and_with_the_secret() -> None:
    cipher = TokenCipher(PurposeKeys(["a secret of at least thirty-two bytes!!"]))
    encrypted_token = cipher.encrypt("session_1", CALLER)
    assert CALLER.token not in encrypted_token
    assert cipher.decrypt("session_1", encrypted_token) == CALLER
    assert cipher.decrypt("session_2", encrypted_token) is None
    assert cipher.decrypt("session_1", encrypted_token[:-2]) is None
    assert cipher.decrypt("session_1", "no.t.a.t.oken") is None
    other, secret = "another secret of at least thirty-two", "a secret of at least thirty-two bytes!!"
    assert TokenCipher(PurposeKeys([other])).decrypt("session_1", encrypted_token) is None
    assert TokenCipher(PurposeKeys([other, secret])).decrypt("session_1", encrypted_token) == CALLER
    assert "the-token" not in repr(CALLER)
