"""The mail sink, tested with a real SMTP client."""

from __future__ import annotations

from email.message import EmailMessage

import aiosmtplib
import pytest

from app.dev.demo.smtp import SmtpSink


def mail() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "aura@example.com", "kim@example.com", "회의 안내"
    message.set_content("안녕하세요.\n금요일 두 시입니다.\n")
    return message


async def test_message_is_stored_with_its_envelope() -> None:
    async with SmtpSink() as sink:
        recipients = ["kim@example.com", "lee@example.com"]
        await aiosmtplib.send(mail(), hostname=sink.host, port=sink.port, recipients=recipients)
        (mail_received,) = await sink.wait_for_messages(1)
    assert (mail_received.sender, mail_received.recipients) == ("aura@example.com", tuple(recipients))
    assert mail_received.subject == "회의 안내"
    assert mail_received.message["to"] == "kim@example.com"
    assert mail_received.text.splitlines() == ["안녕하세요.", "금요일 두 시입니다."]


async def test_refused_message_is_not_stored() -> None:
    async with SmtpSink(refuse_with="550 5.7.1 not today") as sink:
        with pytest.raises(aiosmtplib.SMTPDataError, match="not today"):
            await aiosmtplib.send(mail(), hostname=sink.host, port=sink.port)
        assert sink.messages == []


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_credentials_are_required_and_checked() -> None:
    async with SmtpSink(credentials=("aura", "right")) as sink:
        host, port = sink.host, sink.port
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await aiosmtplib.send(mail(), hostname=host, port=port, username="aura", password="wrong")
        with pytest.raises(aiosmtplib.SMTPException):
            await aiosmtplib.send(mail(), hostname=host, port=port)
        await aiosmtplib.send(mail(), hostname=host, port=port, username="aura", password="right")
        assert len(sink.messages) == 1
