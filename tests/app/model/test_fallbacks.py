"""Several model servers: the next one answers where one is down, before a word of the turn has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.errors import ModelError
from app.model.chat import OpenAIModel
from app.model.fallbacks import REST_SECONDS, FallbackModel
from app.settings import Settings
from app.settings.types import ModelServer
from tests.harness.outcomes import completed
from tests.harness.service import running

MakeSettings = Callable[..., Settings]
MESSAGES = [{"role": "user", "content": "hello"}]
DOWN = ScriptedTurn(status=503, error_message="overloaded")
ANSWER = ScriptedTurn(text="the answer")
KEY = "fallback-key-0123456789"


class Time:
    """The monotonic time of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="backup")
async def _backup() -> AsyncIterator[ScriptedModelServer]:
    async with ScriptedModelServer(pace=0) as server:
        yield server
        server.check()


@asynccontextmanager
async def two_models(
    main: ScriptedModelServer | str, backup: ScriptedModelServer, time: Time | None = None, **options: Any
) -> AsyncIterator[FallbackModel]:
    url = main if isinstance(main, str) else main.base_url
    main_options = {"api_key": "main-key-0123456789", "base_url": url, **options}
    backup_options = {**options, "api_key": KEY, "base_url": backup.base_url}
    models = [OpenAIModel("main-model", **main_options), OpenAIModel("backup-model", **backup_options)]
    model = FallbackModel(models, monotonic=time or Time())
    try:
        yield model
    finally:
        await model.close()


async def request(model: FallbackModel, tools: list[dict[str, Any]] | None = None) -> str:
    """Return the text of a turn."""
    async with model.stream(MESSAGES, tools or []) as deltas:
        return "".join([delta.text async for delta in deltas])


async def failure(model: FallbackModel) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await request(model)
    return caught.value


async def test_the_first_model_answers_while_it_is_up(model: ScriptedModelServer, backup: ScriptedModelServer) -> None:
    model.play(ANSWER, ANSWER)
    async with two_models(model, backup) as both:
        assert both.name == "main-model"
        assert [await request(both), await request(both)] == ["the answer"] * 2
    assert backup.requests == []


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        pytest.param(DOWN, "unavailable", id="503"),
        pytest.param(ScriptedTurn(status=429, error_message="slow down"), "unavailable", id="rate limit"),
        pytest.param(ScriptedTurn(status=429, error_message="You exceeded your current quota"), "refused", id="quota"),
        pytest.param(ScriptedTurn(status=401, error_message="Incorrect API key"), "refused", id="401"),
        pytest.param(ScriptedTurn(status=403, error_message="no access"), "refused", id="403"),
        pytest.param(ScriptedTurn(status=404, error_message="The model does not exist"), "refused", id="404"),
        pytest.param(ScriptedTurn(text="x", cut_after=-1), "unavailable", id="cut before the head"),
        pytest.param(ScriptedTurn(text="x", cut_after=0), "interrupted", id="cut before a word"),
        pytest.param(ScriptedTurn(text="x", error_chunk_after=0), "unavailable", id="error chunk"),
        pytest.param(ScriptedTurn(finish_reason=None), "interrupted", id="empty stream"),
    ],
)
async def test_a_model_that_is_down_is_passed_over_with_one_warning(
    model: ScriptedModelServer, backup: ScriptedModelServer, turn: ScriptedTurn, kind: str
) -> None:
    model.play(turn)
    backup.play(ANSWER)
    async with two_models(model, backup) as both:
        with capture_logs() as logs:
            async with both.stream(MESSAGES, []) as arrivals:
                deltas = [delta async for delta in arrivals]
    assert "".join(delta.text for delta in deltas) == "the answer"
    assert [delta.source.model for delta in deltas if delta.source is not None] == ["backup-model"]
    assert [request["model"] for request in backup.requests] == ["backup-model"]
    (line,) = [line for line in logs if line["event"] == "model.failed"]
    assert (line["log_level"], line["model"], line["kind"]) == ("warning", "main-model", kind)
    assert line["cause"]


async def test_a_server_that_does_not_exist_is_passed_over(backup: ScriptedModelServer, unused_tcp_port: int) -> None:
    backup.play(ANSWER)
    async with two_models(f"http://127.0.0.1:{unused_tcp_port}/v1", backup) as both:
        with capture_logs() as logs:
            assert await request(both) == "the answer"
    assert "refuses the connection" in logs[0]["cause"]
    assert str(unused_tcp_port) in logs[0]["detail"]
    assert str(unused_tcp_port) not in logs[0]["cause"]


async def test_a_server_that_sends_nothing_is_passed_over(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="x", hang_after=0))
    backup.play(ANSWER)
    async with two_models(model, backup, timeout_seconds=0.2) as both:
        assert await request(both) == "the answer"
    await model.wait_until_idle()


