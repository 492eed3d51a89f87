"""Frames as the event log keeps them: all frames of one commit together, compressed with a known dictionary.

A packed entry is the number of its dictionary as one byte, the number of its frames in decimal, a space, and the raw
deflate stream (RFC 1951) of the frames, one after the other. Its first frame has the id of the entry, each further one
the next id. An earlier release stored each frame in an entry of its own; those begin with a letter and are read too.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from statemachine.frame_dictionary import DICTIONARIES

_NEWEST = max(DICTIONARIES)
_LEVEL, _WINDOW_BITS, _MEMORY_LEVEL = 3, 13, 6
"""Chosen by measuring: higher ones save a tenth at twice the CPU time, and a larger window is slower to prepare."""
_LARGEST_WINDOW_BITS = 15
_END = b"\n\n"
_MAX_BYTES = 64 * 1024 * 1024
"""More than a commit can have: 32 calls, each with arguments of 64 KiB in two events that show them six times."""
_HEAD_BYTES = 12
_PREPARED = zlib.compressobj(
    _LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, DICTIONARIES[_NEWEST]
)
"""It has read the dictionary. A copy of it costs less than a new one."""


def pack(bodies: Sequence[bytes]) -> bytes:
    """Return the entry of the log with these frames; empty where there are none."""
    if not bodies:
        return b""
    packer = _PREPARED.copy()
    return b"".join((b"%c%d " % (_NEWEST, len(bodies)), packer.compress(b"".join(bodies)), packer.flush()))


def frame_count(entry: bytes) -> int:
    """Return how many frames an entry has, without unpacking it. It is 1 for one that is not packed."""
    dictionary, count, _ = _parts(entry)
    return count if dictionary else 1


def unpack(entry: bytes) -> list[bytes]:
    """Return the frames of an entry, byte for byte. Raises `ValueError` where this service has not written it."""
    number, count, packed = _parts(entry)
    if not number:
        if not entry.endswith(_END):
            raise ValueError("an entry of the event log is neither packed nor a frame")
        return [entry]
    if number not in DICTIONARIES:
        raise ValueError(f"an entry of the event log has the dictionary {number}, which a newer release has")
    unpacker = zlib.decompressobj(-_LARGEST_WINDOW_BITS, DICTIONARIES[number])
    try:
        text = unpacker.decompress(packed, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"an entry of the event log cannot be unpacked: {error}") from None
    frames = [frame + _END for frame in text.split(_END)[:-1]]
    if not unpacker.eof or len(frames) != count:
        raise ValueError(f"an entry of the event log has {len(frames)} complete frames instead of {count}")
    return frames


def _parts(entry: bytes) -> tuple[int, int, bytes]:
    """Return the number of the dictionary, the number of frames, and the packed ones; 0 where it is not packed."""
    head, space, _ = entry[1:_HEAD_BYTES].partition(b" ")
    if not (space and head.isdigit() and entry[0] < ord(" ")):
        return 0, 1, entry
    return entry[0], int(head), entry[len(head) + 2 :]
