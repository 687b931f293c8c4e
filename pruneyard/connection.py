"""HTTP to one service: where it is, what is tried again, and errors as sentences."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Self, cast

import httpx

from pruneyard.answers import FieldProblem
from pruneyard.errors import AWAY, ApiError, Away, NotReachable, PruneyardError

ATTEMPTS = 4
FIRST_DELAY = 0.1
LONGEST_RETRY_AFTER = 10.0

# The request may have arrived, so only what can safely be sent twice is sent again. Timeouts are
# not here: the service already had all the time the caller wanted to give.
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class Connection:
    """A keep-alive HTTP client that retries what is safe to retry."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 30.0) -> None:
        self.url = _checked_url(url)
        headers = {b"User-Agent": b"pruneyard"}
        if api_key:
            headers[b"Authorization"] = b"Bearer " + _checked_key(api_key)
        # A proxy from the environment cannot reach this machine's own loopback.
        self.http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, trust_env=not is_loopback(httpx.URL(self.url).host)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at a path; parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return self.request("GET", path, repeat=True, params=given)

    def items(self, path: str, **params: Any) -> Iterator[Any]:
        """The items of a list, page after page."""
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **params)
            yield from page["items"]
            before, cursor = cursor, page.get("next_cursor")
            if cursor is None or cursor == before:
                return

    def request(self, method: str, path: str, *, repeat: bool, **options: Any) -> Any:
        """The JSON of an answer, or None when it has no body; raises ApiError, NotReachable.

        `repeat` says that the request may arrive twice without harm.
        """
        return content_of(checked(self.send(method, path, repeat=repeat, **options)))

    def send(self, method: str, path: str, *, repeat: bool, **options: Any) -> httpx.Response:
        """The last answer after retries, whatever its status."""
        for delay in (FIRST_DELAY * 2**attempt for attempt in range(ATTEMPTS - 1)):
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError as error:
                if not _worth_repeating(error, repeat=repeat):
                    raise self.not_reachable(error) from error
            else:
                wanted = _worth_waiting(response) if repeat else None
                if wanted is None:
                    return response
                delay = max(delay, wanted)  # noqa: PLW2901
            time.sleep(delay)
        try:
            return self.http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self.not_reachable(error) from error

    def not_reachable(self, error: Exception) -> NotReachable:
        """The transport's error as ours."""
        timed_out = isinstance(error, httpx.TimeoutException)
        return NotReachable(self.url, "no answer in time" if timed_out else str(error) or type(error).__name__)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def checked(response: httpx.Response) -> httpx.Response:
    """The response, unless it is an error, which is raised as ApiError."""
    if response.is_success:
        return response
    problem = _problem(response)
    kind = Away if response.status_code in AWAY else ApiError
    raise kind(
        response.status_code,
        str(problem.get("title") or response.reason_phrase or "Error"),
        detail=str(problem.get("detail") or ""),
        errors=[cast(FieldProblem, error) for error in problem.get("errors") or () if isinstance(error, dict)],
        problem=problem,
        retry_after=_retry_after(response),
    )


def content_of(response: httpx.Response) -> Any:
    """The JSON of an answer, or None when it has no body."""
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        url = response.request.url
        raise PruneyardError(f"{url} answered, but not as a Pruneyard service does; is PRUNEYARD_URL right?") from None


def _checked_key(api_key: str) -> bytes:
    key = api_key.strip()
    if not key or any(ord(letter) < ord(" ") for letter in key):
        raise PruneyardError("The API key is blank or holds a line break; set PRUNEYARD_API_KEY to the service's own.")
    return key.encode()


def _checked_url(url: str) -> str:
    if "@" in url:
        raise PruneyardError("The URL of the service holds a user or a password; its key is PRUNEYARD_API_KEY.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PruneyardError(f"{url!r} is not a URL: {error}.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise PruneyardError(f"{url!r} is not the URL of a service; give one such as http://127.0.0.1:8000.")
    return url.rstrip("/")


def _worth_repeating(error: httpx.TransportError, *, repeat: bool) -> bool:
    return isinstance(error, httpx.ConnectError) or (repeat and isinstance(error, BROKEN))


def _worth_waiting(response: httpx.Response) -> float | None:
    """Seconds after which a busy service wants to be asked again, if they are few."""
    seconds = _retry_after(response)
    busy = response.status_code in {409, 429, 503}
    return seconds if busy and seconds is not None and seconds <= LONGEST_RETRY_AFTER else None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
