"""The functions behind `aura demo`: they serve until they are stopped or execute one prompt, and print instructions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from app import logs
from app.client.client import AuraClient, Credentials
from app.dev.ask.approval import Verdict
from app.dev.ask.conversation import (
    NOT_COMPLETED,
    ApprovalPolicy,
    Conversation,
    is_at_terminal,
    run_to_exit_code,
    until_signal,
)
from app.dev.ask.view import View, terminal
from app.dev.demo.scenarios import Scenario
from app.dev.demo.services import HOST, TENANT_ID, USER_ID, DemoServices, demo_settings, listen, start_services
from app.dev.demo.smtp import ReceivedMail, SmtpSink
from app.server import process
from app.settings import Settings
from app.web.one_time_codes import LIFETIME_SECONDS
from statemachine.stored import JsonObject

_SETTLE_SECONDS = 2.0
_COMMANDS = """\
# 1. A token for user {user} of tenant {tenant}, valid for 24 hours
export TOKEN={token}
aura_curl() {{ curl -sSN -H "Authorization: Bearer $TOKEN" -H "X-Tenant-ID: {tenant}" -H "X-User-ID: {user}" \\
  -H 'Content-Type: application/json' "$@"; }}

# 2. A run that needs no approval
aura_curl {url}/aura/test/stream -d '{{"prompt":"안녕하세요"}}'

# 3. A run that waits for an approval (in the background, so that this terminal can decide)
aura_curl {url}/aura/test/stream -d '{{"prompt":"메일을 보내주세요"}}' > run.sse & sleep 3; cat run.sse
REQUEST_ID=$(grep -o 'req-[0-9a-f]*' run.sse | head -1)
SESSION_ID=$(grep -o 'session_[A-Za-z0-9_-]*' run.sse | head -1)

# 4. Decide it: by HTTP ...
aura_curl {url}/aura/hitl/approve/$REQUEST_ID -d '{{"userId":"{user}"}}'
#    ... or through Redis, as the other services do
redis-cli -p {redis_port} PUBLISH hitl:channel:$SESSION_ID \\
  '{{"type":"approval","requestId":"'$REQUEST_ID'","timestamp":'$(date +%s)'}}'

# 5. Resume after a broken connection: only the events after the third one
LAST_ID=$(grep '^id:' run.sse | sed -n 3p | cut -d' ' -f2)
aura_curl "{url}/aura/test/stream?sessionId=$SESSION_ID" -H "Last-Event-ID: $LAST_ID"

# 6. Publish an event as another service would, then ask about it; only those whom it names find it
redis-cli -p {redis_port} PUBLISH dwp:events:mail '{{"eventId":"e1","timestamp":"2024-01-25T09:00:00Z","userId":"u9",
  "to":"{user}","tenantId":"{tenant}","eventType":"mail.received","subject":"사무실 이전 안내",
  "body":"3월 4일 판교로 이전합니다."}}'
aura_curl {url}/aura/test/stream -d '{{"prompt":"사무실 이전 메일 찾아줘"}}'

# or all of it in one
AURA_TOKEN=$TOKEN aura ask '메일을 보내주세요' --url {url}"""
_PROMPTS = (
    "안녕하세요",
    "GitHub PR을 분석해주세요",
    "GitHub PR을 생성해주세요  (approval)",
    "메일을 보내주세요  (approval)",
    "현재 화면에서 선택한 항목들을 분석해주세요  (with a context: selectedItemIds)",
    "지금 몇 시예요?",
    "김철수가 보낸 견적서 메일 찾아줘  (fixtures/knowledge was published as domain events)",
)


def serve(port: int, scenarios: Sequence[Scenario]) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. Raises `ConfigurationError`.

    The scripted model plays `scenarios` before its own.
    """
    settings = demo_settings()
    logs.configure(settings.aura_log_level, "console", settings.secrets)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd logs every step of the SMTP dialogue
    process.run(lambda: _serve(settings, port, scenarios))
    return 0


async def _serve(settings: Settings, port: int, scenarios: Sequence[Scenario]) -> None:
    stop = process.stop_signal()
    listener = listen(port)
    async with start_services(settings, scenarios) as services, services.run_service(listener, stop) as url:
        view = View(terminal())
        view.line(f"Aura demo on {url}", "bold", "   Ctrl-C stops everything")
        _show_services(view, services)
        view.line()
        view.line(
            "Open the console in a browser:", "bold", f"   the link works once, for {LIFETIME_SECONDS // 60} minutes"
        )
        _show_console_link(view, services, url)
        view.line()
        view.line("Paste into another terminal:", "bold")
        view.line()
        values = {"user": USER_ID, "tenant": TENANT_ID, "token": services.token, "url": url}
        for line in _COMMANDS.format(**values, redis_port=services.redis.port).split("\n"):
            view.line(line, "dim" if line.startswith("#") else "")
        if services.uses_scripted_model:
            view.line()
            view.line("The script has turns for prompts such as these, and an answer for all others:", "bold")
            for prompt in (*(scenario.match[0] for scenario in scenarios if scenario.match), *_PROMPTS):
                view.line(f"  {prompt}")
        view.line()
        mail_task = asyncio.create_task(_show_received_mails(view, services.mail))
        await stop.wait()
        mail_task.cancel()


