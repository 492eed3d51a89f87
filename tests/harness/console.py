"""The console in a browser: the demo that serves it, and what tests do on its page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, expect

from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from tests.harness.browser import Console, Demo, chromium
from tests.harness.fork_server import ForkServer
from tests.harness.process import Command, free_port
from tests.harness.service import FIXTURES

expect.set_options(timeout=30_000)

MAIL = "메일을 보내주세요"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def demo(browser: Browser, fork_server: ForkServer) -> AsyncIterator[Demo]:
    """One demo for all tests of a worker. Its scenarios answer where a test scripts no turns."""
    port = free_port()
    async with AsyncExitStack() as parts:
        model = await parts.enter_async_context(ScriptedModelServer(pace=0.05))
        model.load(FIXTURES / "model_turns")
        environment = {
            "OPENAI_API_KEY": "scripted, no secret",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_MODEL": MODEL_NAME,
        }
        command = await parts.enter_async_context(Command(fork_server, environment, "demo", "--port", str(port)))
        await command.wait_for_output("or all of it in one")
        yield Demo(command, model, browser, f"http://127.0.0.1:{port}")


async def start_run(page: Page, prompt: str) -> None:
    """Start a run with the keyboard only."""
    await expect(page.locator("#prompt")).to_be_visible()
    await page.locator("#prompt").focus()
    await page.keyboard.insert_text(prompt)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#run-prompt")).to_have_text(prompt)


async def wait_for_approval(page: Page) -> str:
    """Wait until the run waits for approval, and return its session id."""
    await expect(page.locator(".approval[data-verdict=open]")).to_be_visible()
    await expect(page.locator("[data-state=awaiting_approval].is-current")).to_be_attached()
    return await page.locator("#run-id").inner_text()


def inbox_row(page: Page, session: str) -> Locator:
    """Return the row of the run's request in the inbox."""
    return page.locator(f"#inbox [data-session={session}]")


async def wait_for_end(page: Page, state: str = "done") -> None:
    """Wait until the run has ended in this state."""
    await expect(page.locator("#run-state")).to_have_attribute("data-state", state)
    await expect(page.locator("#ending")).to_be_visible()
    await expect(page.locator(f"#machine-diagram [data-state={state}]")).to_have_class("state final is-current")


async def taken_transitions(page: Page) -> dict[str, str]:
    """Return the numbers on the arrows of the diagram by trigger."""
    arrows = page.locator(".transition.is-taken")
    await expect(arrows.first).to_be_visible()
    found = [
        (await arrow.get_attribute("data-trigger"), await arrow.locator(".number").text_content())
        for arrow in await arrows.all()
    ]
    return {str(trigger): str(numbers) for trigger, numbers in found}


async def decide(demo: Demo, verdict: str, session: str, **body: object) -> None:
    """Decide the request of a run by HTTP, outside of the page."""
    async with httpx2.AsyncClient(base_url=demo.url, headers=demo.headers, timeout=30) as client:
        requests = (await client.get("/aura/hitl/pending?limit=100")).json()["data"]["requests"]
        request_id = next(it["requestId"] for it in requests if it["sessionId"] == session)
        answer = await client.post(f"/aura/hitl/{verdict}/{request_id}", json={"userId": "demo", **body})
        assert answer.status_code == 200, answer.text


async def screenshot_and_check(console: Console, name: str) -> None:
    """Save a screenshot, and check that there is no serious violation of accessibility."""
    await console.screenshot(name)
    found = await Axe().run(console.page)
    violations = [it for it in found.response["violations"] if it["impact"] in ("serious", "critical")]
    assert violations == [], json.dumps(
        [(it["id"], [node["html"] for node in it["nodes"]]) for it in violations], indent=1
    )
