"""Ends of jobs, told to a real receiver and verified there; and where messages do not go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from sqlalchemy import func, select, update
from standardwebhooks import Webhook

from service import webhooks
from service.addresses import ForbiddenAddress, is_allowed, look_up
from service.app import create_app
from service.webhooks import Messenger
from specs.settings import Settings
from store import deliveries, queue
from store.database import Database
from store.events import list_events
from store.tables import Delivery, now
from tests.conftest import LOOPBACK, wait_for

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE="
JOB = {"kind": "train", "dataset": "digits", "architecture": "mlp", "name": "töld"}


@dataclass
class Receiver:
    """What came, and what is answered: one status after the other, the last one again and again."""

    port: int = 0
    statuses: list[int] = field(default_factory=lambda: [204])
    drip: bool = False
    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/hooks?token=TOKEN"

    def verified(self) -> list[Any]:
        return [Webhook(SECRET).verify(body, headers) for _, headers, body in self.came]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP server on this machine."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.came.append((self.path, dict(self.headers.items()), body))
            for byte in b"HTTP/1.1 204 No Content\r\n\r\n" if state.drip else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(0.04)
            if state.drip:
                return
            self.send_response(state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture
def ended(database: Database) -> str:
    """A job that has ended, and of which that is to be told."""
    deliveries.subscribe(database, wanted=True)
    with database.write() as session:
        job = queue.enqueue(session, kind="train", name="töld", spec="{}")
        queue.cancel(session, job.id)
    return job.id


def messenger(database: Database, url: str, **options: Any) -> Messenger:
    return Messenger(url, SECRET, database, **{"private": True, **options})


def make_due(database: Database) -> None:
    with database.write() as session:
        session.execute(update(Delivery).values(due_at=now()))


def kept(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Delivery)) or 0


def notices(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [event.data["message"] for event in list_events(session, job_id) if event.type == "notice"]


def test_the_end_of_a_job_is_told_and_signed(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.upper(), value)
    told = {"webhook_url": SecretStr(receiver.url()), "webhook_secret": SecretStr(SECRET), "webhook_private": True}
    with TestClient(create_app(settings.model_copy(update=told)), base_url=LOOPBACK) as api:
        job_id = api.post("/v1/jobs", json=JOB).json()["id"]
        api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        (message,) = wait_for(receiver.verified)
        job = api.get(f"/v1/jobs/{job_id}").json()
    assert message["type"] == "job.cancelled"
    assert message["timestamp"] == job["finished_at"]
    links = message["data"].pop("links")
    assert links == {"job": f"/v1/jobs/{job_id}"}
    assert message["data"] == {name: job[name] for name in message["data"]}
    assert {"id", "kind", "name", "status", "reason", "message", "result"} < message["data"].keys()
    assert receiver.came[0][0] == "/hooks?token=TOKEN"


def test_a_message_is_sent_again_until_it_is_heard(
    database: Database, receiver: Receiver, ended: str, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.statuses = [500, 302, 200]
    sender = messenger(database, receiver.url())
    for sent in (1, 2, 3):
        assert sender.send_next()
        assert len(receiver.came) == sent, "a redirect is not followed"
        assert not sender.send_next(), "not before its time"
        make_due(database)
    assert kept(database) == 0
    first, *others = [(headers["webhook-id"], body) for _, headers, body in receiver.came]
    assert others == [first, first], "receivers can tell that it is the same"
    assert len(receiver.verified()) == 3
    assert notices(database, ended) == []
    logged = "".join(capfd.readouterr())
    assert "the answer was 302" in logged
    assert "TOKEN" not in logged
    assert SECRET not in logged


@pytest.mark.parametrize(("status", "tried"), [(410, 0), (500, len(deliveries.PAUSES))])
def test_a_message_that_nobody_takes_is_given_up(
    database: Database, receiver: Receiver, ended: str, status: int, tried: int
) -> None:
    receiver.statuses = [status]
    with database.write() as session:
        session.execute(update(Delivery).values(tries=tried - (1 if tried else 0)))
    sender = messenger(database, receiver.url())
    sender.send_next()
    assert kept(database) == (1 if tried else 0)
    make_due(database)
    sender.send_next()
    assert (len(receiver.came), kept(database)) == (2 if tried else 1, 0)
    (notice,) = notices(database, ended)
    assert f"the answer was {status}, at attempt {tried + 1}" in notice


def test_only_one_sends_a_message_at_a_time(database: Database, ended: str) -> None:
    assert deliveries.take_due(database) is not None
    assert deliveries.take_due(database) is None
    make_due(database)  # whoever took it has died with it
    again = deliveries.take_due(database)
    assert again is not None
    assert (again.job_id, again.tries) == (ended, 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_messages_do_not_go_inside_unless_that_is_allowed(
    database: Database, receiver: Receiver, ended: str, host: str
) -> None:
    assert messenger(database, receiver.url(host), private=False).send_next()
    assert (receiver.came, kept(database)) == ([], 1)
    make_due(database)
    messenger(database, receiver.url(host)).send_next()
    assert (len(receiver.came), kept(database)) == (1, 0)


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    database: Database, receiver: Receiver, ended: str
) -> None:
    asked = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    messenger(database, receiver.url("hooks.example"), resolve=resolve).send_next()
    assert asked == ["hooks.example"]
    assert receiver.came[0][1]["Host"] == f"hooks.example:{receiver.port}"


def test_whoever_answers_drop_by_drop_is_not_waited_for(
    database: Database, receiver: Receiver, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 0.3)
    receiver.drip = True
    assert messenger(database, receiver.url()).send_next()
    assert kept(database) == 1


INSIDE = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255"
INSIDE += (
    " ::1 :: fe80::1 fc00::1 fec0::1 ff02::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::a00:1 ::7f00:1"
)


@pytest.mark.parametrize("address", INSIDE.split())
def test_an_address_inside_is_not_gone_to(address: str) -> None:
    assert not is_allowed(ip_address(address))
    many = ip_address(address).is_multicast or ip_address(address).is_unspecified or address.startswith("255")
    assert is_allowed(ip_address(address), private=True) == (not many)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_outside_is_gone_to(address: str) -> None:
    assert is_allowed(ip_address(address))


def test_a_name_with_one_address_inside_is_not_gone_to() -> None:
    entries = [(0, 0, 0, "", (address, 443)) for address in ("8.8.8.8", "192.168.1.1")]
    with pytest.raises(ForbiddenAddress, match="PRUNEYARD_WEBHOOK_PRIVATE"):
        look_up("hooks.example", 443, private=False, resolve=lambda *_, **__: entries)


def test_without_an_address_nothing_is_kept_to_be_told(settings: Settings, database: Database, ended: str) -> None:
    assert kept(database) == 1
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        assert kept(database) == 0
        job_id = api.post("/v1/jobs", json=JOB).json()["id"]
        api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    assert kept(database) == 0


@pytest.mark.parametrize(
    ("url", "secret", "word"),
    [
        ("https://example.org/", None, "PRUNEYARD_WEBHOOK_SECRET"),
        ("https://example.org/", "whsec_c2hvcnQ=", "PRUNEYARD_WEBHOOK_SECRET"),
        ("https://example.org/", SECRET.removeprefix("whsec_"), "PRUNEYARD_WEBHOOK_SECRET"),
        ("https://example.org/", "whsec_?", "PRUNEYARD_WEBHOOK_SECRET"),
        ("ftp://example.org/", SECRET, "PRUNEYARD_WEBHOOK_URL"),
        ("https://me:HIDDEN@example.org/", SECRET, "PRUNEYARD_WEBHOOK_URL"),
        ("https://", SECRET, "PRUNEYARD_WEBHOOK_URL"),
        ("https://example.org/\r", SECRET, "PRUNEYARD_WEBHOOK_URL"),
        (" https://example.org/", SECRET, "PRUNEYARD_WEBHOOK_URL"),
        ("https://example.org:HIDDEN/", SECRET, "PRUNEYARD_WEBHOOK_URL"),
    ],
)
def test_settings_that_tell_nobody_are_refused(url: str, secret: str | None, word: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(webhook_url=SecretStr(url), webhook_secret=None if secret is None else SecretStr(secret))
    (problem,) = refused.value.errors(include_input=False)
    assert f"{word} is not" in problem["msg"]
    assert "HIDDEN" not in problem["msg"]
