"""Servers that cannot be reached, that redirect, or that refuse a feature; and what is sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ModelError
from app.model.chat import OpenAIModel
from app.settings import Settings
from statemachine.stored import JsonObject
from tests.harness.certificate import Certificate
from tests.harness.outcomes import KEY, completed, failed
from tests.harness.service import running

MakeSettings = Callable[..., Settings]
Handler = Callable[[Request, Response], Awaitable[None]]
MESSAGES: list[JsonObject] = [{"role": "user", "content": "질문"}]
TOOLS: list[JsonObject] = [
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
]
ANSWER = b'data: {"choices":[{"delta":{"content":"\xeb\x84\xa4."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture(name="serve")
async def _serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    servers: list[HttpServer] = []

    async def serve(handler: Handler) -> str:
        servers.append(await HttpServer(handler).start())
        return servers[-1].origin

    yield serve
    for server in servers:
        await server.stop()


async def answer(response: Response) -> None:
    await response.begin("text/event-stream")
    await response.write(ANSWER)
    await response.end()


async def ask(base_url: str, tools: list[JsonObject] | None = None, **options: Any) -> str:
    """Ask the server once and return the text of its answer."""
    model = OpenAIModel("m", api_key=KEY, base_url=base_url, timeout_seconds=5, **options)
    try:
        async with model.stream(MESSAGES, tools or []) as deltas:
            return "".join([delta.text async for delta in deltas])
    finally:
        await model.close()


# --- servers that cannot be reached -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind"),
    [("http://no-such-host.invalid/v1", "(DNS)"), ("http://127.0.0.1:1/v1", "refuses the connection")],
)
async def test_user_reads_why_a_server_is_not_reached_and_the_log_says_where(
    settings: MakeSettings, url: str, kind: str
) -> None:
    with capture_logs() as logs:
        made = settings(openai_base_url=url, aura_model_attempts=2)
        async with running(made) as aura, aura.stream("질문") as stream:
            frames = await stream.rest()
    message = failed(frames, "ModelError", "E5000", retryable=True)
    assert kind in message
    host = url.split("/")[2]
    assert host not in "".join(frame.raw for frame in frames)
    lines = [line for line in logs if line["event"] == "model.failed"]
    assert len(lines) == 2, "one line for each attempt"
    assert all(line["log_level"] == "warning" and url in line["detail"] for line in lines)


async def test_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    certificate = Certificate.create(tmp_path / "server.pem")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=certificate.server)
    async with server:
        with pytest.raises(ModelError) as refused:
            await ask(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    assert refused.value.kind == "unavailable"
    assert refused.value.cause == "the model's server cannot be reached: its certificate is not trusted (TLS)"
    assert "127.0.0.1" in refused.value.detail


# --- the address ------------------------------------------------------------------------------------------------------


async def test_query_of_the_base_url_follows_the_path(serve: Callable[..., Any]) -> None:
    targets: list[tuple[str, dict[str, str]]] = []

    async def handle(request: Request, response: Response) -> None:
        targets.append((request.path, dict(request.query)))
        await answer(response)

    origin = await serve(handle)
    assert await ask(f"{origin}/openai/deployments/d?api-version=2024-10-21") == "네."
    assert targets == [("/openai/deployments/d/chat/completions", {"api-version": "2024-10-21"})]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_of_the_same_origin_is_followed_with_the_body(serve: Callable[..., Any], status: int) -> None:
    seen: list[tuple[str, Any]] = []

    async def handle(request: Request, response: Response) -> None:
        seen.append((request.path, request.json()["model"]))
        if request.path == "/v1/chat/completions":
            await response.json(status, {}, {"Location": "/v2/chat/completions"})
        else:
            await answer(response)

    origin = await serve(handle)
    assert await ask(f"{origin}/v1") == "네."
    assert seen == [("/v1/chat/completions", "m"), ("/v2/chat/completions", "m")]


async def test_permanent_redirect_is_remembered(serve: Callable[..., Any]) -> None:
    paths: list[str] = []

    async def handle(request: Request, response: Response) -> None:
        paths.append(request.path)
        if request.path.startswith("/v1"):
            await response.json(308, {}, {"Location": "/v2/chat/completions"})
        else:
            await answer(response)

    model = OpenAIModel("m", api_key=KEY, base_url=f"{await serve(handle)}/v1")
    for _ in range(2):
        async with model.stream(MESSAGES, []) as deltas:
            assert "".join([delta.text async for delta in deltas]) == "네."
    await model.close()
    assert paths == ["/v1/chat/completions", "/v2/chat/completions", "/v2/chat/completions"]


async def test_redirect_to_another_origin_does_not_get_the_key(serve: Callable[..., Any]) -> None:
    strange: list[Request] = []

    async def other(request: Request, response: Response) -> None:
        strange.append(request)
        await answer(response)

    elsewhere = await serve(other)

    async def handle(_: Request, response: Response) -> None:
        await response.json(307, {}, {"Location": f"{elsewhere}/v1/chat/completions"})

    with pytest.raises(ModelError, match="redirects to another server") as refused:
        await ask(f"{await serve(handle)}/v1")
    assert refused.value.kind == "refused"
    assert elsewhere in refused.value.detail
    assert elsewhere not in refused.value.cause
    assert strange == []


async def test_redirects_in_a_circle_end(serve: Callable[..., Any]) -> None:
    async def handle(_: Request, response: Response) -> None:
        await response.json(307, {}, {"Location": "/v1/chat/completions"})

    with pytest.raises(ModelError, match="HTTP 307"):
        await ask(f"{await serve(handle)}/v1")


# --- features that a server refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "status", "words"),
    [
        ("stream_options", 400, "Unrecognized request argument supplied: stream_options"),
        ("stream_options", 422, '{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}'),
        ("parallel_tool_calls", 400, "Unsupported parameter: 'parallel_tool_calls' is not supported with this model."),
        ("logprobs", 400, "This model does not support logprobs"),
        ("tools", 400, "registry.example/library/gemma:2b does not support tools"),
        ("tools", 404, "No endpoints found that support tool use."),
        ("tools", 500, "tools param requires --jinja flag"),
        ("tools", 400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    ],
)
@pytest.mark.parametrize("place", ["status", "stream"])
async def test_refused_feature_is_left_out_and_remembered(
    serve: Callable[..., Any], feature: str, status: int, words: str, place: str
) -> None:
    bodies: list[JsonObject] = []

    async def handle(request: Request, response: Response) -> None:
        bodies.append(request.json())
        if feature not in bodies[-1]:
            await answer(response)
        elif place == "status":
            await response.json(status, {"error": {"message": words}})
        else:
            await response.json(200, {"error": {"message": words, "code": status}})

    options = {"parallel_tool_calls": False}
    model = OpenAIModel("m", api_key=KEY, base_url=f"{await serve(handle)}/v1", logprobs=True, options=options)
    with capture_logs() as logs:
        for _ in range(2):
            async with model.stream(MESSAGES, TOOLS) as deltas:
                assert "".join([delta.text async for delta in deltas]) == "네."
    await model.close()
    assert [feature in body for body in bodies] == [True, False, False]
    assert model.unsupported == {feature}
    assert [line["feature"] for line in logs if line["event"] == "model.feature_refused"] == [feature]


@pytest.mark.parametrize(
    "words",
    [
        "Invalid schema for function 'get_time': In context=(), 'type' is missing in tools[0]",
        "Invalid 'tools[0].function.name': string does not match pattern",
        "messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
    ],
)
async def test_error_in_a_tool_is_no_reason_to_leave_the_tools_out(serve: Callable[..., Any], words: str) -> None:
    bodies: list[JsonObject] = []

    async def handle(request: Request, response: Response) -> None:
        bodies.append(request.json())
        await response.json(400, {"error": {"message": words}})

    with pytest.raises(ModelError):
        await ask(f"{await serve(handle)}/v1", TOOLS)
    assert len(bodies) == 1


async def test_options_are_merged_into_each_request(serve: Callable[..., Any]) -> None:
    bodies: list[JsonObject] = []

    async def handle(request: Request, response: Response) -> None:
        bodies.append(request.json())
        await answer(response)

    url = f"{await serve(handle)}/v1"
    await ask(url, TOOLS, options={"temperature": 0.2, "tool_choice": "auto", "stream_options": {"x": 1}})
    await ask(url, options={"tool_choice": "auto", "parallel_tool_calls": True})
    assert bodies[0]["temperature"] == 0.2
    assert bodies[0]["stream_options"] == {"x": 1}
    assert bodies[0]["tool_choice"] == "auto"
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & bodies[1].keys(), "they need tools"


@pytest.mark.parametrize("is_main", [True, False])
async def test_headers_of_the_environment_are_for_the_main_server_alone(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, is_main: bool
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Secret: s3cr3t")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    seen: list[Request] = []

    async def handle(request: Request, response: Response) -> None:
        seen.append(request)
        await answer(response)

    assert await ask(f"{await serve(handle)}/v1", is_main=is_main) == "네."
    headers = seen[0].headers
    assert ("x-gateway-secret" in headers) is is_main
    assert ("openai-organization" in headers) is is_main
    assert headers["authorization"] == f"Bearer {KEY}"


async def test_long_error_is_read_in_part_only(serve: Callable[..., Any]) -> None:
    async def handle(_: Request, response: Response) -> None:
        await response.json(400, {"error": "x" * 10_000_000})

    with pytest.raises(ModelError) as refused:
        await ask(f"{await serve(handle)}/v1")
    assert len(refused.value.detail) <= 3000


async def test_thread_with_another_model_gets_no_fields_of_the_first(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="첫 답", reasoning="비밀 생각"), ScriptedTurn(text="둘째 답"))
    for name, text in (("model-a", "첫 답"), ("model-b", "둘째 답")):
        async with running(settings(openai_model=name)) as aura:
            async with aura.stream(body={"prompt": "질문", "thread_id": "t-1"}) as stream:
                completed(await stream.rest(), text)
    (earlier,) = [message for message in model.requests[1]["messages"] if message["role"] == "assistant"]
    assert earlier == {"role": "assistant", "content": "첫 답"}
