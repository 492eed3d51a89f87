"""The services that the nodes call: a model that is scripted by the plan, and slow ones that their tools need."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.dev.chaos import plugged_in
from app.dev.chaos.delays import delay_of, delayed
from app.dev.chaos.mcp_process import McpServerProcess
from app.dev.chaos.plan import MCP_TOOL, NOTICE_TOOL, ORDER_TOOL, RunPlan
from app.dev.chaos.scripted_runs import scenario
from app.dev.chaos.warehouse import NOTICES, ORDERS, SlowWarehouse
from app.dev.demo.github import GitHubStandIn
from app.dev.demo.http import Request, Response
from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from app.dev.demo.services import fixtures
from app.dev.demo.smtp import ReceivedMail, SmtpSink


class SlowSmtp(SmtpSink):
    """Delays either the storing of a message or its acknowledgement: a kill in between leaves the outcome unknown."""

    async def store(self, mail: ReceivedMail) -> None:
        async with delayed(mail.subject):
            await super().store(mail)


class SlowGitHub(GitHubStandIn):
    """Delays the creation of a pull request in the same two ways."""

    async def _handle(self, request: Request, response: Response) -> None:
        before, after = delay_of(request.body.decode()) if request.method == "POST" else (0.0, 0.0)
        await asyncio.sleep(before)
        await super()._handle(request, _DelayedResponse(response, after) if after else response)


class _DelayedResponse(Response):
    """A response that is sent some time after the request was carried out."""

    def __init__(self, response: Response, seconds: float) -> None:
        self._response, self._seconds = response, seconds

    async def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        await asyncio.sleep(self._seconds)
        await self._response.json(status, value, headers)


@dataclass(frozen=True, slots=True)
class Environment:
    """The running services."""

    model: ScriptedModelServer
    mail: SlowSmtp
    github: SlowGitHub
    github_token: str
    warehouse: SlowWarehouse
    mcp: McpServerProcess | None
    """None where the SDK of MCP is not installed."""

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
            "AURA_TOOLS": plugged_in.__name__,
            plugged_in.URL_VARIABLE: self.warehouse.url,
            **(self.mcp.node_variables() if self.mcp is not None else {}),
        }

    def executions(self) -> dict[str, Counter[str]]:
        """How often each tool was executed for each mark of a run (`RunPlan.mark`)."""
        return {
            "send_email": Counter(mail.subject for mail in self.mail.messages),
            "github_create_pr": Counter(pull["head"]["ref"] for pull in self.github.created),
            ORDER_TOOL: self.warehouse.executions(ORDERS),
            NOTICE_TOOL: self.warehouse.executions(NOTICES),
            **({MCP_TOOL: self.mcp.notes()} if self.mcp is not None else {}),
        }

    def keys(self) -> dict[str, Counter[str]]:
        """With how many different idempotency keys each tool was executed, of those whose service gets them."""
        return {ORDER_TOOL: self.warehouse.keys(ORDERS), NOTICE_TOOL: self.warehouse.keys(NOTICES)}

    def problems(self) -> list[str]:
        """What went wrong in the services themselves, as texts."""
        return [] if self.mcp is None else list(self.mcp.problems)


@asynccontextmanager
async def start_environment(plans: Iterable[RunPlan], folder: Path, *, with_mcp: bool) -> AsyncIterator[Environment]:
    """Start the services; stop them when the context exits. The files of the MCP server are in `folder`."""
    token = secrets.token_hex(16)
    async with (
        ScriptedModelServer() as model,
        SlowSmtp() as mail,
        SlowGitHub(fixtures() / "github", token=token) as github,
        SlowWarehouse() as warehouse,
        AsyncExitStack() as stack,
    ):
        mcp = await stack.enter_async_context(McpServerProcess(folder)) if with_mcp else None
        model.add(*(scenario(plan) for plan in plans))
        yield Environment(model, mail, github, token, warehouse, mcp)
