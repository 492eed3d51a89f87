"""The services that the nodes call: a model that is scripted by the plan, a slow mail server and a slow GitHub."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.dev.chaos.plan import PULL_NUMBER, REPOSITORY, RunKind, RunPlan
from app.dev.demo.github import GitHubStandIn
from app.dev.demo.http import Request, Response
from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from app.dev.demo.scenarios import Scenario
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.services import fixtures
from app.dev.demo.smtp import ReceivedMail, SmtpSink

_SLOWEST_SECONDS = 0.8


class SlowSmtp(SmtpSink):
    """Delays either the storing of a message or its acknowledgement: a kill in between leaves the outcome unknown."""

    async def store(self, mail: ReceivedMail) -> None:
        early, seconds = _delay(mail.subject)
        await asyncio.sleep(seconds * early)
        await super().store(mail)
        await asyncio.sleep(seconds * (not early))


class SlowGitHub(GitHubStandIn):
    """Delays the creation of a pull request in the same two ways."""

    async def _handle(self, request: Request, response: Response) -> None:
        early, seconds = _delay(request.body.decode()) if request.method == "POST" else (False, 0.0)
        await asyncio.sleep(seconds * early)
        await super()._handle(request, _DelayedResponse(response, seconds * (not early)) if seconds else response)


class _DelayedResponse(Response):
    """A response that is sent some time after the request was carried out."""

    def __init__(self, response: Response, seconds: float) -> None:
        self._response, self._seconds = response, seconds

    async def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        await asyncio.sleep(self._seconds)
        await self._response.json(status, value, headers)


def _delay(text: str) -> tuple[bool, float]:
    """Return whether to delay before the action (else after it), and for how long (s).

    Both are computed from `text`, the content of the request, so they are the same in every repetition.
    """
    number = zlib.crc32(text.encode())
    return bool(number & 1), (number >> 1) % 1000 / 1000 * _SLOWEST_SECONDS


@dataclass(frozen=True, slots=True)
class Environment:
    """The running services."""

    model: ScriptedModelServer
    mail: SlowSmtp
    github: SlowGitHub
    github_token: str

    def node_variables(self) -> dict[str, str]:
        """Environment variables with which a node uses these services."""
        return {
            "OPENAI_API_KEY": "scripted-no-secret",
            "OPENAI_BASE_URL": self.model.base_url,
            "OPENAI_MODEL": MODEL_NAME,
            "SMTP_HOST": self.mail.host,
            "SMTP_PORT": str(self.mail.port),
            "SMTP_TLS": "none",
            "SMTP_FROM": "aura@example.com",
            "GITHUB_TOKEN": self.github_token,
            "GITHUB_API_URL": self.github.url,
        }

    def mails(self) -> Counter[str]:
        """The number of received messages for each subject."""
        return Counter(mail.subject for mail in self.mail.messages)

    def pulls(self) -> Counter[str]:
        """The number of created pull requests for each branch."""
        return Counter(pull["head"]["ref"] for pull in self.github.created)


@asynccontextmanager
async def start_environment(plans: Iterable[RunPlan]) -> AsyncIterator[Environment]:
    """Start the services; stop them when the context exits."""
    token = secrets.token_hex(16)
    async with (
        ScriptedModelServer() as model,
        SlowSmtp() as mail,
        SlowGitHub(fixtures() / "github", token=token) as github,
    ):
        model.add(*(_scenario(plan) for plan in plans))
        yield Environment(model, mail, github, token)


def _scenario(plan: RunPlan) -> Scenario:
    calls = _calls(plan)
    tool_turns = [ScriptedTurn(tool_calls=calls, first_delay_ms=200, delay_ms=10)] if calls else []
    answer_turn = ScriptedTurn(
        text=plan.text,
        reasoning=plan.reasoning,
        first_delay_ms=100,
        chunk_chars=plan.chunk_chars,
        delay_ms=plan.delay_ms,
    )
    return Scenario(description=plan.prompt, match=[rf"\[chaos {plan.number}\]"], turns=[*tool_turns, answer_turn])


def _calls(plan: RunPlan) -> list[ScriptedCall]:
    owner, repository = REPOSITORY
    where = {"owner": owner, "repo": repository}
    mail = ScriptedCall(
        name="send_email", arguments={"to": ["team@example.com"], "subject": plan.subject, "body": plan.prompt}
    )
    pull = ScriptedCall(name="github_create_pr", arguments={**where, "title": plan.subject, "head": plan.branch})
    match plan.kind:
        case RunKind.ANSWER:
            return []
        case RunKind.SAFE_TOOLS:
            read = ScriptedCall(name="github_get_pr", arguments={**where, "number": PULL_NUMBER})
            return [ScriptedCall(name="get_current_time"), read]
        case RunKind.MAIL:
            return [mail]
        case RunKind.PULL_REQUEST:
            return [pull]
        case RunKind.BOTH:
            return [mail, pull]
