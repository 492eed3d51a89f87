"""Lua scripts whose keys and arguments have names that the Lua text and Python share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

Command = tuple[Any, ...]
"""A command's name and its arguments, as Redis gets them."""


class Script:
    """A Lua script with named keys and arguments.

    The Lua text gets every name as a local variable, and `command` gets every name as a keyword. `optional_keys` follow
    the other keys; a call passes None for all of them to omit them, and they are nil in Lua then. `rest` allows any
    number of further arguments: it names the Lua variable that holds the index in ARGV of the first of them.

    Raises `ValueError` where a name occurs twice.
    """

    def __init__(
        self,
        body: str,
        *,
        keys: Sequence[str],
        args: Sequence[str] = (),
        optional_keys: Sequence[str] = (),
        rest: str | None = None,
    ) -> None:
        all_keys = (*keys, *optional_keys)
        names = (*all_keys, *args)
        if len({*names, rest}) != len(names) + 1:
            raise ValueError(f"a name occurs twice: {', '.join(names)}")
        self.text = _preamble(all_keys, args, rest) + body.lstrip("\n")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self._names = names
        self._takes_rest = rest is not None
        self._values = _getter(names)
        self._first_optional, self._first_arg = len(keys), len(all_keys)
        self._head = ("EVALSHA", self.sha, len(all_keys))
        self._short_head = ("EVALSHA", self.sha, len(keys))

    def command(self, rest: Sequence[Any] = (), /, **named: Any) -> Command:
        """Return the command that runs the script with these values, and `rest` after them.

        Raises `TypeError` where a name is missing or unknown, or the script does not take a rest.
        """
        if len(named) != len(self._names) or (rest and not self._takes_rest):
            raise TypeError(f"the script takes {', '.join(self._names)}; given were {', '.join(named)}")
        try:
            values = self._values(named)
        except KeyError as error:
            raise TypeError(f"the script takes the argument {error}") from None
        if self._first_optional < self._first_arg and values[self._first_optional] is None:
            return (*self._short_head, *values[: self._first_optional], *values[self._first_arg :], *rest)
        return (*self._head, *values, *rest)


def _getter(names: Sequence[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that returns the values of these names in order. Raises `KeyError` for a missing name."""
    if not names:
        return lambda _: ()
    if len(names) == 1:
        (name,) = names
        return lambda named: (named[name],)
    return itemgetter(*names)


def _preamble(keys: Sequence[str], args: Sequence[str], rest: str | None) -> str:
    """Return the Lua lines that give KEYS and ARGV their names."""
    lines = [f"local {name} = KEYS[{number}]\n" for number, name in enumerate(keys, 1)]
    lines += [f"local {name} = ARGV[{number}]\n" for number, name in enumerate(args, 1)]
    if rest is not None:
        lines.append(f"local {rest} = {len(args) + 1}\n")
    return "".join(lines)
