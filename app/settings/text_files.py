"""Reads the small text files that settings name, with errors that name the file, the cause and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def read_text(path: str, max_bytes: int, too_large: str) -> str:
    """Return the text of a UTF-8 file, with `\\n` at the ends of its lines and without a byte order mark.

    `too_large` is the remedy for a file of more than `max_bytes`. Raises `ValueError`.
    """
    try:
        if not Path(path).exists():
            raise ValueError(f"{path} does not exist (the working directory is {Path.cwd()}); correct the path")
        if not Path(path).is_file():  # a pipe or a device could be endless
            raise ValueError(f"{path} is not a file; name a text file")
        with Path(path).open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give the service a file that it may read"
        ) from None
    if len(content) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes; {too_large}")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (its byte {error.start} is not); save it as UTF-8") from None


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return the end of a message that names what is spelled nearly the same, empty where there is nothing.

    `cutoff` is the least similarity, from 0 to 1.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
