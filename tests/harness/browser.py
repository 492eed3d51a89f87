"""The console in a real browser: Debian's Chromium under Playwright, in front of a real `aura demo`."""

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
PICTURES = ROOT / "artifacts" / "console"
_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_SECONDS = 30

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="the console is tried in Chromium, which is not here (apt-get install chromium)"
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Console:
    """What a test sees of the page, and everything the page did that it must not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    async def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


@dataclass
class Demo:
    """`aura demo` as a process, on a model that the test may script; without a script the demo's scenarios answer."""

    command: Command
    model: ScriptedModelServer
    browser: Browser
    url: str

    @property
    def link(self) -> str:
        """The last one-time link it has printed."""
        links: list[str] = re.findall(r"http://\S+/aura/console#code=\S+", self.command.output)
        return links[-1]

    @property
    def headers(self) -> dict[str, str]:
        """Of the demo's user, who is no approver."""
        token = self.command.output.partition("export TOKEN=")[2].split()[0]
        return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", "X-User-ID": "demo"}

    @asynccontextmanager
    async def console(self, *, url: str | None = None, **context: Any) -> AsyncIterator[Console]:
        """The page, signed in by a link of its own; `url`: through a proxy. In the end nothing may have gone wrong."""
        link = self.link
        async with self.visiting(link.replace(self.url, url or self.url), **context) as console:
            await console.page.locator(".aura-machine").wait_for(state="attached")
            yield console

    @asynccontextmanager
    async def visiting(self, address: str, **options: Any) -> AsyncIterator[Console]:
        """Any page, in a context of its own."""
        options = {"viewport": {"width": 1440, "height": 900}, "locale": "en-US", **options}
        context = await self.browser.new_context(**options)
        context.set_default_timeout(_SECONDS * 1000)
        console = Console(await context.new_page())
        console.page.on("pageerror", lambda error: console.complaints.append(str(error)))
        console.page.on("console", lambda said: console.complaints.append(said.text) if said.type == "error" else None)
        console.page.on("request", lambda request: console.hosts.add(urlsplit(request.url).netloc))
        try:
            await console.page.goto(address)
            yield console
        finally:
            await context.close()
        network = "Failed to load resource"  # a refusal that the page shows, a connection that a test cuts
        assert [words for words in console.complaints if network not in words] == []
        assert console.hosts == {urlsplit(address).netloc}
