"""Frames as the event log keeps them: of fields that stand in a frame twice (§2.1), one copy.

A frame in the shape `both` has its fields beside `type` and once more under `data`, where its timestamp comes first. A
folded frame is the text before `,"data":{`, then in lines of their own what `data` begins with (empty, a field, or the
position in the text of a field that stands there too), and the position in the text from which on the fields are the
same. A whole frame ends with an empty line, a folded one does not, so the log may hold both kinds.
"""

from __future__ import annotations

_DATA = b',"data":{'
_END = b"}}\n\n"


def fold(body: bytes) -> bytes:
    """Return the frame without the second copy of its fields, or the same frame where it has none."""
    end = body.rfind(_DATA) if body.endswith(_END) else -1
    while end != -1:
        text, nested = body[:end], body[end + len(_DATA) : -len(_END)]
        if nested and text.endswith(nested):
            return b"%b\n\n%d" % (text, len(text) - len(nested))
        first = nested[: nested.find(b",") + 1]  # the timestamp, which stands elsewhere in the text
        same = nested[len(first) :]
        if same and text.endswith(same):
            position = text.find(first)
            return b"%b\n%b\n%d" % (text, b"%d" % position if position != -1 else first, len(text) - len(same))
        end = body.rfind(_DATA, 0, end)  # a field may have `data` in its value
    return body


def unfold(stored: bytes) -> bytes:
    """Return the frame that was folded, byte for byte; a whole frame is returned as it is."""
    if stored.endswith(b"\n\n"):
        return stored
    text, first, position = stored.rsplit(b"\n", 2)
    if first.isdigit():
        first = text[int(first) : text.index(b",", int(first)) + 1]
    return b"".join((text, _DATA, first, text[int(position) :], _END))
