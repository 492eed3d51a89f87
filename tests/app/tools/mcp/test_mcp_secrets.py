"""The secrets of MCP servers are found nowhere that the service writes, although a server returns and logs its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis

from app import logs
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from app.settings.mcp_servers import parse_servers
from tests.harness.logged import Written, entries
from tests.harness.mcp import raw
from tests.harness.mcp_sdk import NoteServer, serving
from tests.harness.service import running
from tests.harness.stored import everything_stored
from tests.harness.tools import calling
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

KEY, TOKEN = "planted-key-4711", "planted-token-4712"


async def test_what_a_server_quotes_of_its_secrets_is_masked(
    settings: Callable[..., Settings], model: ScriptedModelServer, redis_server: RedisServer, written: Written
) -> None:
    notes = NoteServer()
    async with serving(notes.mcp.streamable_http_app()) as server:
        entry = {"url": server.url, "headers": {"Authorization": "Bearer ${THE_TOKEN}"}, "trusted": True}
        remote = parse_servers(json.dumps({"notes": entry}), {"THE_TOKEN": TOKEN})
        program = raw(environment={"API_KEY": KEY}, secrets=(KEY,), trusted=True, approval=(("*", False),))
        made = settings(aura_mcp_servers=(program, *remote), aura_log_content=True)
        log = logs._Cleaner(made.secrets)  # noqa: SLF001 - the log of the fixture has other secrets
        model.play(
            calling(("raw__environment", {}), ("raw__fail", {}), ("notes__list_notes", {})), ScriptedTurn(text="끝.")
        )
        async with running(made) as aura, aura.stream("해주세요") as stream:
            frames = await stream.rest()
            await eventually(lambda: entries(written, "MCP server raw: a line on standard error"))
        assert notes.headers["authorization"] == f"Bearer {TOKEN}"
    lines = [log(None, "", json.loads(line)) for line in written().splitlines()]
    with redis.Redis.from_url(redis_server.url) as client:
        stored = everything_stored(client)
    places = {
        "the stream": b"".join(frame.raw.encode() for frame in frames),
        "Redis": stored,
        "the model": json.dumps(model.requests).encode(),
        "the log": json.dumps(lines).encode(),
    }
    for place, content in places.items():
        assert content
        assert KEY.encode() not in content, place
        assert TOKEN.encode() not in content, place
    assert b"does not work with ***" in places["the model"]
    assert b"standard error ***" in written().encode(), "what programs log is masked by the connection itself"
