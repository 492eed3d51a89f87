"""One run as a test follows it: step by step, each up to the next approval request or to the end."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Self

from app.client import Content, DecisionReply, ErrorRaised, ToolExecution
from app.client.events import Event
from app.testing.outcomes import Call, JsonObject, OpenRequest, UnexpectedOutcome, error_text
from app.testing.process import ServiceThread
from app.testing.reader import RunReader


class AuraRun:
    """A run. `approve` and `reject` decide the request for which it waits, and return it when it has gone on."""

    def __init__(self, thread: ServiceThread, prompt: str, user: dict[str, str | None]) -> None:
        """Use `AuraService.run`, which starts it too."""
        self.prompt = prompt
        self._thread = thread
        self._user = user
        self._owner = self._decider = thread.process.client(**user)
        self._reader = RunReader(thread, self._owner)

    def begin(self, context: JsonObject | None, *, thread_id: str | None, agent: str | None) -> Self:
        """Start the run, and follow it to its first request or its end."""
        stream = self._owner.run(self.prompt, context, thread_id=thread_id, agent=agent)
        self._thread.perform(self._reader.follow(stream))
        return self

    @property
    def session_id(self) -> str:
        return self._reader.session_id

    @property
    def events(self) -> list[Event]:
        """The events so far (`app.client.events`), without those of a type that this version does not know."""
        return self._reader.events

    @property
    def waiting(self) -> OpenRequest | None:
        """The request that a person has to decide; None where the run has ended."""
        return self._reader.waiting

    @property
    def status(self) -> str:
        """`waiting`, or how the run has ended: completed, rejected, timed_out, cancelled or failed."""
        if self._reader.waiting is not None:
            return "waiting"
        return "running" if self._reader.end is None else self._reader.end.status

    @property
    def error(self) -> ErrorRaised | None:
        """The error of a run that has not completed, with its `error_type` and `message`."""
        return next((event for event in reversed(self.events) if isinstance(event, ErrorRaised)), None)

    @property
    def answer(self) -> str:
        """The answer of a run that has completed. Raises `UnexpectedOutcome` for any other."""
        __tracebackhide__ = True
        if self.status != "completed":
            raise UnexpectedOutcome(f"there is no answer: {self.describe()}")
        return "".join(event.content for event in self.events if isinstance(event, Content))

    def calls(self, name: str | None = None) -> list[Call]:
        """Return the tool calls of the run in order, or those of one tool."""
        details = self._thread.perform(self._owner.details(self.session_id))
        return [call for call in map(Call.of, details["ledger"]) if name in (None, call.name)]

    def approve(self, arguments: JsonObject | None = None, /, **changed: Any) -> Self:
        """Approve the request, and follow the run to its next request or its end.

        `arguments` replace those of the request, `changed` ones replace some. Raises `UnexpectedOutcome` where the run
        does not wait, and `ApiError` where the service refuses the decision, for example for invalid arguments.
        """
        __tracebackhide__ = True
        request = self._open_request("approved")
        edited = {**(request.arguments if arguments is None else arguments), **changed}
        sent = None if arguments is None and not changed else edited
        return self._decide(self._decider.approve(request.request_id, request.arguments_digest, sent))

    def reject(self, reason: str | None = None, *, skip: bool = False) -> Self:
        """Reject the request, and follow the run as `approve` does. With `skip` it continues without this call."""
        __tracebackhide__ = True
        request = self._open_request("rejected")
        return self._decide(self._decider.reject(request.request_id, reason, skip=skip))

    def as_user(
        self, user: str, *, role: str | None = None, tenant: str | None = None, email: str | None = None
    ) -> Self:
        """Let another person decide from now on, by default of the run's tenant. Without this it is the run's owner."""
        tenant = tenant or self._user["tenant"]
        self._decider = self._thread.process.client(user=user, tenant=tenant, role=role, email=email)
        return self

    def cancel(self) -> Self:
        """Cancel the run as its owner, and follow it to its end."""
        self._thread.perform(self._owner.cancel(self.session_id))
        return self.go_on()

    def go_on(self) -> Self:
        """Follow the run to its next request or its end. It is needed only after a decision that was made elsewhere."""
        if self._reader.end is None:
            self._thread.perform(self._reader.follow())
        return self

    def describe(self) -> str:
        """Return in one line for what the run waits, or how it has ended."""
        if self._reader.waiting is not None:
            return f"the run waits for a person to decide {self._reader.waiting}; use approve() or reject()"
        if self._reader.end is None:
            return f"the run has not ended; {self._reader.last_texts()}"
        failed = [event for event in self.events if isinstance(event, ToolExecution) and event.status == "failed"]
        causes = [f"{event.tool_name} failed: {event.error}" for event in failed]
        causes += [error_text(self.error), *self._thread.model.problems()]
        return ": ".join([f"the run ended as {self._reader.end.status}", *filter(None, causes)])

    def event_texts(self) -> list[str]:
        """Return the events so far in few words each."""
        return self._reader.texts()

    def __repr__(self) -> str:
        return f"<AuraRun {self.prompt!r}: {self.describe()}>"

    def _open_request(self, verdict: str) -> OpenRequest:
        __tracebackhide__ = True
        if self._reader.waiting is None:
            raise UnexpectedOutcome(f"there is nothing that can be {verdict}: {self.describe()}")
        return self._reader.waiting

    def _decide(self, decision: Coroutine[Any, Any, DecisionReply]) -> Self:
        __tracebackhide__ = True
        reply: DecisionReply = self._thread.perform(decision)
        if not reply.accepted:
            raise UnexpectedOutcome(f"the decision came too late: the request is {reply.status} already")
        return self.go_on()
