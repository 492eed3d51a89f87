"""The console as a person uses it: Chromium in front of `aura demo`, by mouse and by keyboard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, expect

from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from tests.harness.browser import Console, Demo, chromium, needs_chromium
from tests.harness.fork_server import ForkServer
from tests.harness.gateways import find_program, run_proxy
from tests.harness.process import Command, free_port
from tests.harness.proxy import CuttingProxy
from tests.harness.service import FIXTURES

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="session")]

expect.set_options(timeout=30_000)

MAIL = "메일을 보내주세요"
SUBJECT = "주간 업무 보고 회의 안내"
EVIL = (
    "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"
    '<svg onload="window.harmed = 3"></svg><a href="javascript:window.harmed=4">여기</a> '
    "[click](javascript:window.harmed=5) ![](https://evil.example/p.png) <javascript:window.harmed=6>"
)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def demo(browser: Browser, fork_server: ForkServer) -> AsyncIterator[Demo]:
    """One for all tests of a worker; its scenarios answer where a test plays no turns of its own."""
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


async def start(page: Page, prompt: str) -> None:
    """By keyboard alone."""
    await expect(page.locator("#prompt")).to_be_visible()
    await page.locator("#prompt").focus()
    await page.keyboard.insert_text(prompt)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#run-prompt")).to_have_text(prompt)


async def waits(page: Page) -> str:
    """Until the run waits for a person; its request's id is not on the page, the session's is."""
    await expect(page.locator(".approval[data-verdict=open]")).to_be_visible()
    await expect(page.locator("[data-state=awaiting_approval].is-current")).to_be_attached()
    return await page.locator("#run-id").inner_text()


def inbox(page: Page, session: str) -> Locator:
    """The row of that run's request."""
    return page.locator(f"#inbox [data-session={session}]")


async def ends(page: Page, state: str = "done") -> None:
    await expect(page.locator("#run-state")).to_have_attribute("data-state", state)
    await expect(page.locator("#ending")).to_be_visible()
    await expect(page.locator(f"#machine-drawing [data-state={state}]")).to_have_class("state final is-current")


async def way(page: Page) -> dict[str, str]:
    """Trigger → the numbers drawn on its arrow."""
    taken = page.locator(".transition.is-taken")
    await expect(taken.first).to_be_visible()
    found = [
        (await arrow.get_attribute("data-trigger"), await arrow.locator(".number").text_content())
        for arrow in await taken.all()
    ]
    return {str(trigger): str(numbers) for trigger, numbers in found}


async def decide(demo: Demo, verdict: str, session: str, **body: object) -> None:
    """Elsewhere: by HTTP."""
    async with httpx2.AsyncClient(base_url=demo.url, headers=demo.headers, timeout=30) as client:
        requests = (await client.get("/aura/hitl/pending?limit=100")).json()["data"]["requests"]
        request_id = next(it["requestId"] for it in requests if it["sessionId"] == session)
        answer = await client.post(f"/aura/hitl/{verdict}/{request_id}", json={"userId": "demo", **body})
        assert answer.status_code == 200, answer.text


