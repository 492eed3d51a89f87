"""Ending a child process together with its parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def exit_with_parent(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """Return a `preexec_fn` with which Linux sends `death_signal` to the child when its parent dies, even by SIGKILL.

    Returns None on other systems. For the kernel the *thread* that starts the child is its parent, so start the child
    from a thread that lives as long as the process.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return set_death_signal
