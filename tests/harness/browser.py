"""Runs the console in a real browser: Chromium under Playwright, with a real `aura demo` as the service."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright

from app.dev.demo.model import ScriptedModelServer
from tests.harness.fork_server import ROOT
from tests.harness.process import Command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = ROOT / "artifacts" / "console"
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_TIMEOUT_SECONDS = 30

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="the console is tested in Chromium, which is not installed (apt-get install chromium)"
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start Chromium with its background network services turned off."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Console:
    """A page of the console, with the errors that it logged and the hosts that it sent requests to."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    async def screenshot(self, name: str) -> None:
        """Save a screenshot in `artifacts/console`."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


@dataclass
class Demo:
    """`aura demo` as a process, with a model that the test may script; otherwise the demo's scenarios are used."""

    command: Command
    model: ScriptedModelServer
    browser: Browser
    url: str

    @property
    def link(self) -> str:
        """The last one-time link that it has printed."""
        links: list[str] = re.findall(r"http://\S+/aura/console#code=\S+", self.command.output)
        return links[-1]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the demo's user, which is not an approver."""
        token = self.command.output.partition("export TOKEN=")[2].split()[0]
        return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", "X-User-ID": "demo"}

    @asynccontextmanager
    async def console(self, *, url: str | None = None, **context: Any) -> AsyncIterator[Console]:
        """Open the page, signed in by a one-time link. `url` is that of a proxy. Fails if the page logged an error."""
        link = self.link
        async with self.visit(link.replace(self.url, url or self.url), **context) as console:
            await console.page.locator(".aura-machine").wait_for(state="attached")
            yield console

    @asynccontextmanager
    async def visit(self, address: str, **options: Any) -> AsyncIterator[Console]:
        """Open any page in a browser context of its own. Fails if the page logged an error."""
        options = {"viewport": {"width": 1440, "height": 900}, "locale": "en-US", **options}
        context = await self.browser.new_context(**options)
        context.set_default_timeout(_TIMEOUT_SECONDS * 1000)
        console = Console(await context.new_page())
        console.page.on("pageerror", lambda error: console.errors.append(str(error)))
        console.page.on("console", lambda entry: console.errors.append(entry.text) if entry.type == "error" else None)
        console.page.on("request", lambda request: console.hosts.add(urlsplit(request.url).netloc))
        try:
            await console.page.goto(address)
            yield console
        finally:
            await context.close()
        expected = "Failed to load resource"  # an error that the page shows, or a connection that a test breaks
        assert [text for text in console.errors if expected not in text] == []
        assert console.hosts == {urlsplit(address).netloc}
