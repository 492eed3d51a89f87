"""`send_email` against a real SMTP server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from pydantic import SecretStr, ValidationError

from app.errors import ToolError
from app.ports.tools import ToolContext
from app.tools.mail import SendEmail, SendEmailArguments
from tests.harness.certificate import Certificate


@dataclass
class Mailbox:
    """A handler for the server: the mails that it received, and the addresses that it refuses."""

    # ruff: noqa: N802 - the names are SMTP commands

    port: int = 0
    envelopes: list[Envelope] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    data_reply: str = "250 OK"
    disconnects: bool = False

    def message(self) -> EmailMessage:
        content = self.envelopes[-1].content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message

    async def handle_MAIL(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address in self.refuses:
            return "553 5.1.8 not your address"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address in self.refuses:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        if self.disconnects:
            server.transport.abort()
        self.envelopes.append(envelope)
        return self.data_reply


Serve = Callable[..., Awaitable[Mailbox]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[asyncio.Server] = []

    async def start(*, implicit_tls: ssl.SSLContext | None = None, **options: Any) -> Mailbox:
        mailbox = Mailbox()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(mailbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0, ssl=implicit_tls
        )
        servers.append(server)
        mailbox.port = server.sockets[0].getsockname()[1]
        return mailbox

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.create(tmp_path_factory.mktemp("tls") / "server.pem")


def sender_to(port: int, clock: Any, **changes: Any) -> SendEmail:
    options = {"host": "127.0.0.1", "sender": "Aura 비서 <aura@dwp.test>", "encryption": "none"} | changes
    return SendEmail(clock, port=port, **options)


LETTER = SendEmailArguments(to=["kim@dwp.test"], subject="회의 안내", body="내일 10시입니다.\n.\n감사합니다.")


# --- the arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "",
        "kim",
        "kim@",
        "@dwp.test",
        "a@b@c",
        "Kim <kim@dwp.test>",
        "kim@dwp.test, lee@dwp.test",
        "kim@dwp.test\r\nBcc: all@dwp.test",
        "kim\x00@dwp.test",
        "kim @dwp.test",
        "x" * 250 + "@dwp.test",
    ],
)
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        SendEmailArguments(to=[address], subject="s", body="b")


@pytest.mark.parametrize("subject", ["a\r\nBcc: all@dwp.test", "a\nb", "a\rb", "a\x00b", "a\x85b", "a\u2028b", ""])
def test_subject_with_several_lines_is_refused(subject: str) -> None:
    with pytest.raises(ValidationError):
        SendEmailArguments(to=["kim@dwp.test"], subject=subject, body="b")


def test_body_with_control_characters_is_refused() -> None:
    with pytest.raises(ValidationError):
        SendEmailArguments(to=["kim@dwp.test"], subject="s", body="a\x1b[2J")


@pytest.mark.parametrize("to", ["kim@dwp.test", ["kim@dwp.test"]])
def test_recipients_stay_as_the_model_wrote_them(to: str | list[str]) -> None:
    given = {"to": to, "subject": "s", "body": "b"}
    assert SendEmailArguments.model_validate(given).model_dump(exclude_unset=True) == given


@pytest.mark.parametrize("to", ["kim", ["kim@dwp.test", "kim"], [], "", 5, ["kim@dwp.test"] * 51, [5]])
def test_invalid_list_of_addresses_is_refused(to: object) -> None:
    with pytest.raises(ValidationError, match=r"^[12] validation error"):
        SendEmailArguments.model_validate({"to": to, "subject": "s", "body": "b"})


# --- mail that is delivered -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eight_bit", [True, False])
async def test_mail_is_delivered_as_it_was_written(
    serve: Serve, clock: Any, context: ToolContext, eight_bit: bool
) -> None:
    mailbox = await serve(decode_data=False)
    if not eight_bit:
        mailbox.handle_EHLO = _without_8bit  # type: ignore[attr-defined]
    letter = LETTER.model_copy(update={"cc": ["lee@dwp.test"], "bcc": ["park@dwp.test", "kim@dwp.test"]})
    result = await sender_to(mailbox.port, clock).run(letter, context)
    message, envelope = mailbox.message(), mailbox.envelopes[0]
    assert envelope.mail_from == "aura@dwp.test"
    assert envelope.rcpt_tos == result["accepted"] == ["kim@dwp.test", "lee@dwp.test", "park@dwp.test"]
    assert (message["From"], message["To"], message["Cc"]) == (
        "Aura 비서 <aura@dwp.test>",
        "kim@dwp.test",
        "lee@dwp.test",
    )
    assert (message["Subject"], message["Bcc"]) == ("회의 안내", None)
    assert message.get_content().replace("\r\n", "\n").rstrip("\n") == LETTER.body
    assert message["Date"] == "Thu, 25 Jan 2024 03:00:00 +0000"
    assert result == {"message_id": message["Message-ID"], "accepted": result["accepted"]}


async def test_a_single_recipient_gets_the_mail(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    letter = LETTER.model_copy(update={"to": "kim@dwp.test", "cc": "lee@dwp.test"})
    result = await sender_to(mailbox.port, clock).run(letter, context)
    assert result["accepted"] == mailbox.envelopes[0].rcpt_tos == ["kim@dwp.test", "lee@dwp.test"]
    assert (mailbox.message()["To"], mailbox.message()["Cc"]) == ("kim@dwp.test", "lee@dwp.test")


async def _without_8bit(server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]) -> list[str]:
    session.host_name = hostname
    return [line for line in responses if "8BITMIME" not in line]


async def test_repeated_send_is_recognisable(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    tool = sender_to(mailbox.port, clock)
    first, second = await tool.run(LETTER, context), await tool.run(LETTER, context)
    other = ToolContext(session_id="s", tenant_id="t", user_id="u", idempotency_key="another")
    third = await tool.run(LETTER, other)
    assert first["message_id"] == second["message_id"] != third["message_id"]
    assert first["message_id"].endswith("@dwp.test>")
    assert tool.needs_approval
    assert not tool.idempotent


async def test_partial_refusal_lists_the_accepted_recipients(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    mailbox.refuses = {"lee@dwp.test"}
    letter = LETTER.model_copy(update={"to": ["kim@dwp.test", "lee@dwp.test"]})
    result = await sender_to(mailbox.port, clock).run(letter, context)
    assert result["accepted"] == ["kim@dwp.test"]
    assert result["refused"] == [{"address": "lee@dwp.test", "reason": "550 5.1.1 no such user"}]
    assert len(mailbox.envelopes) == 1


# --- mail that is not delivered ---------------------------------------------------------------------------------------


async def test_refused_recipients_are_named(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    mailbox.refuses = {"kim@dwp.test"}
    with pytest.raises(ToolError, match=r"refused every recipient: kim@dwp.test \(550 5.1.1 no such user\)"):
        await sender_to(mailbox.port, clock).run(LETTER, context)
    assert mailbox.envelopes == []


async def test_refused_sender_is_named(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    mailbox.refuses = {"aura@dwp.test"}
    with pytest.raises(ToolError, match=r"refused the sender aura@dwp.test \(553"):
        await sender_to(mailbox.port, clock).run(LETTER, context)


async def test_refused_message_is_an_error(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    mailbox.data_reply = "554 5.7.1 looks like spam"
    with pytest.raises(ToolError, match=r"nothing was sent.*554 5.7.1 looks like spam"):
        await sender_to(mailbox.port, clock).run(LETTER, context)


async def test_connection_lost_while_sending_leaves_the_outcome_unknown(
    serve: Serve, clock: Any, context: ToolContext
) -> None:
    mailbox = await serve()
    mailbox.disconnects = True
    with pytest.raises(ToolError, match="it is not known whether the mail went out"):
        await sender_to(mailbox.port, clock).run(LETTER, context)


async def test_unreachable_server_is_named_in_the_log_and_not_to_the_user(clock: Any, context: ToolContext) -> None:
    free = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = free.sockets[0].getsockname()[1]
    free.close()
    await free.wait_closed()
    with pytest.raises(ToolError, match="nothing was sent: the mail server cannot be reached") as caught:
        await sender_to(port, clock).run(LETTER, context)
    assert "127.0.0.1" not in caught.value.message
    assert f"127.0.0.1:{port}" in caught.value.log_cause


async def test_address_that_the_server_does_not_support_is_an_error(
    serve: Serve, clock: Any, context: ToolContext
) -> None:
    mailbox = await serve(enable_SMTPUTF8=False)
    letter = LETTER.model_copy(update={"to": ["김@dwp.test"]})
    with pytest.raises(ToolError, match=r"nothing was sent: .*SMTPUTF8"):
        await sender_to(mailbox.port, clock).run(letter, context)


# --- login and encryption ---------------------------------------------------------------------------------------------


def _authenticator(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"aura", b"right"), handled=False)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("password", ["right", "wrong-pa55"])
async def test_login_is_checked(serve: Serve, clock: Any, context: ToolContext, password: str) -> None:
    mailbox = await serve(authenticator=_authenticator, auth_required=True, auth_require_tls=False)
    tool = sender_to(mailbox.port, clock, username="aura", password=SecretStr(password))
    if password == "right":
        await tool.run(LETTER, context)
        assert len(mailbox.envelopes) == 1
        return
    with pytest.raises(ToolError, match=r"refused the login \(535") as caught:
        await tool.run(LETTER, context)
    assert "pa55" not in caught.value.cause


async def test_starttls_encrypts(serve: Serve, clock: Any, context: ToolContext, certificate: Certificate) -> None:
    mailbox = await serve(tls_context=certificate.server, require_starttls=True)
    tool = sender_to(mailbox.port, clock, encryption="starttls", tls_context=certificate.client)
    await tool.run(LETTER, context)
    assert mailbox.message()["Subject"] == "회의 안내"


async def test_missing_starttls_is_an_error(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    with pytest.raises(ToolError, match=r"nothing was sent: .*STARTTLS"):
        await sender_to(mailbox.port, clock, encryption="starttls").run(LETTER, context)
    assert mailbox.envelopes == []


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_untrusted_certificate_prevents_sending(
    serve: Serve, clock: Any, context: ToolContext, certificate: Certificate, encryption: str
) -> None:
    mailbox = await serve(
        tls_context=certificate.server, implicit_tls=certificate.server if encryption == "tls" else None
    )
    with pytest.raises(ToolError, match="shows a certificate that is not trusted"):
        await sender_to(mailbox.port, clock, encryption=encryption).run(LETTER, context)
    assert mailbox.envelopes == []


async def test_implicit_tls_encrypts(serve: Serve, clock: Any, context: ToolContext, certificate: Certificate) -> None:
    mailbox = await serve(implicit_tls=certificate.server)
    tool = sender_to(mailbox.port, clock, encryption="tls", tls_context=certificate.client)
    await tool.run(LETTER, context)
    assert len(mailbox.envelopes) == 1


async def test_tls_to_a_server_without_it_is_an_error(serve: Serve, clock: Any, context: ToolContext) -> None:
    mailbox = await serve()
    with pytest.raises(ToolError, match="does not support the encryption that SMTP_TLS requires"):
        await sender_to(mailbox.port, clock, encryption="tls").run(LETTER, context)
