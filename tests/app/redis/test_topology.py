"""The map of a cluster: slots of commands, what nodes say, redirects."""

from __future__ import annotations

from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoPermissionError, ResponseError, TryAgainError

from app.ports.redis_address import Server
from app.redis.wire.topology import Redirect, Topology, is_passing, newest, redirect_of, slot_of

A, B = Server("10.0.0.1", 7000), Server("10.0.0.2", 7000)
INFO = b"cluster_state:ok\r\ncluster_current_epoch:6\r\n"


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "key"), b"key"),
        (("SET", b"{tag}rest", 1), b"tag"),
        (("EVALSHA", "sha", 2, "k1", "k2", "a"), b"k1"),
        (("MEMORY", "USAGE", "key"), b"key"),
        (("XRANGE", "log", "-", "+"), b"log"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_belongs_to_the_slot_of_its_first_key(command: tuple[Any, ...], key: bytes) -> None:
    assert slot_of(command) == key_slot(key)


@pytest.mark.parametrize(
    "command", [("PING",), ("PUBLISH", "channel", ""), ("EVALSHA", "sha", "0"), ("SCRIPT", "LOAD", "x")]
)
def test_a_command_without_a_key_belongs_to_no_slot(command: tuple[Any, ...]) -> None:
    assert slot_of(command) is None


def test_a_map_has_the_master_of_each_slot_and_all_servers() -> None:
    slots = [[0, 1, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.2", 7000, b"id2"]], [3, 16383, [b"", 7001, b"id3"]]]
    found = Topology.read(Server("queried", 1), INFO, slots)
    assert found.masters[:4] == (A, A, None, Server("queried", 7001))
    assert found.servers == {A, B, Server("queried", 7001)}
    assert found.all_masters == {A, Server("queried", 7001)}
    assert (found.epoch, found.is_up) == (6, True)


def test_a_map_is_read_where_the_state_of_the_cluster_may_not_be_queried() -> None:
    found = Topology.read(A, NoPermissionError("this user has no permissions"), [[0, 16383, [b"10.0.0.1", 7000]]])
    assert (found.masters[0], found.epoch, found.is_up) == (A, 0, True)


def test_the_newest_map_of_a_working_cluster_is_followed() -> None:
    def said(epoch: int, *, is_up: bool) -> Topology:
        return Topology((), frozenset(), epoch, is_up)

    cut_off = said(9, is_up=False)  # a node that has tried to become a master
    assert newest([said(5, is_up=True), cut_off, said(6, is_up=True)]) == said(6, is_up=True)
    assert newest([cut_off]) == cut_off
    assert newest([]) is None


def test_redirects_name_the_node_to_ask() -> None:
    assert redirect_of(MovedError("12 10.0.0.2:7000"), A) == Redirect(12, B, is_for_good=True)
    assert redirect_of(AskError("12 10.0.0.2:7000"), A) == Redirect(12, B, is_for_good=False)
    assert redirect_of(MovedError("12 :7001"), A) == Redirect(12, Server("10.0.0.1", 7001), is_for_good=True)
    assert redirect_of(ResponseError("WRONGTYPE"), A) is None


def test_what_passes_by_itself_is_tried_again() -> None:
    assert is_passing(TryAgainError("…"))
    assert is_passing(ClusterDownError("The cluster is down"))
    assert not is_passing(ResponseError("WRONGTYPE"))
