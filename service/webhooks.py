"""Ends of jobs, told to an address: signed by the Standard Webhooks scheme, again until they are heard.

One message at a time, on a thread of its own that asks the database for what is due, so that nothing is lost with
this process and no two processes send one message at the same moment.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version

import httpx
import structlog
from standardwebhooks import Webhook

from service.addresses import ForbiddenAddress, Resolve, look_up
from specs.settings import Settings
from store import deliveries
from store.database import Database
from store.deliveries import Message

POLL_SECONDS = 0.5
# Of the whole attempt but the look-up, however slowly the other side speaks; httpx bounds single steps only.
SEND_SECONDS = 15.0
STEP_SECONDS = 5.0
SPREAD = (0.9, 1.2)
GONE = 410

log = structlog.get_logger()


class Undelivered(Exception):
    """A message was not taken; `for_good` if its receiver wants no more of them."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Messenger:
    """Sends what is due to one address. Neither the address nor the secret is in any log."""

    def __init__(
        self, url: str, secret: str, database: Database, *, private: bool = False, resolve: Resolve = socket.getaddrinfo
    ) -> None:
        self._url = httpx.URL(url)
        self._signer = Webhook(secret)
        self._database = database
        self._private = private
        self._resolve = resolve

    def run(self, stop: threading.Event) -> None:
        """Sends whatever becomes due until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            try:
                deliveries.subscribe(self._database, wanted=True)  # in case it could not be at the start
                while not stop.is_set() and self.send_next():
                    pass
            except Exception as error:  # a held database, a full disk, a lost server: what is due stays due
                log.warning("webhooks wait for the database", error=repr(error)[:200])

    def send_next(self) -> bool:
        """Sends the message that has been due for longest; False if none is."""
        message = deliveries.take_due(self._database)
        if message is None:
            return False
        try:
            self._send(message)
        except Undelivered as error:
            self._keep(message, error)
        else:
            with self._database.write() as session:
                deliveries.delivered(session, message)
            log.info("webhook delivered", job=message.job_id, message=message.id, tries=message.tries)
        return True

    def _keep(self, message: Message, error: Undelivered) -> None:
        why, spread = f"{error}, at attempt {message.tries}.", random.uniform(*SPREAD)  # noqa: S311 - no secret
        with self._database.write() as session:
            again = deliveries.refused(session, message, why=why, for_good=error.for_good, spread=spread)
        log.warning("webhook not delivered", job=message.job_id, message=message.id, why=why, again=again)

    def _send(self, message: Message) -> None:
        try:
            status = asyncio.run(asyncio.wait_for(self._post(message, self._look_up()), SEND_SECONDS))
        except ForbiddenAddress as error:
            raise Undelivered(str(error)) from None
        except TimeoutError:
            raise Undelivered(f"there was no answer in {SEND_SECONDS:g} seconds") from None
        except (OSError, UnicodeError, httpx.HTTPError) as error:
            raise Undelivered(f"there was no answer ({type(error).__name__})") from error
        if not httpx.codes.is_success(status):
            raise Undelivered(f"the answer was {status}", for_good=status == GONE)

    def _look_up(self) -> list[str]:
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        return look_up(self._host, port, private=self._private, resolve=self._resolve)

    @property
    def _host(self) -> str:
        return self._url.raw_host.decode("ascii")

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # to read them takes longer than to send a message

    async def _post(self, message: Message, addresses: list[str]) -> int:
        """The status of the answer; no more of it is read. Of several addresses the first that can be connected to."""
        headers = self._headers(message)
        # With a transport of our own no proxies of the environment are asked. Redirects are not followed.
        transport = httpx.AsyncHTTPTransport(verify=self._certificates)
        async with httpx.AsyncClient(transport=transport, timeout=STEP_SECONDS, trust_env=False) as client:
            for address in addresses:
                request = client.build_request(
                    "POST",
                    self._url.copy_with(host=address),
                    content=message.body.encode(),
                    headers=headers,
                    extensions={"sni_hostname": self._host},
                )
                try:
                    response = await client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if address == addresses[-1]:
                        raise
                else:
                    await response.aclose()
                    return response.status_code
        raise Undelivered("its name has no address")

    def _headers(self, message: Message) -> dict[str, str]:
        moment = datetime.now(UTC)
        return {
            "Host": self._url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": f"pruneyard/{version('pruneyard')}",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": self._signer.sign(message.id, moment, message.body),
        }


def messenger_of(settings: Settings, database: Database) -> Messenger:
    """The one that the settings ask for."""
    assert settings.webhook_url is not None
    assert settings.webhook_secret is not None
    return Messenger(
        settings.webhook_url.get_secret_value(),
        settings.webhook_secret.get_secret_value(),
        database,
        private=settings.webhook_private,
    )