async def test_a_run_to_its_end(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        assert "code=" not in page.url
        await start(page, "GitHub PR을 분석해주세요")
        await ends(page)
        await expect(page.locator("#link")).to_have_attribute("data-kind", "over")
        await expect(page.locator("#answer-text")).to_contain_text("PR")
        await expect(page.locator("#answer-text li, #answer-text h3, #answer-text strong").first).to_be_visible()
        await expect(page.locator(".tool[data-status=completed]").first).to_contain_text("github_get_pr")
        await expect(page.locator("#spans li").first).to_be_visible()
        assert await way(page) == {
            "request_tools": "1, 3, 5",
            "report_results": "2, 4, 6",
            "answer": "7",
            "finish": "8",
        }
        arrow = page.locator(".transition.is-taken[data-trigger=report_results]")
        await arrow.focus()
        await expect(page.locator("#machine-tip")).to_contain_text("Every call has its outcome")
        assert "Every call has its outcome" in str(await arrow.get_attribute("aria-label"))
        stored = await page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert stored == ["", 0, 0], "the token is in memory only"


async def test_an_edited_approval_sends_the_edited_mail(demo: Demo) -> None:
    """By keyboard; what the service says of bad arguments is shown, and nothing is lost."""
    async with demo.console() as console:
        page = console.page
        await start(page, MAIL)
        row = inbox(page, await waits(page))
        await expect(row).to_contain_text(SUBJECT)
        card = page.locator(".approval")
        await expect(card.locator("dd", has_text=SUBJECT)).to_be_visible()
        await expect(card.get_by_role("timer")).to_contain_text("left")
        await expect(page.locator("#said-now")).to_contain_text("이메일을 발송하시겠습니까?")
        await card.locator("[data-act=edit]").press("Enter")
        editor = card.get_by_label("Arguments as JSON")
        await expect(editor).to_be_focused()
        asked = json.loads(await editor.input_value())
        await editor.fill("{")
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text("not a JSON object")
        await editor.fill(json.dumps({**asked, "to": []}))
        await editor.press("Control+Enter")
        await expect(card.get_by_role("alert")).to_contain_text("입력값이 올바르지 않습니다. params: to")
        await expect(editor).to_be_focused()
        await editor.fill(json.dumps({**asked, "subject": "회의가 월요일로 바뀌었습니다"}, ensure_ascii=False))
        await editor.press("Control+Enter")
        await ends(page)
        await expect(card.locator(".verdict")).to_contain_text("arguments edited")
        await expect(card.locator(".verdict")).to_contain_text("by demo")
        await expect(row).to_have_count(0)
        await page.locator(".tool[data-tool=send_email] summary").click()
        await expect(page.locator(".tool[data-tool=send_email]")).to_contain_text("회의가 월요일로 바뀌었습니다")
    await demo.command.wait_for_output("│ Subject  회의가 월요일로 바뀌었습니다")


async def test_a_rejection_tells_why(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        await start(page, MAIL)
        row = inbox(page, await waits(page))
        await row.click()
        await expect(page.locator(".approval h3")).to_be_focused()
        await page.get_by_role("button", name="Reject").click()
        await page.get_by_label("Reason").press("Escape")
        await expect(page.get_by_role("button", name="Approve")).to_be_focused()
        await page.get_by_role("button", name="Reject").click()
        await page.get_by_label("Reason").fill("수신자가 틀렸습니다")
        await page.get_by_label("Reason").press("Enter")
        await ends(page, "rejected")
        await expect(page.locator("#ending")).to_contain_text("수신자가 틀렸습니다")
        await expect(page.locator(".approval")).to_have_attribute("data-verdict", "rejected")
        await expect(row).to_have_count(0)
        await page.locator(".transition[data-trigger=reject] .number").hover()
        await expect(page.locator("#machine-tip")).to_contain_text("수신자가 틀렸습니다")


async def test_a_decision_made_elsewhere_shows_at_once(demo: Demo) -> None:
    """In the open run, and in a second window that only has the inbox."""
    async with demo.console() as console, demo.console() as other:
        await start(console.page, MAIL)
        session = await waits(console.page)
        row = inbox(other.page, session)
        await expect(row).to_have_count(1)
        await decide(demo, "approve", session)
        await ends(console.page)
        await expect(console.page.locator(".approval")).to_have_attribute("data-verdict", "approved")
        await expect(row).to_have_count(0)


async def test_a_run_is_cancelled(demo: Demo) -> None:
    async with demo.console() as console:
        await start(console.page, MAIL)
        await waits(console.page)
        await console.page.get_by_role("button", name="Cancel run").click()
        await ends(console.page, "cancelled")
        await expect(console.page.locator(".approval")).to_have_attribute("data-verdict", "cancelled")


async def test_a_broken_connection_heals_without_a_lost_or_doubled_word(demo: Demo) -> None:
    words = [f"낱말{number} " for number in range(60)]
    async with CuttingProxy(demo.url) as proxy, demo.console(url=proxy.url) as console:
        page = console.page
        demo.model.play(ScriptedTurn(text=words, hang_after=30))
        await start(page, "많이 말해주세요")
        await expect(page.locator("#answer-text")).to_contain_text("낱말29")
        await expect(page.locator("#link")).to_have_attribute("data-kind", "live")
        proxy.break_all()
        await expect(page.locator("#link")).to_have_attribute("data-kind", "broken")
        await expect(page.locator("#link")).to_have_text("Reconnecting…")
        demo.model.release()
        await ends(page)
        assert (await page.locator("#answer-text").inner_text()).split() == [word.strip() for word in words]
        resumed = [line for line in proxy.requests if line.startswith("GET /aura/test/stream")]
        assert resumed
        assert sum(line.startswith("POST /aura/test/stream") for line in proxy.requests) == 1


async def test_a_connection_that_was_given_up_is_taken_up_again_on_request(demo: Demo) -> None:
    """The service is out of reach for longer than the page has patience for."""
    words = [f"낱말{number} " for number in range(20)]
    async with CuttingProxy(demo.url) as proxy, demo.console(url=proxy.url) as console:
        page = console.page
        demo.model.play(ScriptedTurn(text=words, hang_after=10))
        await start(page, "조금 말해주세요")
        await expect(page.locator("#answer-text")).to_contain_text("낱말9")
        await page.route("**/aura/test/stream*", lambda route: route.abort())
        await page.evaluate("const now = Date.now; Date.now = () => now() + 200_000;")
        proxy.break_all()
        await expect(page.locator("#link")).to_have_text("Connection lost")
        await page.unroute("**/aura/test/stream*")
        demo.model.release()
        await page.get_by_role("button", name="Try again").click()
        await ends(page)
        assert (await page.locator("#answer-text").inner_text()).split() == [word.strip() for word in words]


async def test_what_the_screen_shows_goes_along(demo: Demo) -> None:
    async with demo.console() as console:
        page = console.page
        await page.get_by_text("Screen context").click()
        await page.locator("#context").fill("[1]")
        await page.locator("#prompt").fill("선택한 항목들을 분석해주세요")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("#context-complaint")).to_contain_text("not a JSON object")
        await expect(page.locator("#context")).to_be_focused()
        await page.locator("#context").fill('{"activeApp": "mail", "selectedItemIds": [11, "msg-7"]}')
        await page.get_by_role("button", name="Run", exact=True).click()
        await ends(page)
        await expect(page.locator("#answer-text")).to_contain_text("11, msg-7")


@pytest.mark.skipif(find_program("nginx") is None, reason="nginx is not installed (apt-get install nginx)")
async def test_behind_the_gateway_every_path_begins_with_api(demo: Demo, tmp_path: Path) -> None:
    async with run_proxy("nginx", demo.url, tmp_path) as gateway:
        address = demo.link.replace(demo.url, f"{gateway.url}/api")
        async with demo.visiting(address) as console:
            await start(console.page, "안녕하세요")
            await ends(console.page)
            await expect(console.page.locator("#spans li").first).to_be_visible()


async def test_a_finished_run_is_replayed_from_the_log(demo: Demo) -> None:
    async with demo.console() as console:
        await start(console.page, "지금 몇 시예요?")
        await ends(console.page)
        session = await console.page.locator("#run-id").inner_text()
        said, taken = await console.page.locator("#answer-text").inner_text(), await way(console.page)
        await console.page.get_by_role("button", name="New run").click()
        await expect(console.page.locator("#run-body")).to_be_hidden()
        assert await console.page.locator(".transition.is-taken").count() == 0
        row = console.page.locator(f"#runs [data-session={session}]")
        await row.press("Enter")
        await ends(console.page)
        await expect(row).to_have_attribute("aria-current", "true")
        await expect(console.page.locator("#run-prompt")).to_have_text("지금 몇 시예요?")
        assert await console.page.locator("#answer-text").inner_text() == said
        assert await way(console.page) == taken
        assert console.page.url.endswith(f"#run={session}")


async def test_what_prompt_tool_and_model_say_stays_text(demo: Demo) -> None:
    """HTML and scripts everywhere: in the prompt, a plan, a thought, a tool's arguments and result, the answer."""
    pull = {"owner": "dwp-platform", "repo": "aura-platform", "title": EVIL, "head": "x", "base": "main", "body": EVIL}
    demo.model.play(
        ScriptedTurn(reasoning=EVIL, tool_calls=[ScriptedCall(name="github_create_pr", arguments=pull)]),
        ScriptedTurn(
            text=f"{EVIL}\n\n```html\n{EVIL}\n```\n\n| {EVIL} |\n|---|\n\n[좋은 링크](https://example.com/?a=1&b=2)"
        ),
    )
    async with demo.console() as console:
        page = console.page
        await start(page, EVIL)
        await waits(page)
        await expect(page.locator(".approval dd").nth(2)).to_have_text(EVIL)
        await page.locator("[data-act=approve]").click()
        await ends(page)
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
        await console.picture("hostile")


async def test_a_link_opens_once_and_a_token_opens_too(demo: Demo) -> None:
    used = demo.link
    async with demo.console() as console:
        await console.page.get_by_role("button", name="Sign out").click()
        await expect(console.page.locator("#desk")).to_be_hidden()
    assert demo.link != used
    async with demo.visiting(used, locale="ko-KR") as console:
        page = console.page
        await expect(page.locator("html")).to_have_attribute("lang", "ko")
        await expect(page.get_by_role("alert").first).to_contain_text("이미 사용되었거나 만료")
        await page.get_by_label("토큰 (JWT)").fill("not a token")
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_role("alert").first).to_contain_text("JWT가 아닙니다")
        await page.get_by_label("토큰 (JWT)").fill(demo.headers["Authorization"].removeprefix("Bearer ") + "x")
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_role("alert").first).to_contain_text("유효하지 않은 토큰입니다.")
        await picture_and_check(console, "sign-in-korean")
        await page.get_by_label("토큰 (JWT)").fill(demo.headers["Authorization"].removeprefix("Bearer "))
        await page.get_by_role("button", name="연결").click()
        await expect(page.get_by_text("demo · tenant1")).to_be_visible()
        assert await page.locator("#token").input_value() == ""


