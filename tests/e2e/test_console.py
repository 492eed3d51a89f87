"""Runs and approvals in the console: Chromium in front of `aura demo`, by mouse and by keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from app.dev.demo.script import ScriptedTurn
from tests.harness.browser import Demo, needs_chromium
from tests.harness.console import (
    MAIL,
    decide,
    inbox_row,
    start_run,
    taken_transitions,
    wait_for_approval,
    wait_for_end,
)
from tests.harness.gateways import find_program, run_proxy
from tests.harness.proxy import CuttingProxy

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

SUBJECT = "주간 업무 보고 회의 안내"


async def test_run_is_shown_to_its_end(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        assert "code=" not in page.url
        await start_run(page, "GitHub PR을 분석해주세요")
        await wait_for_end(page)
        await expect(page.locator("#connection")).to_have_attribute("data-kind", "closed")
        await expect(page.locator("#answer-text")).to_contain_text("PR")
        await expect(page.locator("#answer-text li, #answer-text h3, #answer-text strong").first).to_be_visible()
        await expect(page.locator(".tool[data-status=completed]").first).to_contain_text("github_get_pr")
        await expect(page.locator("#spans li").first).to_be_visible()
        assert await taken_transitions(page) == {
            "request_tools": "1, 3, 5",
            "report_results": "2, 4, 6",
            "answer": "7",
            "finish": "8",
        }
        arrow = page.locator(".transition.is-taken[data-trigger=report_results]")
        await arrow.focus()
        await expect(page.locator("#machine-details")).to_contain_text("Every call has its outcome")
        assert "Every call has its outcome" in str(await arrow.get_attribute("aria-label"))
        stored = await page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert stored == ["", 0, 0], "the token is kept in memory only"


async def test_edited_approval_sends_the_edited_mail(demo: Demo) -> None:
    """By keyboard. The service's error for invalid arguments is shown, and the text is kept."""
    async with demo.console() as console:
        page = console.page
        await start_run(page, MAIL)
        row = inbox_row(page, await wait_for_approval(page))
        await expect(row).to_contain_text(SUBJECT)
        card = page.locator(".approval")
        await expect(card.locator("dd", has_text=SUBJECT)).to_be_visible()
        await expect(card.get_by_role("timer")).to_contain_text("left")
        await expect(page.locator("#alert")).to_contain_text("이메일을 발송하시겠습니까?")
        await card.locator("[data-action=edit]").press("Enter")
        editor = card.get_by_label("Arguments as JSON")
        await expect(editor).to_be_focused()
        arguments = json.loads(await editor.input_value())
        await editor.fill("{")
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text("not a JSON object")
        await editor.fill(json.dumps({**arguments, "to": []}))
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text("입력값이 올바르지 않습니다. params: to")
        await expect(editor).to_be_focused()
        await editor.fill(json.dumps({**arguments, "subject": "회의가 월요일로 바뀌었습니다"}, ensure_ascii=False))
        await editor.press("Control+Enter")
        await wait_for_end(page)
        await expect(card.locator(".verdict")).to_contain_text("arguments edited")
        await expect(card.locator(".verdict")).to_contain_text("by demo")
        await expect(row).to_have_count(0)
        await page.locator(".tool[data-tool=send_email] summary").click()
        await expect(page.locator(".tool[data-tool=send_email]")).to_contain_text("회의가 월요일로 바뀌었습니다")
    await demo.command.wait_for_output("│ Subject  회의가 월요일로 바뀌었습니다")


