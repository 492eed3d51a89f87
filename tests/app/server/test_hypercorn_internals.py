"""The private names of Hypercorn: which are missing, and how the service works without them."""

from __future__ import annotations

import hypercorn.protocol
import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.h11 import H11Protocol
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.server import hypercorn_internals
from app.server.hypercorn_internals import missing_names
from tests.harness.frames import answer, check
from tests.harness.raw import MakeSettings, RawStream, read_stream
from tests.harness.service import running


def test_all_names_are_there() -> None:
    """Fails where a new Hypercorn has moved a name: see `app/server/hypercorn_internals.py`."""
    missing = missing_names()
    assert not missing, (
        f"this Hypercorn lacks {missing}: the service serves with Hypercorn's own protocol, where streams cost three "
        "times as much CPU and HTTP/2 has no back-pressure"
    )


@pytest.mark.parametrize("name", ["_check_protocol", "_create_stream", "_send_error_response", "stream_send"])
def test_a_missing_method_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(H11Protocol, name)
    assert missing_names() == [f"H11Protocol.{name}"]


def test_a_method_with_other_parameters_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def create_stream(self: H11Protocol, request: object, headers: object) -> None: ...

    monkeypatch.setattr(H11Protocol, "_create_stream", create_stream)
    assert missing_names() == ["H11Protocol._create_stream"]


def test_a_server_without_a_writer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialise(self: TCPServer) -> None: ...

    monkeypatch.setattr(TCPServer, "__init__", initialise)
    assert missing_names() == ["TCPServer.writer"]


async def test_hypercorns_class_is_replaced_only_while_a_server_runs(settings: MakeSettings) -> None:
    async with running(settings()):
        async with running(settings()):
            assert hypercorn.protocol.H11Protocol is hypercorn_internals.Http1Protocol  # type: ignore[attr-defined]
        assert hypercorn.protocol.H11Protocol is hypercorn_internals.Http1Protocol  # type: ignore[attr-defined]
    assert hypercorn.protocol.H11Protocol is H11Protocol  # type: ignore[attr-defined]


async def test_without_the_names_hypercorns_own_protocol_serves(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypercorn_internals, "missing_names", lambda: ["H11Protocol._create_stream"])
    model.play(ScriptedTurn(text="안녕하세요."), ScriptedTurn(text="안녕히 가세요."))
    with capture_logs() as logs:
        async with running(settings()) as aura:
            assert hypercorn.protocol.H11Protocol is H11Protocol  # type: ignore[attr-defined]
            _, frames = await read_stream(aura)
            check(frames)
            assert answer(frames) == "안녕하세요."
            raw = await RawStream.post(aura, {"prompt": "안녕"})
            assert raw.status == 200
            assert b"[DONE]" in (await raw.rest())[-1]
    (warning,) = [line for line in logs if line["event"] == "server.fallback_chosen"]
    assert (warning["library"], warning["missing"]) == ("hypercorn", ["H11Protocol._create_stream"])
