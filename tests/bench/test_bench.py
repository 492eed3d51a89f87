"""The bench itself works: real processes, checked streams, a table, a chart. Nothing here looks at a time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.bar import BAR
from tests.bench.client import Client, Reading, StreamWrong
from tests.bench.load import check, connected, round_of
from tests.bench.scaling import Point
from tests.bench.scenarios import SCENARIOS, Outcome
from tests.bench.stub import answer
from tests.bench.waiting import ENVIRONMENT, gone, waiting
from tests.bench.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(ENVIRONMENT) as world:
        yield world


async def test_a_round_counts_what_its_runs_cost(world: World) -> None:
    clients = await connected(world, 2)
    cost = await round_of(world, clients, 2, "bench chat 20 0")
    assert cost.runs == 4
    assert cost.cpu_ms > 0
    assert cost.redis_commands > cost.redis_round_trips > 0
    assert cost.events > 4
    for client in clients:
        client.close()


async def test_waiting_runs_are_approved_and_end_well(world: World) -> None:
    waited = await waiting(world, 3, idle_seconds=0.1)
    assert waited.count == 3
    assert await gone(world, 3, warm=2) is not None


def test_a_stream_that_breaks_a_promise_is_found() -> None:
    client = Client("user1")
    frame = b'id: 5\nevent: content\ndata: {"content":"a","data":{"content":"a"}}\n\n'
    client._reading.status = 200
    client._read_frame(frame)
    with pytest.raises(StreamWrong, match="id 5 after 5"):
        client._read_frame(frame)
    with pytest.raises(StreamWrong, match="without an id"):
        client._read_frame(b"data: {}\n\n")
    with pytest.raises(StreamWrong, match="answer"):
        check(Reading(status=200, end_status="completed", answer=["b"]), "bench chat 1 0")
    check(Reading(status=200, end_status="completed", answer=[answer("bench chat 1 0")]), "bench chat 1 0")


def test_what_was_found_is_told_beside_the_bar(tmp_path: Path) -> None:
    found = Outcome("chat", {"chat": 2.0, "connections": 9}, ["a line"], {"a <line>": [Point(1, 2.0), Point(10, 3.0)]})
    assert set(found.figures) <= set(BAR)
    assert "a line" in report.told(found)
    table = report.table([found])
    assert "| 2.5 | **2.00** |" in table
    assert "| 8 | **9.00** ✗ |" in table
    assert json.loads(json.dumps(report.as_json([found])))["figures"]["chat"] == {"ours": 2.0, "at_most": 2.5}
    report.draw([found], tmp_path / "chart.svg")
    assert ET.parse(tmp_path / "chart.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own file
    with pytest.raises(ValueError, match="line"):
        report.draw([Outcome("chat")], tmp_path / "none.svg")


def test_every_figure_of_the_bar_has_a_scenario() -> None:
    assert {"chat", "paced", "tools", "approval"} <= set(SCENARIOS) & set(BAR)
