"""A thread with an event loop of its own, in which code without one runs coroutines. It knows nothing of the client."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_END = object()


class LoopClosed(Exception):
    """The loop was closed before the coroutine had a result."""


class LoopThread:
    """Starts its thread with the first coroutine. Coroutines of any number of threads run side by side.

    The thread ends with `close`, or when this object is no longer used, or with the program. A process that was forked
    from this one needs a `LoopThread` of its own.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        """`at_end` is awaited in the loop, as the last thing."""
        self._at_end = at_end
        self._lock = threading.RLock()  # a garbage collection while it is held may call `_close_items` in this thread
        self._loop = asyncio.new_event_loop()
        self._open: set[AsyncGenerator[Any, None]] = set()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., LoopThread] = weakref.finalize(self, self._loop.close)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the result of a coroutine. Raises what the coroutine raises, and `LoopClosed`.

        Where the wait is interrupted (Ctrl-C), the coroutine is cancelled and has ended when this raises.
        """
        call = _Call(coroutine)
        try:
            self._schedule(call, call.start)
            return call.result.result()
        finally:
            if not call.result.done():
                self._schedule(call, call.cancel)
                wait([call.result])

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield the items of an async generator in the loop, which is closed with this one. Raises as `run` does."""
        self._open.add(items)
        try:
            while (item := self.run(_next_item(items))) is not _END:
                yield cast("T", item)
        finally:
            self._close_items(items)

    def close(self) -> None:
        """Cancel what is running, await `at_end`, and end the thread. Later coroutines raise `LoopClosed`."""
        with self._lock:
            self._is_closed = True
        self._finalizer()

    def _close_items(self, items: AsyncGenerator[Any, None]) -> None:
        """Close an async generator and wait until it is closed; the end of the loop closes it too.

        In the thread of the loop, where a garbage collection may call this, it does not wait.
        """
        call = _Call(_close(items, self._open))
        self._schedule(call, call.start)
        if threading.current_thread() is not self._thread:
            wait([call.result])

    def _schedule(self, call: _Call[Any], act: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        """Let the loop start or cancel a call, in the order of these requests; fail the call where it is closed."""
        with self._lock:
            if self._is_closed or not self._finalizer.alive:  # the end of the program calls the finalizer
                call.fail()
                return
            if self._thread is None:
                self._start_thread()
            self._loop.call_soon_threadsafe(act, self._loop)

    def _start_thread(self) -> None:
        stop = asyncio.Event()
        self._finalizer.detach()
        self._thread = threading.Thread(
            target=_run_loop, args=(self._loop, stop, self._open, self._at_end), name="aura-client", daemon=True
        )
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._loop, stop, self._thread)


class _Call(Generic[T]):
    """A coroutine on its way through the loop, in whose thread it starts and is cancelled. `result` is for any."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.result: Future[T] = Future()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.result.done():
            self._task = loop.create_task(self._coroutine)
            self._task.add_done_callback(self._copy_outcome)

    def cancel(self, _: asyncio.AbstractEventLoop) -> None:
        if self._task is not None:
            self._task.cancel()
        self.fail()

    def fail(self) -> None:
        """Fail a call that has no task, because its loop is closed or its caller was interrupted before."""
        if self._task is None and not self.result.done():
            self._coroutine.close()
            self.result.set_exception(LoopClosed())

    def _copy_outcome(self, task: asyncio.Task[T]) -> None:
        error = LoopClosed() if task.cancelled() else task.exception()
        if error is None:
            self.result.set_result(task.result())
        else:
            self.result.set_exception(error)


async def _next_item(items: AsyncGenerator[T, None]) -> T | object:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any, None], open: set[AsyncGenerator[Any, None]]) -> None:
    await items.aclose()
    open.discard(items)


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    """Let the loop end, and wait for it except in its own thread, where a garbage collection may call this."""
    loop.call_soon_threadsafe(stop.set)
    if threading.current_thread() is not thread:
        thread.join()


def _run_loop(
    loop: asyncio.AbstractEventLoop,
    stop: asyncio.Event,
    open: set[AsyncGenerator[Any, None]],
    at_end: Callable[[], Awaitable[None]],
) -> None:
    """Run the loop until it is stopped. It starts no thread while it ends: Python refuses that at its own end."""

    async def serve() -> None:
        await stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for items in list(open):  # before `shutdown_asyncgens`, which closes outer and inner ones at once
            await _close(items, open)
        await loop.shutdown_asyncgens()
        await at_end()

    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()
