"""A mail server that stores received messages and delivers none, on aiosmtpd in the caller's event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """One message: the addresses of the envelope, and the message with parsed headers."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    raw: bytes

    @property
    def subject(self) -> str:
        return str(self.message["subject"] or "")

    @property
    def text(self) -> str:
        """The plain text body; empty where the message has none."""
        body = self.message.get_body(preferencelist=("plain",))
        return str(body.get_content()) if body is not None else ""


class SmtpSink:
    """The server on a free port of 127.0.0.1, without TLS; also an async context manager."""

    def __init__(self, *, refuse_with: str | None = None, credentials: tuple[str, str] | None = None) -> None:
        """`refuse_with` is the reply to every message instead of 250, e.g. `550 5.7.1 no`.

        Where `credentials` (user name, password) are set, clients must log in with them.
        """
        self.refuse_with = refuse_with
        self.messages: list[ReceivedMail] = []
        self._credentials = credentials
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The TCP port of the server. Raises `RuntimeError` where the server is not started."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return int(self._server.sockets[0].getsockname()[1])

    async def wait_for_messages(self, count: int) -> list[ReceivedMail]:
        """Wait until `count` messages have been received since the start, and return all of them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.messages) >= count)
        return self.messages

    async def start(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, self.host, 0)
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _protocol(self) -> SMTP:
        return SMTP(
            _MessageHandler(self),
            hostname="localhost",  # a lookup of the host name could take seconds
            ident="Aura demo mail sink",
            enable_SMTPUTF8=True,
            auth_required=self._credentials is not None,
            auth_require_tls=False,
            authenticator=self._authenticate,
        )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        if self._credentials is None or not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        given = (data.login.decode(errors="replace"), data.password.decode(errors="replace"))
        return AuthResult(success=given == self._credentials, handled=False)

    async def store(self, mail: ReceivedMail) -> None:
        """Store a message that is not refused; a subclass may delay it."""
        self.messages.append(mail)
        async with self._changed:
            self._changed.notify_all()


class _MessageHandler:
    """The handler that aiosmtpd calls; it finds the hook by its name."""

    def __init__(self, sink: SmtpSink) -> None:
        self._sink = sink

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self._sink.refuse_with is not None:
            return self._sink.refuse_with
        raw = envelope.original_content or b""
        message = message_from_bytes(raw, EmailMessage, policy=policy.default)
        await self._sink.store(ReceivedMail(envelope.mail_from or "", tuple(envelope.rcpt_tos), message, raw))
        return "250 2.0.0 kept, not delivered"
