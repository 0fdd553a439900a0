"""Email over SMTP: implements `NoticeChannel`."""

import asyncio
import socket
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Final

import aiosmtplib

from sidecar.domain.errors import ConfigError
from sidecar.outbound.notify.smtp_url import SmtpServer, Tls
from sidecar.outbound.notify.templates import NoticeTemplates
from sidecar.services.notice_ports import Delivery, SendOutcome, SendVerdict
from sidecar.services.ports import Clock

_QUIT_SECONDS_MAX: Final = 1.0
# Headers and bodies that every server takes, also one without 8BITMIME.
_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit")
_NOT_FOR_THIS_ADDRESS: Final = range(550, 560)
"""Replies that speak of the mailbox or the message, not of us: RFC 5321, section 4.2.3."""
_HEADERS: Final = sorted(
    {
        *("from", "to", "subject", "date", "message-id", "auto-submitted"),
        *("mime-version", "content-type"),
    }
)


class EmailChannel:
    """
    Sends one message to one address, on a connection of its own.

    A message's id is a hash of its notice and addressee: a server or a reader that sees it twice
    can tell. Once the server has taken the message, nothing makes it unsent.
    """

    def __init__(
        self,
        server: SmtpServer,
        sender: str,
        *,
        name: str,
        templates: NoticeTemplates,
        clock: Clock,
        timeout_seconds: float,
    ) -> None:
        """
        Nothing is opened before a message is sent.

        Args:
            server: Where mail goes.
            sender: The From address, which bounces come back to.
            name: Shown with it.
            templates: What messages say.
            clock: Whose time is a message's date.
            timeout_seconds: Longest attempt, from connecting to the server's word.

        Raises:
            ConfigError: The file of certificates cannot be used.
        """
        self._server = server
        self._sender = Address(display_name=_plain(name), addr_spec=sender)
        self._templates = templates
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._tls_context = None if server.tls is Tls.NONE else server.tls_context()
        self._local_hostname = _host_name()

    async def close(self) -> None:
        """Nothing stays open."""

    async def send(self, delivery: Delivery, address: str) -> SendOutcome:
        """One attempt, bounded in time."""
        raw = self.compose(delivery, address).as_bytes()
        if _header_names(raw) != _HEADERS:
            return SendOutcome(
                verdict=SendVerdict.REFUSED, detail="a text would change the message's headers"
            )
        client = self._client()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await client.connect()  # Up to the login.
                await client.sendmail(self._sender.addr_spec, [address], raw)
        except aiosmtplib.SMTPRecipientsRefused as error:
            return _answered(error.recipients[0].code, "the recipient")
        except aiosmtplib.SMTPDataError as error:
            return _answered(error.code, "the message")
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
            return SendOutcome(verdict=SendVerdict.RETRY, detail=_trouble(error))
        else:
            await self._leave(client)
            return SendOutcome(verdict=SendVerdict.SENT)
        finally:
            client.close()

    @property
    def place(self) -> str:
        """Where mail goes, for people."""
        return f"{self._server.host}:{self._server.port}"

    async def probe(self) -> str:
        """What keeps the server from being used, login included; "" for nothing. Sends nothing."""
        client = self._client()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await client.connect()
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
            return f"{self.place}: {_trouble(error)}"
        else:
            await self._leave(client)
            return ""
        finally:
            client.close()

    def compose(self, delivery: Delivery, address: str) -> EmailMessage:
        """
        The message. Texts cannot add a header, since each is made one line.

        An encoded word in a text is taken apart too: the standard library would decode it, and
        before Python 3.11.10 and 3.12.5 write line breaks that it holds (CVE-2024-6923).
        """
        message = EmailMessage(policy=_POLICY)
        message["From"] = self._sender
        message["To"] = Address(addr_spec=address)
        message["Subject"] = _plain(self._templates.subject(delivery.notice))
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{delivery.notice_id}.{delivery.to.target}@{self._sender.domain}>"
        # Nobody's holiday reply is to answer a program: RFC 3834.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self._templates.text(delivery.notice))
        message.add_alternative(self._templates.html(delivery.notice), subtype="html")
        return message

    def _client(self) -> aiosmtplib.SMTP:
        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username or None,
            password=server.password or None,
            timeout=self._timeout_seconds,
            use_tls=server.tls is Tls.IMPLICIT,
            start_tls=server.tls is Tls.STARTTLS,
            tls_context=self._tls_context,
            local_hostname=self._local_hostname,
        )

    async def _leave(self, client: aiosmtplib.SMTP) -> None:
        """Say goodbye; the message is taken, whatever comes of that."""
        with suppress(aiosmtplib.SMTPException, TimeoutError, OSError):
            async with asyncio.timeout(_QUIT_SECONDS_MAX):
                await client.quit()


def check_sender(sender: str | None) -> str:
    """The From address. Raises ConfigError where there is none."""
    if sender is None:
        raise ConfigError("smtp_url needs notify.email.from: the address that mail comes from")
    return sender


def _plain(line: str) -> str:
    """A line that holds no encoded word."""
    return line.replace("=?", "= ?")


def _header_names(raw: bytes) -> list[str]:
    """The names of a message's own headers as they stand in it; folded lines begin with a blank."""
    head = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n\n")[0]
    return sorted(
        line.partition(b":")[0].decode("ascii", "replace").lower()
        for line in head.split(b"\n")
        if not line.startswith((b" ", b"\t"))
    )


def _host_name() -> str:
    """What we call ourselves; without asking a name server, which could take its time."""
    name = socket.gethostname()
    return name if name.isascii() and name.isprintable() and " " not in name else "localhost"


def _answered(code: int, what: str) -> SendOutcome:
    """The server's word on an address or a message: for good, or for now (greylisting)."""
    verdict = SendVerdict.REFUSED if code in _NOT_FOR_THIS_ADDRESS else SendVerdict.RETRY
    # Not its text: addresses stand in it.
    return SendOutcome(verdict=verdict, detail=f"the mail server answered {code} to {what}")


def _trouble(error: Exception) -> str:
    """Why the server cannot be used; not its own words, in which addresses may stand."""
    match error:
        case aiosmtplib.SMTPAuthenticationError():
            return f"the mail server refuses the login ({error.code})"
        case aiosmtplib.SMTPResponseException():
            return f"the mail server answered {error.code}"
        case _:
            return f"the mail server cannot be used ({type(error).__name__})"
