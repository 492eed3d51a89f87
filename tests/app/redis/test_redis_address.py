"""The URLs by which Redis is found: a server, the seeds of a cluster, sentinels."""

from __future__ import annotations

import pytest

from app.ports.redis_address import RedisAddress, Server


def test_a_server_has_a_default_port_and_a_database() -> None:
    address = RedisAddress.parse("redis://cache")
    assert (address.servers, address.database, address.master) == ((Server("cache", 6379),), 0, None)
    assert address.url_of(address.servers[0]) == "redis://cache:6379/0"


def test_several_seeds_share_credentials_database_and_options() -> None:
    address = RedisAddress.parse("rediss://u:p%40ss@a:1,b,[::1]:3/0?ssl_ca_certs=/ca.pem")
    assert address.servers == (Server("a", 1), Server("b", 6379), Server("::1", 3))
    assert address.url_of(address.servers[2]) == "rediss://u:p%40ss@[::1]:3/0?ssl_ca_certs=%2Fca.pem"


def test_sentinels_have_their_own_port_name_of_the_master_and_credentials() -> None:
    text = "rediss+sentinel://u:p@a,b:5/main/2?sentinel_username=s&sentinel_password=q%26&ssl_cert_reqs=none"
    address = RedisAddress.parse(text)
    assert (address.servers, address.master, address.database) == ((Server("a", 26379), Server("b", 5)), "main", 2)
    assert address.sentinel_credentials == ("s", "q&")
    assert address.url_of(Server("m", 6)) == "rediss://u:p@m:6/2?ssl_cert_reqs=none"


def test_a_socket_is_left_to_the_driver() -> None:
    address = RedisAddress.parse("unix:///run/redis.sock?db=1")
    assert (address.servers, address.text) == ((), "unix:///run/redis.sock?db=1")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("http://a", "it must begin with"),
        ("redis://", "host and port"),
        ("redis://a:many", "host and port"),
        ("redis://a:0", "host and port"),
        ("redis://a:70000", "host and port"),
        ("redis://a,,b", "host and port"),
        ("redis://a:", "host and port"),
        ("redis://[::1", "host and port"),
        ("redis://[::1]x", "host and port"),
        ("redis://:p@ss:secret@a:b", "host and port"),
        ("redis://a/main", "number of a database"),
        ("redis+sentinel://a,b", "name of the master"),
        ("redis+sentinel://a,b/main/x", "number of a database"),
    ],
)
def test_what_cannot_be_read_is_named_without_the_password(text: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause) as raised:
        RedisAddress.parse(text)
    assert "secret" not in str(raised.value)