def run_prompt(
    prompt: str,
    context: JsonObject,
    verdict: Verdict | None,
    reason: str | None,
    port: int,
    scenarios: Sequence[Scenario],
) -> int:
    """Execute one prompt to its end, and return the exit code of the run. Raises `ConfigurationError`."""
    settings = demo_settings()
    logs.configure("WARNING", "console", settings.secrets)
    policy = ApprovalPolicy(verdict, reason, is_interactive=is_at_terminal())

    code = NOT_COMPLETED

    async def main() -> None:
        nonlocal code
        code = await until_signal(_run_prompt(settings, prompt, context, policy, port, scenarios))

    def run() -> int:
        process.run(main)
        return code

    return run_to_exit_code(run, policy)


async def _run_prompt(
    settings: Settings,
    prompt: str,
    context: JsonObject,
    policy: ApprovalPolicy,
    port: int,
    scenarios: Sequence[Scenario],
) -> int:
    listener, view = listen(port), View(terminal())
    services_started = start_services(settings, scenarios)
    async with services_started as services, services.run_service(listener, asyncio.Event()) as url:
        view.line(f"Aura demo on {url}", "bold")
        _show_services(view, services)
        view.line()
        view.show_prompt(prompt)
        async with AuraClient(url, Credentials.from_token(services.token)) as client:
            code = await Conversation(client, view, policy).follow(client.run(prompt, context))
        await services.main_service.wait_until_ended(_SETTLE_SECONDS)  # it is updated asynchronously
        _show_results(view, services)
        view.line()
        view.line("`aura demo` alone keeps all of this running on port 9000, with curl lines to paste.", "dim")
    return code


def _show_console_link(view: View, services: DemoServices, url: str) -> None:
    """Show a link that opens the console once, and a new one whenever a link was used.

    The code follows `#`, so that browsers do not send it to a server and it is in no log.
    """

    def show_link(before: str = "") -> None:
        view.line(f"{before}{url}/aura/console#code={services.one_time_codes.issue()}", "dim" if before else "")

    services.one_time_codes.subscribe(lambda: show_link("the next link: "))
    show_link()


def _show_services(view: View, services: DemoServices) -> None:
    settings = services.settings
    if services.uses_scripted_model:
        view.line("  scripted  ", "yellow", "the model: a script plays it (set OPENAI_API_KEY for a real one)")
    else:
        view.line("  real      ", "green", f"the model: {settings.openai_model}")
    stand_ins = (
        f"mail sink {HOST}:{services.mail.port}, GitHub {services.github.url},"
        f" Main Service {services.main_service.url}: nothing leaves this machine"
    )
    view.line("  stand-in  ", "yellow", stand_ins)
    view.line("  real      ", "green", f"service, state machine, HTTP, SSE, SMTP, Redis {HOST}:{services.redis.port}")


def _show_results(view: View, services: DemoServices) -> None:
    """Show the effects of the run: received mails, created pull requests, tasks of the Main Service."""
    for mail in services.mail.messages:
        _show_mail(view, mail)
    for pull in services.github.created:
        view.line()
        view.line(f"⇄ the GitHub stand-in created pull request #{pull['number']}", "bold green")
        branch = f"{pull['head']['ref']} → {pull['base']['ref']}"
        view.show_values({"title": pull["title"], "branch": branch, "body": pull["body"] or ""})
    for task in services.main_service.tasks.values():
        view.line()
        view.line(f"☑ the Main Service stand-in has {task.task_id}: {task.status}", "bold green")
        view.show_values({"description": task.description or "none", "progress": f"{task.progress} %"})


async def _show_received_mails(view: View, sink: SmtpSink) -> None:
    """Show each mail as soon as it is received."""
    shown_count = 0
    while True:
        mails = await sink.wait_for_messages(shown_count + 1)
        for mail in mails[shown_count:]:
            _show_mail(view, mail)
        shown_count = len(mails)


def _show_mail(view: View, mail: ReceivedMail) -> None:
    view.line()
    view.line("✉ the mail sink received", "bold green")
    view.show_values(
        {"From": mail.sender, "To": ", ".join(mail.recipients), "Subject": mail.subject, "Text": mail.text}
    )
