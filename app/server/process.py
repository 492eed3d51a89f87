"""One process of the service: its event loop, its limits, its signals, and Hypercorn with a graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from hypercorn.config import Config

from app.bootstrap import create_app
from app.bootstrap.service import Service
from app.server.config import bind_socket
from app.server.event_loop import create_event_loop
from app.server.hypercorn_internals import serve_app
from app.settings import Settings
from app.web.one_time_codes import OneTimeCodes

_COLLECTOR_THRESHOLDS = (10_000, 20, 20)

log = structlog.get_logger(__name__)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on an event loop of the service, with the highest limits that the system allows."""
    _raise_descriptor_limit()
    # Imported objects stay. Traversing these 150,000 objects repeatedly took a seventh of a run's CPU (tests/bench).
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    with asyncio.Runner(loop_factory=create_event_loop) as runner:
        runner.run(main())


async def serve(
    settings: Settings,
    config: Config,
    *,
    stop: asyncio.Event | None = None,
    started: asyncio.Event | None = None,
    one_time_codes: OneTimeCodes | None = None,
) -> None:
    """Serve until `stop` is set, or until SIGTERM or SIGINT where it is None; then drain (CONTRACT §2.3).

    SIGHUP reads the file of `AURA_AGENTS` again, where there is one. `started` is set when the port accepts
    connections. Raises `ConfigurationError` where it cannot be bound.
    """
    reloads = stop is None and settings.aura_agents is not None
    if reloads:  # the file is read before there is a handler: a signal in between waits for it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    app = create_app(settings, one_time_codes=one_time_codes)
    service: Service = app.extensions["aura"]
    bind = config.bind[0]
    if not bind.startswith(("fd://", "unix:")):  # before anything starts, so that a taken port is one clear error
        config.bind = [f"fd://{bind_socket(config).detach()}"]
    stop_requested = stop_signal() if stop is None else stop
    if reloads:
        on_reload_signal(service.agents.reload)

    async def shutdown_trigger() -> None:
        log.info("server.started", bind=bind, descriptorLimit=_descriptor_limit())
        if started is not None:
            started.set()
        await stop_requested.wait()
        await service.drain()

    await serve_app(app, config, shutdown_trigger)


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        log.info("server.stop_requested", signal=signal.Signals(number).name)
        stop.set()
        for handled in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(handled)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def on_reload_signal(reload: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Call `reload` at each SIGHUP, also for one that came while the signal was blocked."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[object]] = set()

    def on_signal() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors, often 1024, to the hard limit: each open stream takes a descriptor."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or hard == resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
