"""What a server says of a failure: whether it is asked again, what the user reads, what the log has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import without_addresses
from app.model.failures import error_in_response, error_of_status, not_a_completion


def of_status(status: int, body: Any, **headers: str) -> Any:
    return error_of_status(status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "bad"}}, "refused"),
        (401, {"error": {"message": "Incorrect API key"}}, "refused"),
        (402, {"error": {"message": "Insufficient Balance"}}, "refused"),
        (408, b"", "unavailable"),
        (425, b"", "unavailable"),
        (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}, "unavailable"),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "refused"),
        (429, {"error": {"message": "Too many tokens per minute"}}, "unavailable"),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, "context_too_long"),
        (
            400,
            {"object": "error", "message": "The maximum context length is 4096 tokens."},
            "context_too_long",
        ),
        (500, {"error": {"message": "the request exceeds the available context size"}}, "context_too_long"),
        (413, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}, "context_too_long"),
        (500, b"<html>oops</html>", "unavailable"),
        (503, b"\xff", "unavailable"),
    ],
)
def test_kind_of_an_http_error(status: int, body: Any, kind: str) -> None:
    assert of_status(status, body).kind == kind


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ({"error": {"message": "quota", "type": "insufficient_quota"}}, "refused", "quota"),
        ({"message": "bad", "type": "BadRequestError", "code": 400}, "refused", "bad"),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, "refused", "bad"),
        ({"error": {"message": "bad", "code": "404"}}, "refused", "bad"),
        ({"error": {"message": "slow down", "type": "rate_limit_error"}}, "unavailable", "slow down"),
        ({"error": {"message": "busy", "type": "overloaded_error"}}, "unavailable", "busy"),
        ({"error": "out of memory"}, "unavailable", "out of memory"),
        ({"error": [{"message": "one"}, {"message": "two"}]}, "unavailable", "one; two"),
        ({"message": "the input is too long", "code": None}, "context_too_long", "the input is too long"),
        ("plain text", "unavailable", "plain text"),
        ({"error": {"code": 7}}, "unavailable", "the model's server reported an error"),
        ({"error": {"message": "half \ud83d"}}, "unavailable", "half \ufffd"),
    ],
)
def test_kind_and_words_of_an_error_in_the_response(error: Any, kind: str, said: str) -> None:
    found = error_in_response(error)
    assert (found.kind, found.cause) == (kind, said)


def test_words_of_the_server_reach_the_user_and_the_body_reaches_the_log() -> None:
    body = {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}], "request_id": "r-1"}
    error = of_status(422, body)
    assert error.cause == "the model's server responded with HTTP 422: Field required"
    assert "HTTP 422" in error.detail
    assert "r-1" in error.detail
    assert of_status(502, b"<html>Bad gateway</html>").cause == "the model's server responded with HTTP 502"
    assert not_a_completion(b"<html>").detail == "<html>"


@pytest.mark.parametrize(
    "address",
    [
        *("https://api.example.com/v1/x?key=1", "http://10.0.0.5:8000", "10.0.0.5", "10.0.0.5:8000", "[::1]:8000"),
        *("localhost:11434", "localhost", "model-backend:8000", "gpu-1.internal.example.com:443"),
        *("host='gpu-1.internal', port=443", "ollama:11434"),
    ],
)
def test_user_reads_no_address(address: str) -> None:
    text = error_in_response({"error": f"connection to {address} failed"}).cause
    assert text == "connection to … failed"


@pytest.mark.parametrize(
    "text", ["at 12:30 on 2026-01-02", "gpt-4.1-mini: 4096 tokens", "see section 1.2.3", "a: b", "code:4004"]
)
def test_words_that_are_no_address_stay(text: str) -> None:
    assert without_addresses(text) == text


def test_named_hosts_are_removed_where_they_stand_alone() -> None:
    assert without_addresses("gpu.example is down", ["gpu.example"]) == "… is down"
