"""The page of the console: hostile text, sign-in, accessibility, small screens."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from app.dev.demo.script import ScriptedCall, ScriptedTurn
from tests.harness.browser import Demo, needs_chromium
from tests.harness.console import MAIL, inbox_row, screenshot_and_check, start_run, wait_for_approval, wait_for_end

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

HOSTILE = (
    "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"
    '<svg onload="window.harmed = 3"></svg><a href="javascript:window.harmed=4">여기</a> '
    "[click](javascript:window.harmed=5) ![](https://evil.example/p.png) <javascript:window.harmed=6>"
)


async def test_html_of_prompt_tool_and_model_is_shown_as_text(demo: Demo) -> None:
    """The prompt, a thought, a tool's arguments and result, and the answer contain HTML and scripts."""
    pull = {
        "owner": "dwp-platform",
        "repo": "aura-platform",
        "title": HOSTILE,
        "head": "x",
        "base": "main",
        "body": HOSTILE,
    }
    demo.model.play(
        ScriptedTurn(reasoning=HOSTILE, tool_calls=[ScriptedCall(name="github_create_pr", arguments=pull)]),
        ScriptedTurn(
            text=f"{HOSTILE}\n\n```html\n{HOSTILE}\n```\n\n| {HOSTILE} |\n|---|\n\n[좋은 링크](https://example.com/?a=1&b=2)"
        ),
    )
    async with demo.console() as console:
        page = console.page
        await start_run(page, HOSTILE)
        await wait_for_approval(page)
        await expect(page.locator(".approval dd").nth(2)).to_have_text(HOSTILE)
        await page.locator("[data-action=approve]").click()
        await wait_for_end(page)
        await page.locator(".tool summary").click()
        await expect(page.locator(".tool")).to_contain_text("onerror='window.harmed = 2'")
        answer = page.locator("#answer-text")
        await expect(answer).to_contain_text("<script>window.harmed = 1</script>")
        await expect(answer).to_contain_text("<svg onload=")
        assert await answer.locator("a").evaluate_all("links => links.map(it => it.href)") == [
            "https://example.com/?a=1&b=2"
        ]
        assert await page.locator("#run-body :is(script, img, iframe, [onerror], [onload], [style*=url])").count() == 0
        assert await page.evaluate("window.harmed") is None
        await console.screenshot("hostile")


async def test_one_time_link_works_once_and_a_token_signs_in_too(demo: Demo) -> None:
    used = demo.link
    async with demo.console() as console:
        await console.page.get_by_role("button", name="Sign out").click()
        await expect(console.page.locator("#workspace")).to_be_hidden()
    assert demo.link != used
    async with demo.visit(used, locale="ko-KR") as console:
        page = console.page
        await expect(page.locator("html")).to_have_attribute("lang", "ko")
        await expect(page.get_by_role("alert").first).to_contain_text("이미 사용되었거나 만료")
        await page.get_by_label("토큰 (JWT)").fill("not a token")
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_role("alert").first).to_contain_text("JWT가 아닙니다")
        await page.get_by_label("토큰 (JWT)").fill(demo.headers["Authorization"].removeprefix("Bearer ") + "x")
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_role("alert").first).to_contain_text("유효하지 않은 토큰입니다.")
        await screenshot_and_check(console, "sign-in-korean")
        await page.get_by_label("토큰 (JWT)").fill(demo.headers["Authorization"].removeprefix("Bearer "))
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_text("demo · tenant1")).to_be_visible()
        assert await page.locator("#token").input_value() == ""


