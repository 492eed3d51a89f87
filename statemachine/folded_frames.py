"""Frames as an earlier release stored them: each in an entry of its own, with each of its fields once.

A frame in the shape `both` has its fields beside `type` and once more under `data`, where its timestamp comes first. A
folded frame is the text before `,"data":{`, then in lines of their own what `data` begins with (empty, a field, or the
position in the text of a field that stands there too), and the position in the text from which on the fields are the
same. A whole frame ends with an empty line, a folded one does not, so the log may hold both kinds.
"""

from __future__ import annotations

_DATA = b',"data":{'
_END = b"}}\n\n"


def unfold(stored: bytes) -> bytes:
    """Return the frame that was folded, byte for byte; a whole frame is returned as it is.

    Raises `ValueError` where it is neither.
    """
    if stored.endswith(b"\n\n"):
        return stored
    text, first, position = stored.rsplit(b"\n", 2)
    if first.isdigit():
        first = text[int(first) : text.index(b",", int(first)) + 1]
    return b"".join((text, _DATA, first, text[int(position) :], _END))
