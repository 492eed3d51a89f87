"""`aura demo`: what a person is told and shown, one run or a service to play with."""

from __future__ import annotations

import asyncio
import logging
import signal

from app import logs
from app.client.client import AuraClient, Credentials
from app.dev.ask.conversation import INTERRUPTED, Conversation, Policy, Verdict, at_terminal
from app.dev.ask.view import View, terminal
from app.dev.demo.services import HOST, TENANT_ID, USER_ID, Stage, demo_settings, listen, stage
from app.dev.demo.smtp import ReceivedMail, SmtpSink
from app.server import process as server
from app.settings import Settings
from app.web.one_time_codes import LIFETIME_SECONDS
from statemachine.checkpoint import JsonObject

_TERMINATED = 143
_SETTLE_SECONDS = 2.0
_PASTE = """\
# 1. Who asks: a token for user {user} of tenant {tenant}, good for 24 hours
export TOKEN={token}
aura_curl() {{ curl -sSN -H "Authorization: Bearer $TOKEN" -H "X-Tenant-ID: {tenant}" -H "X-User-ID: {user}" \\
  -H 'Content-Type: application/json' "$@"; }}

# 2. A run that answers at once
aura_curl {url}/aura/test/stream -d '{{"prompt":"안녕하세요"}}'

# 3. A run that stops for an approval (in the background, so that this terminal can decide)
aura_curl {url}/aura/test/stream -d '{{"prompt":"메일을 보내주세요"}}' > run.sse & sleep 3; cat run.sse
REQUEST_ID=$(grep -o 'req-[0-9a-f]*' run.sse | head -1)
SESSION_ID=$(grep -o 'session_[A-Za-z0-9_-]*' run.sse | head -1)

# 4. Decide it: by HTTP ...
aura_curl {url}/aura/hitl/approve/$REQUEST_ID -d '{{"userId":"{user}"}}'
#    ... or through Redis, as the other services do
redis-cli -p {redis_port} PUBLISH hitl:channel:$SESSION_ID \\
  '{{"type":"approval","requestId":"'$REQUEST_ID'","timestamp":'$(date +%s)'}}'

# 5. Come back after a broken connection: only what follows the third event
LAST_ID=$(grep '^id:' run.sse | sed -n 3p | cut -d' ' -f2)
aura_curl "{url}/aura/test/stream?sessionId=$SESSION_ID" -H "Last-Event-ID: $LAST_ID"

# 6. Let another service tell something, then ask about it; only its own tenant finds it
redis-cli -p {redis_port} PUBLISH dwp:events:mail '{{"eventId":"e1","timestamp":"2024-01-25T09:00:00Z","userId":"u9",
  "tenantId":"{tenant}","eventType":"mail.received","subject":"사무실 이전 안내","body":"3월 4일 판교로 이전합니다."}}'
aura_curl {url}/aura/test/stream -d '{{"prompt":"사무실 이전 메일 찾아줘"}}'

# or all of it in one
aura ask '메일을 보내주세요' --url {url} --token $TOKEN"""
_PROMPTS = (
    "안녕하세요",
    "GitHub PR을 분석해주세요",
    "GitHub PR을 생성해주세요  (approval)",
    "메일을 보내주세요  (approval)",
    "현재 화면에서 선택한 항목들을 분석해주세요  (with a context: selectedItemIds)",
    "지금 몇 시예요?",
    "김철수가 보낸 견적서 메일 찾아줘  (fixtures/knowledge was published as domain events)",
)