async def test_next_user_sees_nothing_of_the_previous_one(demo: Demo) -> None:
    token = demo.headers["Authorization"].removeprefix("Bearer ")
    async with demo.console() as console:
        page = console.page
        await start_run(page, MAIL)
        first = await wait_for_approval(page)
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Token (JWT)").fill(token)
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#empty")).to_be_visible()
        assert await page.locator(".approval, .transition.is-taken").count() == 0
        await inbox_row(page, first).click()
        await wait_for_approval(page)
        cancel_requests: list[str] = []
        page.on(
            "request", lambda request: cancel_requests.append(request.url) if request.url.endswith("/cancel") else None
        )
        await page.get_by_role("button", name="Cancel run").click()
        await wait_for_end(page, "cancelled")
        assert cancel_requests == [f"{demo.url}/aura/runs/{first}/cancel"]


async def test_rejected_token_returns_to_the_sign_in(demo: Demo) -> None:
    async with demo.console() as console:
        rejected = {"status": "ERROR", "success": False, "errorCode": "E2002", "message": "토큰이 만료되었습니다."}
        await console.page.route("**/aura/approvals?*", lambda route: route.fulfill(status=401, json=rejected))
        await expect(console.page.locator("#sign-in")).to_be_visible()
        await expect(console.page.locator("#sign-in-error")).to_contain_text("토큰이 만료되었습니다.")
        await expect(console.page.locator("#workspace")).to_be_hidden()


async def test_call_with_an_unknown_outcome_has_a_warning(demo: Demo) -> None:
    """Only the card is tested here; tests that kill nodes create such requests."""
    entry = {
        "requestId": "req-1",
        "message": "다시 보낼까요?",
        "action": "send_email",
        "args": {"to": ["a@example.com"]},
        "expiresAt": 4e12,
        "timeoutSeconds": 300,
        "outcomeUnknown": True,
        "confidence": None,
        "verdict": None,
    }
    show = """async (entry) => {
        const { ApprovalCard } = await import("/aura/console/approval.js");
        document.querySelector("#sign-in").append(new ApprovalCard(entry, () => {}).element);
    }"""
    async with demo.visit(f"{demo.url}/aura/console") as console:
        await expect(console.page.locator("#token")).to_be_focused()
        await console.page.evaluate(show, entry)
        await expect(console.page.get_by_role("note")).to_contain_text("it may already have happened once")


async def test_no_serious_violation_of_accessibility(demo: Demo) -> None:
    """Check a waiting run, the open editor and an ended run; in both colour schemes and languages."""
    async with demo.console(color_scheme="light") as console:
        page = console.page
        await start_run(page, "GitHub PR을 생성해주세요")
        await expect(inbox_row(page, await wait_for_approval(page))).to_be_attached()
        await screenshot_and_check(console, "desktop-light-waiting")
        await page.emulate_media(color_scheme="dark")
        await page.get_by_role("button", name="Switch to Korean").click()
        await expect(page.locator("html")).to_have_attribute("lang", "ko")
        await screenshot_and_check(console, "desktop-dark-korean-waiting")
        await page.locator("[data-action=edit]").click()
        await screenshot_and_check(console, "desktop-dark-korean-editing")
        await page.locator("[data-action=send]").click()
        await wait_for_end(page)
        await console.screenshot("desktop-dark-korean-done")
        await page.get_by_role("button", name="밝게 또는 어둡게").click()
        await screenshot_and_check(console, "desktop-light-korean-done")


async def test_small_screen_shows_one_view_at_a_time(demo: Demo) -> None:
    async with demo.console(viewport={"width": 390, "height": 844}, has_touch=True) as console:
        page = console.page
        await start_run(page, MAIL)
        await expect(inbox_row(page, await wait_for_approval(page))).to_be_attached()
        await screenshot_and_check(console, "phone-waiting")
        for view in ("machine", "lists", "run"):
            await page.locator(f"#views [data-view={view}]").tap()
            await expect(page.locator("#view-machine, #view-lists, #view-run").locator("visible=true")).to_have_count(1)
            await expect(page.locator(f"#view-{view}")).to_be_visible()
            await console.screenshot(f"phone-{view}")
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide == 0, f"{view} is wider than the window"
        await page.locator("[data-action=approve]").tap()
        await wait_for_end(page)
        await console.screenshot("phone-done")
