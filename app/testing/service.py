"""The service as a test uses it: tools and settings, the scripted model, runs, crashes, and the clock."""

from __future__ import annotations

from typing import Any, Self

from app.client import Credentials, SyncAuraClient
from app.dev.demo.redis import RedisServer, empty
from app.testing.model import ScriptedModel
from app.testing.outcomes import JsonObject, UnexpectedOutcome
from app.testing.process import ServiceThread, with_resources
from app.testing.run import AuraRun
from app.tools.loading import Loaded, checked


class AuraService:
    """A running service with a scripted model and a Redis of its own; also a context manager.

    Its methods wait, and work in tests with and without an event loop: the service runs in a thread of its own. The
    service starts with the first run, or where its `url` is used.
    """

    def __init__(self, redis: RedisServer | None = None, *, timeout_seconds: float | None = 30) -> None:
        """`redis` is emptied; without it the service starts one of its own. Raises `RedisNotStarted`."""
        used = redis or RedisServer()
        self._own_redis = used.start() if redis is None else None
        empty(used)
        self._tools: list[Loaded] = []
        self._settings: dict[str, Any] = {}
        self._runs: list[AuraRun] = []
        self._clients: list[SyncAuraClient] = []
        self._thread = ServiceThread(used.url, timeout_seconds)
        self._process = self._thread.process

    @property
    def model(self) -> ScriptedModel:
        """The script of the model; see `ScriptedModel` for its methods."""
        return self._thread.model

    @property
    def timeout_seconds(self) -> float | None:
        """The limit of each step of a run; None, for a debugger: without a limit."""
        return self._thread.timeout_seconds

    @timeout_seconds.setter
    def timeout_seconds(self, seconds: float | None) -> None:
        self._thread.timeout_seconds = seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the service in order, with the resources of its tools, and its own Redis."""
        for client in self._clients:
            client.close()
        try:
            self._thread.close()
        finally:
            if self._own_redis is not None:
                self._own_redis.stop()

    def use(self, *tools: Loaded, **settings: Any) -> Self:
        """Use these tools, resources and settings; the latter by their names in lower case (`aura_on_reject="replan"`).

        A tool comes with the resources of its module; a resource that is named here replaces those of the same type.
        Without any tool the service has those of its settings. Raises `RuntimeError` where the service runs already,
        and `ConfigurationError` for what is not a tool.
        """
        if self._process.is_started:
            raise RuntimeError("the service runs already: use() comes before the first run")
        self._tools += [checked(tool, "aura.use()") for tool in tools]
        self._settings |= settings
        return self

    def run(
        self,
        prompt: str,
        context: JsonObject | None = None,
        *,
        user: str = "user1",
        tenant: str = "tenant1",
        role: str | None = None,
        email: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
    ) -> AuraRun:
        """Start a run of a user, and follow it until it waits for a person or has ended.

        `context` is what the user sees, such as `{"activeApp": "mail"}`. Raises `UnexpectedOutcome` after the time
        limit, and `ApiError` where the service refuses the run.
        """
        self.start()
        identity = {"user": user, "tenant": tenant, "role": role, "email": email}
        run = AuraRun(self._thread, prompt, identity)
        self._runs.append(run)  # before it starts, so that it is in the report if it takes too long
        return run.begin(context, thread_id=thread_id, agent=agent)

    def start(self) -> Self:
        """Start the service, if it does not run yet. Raises `ConfigurationError` for its tools and settings."""
        if not self._process.is_started:
            tools = with_resources(self._tools) if self._tools else None
            self._thread.perform(self._process.start(tools, self._settings))
        return self

    @property
    def url(self) -> str:
        """The address of the service, for a test that sends requests of its own."""
        self.start()
        return self._process.url

    def client(
        self, user: str = "user1", tenant: str = "tenant1", *, role: str | None = None, email: str | None = None
    ) -> SyncAuraClient:
        """Return a client of a user, for all that is not a run: lists, timelines, decisions of other requests."""
        token = self._process.token(user=user, tenant=tenant, role=role, email=email)
        client = SyncAuraClient(self.url, Credentials.from_token(token))
        self._clients.append(client)
        return client

    def crash(self, *, before: str | None = None, after: str | None = None) -> Self:
        """End the service without warning, as SIGKILL does, and let another one on the same Redis take over its runs.

        It happens at once, or during the next call of a tool: `before` it runs, when its start is recorded, or `after`
        it has run, before its result is recorded. Raises `ValueError` where both are given.
        """
        if before is not None and after is not None:
            raise ValueError("a crash is before or after a tool, not both")
        self.start()
        if before is not None:
            self._process.crash_point = ("before", before)
        elif after is not None:
            self._process.crash_point = ("after", after)
        else:
            self._thread.perform(self._process.crash())
        return self

    def advance(self, seconds: float) -> Self:
        """Move the clock of the service forward, and follow the runs whose approval requests have expired by that."""
        clock = self._thread.clock

        async def advance() -> None:
            clock.advance(seconds)

        self._thread.perform(advance())
        for run in self._runs:
            if run.waiting is not None and run.waiting.expires_at <= clock.now():
                run.go_on()
        return self

    def check(self) -> None:
        """Raises `UnexpectedOutcome` where the model was sent wrong or unexpected requests, or has turns left, and
        where a crash that was requested has not happened."""
        if self._process.crash_point is not None:
            when, tool = self._process.crash_point
            raise UnexpectedOutcome(f"the crash {when} {tool} has not happened: the tool did not run")
        self.model.check()

    def describe(self) -> str:
        """Return each run with its events: what the report of a failed test shows."""
        runs = [line for run in self._runs for line in (repr(run), *(f"  {text}" for text in run.event_texts()))]
        return "\n".join([*runs, *self.model.problems()])
