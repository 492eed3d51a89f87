"""Both clients on broken networks: they receive the complete answer once, of one run (§2.1, §3)."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.client.frames import Frame, FrameParser, has_damaged_character, parse_event
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.clients import MakeSettings, client, collected, events, token
from tests.harness.gateway import Gateway, transform_buffer
from tests.harness.javascript import needs_node, run_client
from tests.harness.proxy import ConnectionFaults, CuttingProxy
from tests.harness.service import running

TEXT = "가나다라 abc 마바사 🇰🇷 뷁 끝\n" * 2500
CUTS = 50

SentEvents = list[tuple[int | None, dict[str, Any]]]
Follow = Callable[[str], Awaitable[tuple[SentEvents, int]]]


async def by_python(url: str) -> tuple[SentEvents, int]:
    """Return the events of a new run, and the number of interruptions."""
    async with client(url) as aura_client:
        items = await collected(aura_client.run("길게"))
    received = events(items)
    return [(item.id, item.fields) for item in received], sum(
        1 for item in items if type(item).__name__ == "Interrupted"
    )


async def by_javascript(url: str) -> tuple[SentEvents, int]:
    items = await run_client("follow", url=url, token=token(), prompt="길게")
    received = [(item["id"], item["event"]) for item in items if item["kind"] == "event"]
    return received, sum(1 for item in items if item["kind"] == "interrupted")


FOLLOWERS = [
    pytest.param(by_python, id="python"),
    pytest.param(by_javascript, id="javascript", marks=needs_node),
]


def check(sent: SentEvents) -> None:
    ids = [id for id, _ in sent]
    assert ids == sorted(set(ids)), ids  # type: ignore[type-var]
    assert "".join(event["content"] for _, event in sent if event["type"] == "content") == TEXT
    assert sent[0][1]["type"] == "start"
    assert sent[-1][1]["type"] == "end"


@pytest.mark.parametrize("follow", FOLLOWERS)
async def test_fifty_random_cuts_lose_no_event(
    settings: MakeSettings, model: ScriptedModelServer, follow: Follow
) -> None:
    model.play(ScriptedTurn(text=TEXT, chunk_chars=2000))
    rng = random.Random(2024)  # noqa: S311
    # A frame has 2 KiB, so that every fifth connection is cut before its first frame.
    cuts = [rng.randrange(2500) if number % 5 == 0 else rng.randrange(2500, 6000) for number in range(CUTS)]
    faults = [ConnectionFaults(cut_after=cut, reset=rng.random() < 0.5) for cut in cuts]
    async with running(settings()) as aura, CuttingProxy(aura.url, faults) as proxy:
        sent, interruptions = await follow(proxy.url)
    check(sent)
    assert interruptions == CUTS
    assert len(model.requests) == 1


@pytest.mark.parametrize("follow", FOLLOWERS)
async def test_gateway_that_splits_every_buffer_loses_no_event(
    settings: MakeSettings, model: ScriptedModelServer, follow: Follow
) -> None:
    """The gateway inserts an id into a line and damages the character that was split; the other copy is intact."""
    model.play(ScriptedTurn(text=TEXT, chunk_chars=2000))
    rng = random.Random(7)  # noqa: S311
    async with running(settings()) as aura, Gateway(aura.url, random_source=rng) as gateway:
        sent, _ = await follow(gateway.url + "/api")
    check(sent)
    assert len(gateway.generated_ids) > 10
    assert len(model.requests) == 1


# --- a buffer may be split at any byte ------------------------------------------------------------------------------


def frame(id: int, **fields: Any) -> bytes:
    body = json.dumps({**fields, "data": fields}, ensure_ascii=False, separators=(",", ":"))
    return f"id: {id}\nevent: {fields['type']}\ndata: {body}\n\n".encode()


RAW = (
    frame(1706156400123, type="thought", content="생각 🇰🇷")
    + b": keep-alive id:\n\n"
    + frame(1706156400124, type="content", content="답 id: 1706156400123456\n끝")
    + b": shutting down id:\nretry: 1000\n\nid: 1706156400125\ndata: [DONE]\n\n"
)
SPLITS = [[RAW[:at], RAW[at:]] for at in range(1, len(RAW))]
"""The stream, split at each byte as by a network."""
TREATED = [[transform_buffer(part, 1706156400999999) for part in parts] for parts in SPLITS]
"""The same, as the gateway forwards it."""
COMPLETE = [Frame(1706156400123, RAW.split(b"\n")[2][6:].decode()), *list(FrameParser().feed(RAW))[1:]]


def python_frames(streams: list[list[bytes]]) -> list[list[Frame]]:
    parsers = [(FrameParser(), chunks) for chunks in streams]
    return [[frame for chunk in chunks for frame in parser.feed(chunk)] for parser, chunks in parsers]


async def javascript_frames(streams: list[list[bytes]]) -> list[list[Frame]]:
    encoded = [[base64.b64encode(chunk).decode() for chunk in chunks] for chunks in streams]
    printed = await run_client("frames", streams=encoded)
    return [[Frame(one["id"], one["data"], one["retryMs"]) for one in frames] for frames in printed]


def check_frames(split: list[list[Frame]], forwarded: list[list[Frame]]) -> None:
    assert len(COMPLETE) == 4
    assert split == [COMPLETE] * len(SPLITS)
    for frames, at in zip(forwarded, range(1, len(RAW)), strict=True):
        assert [(one.id, one.retry_ms) for one in frames] == [(one.id, one.retry_ms) for one in COMPLETE], at
        for one, complete in zip(frames[:2], COMPLETE[:2], strict=True):
            fields = parse_event(one).fields
            assert not has_damaged_character(fields), at
            assert fields == parse_event(complete).fields, at


def test_python_client_parses_a_stream_split_anywhere() -> None:
    check_frames(python_frames(SPLITS), python_frames(TREATED))


@needs_node
async def test_javascript_client_parses_a_stream_split_anywhere() -> None:
    frames = await javascript_frames(SPLITS + TREATED)
    check_frames(frames[: len(SPLITS)], frames[len(SPLITS) :])


async def test_replacement_character_of_the_model_is_accepted_at_the_second_read(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    text = "반쪽 \ufffd 글자 " * 5
    model.play(ScriptedTurn(text=text, chunk_chars=10))
    async with running(settings()) as aura, client(aura.url) as aura_client:
        python = await collected(aura_client.run("길게"))
    interruptions = [item for item in python if type(item).__name__ == "Interrupted"]
    assert [item.cause for item in interruptions] == ["a character was split"]  # type: ignore[union-attr]
    texts = (item.fields["content"] for item in events(python) if item.type == "content")
    assert "".join(texts) == text


@needs_node
async def test_javascript_client_accepts_replacement_characters_in_the_text(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    text = "반쪽 \ufffd 글자 " * 5
    model.play(ScriptedTurn(text=text, chunk_chars=10))
    async with running(settings()) as aura:
        items = await run_client("follow", url=aura.url, token=token(), prompt="길게")
    assert [item["cause"] for item in items if item["kind"] == "interrupted"] == ["a character was split"]
    texts = (
        item["event"]["content"] for item in items if item["kind"] == "event" and item["event"]["type"] == "content"
    )
    assert "".join(texts) == text
