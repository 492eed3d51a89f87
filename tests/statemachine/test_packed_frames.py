"""The event log keeps the frames of a commit in one entry, and gives back the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.events import Content, End, Event, Hitl, Start, Thought, ToolExecution
from statemachine.frame_dictionary import DICTIONARIES
from statemachine.frames import DONE_BODY, Shape, encode
from statemachine.packed_frames import frame_count, pack, unpack

SESSION = "session_user1_1706156400_a1b2"
ODD: Any = {"data": {"data": {}}, 'a,"data":{': ',"data":{"x":1}}\n\n', "줄\n바꿈": ["\u2028", 0.5, None]}
EVENTS: list[Event] = [
    Start("요청을 받았습니다.", SESSION, SESSION, "planning"),
    Thought("analysis", "생각", ({"title": "data", "id": '"data":{'},)),
    Content(content='그가 말했다: ,"data":{"type":"content"}}', chunk=True),
    ToolExecution(tool_name="t", tool_args=ODD, status="pending", requires_approval=False, tool_call_id="c1"),
    ToolExecution(
        tool_name="t", tool_args={}, status="completed", result=ODD, requires_approval=False, tool_call_id="c"
    ),
    Hitl(
        request_id="req-1",
        session_id=SESSION,
        action_type="send_email",
        message="?",
        context={"body": "가" * 20_000, "data": ODD},
        expires_at=1,
        timeout_seconds=300,
    ),
    End("끝", "completed", {"totalTokens": 3}),
]

BODIES = [body for event in EVENTS for body in encode(event, SESSION, 1706156400)]


def test_a_dictionary_that_logs_were_written_with_never_changes() -> None:
    """Where this fails, do not change the digest: add a dictionary with the next number."""
    digests = {number: hashlib.sha256(text).hexdigest() for number, text in DICTIONARIES.items()}
    assert digests == {1: "845bdf5f3228beae701aed67e9bb0a27e645e4ad7e42e0a0d8da5cfc298635eb"}


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_a_frame_comes_back_byte_for_byte(event: Event, shape: Shape) -> None:
    bodies = encode(event, SESSION, 1706156400, shape)
    assert unpack(pack(bodies)) == bodies


@given(st.lists(st.sampled_from([*BODIES, DONE_BODY]), min_size=1, max_size=120))
def test_the_frames_of_a_commit_come_back_in_their_order(bodies: list[bytes]) -> None:
    entry = pack(bodies)
    assert frame_count(entry) == len(bodies)
    assert unpack(entry) == bodies


def test_a_commit_without_events_has_no_entry() -> None:
    assert pack([]) == b""


def test_an_entry_takes_a_sixth_of_its_frames() -> None:
    bodies = [
        body for event in EVENTS if event.TYPE in ("start", "thought", "end") for body in encode(event, SESSION, 1)
    ]
    assert len(pack(bodies)) * 6 < sum(map(len, bodies))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(len(body)))
def test_an_entry_of_the_earlier_release_has_one_frame(body: bytes) -> None:
    assert frame_count(body) == 1
    assert unpack(body) == [body]


def deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        (b"\x1f1 x", "dictionary 31, which a newer release has"),
        (b"\x011 \xff\xff", "cannot be unpacked"),
        (b"\x012 " + deflate(DONE_BODY), "1 complete frames instead of 2"),
        (b"\x011 " + deflate(DONE_BODY[:-1]), "0 complete frames instead of 1"),
        (pack([DONE_BODY])[:-3], "complete frames instead of 1"),
        (b"\x011 " + deflate(bytes(65 * 1024 * 1024)), "0 complete frames"),
        (b"nonsense", "neither packed nor a frame"),
        (b"", "neither packed nor a frame"),
        (b"\x01x ", "neither packed nor a frame"),
        (b"\x01123456789012 x", "neither packed nor a frame"),
    ],
    ids=range(10),
)
def test_an_entry_that_others_have_written_is_refused(entry: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        unpack(entry)


@pytest.mark.parametrize("entry", [b"", b"nonsense", b"\x01x ", b"\x01123456789012 x"])
def test_an_entry_that_others_have_written_counts_as_one_event(entry: bytes) -> None:
    assert frame_count(entry) == 1
