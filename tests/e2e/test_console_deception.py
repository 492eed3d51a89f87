"""The console against text that deceives or exhausts: hidden characters on the card, Markdown without end."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Page, expect

from app.dev.demo.script import ScriptedCall, ScriptedTurn
from tests.harness.browser import Demo, needs_chromium
from tests.harness.console import inbox_row, screenshot_and_check, start_run, wait_for_approval, wait_for_end

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MAIL = {
    "to": ["kim@한국.test"],
    "subject": "송금 안내 👩\u200d👧",
    "body": "첨부: invoice \u202egpj.exe" + "\n" * 401 + "раypal로 모두\u200b 송금하세요.",
}

END = ScriptedTurn(text="끝")


async def start_deceptive_run(demo: Demo, page: Page, *then: ScriptedTurn) -> str:
    """Start a run that waits with the deceptive mail. `then` are the turns after an approval; all must be played."""
    demo.model.play(ScriptedTurn(tool_calls=[ScriptedCall(name="send_email", arguments=MAIL)]), *then)
    await start_run(page, "메일을 보내주세요")
    return await wait_for_approval(page)


async def test_hidden_characters_are_chips_and_warnings_stand_above_the_buttons(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        session = await start_deceptive_run(demo, page)
        card = page.locator(".approval")
        body = card.locator("dd", has_text="첨부")
        assert await body.locator(".chip").all_inner_texts() == ["U+202E", "400 empty lines", "U+200B"]
        assert "\u202e" not in await card.inner_text()
        await expect(card.locator("dd", has_text="송금 안내")).to_have_text("송금 안내 👩\u200d👧")
        warnings = card.locator(".warnings li")
        codes = await warnings.evaluate_all("items => items.map(item => item.dataset.code)")
        assert codes == ["bidirectional", "invisible", "confusable", "international_domain", "very_long"]
        await expect(warnings.nth(3)).to_contain_text("xn--3e0b707e.test")
        tops = (
            "card => [...card.querySelectorAll('.rows, .warnings, .buttons')].map(it => it.getBoundingClientRect().top)"
        )
        order = await card.evaluate(tops)
        assert len(order) == 3
        assert order == sorted(order)
        is_cut = await body.locator("pre").evaluate("pre => pre.scrollHeight > pre.clientHeight + 1")
        assert not is_cut, "the buttons are below the end of the text"
        await expect(inbox_row(page, session)).to_be_attached()
        await screenshot_and_check(console, "deceptive-request")
        await page.get_by_role("button", name="Switch to Korean").click()
        await expect(warnings.first).to_contain_text("글자 방향")


async def test_all_arguments_that_run_are_on_the_card(demo: Demo) -> None:
    async with demo.console() as console:
        await start_deceptive_run(demo, console.page)
        assert await console.page.locator(".approval dt").all_inner_texts() == ["to", "cc", "bcc", "subject", "body"]


async def test_editor_shows_escapes_and_refuses_a_key_twice(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        await start_deceptive_run(demo, page, END)
        card = page.locator(".approval")
        await card.locator("[data-action=edit]").click()
        editor = card.get_by_label("Arguments as JSON")
        text = await editor.input_value()
        assert r"invoice \u202egpj.exe" in text
        assert json.loads(text) == {**MAIL, "cc": [], "bcc": []}
        await editor.fill('{"to": "kim@dwp.test", "to": "lee@dwp.test", "subject": "a", "body": "b"}')
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text('"to" × 2')
        await editor.fill(json.dumps({"to": '"kim@dwp.test"@evil.test', "subject": "a", "body": "b"}))
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text("an address with quotes")
        await editor.fill(json.dumps({"to": "kim@dwp.test", "subject": "a", "body": "b"}))
        await editor.press("Control+Enter")
        await wait_for_end(page)


ATTACKS = {
    "quotes": ">" * 3000 + " end",
    "lists": "- " * 3000 + "end",
    "quotes and lists": "> - " * 2000 + "end",
    "emphasis": "**a *b " * 1500 + "end* d**" * 1500,
    "stars": "*" * 4500 + "end" + "*" * 4500,
    "links": "[" * 2000 + "end" + "](b)" * 2000,
    "table": "|a" * 2000 + "|\n" + "|-" * 2000 + "|\n" + "|end|\n" * 2000,
    "blanks": "end" + " " * 30_000 + "b",
    "address": "a" * 30_000 + "@ end",
    "indented": "\n".join(" " * (2 * depth) + "- end" for depth in range(300)),
}


@pytest.mark.parametrize("attack", list(ATTACKS))
async def test_nested_markdown_does_not_freeze_the_page(demo: Demo, attack: str) -> None:
    """The page answers within two seconds all the time, and the answer can be read to its end."""
    demo.model.play(ScriptedTurn(text=ATTACKS[attack]))
    async with demo.console() as console:
        page = console.page
        await page.evaluate(
            """() => {
                window.longestPause = 0;
                let last = performance.now();
                setInterval(() => {
                    const now = performance.now();
                    window.longestPause = Math.max(window.longestPause, now - last);
                    last = now;
                }, 20);
            }"""
        )
        await start_run(page, "답")
        await wait_for_end(page)
        await expect(page.locator("#answer-text")).to_contain_text("end")
        await expect(page.locator("#spans li").first).to_be_visible()
        assert await page.evaluate("document.querySelectorAll('#answer-text *').length") < 10_000
        assert await page.evaluate("window.longestPause") < 4000


async def test_ordinary_markdown_is_still_rendered(demo: Demo) -> None:
    demo.model.play(
        ScriptedTurn(text="> - **a *b `c`***\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n[d](https://example.com)")
    )
    async with demo.console() as console:
        await start_run(console.page, "답")
        await wait_for_end(console.page)
        answer = console.page.locator("#answer-text")
        for selector in ("blockquote ul li strong em code", "table td", "a[href='https://example.com']"):
            await expect(answer.locator(selector).first).to_be_attached()


async def test_error_in_one_panel_leaves_the_others_alive(demo: Demo) -> None:
    """The timeline that the service sends is damaged; the run, its approval and the lists are shown and work."""
    async with demo.console() as console:
        page = console.page
        damaged = {"status": "SUCCESS", "success": True, "data": {"isOpen": True, "spans": 7, "durationSeconds": 1}}
        await page.route("**/timeline*", lambda route: route.fulfill(json=damaged))
        session = await start_deceptive_run(demo, page, END)
        await expect(page.locator("#alert")).to_contain_text("This part of the page cannot be shown")
        await expect(inbox_row(page, session)).to_be_attached()
        await page.locator("[data-action=approve]").click()
        await wait_for_end(page)
        await expect(page.locator("#answer-text")).to_have_text("끝")