async def test_who_signs_in_after_another_has_nothing_of_his(demo: Demo) -> None:
    token = demo.headers["Authorization"].removeprefix("Bearer ")
    async with demo.console() as console:
        page = console.page
        await start(page, MAIL)
        first = await waits(page)
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Token (JWT)").fill(token)
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#empty")).to_be_visible()
        assert await page.locator(".approval, .transition.is-taken").count() == 0
        await inbox(page, first).click()
        await waits(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/cancel") else None)
        await page.get_by_role("button", name="Cancel run").click()
        await ends(page, "cancelled")
        assert asked == [f"{demo.url}/aura/runs/{first}/cancel"]


async def test_a_token_that_is_no_longer_accepted_leads_back_to_the_door(demo: Demo) -> None:
    async with demo.console() as console:
        refused = {"status": "ERROR", "success": False, "errorCode": "E2002", "message": "토큰이 만료되었습니다."}
        await console.page.route("**/aura/hitl/pending*", lambda route: route.fulfill(status=401, json=refused))
        await expect(console.page.locator("#enter")).to_be_visible()
        await expect(console.page.locator("#enter-complaint")).to_contain_text("토큰이 만료되었습니다.")
        await expect(console.page.locator("#desk")).to_be_hidden()


async def test_a_call_that_may_have_happened_already_is_told_in_plain_words(demo: Demo) -> None:
    """The card alone: how such a request comes about is tested with nodes that are killed."""
    entry = {
        "requestId": "req-1",
        "message": "다시 보낼까요?",
        "action": "send_email",
        "args": {"to": ["a@example.com"]},
        "expiresAt": 4e12,
        "seconds": 300,
        "outcomeUnknown": True,
        "confidence": None,
        "verdict": None,
    }
    show = """async (entry) => {
        const { ApprovalCard } = await import("/aura/console/approval.js");
        document.querySelector("#enter").append(new ApprovalCard(entry, () => {}).element);
    }"""
    async with demo.visiting(f"{demo.url}/aura/console") as console:
        await expect(console.page.locator("#token")).to_be_focused()
        await console.page.evaluate(show, entry)
        await expect(console.page.get_by_role("note")).to_contain_text("it may already have happened once")


async def test_no_serious_violation_of_accessibility(demo: Demo) -> None:
    """While a run waits, with the editor open, and when it has ended; light and dark, in English and Korean."""
    async with demo.console(color_scheme="light") as console:
        page = console.page
        await start(page, "GitHub PR을 생성해주세요")
        await expect(inbox(page, await waits(page))).to_be_attached()
        await picture_and_check(console, "desktop-light-waiting")
        await page.emulate_media(color_scheme="dark")
        await page.get_by_role("button", name="Switch to Korean").click()
        await expect(page.locator("html")).to_have_attribute("lang", "ko")
        await picture_and_check(console, "desktop-dark-korean-waiting")
        await page.locator("[data-act=edit]").click()
        await picture_and_check(console, "desktop-dark-korean-editing")
        await page.locator("[data-act=send]").click()
        await ends(page)
        await console.picture("desktop-dark-korean-done")
        await page.get_by_role("button", name="밝게 또는 어둡게").click()
        await picture_and_check(console, "desktop-light-korean-done")


async def test_a_phone_shows_one_thing_at_a_time(demo: Demo) -> None:
    async with demo.console(viewport={"width": 390, "height": 844}, has_touch=True) as console:
        page = console.page
        await start(page, MAIL)
        await expect(inbox(page, await waits(page))).to_be_attached()
        await picture_and_check(console, "phone-waiting")
        for view in ("machine", "lists", "run"):
            await page.locator(f"#views [data-view={view}]").tap()
            await expect(page.locator("#view-machine, #view-lists, #view-run").locator("visible=true")).to_have_count(1)
            await expect(page.locator(f"#view-{view}")).to_be_visible()
            await console.picture(f"phone-{view}")
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide == 0, f"{view} is wider than the window"
        await page.locator("[data-act=approve]").tap()
        await ends(page)
        await console.picture("phone-done")


async def picture_and_check(console: Console, name: str) -> None:
    await console.picture(name)
    found = await Axe().run(console.page)
    bad = [it for it in found.response["violations"] if it["impact"] in ("serious", "critical")]
    assert bad == [], json.dumps([(it["id"], [node["html"] for node in it["nodes"]]) for it in bad], indent=1)
