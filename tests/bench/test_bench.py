"""The benchmarks work: real processes, checked streams, a table, a chart. No test asserts a time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import footprint, report
from tests.bench.client import Client, InvalidStream, Reading
from tests.bench.cluster import measure_cluster
from tests.bench.environment import Environment
from tests.bench.fairness import measure_fairness
from tests.bench.gateways import describe, measure_gateways
from tests.bench.load import check, connect_clients, run_round
from tests.bench.model_stub import expected_answer
from tests.bench.scaling import Point
from tests.bench.scenarios import SCENARIOS, ScenarioResult
from tests.bench.takeover import measure_takeover
from tests.bench.targets import TARGETS
from tests.bench.waiting import APPROVAL_SETTINGS, measure_disconnected, measure_waiting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    with Environment(APPROVAL_SETTINGS) as environment:
        yield environment


async def test_round_measures_the_cost_of_its_runs(environment: Environment) -> None:
    clients = await connect_clients(environment, 2)
    cost = await run_round(environment, clients, 2, "bench chat 20 0")
    assert cost.runs == 4
    assert cost.cpu_ms > 0
    assert cost.redis_commands > cost.redis_round_trips > 0
    assert cost.events > 4
    for client in clients:
        client.close()


async def test_waiting_runs_are_approved_and_complete(environment: Environment) -> None:
    waited = await measure_waiting(environment, 3, idle_seconds=0.1)
    assert waited.count == 3
    assert await measure_disconnected(environment, 3, warmup=2) is not None


async def test_the_footprint_in_redis_is_within_its_targets() -> None:
    """Bytes do not depend on the machine, unlike times; a few runs have what a list of runs takes for themselves."""
    with Environment(APPROVAL_SETTINGS) as empty:
        waiting, ended = await footprint.measure_waiting(empty, 40)
    with Environment() as empty:
        answered = await footprint.measure_answered(empty, 40)
    assert not waiting.bytes_by_kind.get("others", 0)
    assert waiting.kb <= TARGETS["redis_waiting"].at_most
    assert ended.kb <= TARGETS["redis_ended"].at_most
    assert answered.kb <= TARGETS["redis_answered"].at_most


async def test_fairness_is_measured_beside_a_flood(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.fairness._FLOOD_CLIENTS", 4)
    found = await measure_fairness(environment, seconds=0.4)
    assert found.flooded.refused == 0
    assert found.flood_served_per_second > 0
    assert any("times" in line for line in found.describe())


async def test_first_event_is_measured_through_each_gateway_of_the_machine(environment: Environment) -> None:
    found, missing = await measure_gateways(environment, runs=2, warm_up=1)
    assert found[0].gateway == "no gateway"
    assert len(found) + len(missing) == 4
    assert all(each.p90_ms >= each.p50_ms > 0 for each in found)
    assert len(describe(found, missing)) == 4


async def test_cost_on_a_cluster_is_measured_beside_a_standalone_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.cluster.WORK", {"chat": ("bench chat 20 0", 2, 1)})
    found = await measure_cluster(1, processes=(1,))
    assert [each.masters for each in found] == [0, 1, 3]
    assert found[0].ratio == 1
    assert all(each.cpu_ms > 0 and "chat, 1 process" in each.describe() for each in found)


async def test_runs_that_wait_in_a_cluster_are_taken_over_and_approved() -> None:
    found = await measure_takeover(20)
    assert (found.tools_started, found.started_twice) == (20, 0)
    assert found.redis_kb > 0
    assert len(found.describe()) == 5


def test_invalid_stream_is_detected() -> None:
    client = Client("user1")
    frame = b'id: 5\nevent: content\ndata: {"content":"a","data":{"content":"a"}}\n\n'
    client.reading.status = 200
    client.read_frame(frame)
    with pytest.raises(InvalidStream, match="id 5 after 5"):
        client.read_frame(frame)
    with pytest.raises(InvalidStream, match="without an id"):
        client.read_frame(b"data: {}\n\n")
    with pytest.raises(InvalidStream, match="answer"):
        check(Reading(status=200, end_status="completed", answer=["b"]), "bench chat 1 0")
    check(
        Reading(status=200, end_status="completed", answer=[expected_answer("bench chat 1 0")]),
        "bench chat 1 0",
    )


def test_report_compares_figures_with_targets(tmp_path: Path) -> None:
    found = ScenarioResult(
        "chat", {"chat": 2.0, "connections": 9}, ["a line"], {"a <line>": [Point(1, 2.0), Point(10, 3.0)]}
    )
    assert set(found.figures) <= set(TARGETS)
    assert "a line" in report.format_result(found)
    table = report.format_table([found])
    assert "| 2.5 | **2.00** |" in table
    assert "| 8 | **9.00** ✗ |" in table
    assert json.loads(json.dumps(report.to_json_object([found])))["figures"]["chat"] == {"ours": 2.0, "at_most": 2.5}
    report.write_chart([found], tmp_path / "chart.svg")
    assert ET.parse(tmp_path / "chart.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own file
    with pytest.raises(ValueError, match="curve"):
        report.write_chart([ScenarioResult("chat")], tmp_path / "none.svg")


def test_every_run_scenario_has_a_target() -> None:
    assert {"chat", "paced", "tools", "approval"} <= set(SCENARIOS) & set(TARGETS)
