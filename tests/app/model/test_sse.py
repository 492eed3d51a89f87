"""Server-Sent Events from bytes in any pieces, in all the forms that WHATWG allows and in two that it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.sse import MAX_EVENT_BYTES, EventParser, EventTooLong, ServerEvent


def parsed(*pieces: bytes) -> list[ServerEvent]:
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish()]


def events(*data: bytes, name: bytes = b"") -> list[ServerEvent]:
    return [(name, each) for each in data]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", events(b"a", b"b")),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", events(b"a", b"b")),
        (b"data: a\r\rdata: b\r\r", events(b"a", b"b")),
        (b"\xef\xbb\xbfdata: a\n\n", events(b"a")),
        (b"data:a\n\n", events(b"a")),
        (b"data:  a\n\n", events(b" a")),
        (b"data: a\ndata: b\n\n", events(b"a\nb")),
        (b": comment\n\nid: 1\nretry: 5\ndata: a\n\n", events(b"a")),
        (b"event: ping\ndata: a\n\ndata: b\n\n", [*events(b"a", name=b"ping"), *events(b"b")]),
        (b"event: ping\n\ndata: b\n\n", events(b"b")),
        (b"data\n\ndata:\n\ndata: \n\n", []),
        (b"data: a", events(b"a")),
        (b"data: {}\ndata: {}\ndata: [DONE]\n", events(b"{}", b"{}", b"[DONE]")),
        (b'data: {"a":\ndata: 1}\n\n', events(b'{"a":\n1}')),
        (b"", []),
        (b"\xef\xbb", []),
    ],
)
def test_events_are_the_same_however_the_bytes_are_split(stream: bytes, expected: list[ServerEvent]) -> None:
    assert parsed(stream) == expected
    assert parsed(*(bytes([byte]) for byte in stream)) == expected


@given(st.lists(st.sampled_from([b"data: x", b"\r", b"\n", b"\r\n", b"event: e", b":", b"\xed\x95\x9c"]), max_size=12))
def test_any_split_gives_the_same_events(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert parsed(stream) == parsed(*(bytes([byte]) for byte in stream)) == parsed(*pieces)


def test_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r\n") == []
    assert parser.feed(b"\r") == events(b"a")
    assert parser.feed(b"\ndata: b\n\n") == events(b"b")


@pytest.mark.parametrize("line_end", [b"", b"\n"])
def test_event_without_an_end_is_refused_before_it_fills_the_memory(line_end: bytes) -> None:
    parser = EventParser()
    piece = b"data: " + b"x" * 1_000_000 + line_end
    with pytest.raises(EventTooLong, match=str(MAX_EVENT_BYTES)):
        _ = [parser.feed(piece) for _ in range(MAX_EVENT_BYTES // 1_000_000 + 2)]
