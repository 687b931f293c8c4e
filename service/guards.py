"""What every request must pass before it reaches a route: who asks, from where, and how much it sends.

Plain ASGI, and outermost, so that no route can be left open by forgetting a dependency.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
from functools import lru_cache
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import problem
from specs.settings import Settings, is_loopback

PUBLIC_PATHS: Final = frozenset({"/healthz", "/readyz"})
CONTENT_PATH: Final = re.compile(r"/v1/datasets/[^/]+/content")
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


class KeyGuard:
    """Asks for the API key, if one is set, on every path but those of health.

    `Authorization: Bearer KEY` everywhere. For reading, HTTP Basic with the key as password will do too, so that a
    browser can open the docs page; a browser sends such a header unasked, even for another site's page, so it is
    not taken where something changes.
    """

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self.app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS and not self._admits(scope):
            headers = {"WWW-Authenticate": 'Bearer realm="pruneyard", Basic realm="pruneyard"'}
            detail = "This service asks for its API key: send the header `Authorization: Bearer KEY`."
            await problem(401, detail, headers=headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, credentials = given[0].partition(b" ")
        if scheme.lower() == b"basic" and scope["method"] in SAFE_METHODS:
            credentials = _password(credentials)
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials.strip(), self._key)


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


class LocalGuard:
    """Without a key only this machine's own pages may ask: refuses other host names (DNS rebinding) and origins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_local(Headers(scope=scope)):
            detail = "Without PRUNEYARD_API_KEY this service answers only under a loopback name such as 127.0.0.1."
            await problem(403, detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_local(headers: Headers) -> bool:
    origin = headers.get("origin")
    return _is_local_host(headers.get("host", "")) and (origin is None or _is_local_host(origin.partition("://")[2]))


@lru_cache(maxsize=128)
def _is_local_host(host: str) -> bool:
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)


class TooLarge(HTTPException):
    """More bytes than a request may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body is larger than {limit} bytes; GET /v1/limits lists the limits.")


class TooSlow(HTTPException):
    """A body that did not come in time."""

    def __init__(self, seconds: float) -> None:
        detail = f"The body was not there within {seconds:g} seconds."
        super().__init__(408, detail, headers={"Connection": "close"})


class BodyGuard:
    """Refuses bodies that are too large, counted as they come in since a Content-Length is a promise only, or too slow.

    The content of data sets has limits of its own; its route sees to them.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_content(scope):
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            detail = str(TooLarge(self._max_bytes).detail)
            await problem(413, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        total = 0
        until: float | None = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal total, until
            if until is None:  # the body is there; what is waited for now is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(self._seconds) from None
            total += len(message.get("body", b""))
            if total > self._max_bytes:
                raise TooLarge(self._max_bytes)
            if not message.get("more_body", False):
                until = None
            return message

        return counted


def _is_content(scope: Scope) -> bool:
    return scope["method"] == "PUT" and CONTENT_PATH.fullmatch(scope["path"]) is not None


class HeadGuard:
    """Answers HEAD wherever GET is answered: the server leaves the body out by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._answer_as_get(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _answer_as_get(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = {**scope, "method": "GET"}
        try:
            await self.app(read, receive, send)
        finally:
            # For those outside, who count by route.
            scope["route"] = read.get("route")


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The app behind the guards that these settings ask for."""
    app = BodyGuard(HeadGuard(app), max_bytes=settings.max_body_bytes, seconds=settings.body_seconds)
    if settings.api_key is None:
        return LocalGuard(app)
    return KeyGuard(app, key=settings.api_key.get_secret_value().strip())
