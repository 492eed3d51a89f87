"""A model turn that sends a mail, and a mail server that blocks after it has stored a message."""

from __future__ import annotations

import asyncio
from typing import Any

from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import ReceivedMail, SmtpSink

MAIL = {"to": ["kim@example.com"], "subject": "회의", "body": "내일 10시에 만나요."}


def mail_turn(**turn: Any) -> ScriptedTurn:
    return ScriptedTurn(tool_calls=[ScriptedCall(name="send_email", arguments=MAIL)], **turn)


def mail_settings(smtp: SmtpSink) -> dict[str, Any]:
    return {"SMTP_HOST": smtp.host, "SMTP_PORT": smtp.port, "SMTP_FROM": "aura@example.com", "SMTP_TLS": "none"}


class BlockedSmtp(SmtpSink):
    """Stores a message and does not acknowledge it until `unblocked` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.unblocked = asyncio.Event()

    async def store(self, mail: ReceivedMail) -> None:
        await super().store(mail)
        await self.unblocked.wait()
