"""What a log line may say: bounded, on its own line, without secrets, and of a tenant only after authentication."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
import structlog

from app import logs
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.clients import token
from tests.harness.logged import Written, entries
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import headers, running

FORGED = 'x\n2026-01-01 [info] approval.decided decidedBy=ceo\r\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2028{"event":"y"}'


def _log(value: Any, by: str) -> None:
    match by:
        case "structlog":
            structlog.get_logger("test").warning("thing.happened", value=value, nested={"a": [value]})
        case "logging":
            logging.getLogger("library").warning("a library says %s", value)
        case _:
            try:
                raise ValueError(value)
            except ValueError:
                structlog.get_logger("test").exception("thing.failed")


BY = pytest.mark.parametrize("by", ["structlog", "logging", "exception"])


@BY
@pytest.mark.parametrize("written", ["json", "console"], indirect=True)
def test_no_value_forges_a_line_or_controls_a_terminal(written: Written, by: str) -> None:
    _log(FORGED, by)
    text = written()
    assert not set(text) & set("\r\x1b\x07\x9b\u202e\u2028")
    assert not any(line.startswith(("2026-01-01", "{")) and "ceo" in line[:60] for line in text.splitlines())
    if by != "exception":
        assert len(text.splitlines()) == 1
    else:
        assert all(line.startswith("  ") for line in text.splitlines()[1:] if line), "a traceback is indented"


@BY
@pytest.mark.parametrize("written", ["json", "console"], indirect=True)
def test_no_value_floods_the_log(written: Written, by: str) -> None:
    _log("x" * 1_000_000, by)
    assert len(written()) < 3 * logs.MAX_TRACEBACK_CHARACTERS


def test_lists_and_numbers_are_bounded(written: Written) -> None:
    structlog.get_logger("test").warning(
        "thing.happened", many=list(range(10_000)), huge=10**5000, deep=[[[[[["x"]]]]]]
    )
    line = json.loads(written())
    assert len(line["many"]) < 100
    assert len(str(line["huge"])) < 3000
    assert line["deep"] == [[[["[['x']]"]]]]


@BY
@pytest.mark.parametrize("written", ["json", "console"], indirect=True)
def test_secrets_and_tokens_are_masked_in_every_spelling_and_before_a_value_is_cut(written: Written, by: str) -> None:
    users = token()
    spellings = ["s3cret/of&the service", "s3cret%2Fof%26the%20service", "it's\\quoted", repr("it's\\quoted"), users]
    _log("x" * (logs.MAX_VALUE_CHARACTERS - 5) + " ".join(spellings), by)
    _log(" ".join(spellings), by)
    text = written()
    for part in ("s3cr", "quoted", users, users.split(".")[2]):
        assert part not in text
    assert "***" in text


@BY
def test_passwords_in_urls_are_masked_also_those_of_others(written: Written, by: str) -> None:
    _log("cannot reach http://kim:pa55w@host:1/x?token=abc123def&a=1 nor redis://:pa55w@host/0", by)
    assert "pa55w" not in written()
    assert "abc123def" not in written()
    assert "host:1/x" in written()


async def test_tenant_is_in_the_log_only_after_authentication(
    settings: MakeSettings, model: ScriptedModelServer, written: Written
) -> None:
    model.play(ScriptedTurn(status=400, error_message="no"))
    async with running(settings()) as aura:
        for sent in ({"Authorization": "Bearer x"}, {}):
            claimed = {**sent, "X-Tenant-ID": "claimed-tenant"}
            await aura.client.post("/aura/test/stream", json={"prompt": "x"}, headers=claimed)
        await read_stream(aura, "질문")
        assert "claimed-tenant" not in written()
        assert [line["tenantId"] for line in entries(written, "run.ended")] == ["tenant1"]


async def test_headers_that_anybody_sends_are_short_in_the_log(
    settings: MakeSettings, written: Written, redis_server: Any
) -> None:
    async with running(settings(aura_redis_timeout_seconds=0.3)) as aura:
        redis_server.pause()
        try:
            sent = headers(**{"X-DWP-Source": "s" * 5000, "Accept": "application/json"})
            assert (await aura.client.get("/aura/runs", headers=sent)).status_code == 503
        finally:
            redis_server.resume()
        (line,) = entries(written, "request.failed")
        assert len(line["source"]) == 64
        assert line["tenantId"] == "tenant1"


def test_a_log_that_cannot_be_written_does_not_stop_the_service() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    logs.configure("INFO", "json", secrets=(), output=Closed())
    try:
        structlog.get_logger("test").info("thing.happened")
    finally:
        logs.configure("INFO", "json", secrets=())