async def test_rejection_shows_its_reason(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        await start_run(page, MAIL)
        row = inbox_row(page, await wait_for_approval(page))
        await row.click()
        await expect(page.locator(".approval h3")).to_be_focused()
        await page.get_by_role("button", name="Reject").click()
        await page.get_by_label("Reason").press("Escape")
        await expect(page.get_by_role("button", name="Approve")).to_be_focused()
        await page.get_by_role("button", name="Reject").click()
        await page.get_by_label("Reason").fill("수신자가 틀렸습니다")
        await page.get_by_label("Reason").press("Enter")
        await wait_for_end(page, "rejected")
        await expect(page.locator("#ending")).to_contain_text("수신자가 틀렸습니다")
        await expect(page.locator(".approval")).to_have_attribute("data-verdict", "rejected")
        await expect(row).to_have_count(0)
        await page.locator(".transition[data-trigger=reject] .number").hover()
        await expect(page.locator("#machine-details")).to_contain_text("수신자가 틀렸습니다")


async def test_decision_outside_of_the_page_is_shown_at_once(demo: Demo) -> None:
    """It is shown in the open run, and in the inbox of a second window."""
    async with demo.console() as console, demo.console() as other:
        await start_run(console.page, MAIL)
        session = await wait_for_approval(console.page)
        row = inbox_row(other.page, session)
        await expect(row).to_have_count(1)
        await decide(demo, "approve", session)
        await wait_for_end(console.page)
        await expect(console.page.locator(".approval")).to_have_attribute("data-verdict", "approved")
        await expect(row).to_have_count(0)


async def test_run_is_cancelled(demo: Demo) -> None:
    async with demo.console() as console:
        await start_run(console.page, MAIL)
        await wait_for_approval(console.page)
        await console.page.get_by_role("button", name="Cancel run").click()
        await wait_for_end(console.page, "cancelled")
        await expect(console.page.locator(".approval")).to_have_attribute("data-verdict", "cancelled")


async def test_broken_connection_is_restored_without_lost_or_repeated_text(demo: Demo) -> None:
    words = [f"낱말{number} " for number in range(60)]
    async with CuttingProxy(demo.url) as proxy, demo.console(url=proxy.url) as console:
        page = console.page
        demo.model.play(ScriptedTurn(text=words, hang_after=30))
        await start_run(page, "많이 말해주세요")
        await expect(page.locator("#answer-text")).to_contain_text("낱말29")
        await expect(page.locator("#connection")).to_have_attribute("data-kind", "live")
        proxy.break_all()
        await expect(page.locator("#connection")).to_have_attribute("data-kind", "broken")
        await expect(page.locator("#connection")).to_have_text("Reconnecting…")
        demo.model.release()
        await wait_for_end(page)
        assert (await page.locator("#answer-text").inner_text()).split() == [word.strip() for word in words]
        resumed = [line for line in proxy.requests if line.startswith("GET /aura/test/stream")]
        assert resumed
        assert sum(line.startswith("POST /aura/test/stream") for line in proxy.requests) == 1


async def test_lost_connection_is_restored_on_request(demo: Demo) -> None:
    """The service is unreachable for longer than the retry timeout."""
    words = [f"낱말{number} " for number in range(20)]
    async with CuttingProxy(demo.url) as proxy, demo.console(url=proxy.url) as console:
        page = console.page
        demo.model.play(ScriptedTurn(text=words, hang_after=10))
        await start_run(page, "조금 말해주세요")
        await expect(page.locator("#answer-text")).to_contain_text("낱말9")
        await page.route("**/aura/test/stream*", lambda route: route.abort())
        await page.evaluate("const now = Date.now; Date.now = () => now() + 200_000;")
        proxy.break_all()
        await expect(page.locator("#connection")).to_have_text("Connection lost")
        await page.unroute("**/aura/test/stream*")
        demo.model.release()
        await page.get_by_role("button", name="Try again").click()
        await wait_for_end(page)
        assert (await page.locator("#answer-text").inner_text()).split() == [word.strip() for word in words]


async def test_screen_context_is_sent_with_the_prompt(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        await page.get_by_text("Screen context").click()
        await page.locator("#context").fill("[1]")
        await page.locator("#prompt").fill("선택한 항목들을 분석해주세요")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("#context-error")).to_contain_text("not a JSON object")
        await expect(page.locator("#context")).to_be_focused()
        await page.locator("#context").fill('{"activeApp": "mail", "selectedItemIds": [11, "msg-7"]}')
        await page.get_by_role("button", name="Run", exact=True).click()
        await wait_for_end(page)
        await expect(page.locator("#answer-text")).to_contain_text("11, msg-7")


@pytest.mark.skipif(find_program("nginx") is None, reason="nginx is not installed (apt-get install nginx)")
async def test_console_works_behind_the_gateway(demo: Demo, tmp_path: Path) -> None:
    async with run_proxy("nginx", demo.url, tmp_path) as gateway:
        address = demo.link.replace(demo.url, f"{gateway.url}/api")
        async with demo.visit(address) as console:
            await start_run(console.page, "안녕하세요")
            await wait_for_end(console.page)
            await expect(console.page.locator("#spans li").first).to_be_visible()


async def test_finished_run_is_replayed_from_the_log(demo: Demo) -> None:
    async with demo.console() as console:
        await start_run(console.page, "지금 몇 시예요?")
        await wait_for_end(console.page)
        session = await console.page.locator("#run-id").inner_text()
        answer_text, transitions = (
            await console.page.locator("#answer-text").inner_text(),
            await taken_transitions(console.page),
        )
        await console.page.get_by_role("button", name="New run").click()
        await expect(console.page.locator("#run-body")).to_be_hidden()
        assert await console.page.locator(".transition.is-taken").count() == 0
        row = console.page.locator(f"#runs [data-session={session}]")
        await row.press("Enter")
        await wait_for_end(console.page)
        await expect(row).to_have_attribute("aria-current", "true")
        await expect(console.page.locator("#run-prompt")).to_have_text("지금 몇 시예요?")
        assert await console.page.locator("#answer-text").inner_text() == answer_text
        assert await taken_transitions(console.page) == transitions
        assert console.page.url.endswith(f"#run={session}")
