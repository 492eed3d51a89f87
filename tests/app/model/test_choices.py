"""The model and the options of an agent: what is sent to the main server, and that fallbacks keep their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ModelError
from app.model.chat import OpenAIModel
from app.model.fallbacks import ClosableModel, FallbackModel
from app.ports.model import Model, ModelChoice
from statemachine.messages import ModelSource
from statemachine.stored import JsonObject

MESSAGES = [{"role": "user", "content": "질문"}]
TOOLS: list[JsonObject] = [
    {
        "type": "function",
        "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
    }
]
HELLO = ScriptedTurn(text="안녕하세요.")
DOWN = ScriptedTurn(status=503, error_message="overloaded")
CHOICE = ModelChoice("agent-model", {"seed": 7})


@pytest.fixture
async def second() -> AsyncIterator[ScriptedModelServer]:
    async with ScriptedModelServer(pace=0) as server:
        yield server
        server.check()


def client(server: ScriptedModelServer, name: str, *, logprobs: bool = False) -> OpenAIModel:
    options = {"temperature": 0.5}
    return OpenAIModel(name, api_key="test-key", base_url=server.base_url, options=options, logprobs=logprobs)


async def turn(model: Model, choice: ModelChoice | None, tools: list[JsonObject] | None = None) -> ModelSource:
    """Return what sent the turn."""
    async with model.stream(MESSAGES, tools or [], choice=choice) as arrivals:
        (source,) = {delta.source async for delta in arrivals if delta.source is not None}
    return source


async def with_both(main: ScriptedModelServer, second: ScriptedModelServer, choice: ModelChoice | None) -> ModelSource:
    async with AsyncExitStack() as stack:
        models: list[ClosableModel] = [client(main, "main-model"), client(second, "second-model")]
        for model in models:
            stack.push_async_callback(model.close)
        return await turn(FallbackModel(models), choice)


async def test_the_request_has_the_model_and_the_options_of_the_choice(model: ScriptedModelServer) -> None:
    main, other = client(model, "main-model", logprobs=True), client(model, "agent-model")
    model.play(HELLO, HELLO, HELLO)
    chosen = await turn(main, CHOICE)
    own = await turn(main, ModelChoice(None, {}))
    plain = await turn(main, None)
    assert [(it["model"], it.get("seed"), it.get("temperature"), it["logprobs"]) for it in model.requests] == [
        ("agent-model", 7, None, True),
        ("main-model", None, None, True),
        ("main-model", None, 0.5, True),
    ]
    # The same model at the same server has the same origin, however it was chosen: fields in its messages are its own.
    assert chosen == ModelSource("agent-model", other.origin)
    assert own == plain == ModelSource("main-model", main.origin)
    await main.close()
    await other.close()


async def test_a_feature_that_one_model_refuses_is_still_sent_to_another(model: ScriptedModelServer) -> None:
    main = client(model, "main-model")
    refusal = ScriptedTurn(status=400, error_message="this model does not support tools")
    model.play(refusal, HELLO, HELLO, HELLO)
    await turn(main, CHOICE, TOOLS)
    await turn(main, CHOICE, TOOLS)
    await turn(main, None, TOOLS)
    assert [(it["model"], "tools" in it) for it in model.requests] == [
        ("agent-model", True),
        ("agent-model", False),
        ("agent-model", False),
        ("main-model", True),
    ]
    assert main.unsupported == frozenset()
    await main.close()


async def test_a_server_that_stands_in_keeps_its_own_model_and_options(
    model: ScriptedModelServer, second: ScriptedModelServer
) -> None:
    model.play(DOWN)
    second.play(HELLO)
    source = await with_both(model, second, CHOICE)
    assert (model.requests[0]["model"], model.requests[0]["seed"]) == ("agent-model", 7)
    assert source.model == "second-model"
    assert (second.requests[0]["temperature"], "seed" in second.requests[0]) == (0.5, False)


@pytest.mark.parametrize(
    ("failure", "asked"),
    [
        (ScriptedTurn(status=404, error_message="no such model"), ["agent-model", "main-model"]),
        (ScriptedTurn(status=429, error_message="quota of the model"), ["agent-model", "main-model"]),
        (DOWN, ["agent-model"]),
    ],
)
async def test_a_model_that_the_server_does_not_have_does_not_make_the_server_rest_for_others(
    model: ScriptedModelServer, second: ScriptedModelServer, failure: ScriptedTurn, asked: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        models: list[ClosableModel] = [client(model, "main-model"), client(second, "second-model")]
        for each in models:
            stack.push_async_callback(each.close)
        both = FallbackModel(models)
        model.play(failure, *[HELLO] * (len(asked) - 1))
        second.play(*[HELLO] * (4 - len(asked)))
        for choice in (CHOICE, None, CHOICE):
            await turn(both, choice)
    assert [request["model"] for request in model.requests] == asked


async def test_an_error_names_the_model_of_the_choice(model: ScriptedModelServer, second: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(status=400, error_message="bad request"))
    with pytest.raises(ModelError, match="agent-model: "):
        await with_both(model, second, CHOICE)
