"""A scripted OpenAI-compatible server: chat completions with and without streaming, embeddings, the list of models.

It accepts only requests that every known server accepts (`request_rules`).

This module owns the wire format and the injected faults. The answers are data: a strict queue (`play`) or scenarios
(`load`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from app.dev.demo import embeddings
from app.dev.demo.http import Request, Response, StandIn
from app.dev.demo.request_rules import problems
from app.dev.demo.scenarios import ChatRequest, Scenario, choose_turn, load_scenarios
from app.dev.demo.script import Delta, ScriptedTurn, deltas

MODEL_NAME = "aura-scripted"

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    404: "invalid_request_error",
    429: "requests",
}
_ERROR_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_DONE = b"data: [DONE]\n\n"
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes an encoder each time


class ScriptedModelServer(StandIn):
    """The server on a free port of 127.0.0.1; also an async context manager.

    The turns of the queue are used first; when it is empty, the scenarios are. A request for which there is neither a
    turn nor a scenario is answered with HTTP 500 and stored in `unexpected_calls`. A request that a strict server would
    refuse is answered with HTTP 400, takes no turn, and is stored in `violations`. A request to continue an interrupted
    answer gets the rest of the turn's text, if that text begins with what the client already has.
    """

    def __init__(self, *, pace: float = 1.0) -> None:
        """`pace` multiplies every delay of the script; 0 removes all delays."""
        self.requests: list[dict[str, Any]] = []
        """The parsed body of every chat-completions request, in the order of arrival."""
        self.unexpected_calls: list[dict[str, Any]] = []
        self.violations: list[str] = []
        """What strict servers refuse in the requests that have arrived, one line for each problem."""
        self.allowed_extras = frozenset({"reasoning_content"})
        """The keys that this server adds to its messages and calls, so that it accepts them back."""
        self.embedding_requests: list[dict[str, Any]] = []
        """The parsed body of every embeddings request, in the order of arrival."""
        self.embeddings_status = 200
        """The HTTP status of embeddings responses; any other than 200 is sent with an error body."""
        self.refused_embedding_text = ""
        """An embeddings request with a text that contains this is answered with 400; empty: none is."""
        super().__init__()
        self.pace = pace
        self._queue: deque[ScriptedTurn] = deque()
        self._scenarios: list[Scenario] = []
        self._sent_ids: set[str] = set()
        self._open = 0
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def base_url(self) -> str:
        """The address `http://127.0.0.1:{port}/v1`. Raises `RuntimeError` where the server is not started."""
        return f"{self._http.origin}/v1"

    @property
    def turns_left(self) -> int:
        return len(self._queue)

    def play(self, *turns: ScriptedTurn) -> None:
        """Append turns to the queue; each request takes one."""
        self._queue.extend(turns)

    def clear(self) -> None:
        """Drop the turns that are left in the queue."""
        self._queue.clear()

    def load(self, folder: Path) -> None:
        """Add the scenarios of a folder. Raises `ValueError` where one cannot be parsed."""
        self._scenarios.extend(load_scenarios(folder))

    def add(self, *scenarios: Scenario) -> None:
        """Add scenarios; the first one that matches a request answers it."""
        self._scenarios.extend(scenarios)

    def check(self) -> None:
        """Raises `AssertionError` where requests were wrong or unexpected, or turns are left in the queue."""
        self._check_requests()
        if self.unexpected_calls:
            raise AssertionError(
                f"{len(self.unexpected_calls)} unexpected request(s), the first: {self.unexpected_calls[0]}"
            )
        if self._queue:
            raise AssertionError(f"{len(self._queue)} unused turn(s), the first: {self._queue[0]!r}")

    async def __aexit__(self, *error: object) -> None:
        """Stop. Raises `AssertionError` where requests were wrong, so that nothing that sends them looks right."""
        await super().__aexit__(*error)
        if not any(error):  # else that error is the one to report
            self._check_requests()

    def _check_requests(self) -> None:
        if self.violations:
            raise AssertionError("\n".join(["strict servers refuse requests that were sent:", *self.violations]))

    def release(self) -> None:
        """Resume the turns that are hanging now."""
        self._released.set()
        self._released = asyncio.Event()

    async def wait_for_requests(self, count: int) -> None:
        """Wait until `count` chat-completions requests have arrived since the start."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def wait_until_idle(self) -> None:
        """Wait until no request is being answered; requests of disconnected clients have ended, too."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open == 0)

    async def _handle(self, request: Request, response: Response) -> None:
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                await self._completion(request, response)
            case "POST", "/v1/embeddings":
                await self._embeddings(request, response)
            case "GET", "/v1/models":
                names = (MODEL_NAME, embeddings.EMBEDDING_MODEL_NAME)
                models = [{"id": name, "object": "model", "created": 0, "owned_by": "aura"} for name in names]
                await response.json(200, {"object": "list", "data": models})
            case method, path:
                await response.json(404, _error(404, f"Unknown request URL: {method} {path}"))

    async def _embeddings(self, request: Request, response: Response) -> None:
        try:
            body = request.json()
            given = embeddings.create_response(body)
        except ValueError as error:
            await response.json(400, _error(400, f"Invalid request: {error}"))
            return
        self.embedding_requests.append(body)
        refused = self.refused_embedding_text and any(self.refused_embedding_text in text for text in body["input"])
        status = 400 if refused else self.embeddings_status
        await response.json(status, given if status == HTTPStatus.OK else _error(status, "scripted error"))

    async def _completion(self, request: Request, response: Response) -> None:
        try:
            body = request.json()
            if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
                raise ValueError("messages is missing")
        except ValueError as error:
            await response.json(400, _error(400, f"Invalid request: {error}"))
            return
        await self._count(body, +1)
        try:
            if found := problems(body, allowed_extras=self.allowed_extras, known_ids=self._sent_ids):
                self.violations += found
                await response.json(400, _error(400, "; ".join(found)))
            elif (turn := self._next_turn(body)) is None:
                self.unexpected_calls.append(body)
                await response.json(500, _error(500, "the script has no turn for this request"))
            else:
                turn = turn.with_usage(len(request.body)).with_call_ids()
                self._sent_ids.update(call.id for call in turn.tool_calls if call.id)
                await _TurnResponse(body, turn, response, self.pace, self._released).run()
        finally:
            await self._count(None, -1)

    def _next_turn(self, body: dict[str, Any]) -> ScriptedTurn | None:
        chat = ChatRequest(body)
        if not self._queue:
            return choose_turn(self._scenarios, chat)
        turn = self._queue.popleft()
        return (turn.continued_from(chat.partial) if chat.partial else None) or turn

    async def _count(self, body: dict[str, Any] | None, change: int) -> None:
        if body is not None:
            self.requests.append(body)
        self._open += change
        async with self._changed:
            self._changed.notify_all()


class _TurnResponse:
    """Sends one turn to one client."""

    def __init__(
        self, body: dict[str, Any], turn: ScriptedTurn, response: Response, pace: float, released: asyncio.Event
    ) -> None:
        self._turn, self._response, self._pace, self._released = turn, response, pace, released
        self._streamed = body.get("stream") is True
        self._wants_usage = (body.get("stream_options") or {}).get("include_usage") is True
        self._wants_logprobs = turn.logprobs is not None and body.get("logprobs") is True
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created, self._model = int(time.time()), body.get("model") or MODEL_NAME
        # Chunks differ in few fields, and benchmarks measure this server's time together with the service's.
        fixed = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        self._head = f"data: {_json(fixed)[:-1]},".encode()

    async def run(self) -> None:
        turn = self._turn
        await self._pause(turn.first_delay_ms)
        if turn.status != HTTPStatus.OK:
            await self._response.json(turn.status, _error(turn.status, turn.error_message), turn.headers)
        elif not await self._apply_fault(-1):
            return
        elif self._streamed:
            await self._stream()
        elif turn.cut_after is not None:
            await self._response.cut()
        else:
            if turn.hang_after is not None and turn.hang_after >= 0:
                await self._hang()
            await self._response.json(200, self._completion_body())

    async def _stream(self) -> None:
        turn, response = self._turn, self._response
        await response.begin("text/event-stream; charset=utf-8")
        await response.write(self._chunk({"role": "assistant", "content": None if turn.tool_calls else ""}))
        parts: Iterator[Delta | None] = iter([*deltas(turn), None])
        for sent, delta in enumerate(parts):
            if not await self._apply_fault(sent):
                return
            if sent == turn.malformed_chunk_after:
                await response.write(self._head + b'"choices":[{"index":0,"delta":{"content":\n\n')
            if sent == turn.error_chunk_after:
                await response.write(b"data: " + _json(_error(500, turn.error_message)).encode() + b"\n\n" + _DONE)
                await response.end()
                return
            if delta is not None:
                if sent:
                    await self._pause(turn.delay_ms)
                await response.write(self._chunk(delta.fields, self._logprobs(delta)))
                await asyncio.sleep(0)  # let the turns of other clients proceed
        if turn.effective_finish_reason is not None:
            await response.write(self._chunk({}, finish_reason=turn.effective_finish_reason))
        if self._wants_usage:
            await response.write(self._head + f'"choices":[],"usage":{_json(self._turn.usage)}}}\n\n'.encode())
        await response.write(_DONE)
        await response.end()

    def _chunk(self, delta: dict[str, Any], logprobs: object = None, finish_reason: str | None = None) -> bytes:
        usage = ',"usage":null' if self._wants_usage else ""
        ends = f'"logprobs":{_json(logprobs)},"finish_reason":{_json(finish_reason)}'
        return self._head + f'"choices":[{{"index":0,"delta":{_json(delta)},{ends}}}]{usage}}}\n\n'.encode()

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._wants_logprobs or delta.logprob is None:
            return None
        token = {
            "token": delta.token,
            "logprob": delta.logprob,
            "bytes": list(delta.token.encode()),
            "top_logprobs": [],
        }
        return {"content": [token], "refusal": None}

    def _completion_body(self) -> dict[str, Any]:
        """The response body of a request without streaming."""
        parts = list(deltas(self._turn))
        message: dict[str, Any] = {"role": "assistant", "content": self._turn.whole_text or None, "refusal": None}
        reasoning = "".join(delta.fields["reasoning_content"] for delta in parts if delta.kind == "reasoning")
        if reasoning:
            message["reasoning_content"] = reasoning
        calls = [delta.fields["tool_calls"][0] for delta in parts if delta.kind == "call"]
        if opened := [call for call in calls if "id" in call]:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": scripted.name, "arguments": scripted.arguments_text},
                }
                for call, scripted in zip(opened, self._turn.tool_calls, strict=True)
            ]
        tokens = [found["content"][0] for delta in parts if (found := self._logprobs(delta))]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": tokens, "refusal": None} if tokens else None,
            "finish_reason": self._turn.effective_finish_reason,
        }
        about = {"id": self._id, "object": "chat.completion", "created": self._created, "model": self._model}
        return {**about, "choices": [choice], "usage": self._turn.usage}

    async def _apply_fault(self, sent: int) -> bool:
        """Apply the fault that is scripted after `sent` deltas; return whether the response continues after it."""
        if sent == self._turn.hang_after:
            await self._hang()
        if sent == self._turn.cut_after:
            await self._response.cut()
            return False
        return True

    async def _hang(self) -> None:
        """Wait for `release()`. Raises `ConnectionError` where the client disconnects before."""
        waits = {
            asyncio.ensure_future(self._released.wait()),
            asyncio.ensure_future(self._response.wait_until_client_closes()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._released.is_set():
            raise ConnectionResetError("the client has disconnected")

    async def _pause(self, delay_ms: float) -> None:
        if delay_ms and self._pace:
            await asyncio.sleep(delay_ms * self._pace / 1000)


def _error(status: int, message: str) -> dict[str, Any]:
    """An error body in OpenAI's format."""
    kind = _ERROR_TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": _ERROR_CODES.get(status)}}