async def test_a_model_without_a_key_is_passed_over(backup: ScriptedModelServer) -> None:
    backup.play(ANSWER)
    async with two_models("http://127.0.0.1:1/v1", backup, api_key=None) as both:
        assert await request(both) == "the answer"


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        pytest.param(ScriptedTurn(status=400, error_message="temperature is too high"), "refused", id="400"),
        pytest.param(ScriptedTurn(status=422, error_message="messages: invalid"), "refused", id="422"),
        pytest.param(
            ScriptedTurn(status=400, error_message="maximum context length is 8192 tokens"),
            "context_too_long",
            id="long",
        ),
    ],
)
async def test_an_error_of_the_request_itself_is_not_passed_on(
    model: ScriptedModelServer, backup: ScriptedModelServer, turn: ScriptedTurn, kind: str
) -> None:
    model.play(turn, ANSWER)
    async with two_models(model, backup) as both:
        error = await failure(both)
        assert (error.kind, error.cause.startswith("main-model: ")) == (kind, True)
        assert await request(both) == "the answer"  # the server is not down
    assert backup.requests == []


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(ScriptedTurn(text=["half", " an answer"], cut_after=1), id="text"),
        pytest.param(ScriptedTurn(reasoning=["a", " thought"], cut_after=1), id="thought"),
        pytest.param(ScriptedTurn(tool_calls=[ScriptedCall(name="t", arguments={"a": 1})], cut_after=1), id="call"),
    ],
)
async def test_a_turn_that_breaks_after_a_word_is_not_begun_again_elsewhere(
    model: ScriptedModelServer, backup: ScriptedModelServer, turn: ScriptedTurn
) -> None:
    model.play(turn)
    async with two_models(model, backup) as both:
        assert (await failure(both)).kind == "interrupted"
    assert backup.requests == []


async def test_a_model_that_was_down_is_asked_last_until_it_has_rested(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    time = Time()
    model.play(DOWN)
    backup.play(ANSWER, ANSWER)
    async with two_models(model, backup, time) as both:
        await request(both)
        time.now += REST_SECONDS - 1
        await request(both)
        assert (len(model.requests), len(backup.requests)) == (1, 2)
        time.now += 1
        model.play(ANSWER)
        await request(both)
        assert (len(model.requests), len(backup.requests)) == (2, 2)


async def test_a_model_rests_as_long_as_it_demands_but_not_for_ever(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    time = Time()
    async with two_models(model, backup, time) as both:
        for demanded, rest in (("5", 5), ("100000", 300)):
            model.play(ScriptedTurn(status=429, headers={"Retry-After": demanded}))
            backup.play(ANSWER, ANSWER)
            await request(both)
            time.now += rest - 1
            await request(both)
            time.now += 1
            model.play(ANSWER)
            await request(both)
    assert (len(model.requests), len(backup.requests)) == (4, 4)


async def test_a_resting_model_is_asked_where_all_others_are_down(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    model.play(DOWN, ANSWER)
    backup.play(ANSWER, DOWN)
    async with two_models(model, backup) as both:
        await request(both)
        assert await request(both) == "the answer"
    assert [len(model.requests), len(backup.requests)] == [2, 2]


async def test_one_turn_at_a_time_tries_a_model_that_has_rested(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    time = Time()
    model.play(DOWN, ScriptedTurn(text="the answer", hang_after=0))
    backup.play(ANSWER, ANSWER)
    async with two_models(model, backup, time) as both:
        await request(both)
        time.now += REST_SECONDS
        trying = asyncio.create_task(request(both))
        await model.wait_for_requests(2)
        assert await request(both) == "the answer"
        assert (len(model.requests), len(backup.requests)) == (2, 2)
        while not trying.done():
            model.release()
            await asyncio.sleep(0.01)
        model.play(ANSWER)
        await request(both)
    assert len(model.requests) == 3


async def test_the_error_names_the_last_model_that_may_recover(
    model: ScriptedModelServer, backup: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(status=429, headers={"Retry-After": "7"}, error_message="slow down"))
    backup.play(ScriptedTurn(status=401, error_message="Incorrect API key"))
    async with two_models(model, backup) as both:
        with capture_logs() as logs:
            error = await failure(both)
    assert (error.kind, error.model_retry_after_seconds) == ("unavailable", 7)
    assert error.cause.startswith("none of 2 models answered; main-model: ")
    assert [line["model"] for line in logs if line["event"] == "model.failed"] == ["main-model", "backup-model"]


async def test_without_hope_the_last_error_counts(model: ScriptedModelServer, backup: ScriptedModelServer) -> None:
    for server in (model, backup):
        server.play(ScriptedTurn(status=401, error_message="Incorrect API key"))
    async with two_models(model, backup) as both:
        error = await failure(both)
    assert error.kind == "refused"
    assert error.cause.startswith("none of 2 models answered; backup-model: ")


async def test_a_client_that_leaves_ends_the_request(model: ScriptedModelServer, backup: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=["a", "b"], hang_after=1))
    async with two_models(model, backup) as both:
        async with both.stream(MESSAGES, []) as arrivals:
            assert (await anext(arrivals)).text == "a"
        async with asyncio.timeout(5):
            await model.wait_until_idle()


async def test_a_run_completes_on_the_fallback_with_its_own_key(
    settings: MakeSettings, model: ScriptedModelServer, unused_tcp_port: int
) -> None:
    model.play(ScriptedTurn(text="네."))
    chosen = settings(
        openai_base_url=f"http://127.0.0.1:{unused_tcp_port}/v1",
        aura_model_fallbacks=(ModelServer("backup-model", model.base_url, SecretStr(KEY)),),
    )
    async with running(chosen) as aura:
        async with aura.stream("질문") as stream:
            completed(await stream.rest(), "네.")
        assert (await aura.client.get("/aura/info")).json()["data"]["model"] == chosen.openai_model
    assert model.requests[0]["model"] == "backup-model"


def test_no_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        FallbackModel([])
