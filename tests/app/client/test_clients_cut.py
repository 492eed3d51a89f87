"""Both clients, Python and JavaScript, on the worst of networks: the whole answer, once; one run (§2.1, §3)."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.client.frames import Frame, FrameReader, is_broken, received
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.clients import MakeSettings, client, collected, events, token
from tests.harness.gateway import Gateway, transform_buffer
from tests.harness.javascript import needs_node, node
from tests.harness.proxy import ConnectionFaults, CuttingProxy
from tests.harness.service import running

TEXT = "가나다라 abc 마바사 🇰🇷 뷁 끝\n" * 2500
CUTS = 50

Told = list[tuple[int | None, dict[str, Any]]]
Follow = Callable[[str], Awaitable[tuple[Told, int]]]


async def by_python(url: str) -> tuple[Told, int]:
    """The events of a new run, and how often the connection broke."""
    async with client(url) as asking:
        items = await collected(asking.run("길게"))
    seen = events(items)
    return [(item.id, item.fields) for item in seen], sum(1 for item in items if type(item).__name__ == "Interrupted")


async def by_javascript(url: str) -> tuple[Told, int]:
    items = await node("follow", url=url, token=token(), prompt="길게")
    seen = [(item["id"], item["event"]) for item in items if item["kind"] == "event"]
    return seen, sum(1 for item in items if item["kind"] == "interrupted")


FOLLOWERS = [
    pytest.param(by_python, id="python"),
    pytest.param(by_javascript, id="javascript", marks=needs_node),
]


def check(told: Told) -> None:
    ids = [id for id, _ in told]
    assert ids == sorted(set(ids)), ids  # type: ignore[type-var]
    assert "".join(event["content"] for _, event in told if event["type"] == "content") == TEXT
    assert told[0][1]["type"] == "start"
    assert told[-1][1]["type"] == "end"


@pytest.mark.parametrize("follow", FOLLOWERS)
async def test_fifty_random_cuts(settings: MakeSettings, model: ScriptedModelServer, follow: Follow) -> None:
    model.play(ScriptedTurn(text=TEXT, chunk_chars=2000))
    dice = random.Random(2024)  # noqa: S311
    # a frame has 2 KiB: every fifth connection brings none of them
    cuts = [dice.randrange(2500) if number % 5 == 0 else dice.randrange(2500, 6000) for number in range(CUTS)]
    links = [ConnectionFaults(cut_after=cut, reset=dice.random() < 0.5) for cut in cuts]
    async with running(settings()) as aura, CuttingProxy(aura.url, links) as proxy:
        told, interruptions = await follow(proxy.url)
    check(told)
    assert interruptions == CUTS
    assert len(model.requests) == 1


@pytest.mark.parametrize("follow", FOLLOWERS)
async def test_gateway_whose_network_cuts_every_buffer(
    settings: MakeSettings, model: ScriptedModelServer, follow: Follow
) -> None:
    """It invents an id in the middle of a line and breaks the character that was cut; the other copy is whole."""
    model.play(ScriptedTurn(text=TEXT, chunk_chars=2000))
    dice = random.Random(7)  # noqa: S311
    async with running(settings()) as aura, Gateway(aura.url, random_source=dice) as gateway:
        told, _ = await follow(gateway.url + "/api")
    check(told)
    assert len(gateway.generated_ids) > 10
    assert len(model.requests) == 1


# --- every place where a buffer can be cut ----------------------------------------------------------------------------


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
"""As a network may cut it."""
TREATED = [[transform_buffer(part, 1706156400999999) for part in parts] for parts in SPLITS]
"""And as the gateway hands that on."""
WHOLE = [Frame(1706156400123, RAW.split(b"\n")[2][6:].decode()), *list(FrameReader().feed(RAW))[1:]]


def python_frames(streams: list[list[bytes]]) -> list[list[Frame]]:
    readers = [(FrameReader(), pieces) for pieces in streams]
    return [[frame for piece in pieces for frame in reader.feed(piece)] for reader, pieces in readers]


async def javascript_frames(streams: list[list[bytes]]) -> list[list[Frame]]:
    coded = [[base64.b64encode(piece).decode() for piece in pieces] for pieces in streams]
    told = await node("frames", streams=coded)
    return [[Frame(one["id"], one["data"], one["retryMs"]) for one in frames] for frames in told]


def check_frames(cut: list[list[Frame]], handed_on: list[list[Frame]]) -> None:
    assert len(WHOLE) == 4
    assert cut == [WHOLE] * len(SPLITS)
    for frames, at in zip(handed_on, range(1, len(RAW)), strict=True):
        assert [(one.id, one.retry_ms) for one in frames] == [(one.id, one.retry_ms) for one in WHOLE], at
        for one, whole in zip(frames[:2], WHOLE[:2], strict=True):
            fields = received(one).fields
            assert not is_broken(fields), at
            assert fields == received(whole).fields, at


def test_python_reads_what_was_cut_anywhere() -> None:
    check_frames(python_frames(SPLITS), python_frames(TREATED))


@needs_node
async def test_javascript_reads_what_was_cut_anywhere() -> None:
    frames = await javascript_frames(SPLITS + TREATED)
    check_frames(frames[: len(SPLITS)], frames[len(SPLITS) :])


async def test_character_broken_by_the_model_itself_is_taken_at_the_second_reading(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    text = "반쪽 \ufffd 글자 " * 5
    model.play(ScriptedTurn(text=text, chunk_chars=10))
    async with running(settings()) as aura, client(aura.url) as asking:
        python = await collected(asking.run("길게"))
    interruptions = [item for item in python if type(item).__name__ == "Interrupted"]
    assert [item.cause for item in interruptions] == ["a broken character"]  # type: ignore[union-attr]
    said = (item.fields["content"] for item in events(python) if item.type == "content")
    assert "".join(said) == text


@needs_node
async def test_javascript_takes_it_too(settings: MakeSettings, model: ScriptedModelServer) -> None:
    text = "반쪽 \ufffd 글자 " * 5
    model.play(ScriptedTurn(text=text, chunk_chars=10))
    async with running(settings()) as aura:
        items = await node("follow", url=aura.url, token=token(), prompt="길게")
    assert [item["cause"] for item in items if item["kind"] == "interrupted"] == ["a broken character"]
    said = (
        item["event"]["content"] for item in items if item["kind"] == "event" and item["event"]["type"] == "content"
    )
    assert "".join(said) == text