def serve(port: int) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `ConfigurationError`."""
    settings = demo_settings()
    logs.configure(settings.aura_log_level, "console", settings.secrets)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # the sink's, a line for every step of SMTP
    server.run(lambda: _serve(settings, port))
    return 0


async def _serve(settings: Settings, port: int) -> None:
    stop = server.stop_signal()
    listener = listen(port)
    async with stage(settings) as parts, parts.serving(listener, stop) as url:
        view = View(terminal())
        view.line(f"Aura demo on {url}", "bold", "   Ctrl-C stops everything")
        _tell_parts(view, parts)
        view.line()
        view.line(
            "Open the console in a browser:", "bold", f"   the link works once, for {LIFETIME_SECONDS // 60} minutes"
        )
        _tell_link(view, parts, url)
        view.line()
        view.line("Paste into another terminal:", "bold")
        view.line()
        values = {"user": USER_ID, "tenant": TENANT_ID, "token": parts.token, "url": url}
        for line in _PASTE.format(**values, redis_port=parts.redis.port).split("\n"):
            view.line(line, "dim" if line.startswith("#") else "")
        if parts.is_scripted:
            view.line()
            view.line("The script answers, besides anything else:", "bold")
            for prompt in _PROMPTS:
                view.line(f"  {prompt}")
        view.line()
        telling = asyncio.create_task(_tell_mails(view, parts.mail))
        await stop.wait()
        telling.cancel()


def play(prompt: str, context: JsonObject, verdict: Verdict | None, reason: str | None, port: int) -> int:
    """One run from prompt to end; the exit code is the run's. Raises `ConfigurationError`."""
    settings = demo_settings()
    logs.configure("WARNING", "console", settings.secrets)
    policy = Policy(verdict, reason, is_interactive=at_terminal())

    code = INTERRUPTED

    async def main() -> None:
        nonlocal code
        playing = asyncio.create_task(_play(settings, prompt, context, policy, port))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
        code = await playing

    try:
        server.run(main)
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return _TERMINATED
    return code


async def _play(settings: Settings, prompt: str, context: JsonObject, policy: Policy, port: int) -> int:
    listener, view = listen(port), View(terminal())
    async with stage(settings) as parts, parts.serving(listener, asyncio.Event()) as url:
        view.line(f"Aura demo on {url}", "bold")
        _tell_parts(view, parts)
        view.line()
        view.asked(prompt)
        async with AuraClient(url, Credentials.from_token(parts.token)) as client:
            code = await Conversation(client, view, policy).follow(client.run(prompt, context))
        await parts.main_service.settled(_SETTLE_SECONDS)  # it is told off the run's path
        _tell_outcome(view, parts)
        view.line()
        view.line("`aura demo` alone keeps all of this running on port 9000, with curl lines to paste.", "dim")
    return code


def _tell_link(view: View, parts: Stage, url: str) -> None:
    """A link that opens the console once, and another when it was used. What follows `#` reaches no server, no log."""

    def tell(before: str = "") -> None:
        view.line(f"{before}{url}/aura/console#code={parts.one_time_codes.issue()}", "dim" if before else "")

    parts.one_time_codes.subscribe(lambda: tell("the next link: "))
    tell()


def _tell_parts(view: View, parts: Stage) -> None:
    settings = parts.settings
    if parts.is_scripted:
        view.line("  scripted  ", "yellow", "the model: fixtures/model_turns (set OPENAI_API_KEY for a real one)")
    else:
        view.line("  real      ", "green", f"the model: {settings.openai_model}")
    stand_ins = (
        f"mail sink {HOST}:{parts.mail.port}, GitHub {parts.github.url}, Main Service {parts.main_service.url}:"
        " nothing leaves"
    )
    view.line("  stand-in  ", "yellow", stand_ins)
    view.line("  real      ", "green", f"service, state machine, HTTP, SSE, SMTP, Redis {HOST}:{parts.redis.port}")


def _tell_outcome(view: View, parts: Stage) -> None:
    """What the run did to the world around it, as the world saw it."""
    for mail in parts.mail.messages:
        _tell_mail(view, mail)
    for pull in parts.github.created:
        view.line()
        view.line(f"⇄ the GitHub stand-in created pull request #{pull['number']}", "bold green")
        branch = f"{pull['head']['ref']} → {pull['base']['ref']}"
        view.values({"title": pull["title"], "branch": branch, "body": pull["body"] or ""})
    for task in parts.main_service.tasks.values():
        view.line()
        view.line(f"☑ the Main Service stand-in has {task.task_id}: {task.status}", "bold green")
        view.values({"plan": ", ".join(f"{step['title']} ({step['status']})" for step in task.plan) or "none"})


async def _tell_mails(view: View, sink: SmtpSink) -> None:
    """Each mail as it comes in."""
    told = 0
    while True:
        mails = await sink.received(told + 1)
        for mail in mails[told:]:
            _tell_mail(view, mail)
        told = len(mails)


def _tell_mail(view: View, mail: ReceivedMail) -> None:
    view.line()
    view.line("✉ the mail sink received", "bold green")
    view.values({"From": mail.sender, "To": ", ".join(mail.recipients), "Subject": mail.subject, "Text": mail.text})
