"""`send_email`: one message over SMTP, after a person's approval."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Annotated, Literal

import aiosmtplib
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from app.errors import ConfigurationError, ToolError, without_places
from app.ports.clock import Clock
from app.ports.tools import ToolContext
from app.tools.text_fields import check_address, one_visible_line, without_control_characters
from statemachine.stored import JsonObject

Encryption = Literal["starttls", "tls", "none"]

_STEP_TIMEOUT_SECONDS = 15  # for each of connect, greeting, login …; the tool's own timeout covers all of them
_QUIT_TIMEOUT_SECONDS = 2
_RECIPIENTS_LIMIT = 50


def _addresses(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _recipients(given: str | list[str]) -> str | list[str]:
    for number, text in enumerate(_addresses(given), start=1):
        if number > _RECIPIENTS_LIMIT:
            raise ValueError(f"more than {_RECIPIENTS_LIMIT} addresses")
        try:
            check_address(text)
        except ValueError as error:
            raise ValueError(f"address {number}: {error}") from None
    return given


Recipients = Annotated[str | list[str], AfterValidator(_recipients)]
"""Stays a single string if the model wrote one, so that the approver sees what the model requested."""


class SendEmailArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: Recipients = Field(min_length=1)
    cc: Recipients = []
    bcc: Recipients = []
    subject: Annotated[str, AfterValidator(one_visible_line)] = Field(min_length=1, max_length=255)
    body: Annotated[str, AfterValidator(without_control_characters)] = Field(
        min_length=1, max_length=50_000, description="Plain text"
    )


class SendEmail:
    """Send a plain-text e-mail from the company's address. A person approves it before it goes out.

    A repeated send has the same Message-ID, so that mail servers and people can recognise it. The tool is not
    idempotent all the same, because most servers deliver the mail twice.
    """

    name: str = "send_email"
    title: str = "이메일 발송"
    arguments: type[BaseModel] = SendEmailArguments
    needs_approval: bool = True
    idempotent: bool = False
    outward: bool = True
    timeout_seconds: float | None = None

    def __init__(
        self,
        clock: Clock,
        *,
        host: str,
        port: int,
        sender: str,
        username: str | None = None,
        password: SecretStr | None = None,
        encryption: Encryption = "starttls",
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`sender` may have a display name. Without a `tls_context` the system's certificates are trusted.

        Raises `ConfigurationError` if `sender` is not a mail address.
        """
        self._clock = clock
        self._host, self._port = host, port
        self._sender = _parse_sender(sender)
        self._username, self._password = username, password
        self._encryption = encryption
        self._tls_context = tls_context

    def question(self, arguments: SendEmailArguments) -> str:  # noqa: ARG002 - the signature is the port's
        return "이메일을 발송하시겠습니까?"

    async def run(self, arguments: SendEmailArguments, context: ToolContext) -> JsonObject:
        message = self._message(arguments, context)
        parts = (arguments.to, arguments.cc, arguments.bcc)
        recipients = list(dict.fromkeys(address for part in parts for address in _addresses(part)))
        client = self._client()
        try:
            await self._connect(client)
            refused = await self._send(client, message, recipients)
            await _quit(client)
        finally:
            client.close()
        result: JsonObject = {
            "message_id": message["Message-ID"],
            "accepted": [recipient for recipient in recipients if recipient not in refused],
        }
        if refused:
            result["refused"] = [{"address": address, "reason": reason} for address, reason in refused.items()]
            result["note"] = "Only the accepted recipients got the mail; tell the user who did not."
        return result

    def _message(self, arguments: SendEmailArguments, context: ToolContext) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = ", ".join(_addresses(arguments.to))
        if arguments.cc:
            message["Cc"] = ", ".join(_addresses(arguments.cc))
        message["Subject"] = arguments.subject
        message["Date"] = format_datetime(datetime.fromtimestamp(self._clock.now(), UTC))
        name = hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:32]
        message["Message-ID"] = f"<aura.{name}@{self._sender.domain}>"
        message.set_content(arguments.body)
        return message

    def _client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password.get_secret_value() if self._password else None,
            local_hostname=self._sender.domain,  # the default is the machine's name, which is looked up in DNS
            timeout=_STEP_TIMEOUT_SECONDS,
            use_tls=self._encryption == "tls",
            start_tls=self._encryption == "starttls",
            tls_context=self._tls_context,
        )

    async def _connect(self, client: aiosmtplib.SMTP) -> None:
        """Connects, encrypts and logs in. Raises `ToolError`; no mail is sent then."""
        server = "nothing was sent: the mail server"
        place = f"{self._host}:{self._port}"
        try:
            await client.connect()
        except aiosmtplib.SMTPAuthenticationError as error:
            raise ToolError(f"{server} refused the login ({_reply(error)})", detail=place) from error
        except aiosmtplib.SMTPResponseException as error:
            raise ToolError(f"{server} refused the connection ({_reply(error)})", detail=place) from error
        except aiosmtplib.SMTPTimeoutError as error:
            raise ToolError(f"{server} did not respond in time", detail=place) from error
        except (aiosmtplib.SMTPConnectError, OSError) as error:
            cause = _encryption_problem(error) or "cannot be reached"
            raise ToolError(f"{server} {cause}", detail=f"{place} {error}") from error
        except aiosmtplib.SMTPException as error:
            raise ToolError(f"{server} failed: {_line(error.message)}", detail=place) from error

    async def _send(self, client: aiosmtplib.SMTP, message: EmailMessage, recipients: list[str]) -> Mapping[str, str]:
        """Sends the message. Returns the refused recipients with the reason, if at least one was accepted.

        Raises `ToolError`.
        """
        try:
            refused, _ = await client.send_message(message, sender=self._sender.addr_spec, recipients=recipients)
            return {address: f"{reply.code} {_line(reply.message)}" for address, reply in refused.items()}
        except aiosmtplib.SMTPRecipientsRefused as error:
            refusals = "; ".join(f"{item.recipient} ({_reply(item)})" for item in error.recipients)
            raise ToolError(f"nothing was sent: the mail server refused every recipient: {refusals}") from error
        except aiosmtplib.SMTPSenderRefused as error:
            sender = self._sender.addr_spec
            raise ToolError(
                f"nothing was sent: the mail server refused the sender {sender} ({_reply(error)})"
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise ToolError(f"nothing was sent: the mail server refused the message ({_reply(error)})") from error
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError, OSError) as error:
            raise ToolError(
                "the connection to the mail server broke while sending: it is not known whether the mail went out"
                f" (Message-ID {message['Message-ID']})"
            ) from error
        except aiosmtplib.SMTPException as error:
            raise ToolError(f"nothing was sent: {_line(error.message)}") from error


async def _quit(client: aiosmtplib.SMTP) -> None:
    """Ends the session. Errors are ignored, because the mail was sent already."""
    try:
        await client.quit(timeout=_QUIT_TIMEOUT_SECONDS)
    except (aiosmtplib.SMTPException, OSError):  # a TimeoutError is an OSError
        return


def _parse_sender(text: str) -> Address:
    display_name, address = parseaddr(text)
    try:
        return Address(display_name=one_visible_line(display_name), addr_spec=check_address(address))
    except ValueError:
        raise ConfigurationError("SMTP_FROM is not a mail address; give it like `Aura <aura@example.com>`") from None


def _encryption_problem(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"shows a certificate that is not trusted ({_line(error.verify_message)})"
        if isinstance(error, ssl.SSLError):
            return "does not support the encryption that SMTP_TLS requires"
        error = error.__cause__ or error.__context__
    return None


def _reply(error: aiosmtplib.SMTPResponseException) -> str:
    return f"{error.code} {_line(error.message)}"


def _line(text: str) -> str:
    """Returns a server's text as one line of at most 200 characters, without addresses and hosts."""
    return without_places(" ".join(text.split())[:200])
