"""Errors as RFC 9457 problem details: the only place that knows which error has which status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from formats.files import DamagedFiles
from formats.images import BadImage
from inference.answers import NonFiniteLogits
from inference.batching import BatcherClosed, QueueFull, TooManyImages
from inference.models import GoldenMismatch
from inference.runtimes import CannotRun
from specs.problems import FieldProblem, field_problems, pointer
from specs.registry import UnknownName
from store import errors as store
from store.uploads import WrongOffset

MEDIA_TYPE = "application/problem+json"
BODY = "body"
PROTOCOL_PATH = re.compile(r"/v2(/|$)")
SOME_FIELDS = "Some fields are not valid; `errors` says which and how to mend them."

log = structlog.get_logger()


class BadFields(Exception):
    """Fields that are not valid; `more` are members of the answer beside the usual ones."""

    def __init__(self, message: str, problems: list[FieldProblem]) -> None:
        super().__init__(message)
        self.problems = problems
        self.more: dict[str, Any] = {}


class BadField(BadFields):
    """A field that is well formed but does not fit what is there; `path` leads to it in the body."""

    def __init__(self, *path: str | int, message: str, hint: str) -> None:
        super().__init__(message, [{"pointer": pointer(path), "message": message, "hint": hint}])


class NotReady(Exception):
    """What is asked for will be there, but is not yet."""


class DeadlinePassed(Exception):
    """The time that a request gave its answer is over."""


class ImageProblem(Exception):
    """One image of a request cannot be used."""

    def __init__(self, error: BadImage, *path: str | int) -> None:
        super().__init__(str(error))
        self.error = error
        self.path = path


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem+json response; `type` is about:blank, so `title` is the status's own phrase (RFC 9457, 4.2.1)."""
    phrase = HTTP_PHRASES.get(status, "Error")
    content = {"type": "about:blank", "title": phrase, "status": status, "detail": detail, "errors": list(errors)}
    return ProblemResponse(content | more, status_code=status, headers=dict(headers or {}))


class ProblemResponse(JSONResponse):
    """Speaks as the path does: below /v2 an error is `{"error": "..."}`, elsewhere problem+json.

    Decided when it is sent, which is the one place that every error passes, those of the guards included.
    """

    media_type = MEDIA_TYPE

    def __init__(self, content: dict[str, Any], *, status_code: int, headers: dict[str, str]) -> None:
        super().__init__(content, status_code=status_code, headers=headers)
        self._sentence = _in_a_sentence(content)
        self._given_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not PROTOCOL_PATH.match(scope["path"]):
            await super().__call__(scope, receive, send)
            return
        content = {"error": self._sentence}
        await JSONResponse(content, self.status_code, self._given_headers)(scope, receive, send)


def _in_a_sentence(content: Mapping[str, Any]) -> str:
    """What is wrong, without structure: the fields with their fixes if there are any, else the detail."""
    fields = (f"{error['pointer']}: {error['message']} {error['hint']}" for error in content["errors"])
    return " ".join(fields) or str(content["detail"])


def add_problem_handlers(app: FastAPI) -> None:
    """Makes every error of the app a problem+json response."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(BadFields, _bad_fields)
    app.add_exception_handler(UnicodeEncodeError, _not_unicode)
    app.add_exception_handler(ImageProblem, _bad_image)
    app.add_exception_handler(QueueFull, _queue_full)
    app.add_exception_handler(WrongOffset, _wrong_offset)
    for kind, (status, headers) in STATUSES.items():
        app.add_exception_handler(kind, _sentence(status, headers))
    app.add_exception_handler(Exception, _unexpected)


RETRY = {"Retry-After": "1"}
STATUSES: dict[type[Exception], tuple[int, dict[str, str]]] = {
    store.NotFound: (404, {}),
    store.Conflict: (409, {}),
    store.KeyReused: (422, {}),
    store.Unstorable: (422, {}),
    store.StoreBusy: (503, RETRY),
    store.StorageFull: (507, {}),
    store.StorageFault: (503, RETRY),
    NotReady: (409, {}),
    DeadlinePassed: (504, {}),
    # Nobody is there to be answered.
    ClientDisconnect: (400, {}),
    UnknownName: (404, {}),
    BatcherClosed: (503, RETRY),
    DamagedFiles: (503, {}),
    GoldenMismatch: (503, {}),
    CannotRun: (503, {}),
    NonFiniteLogits: (503, {}),
    TooManyImages: (413, {}),
}


def _sentence(status: int, headers: dict[str, str]) -> Any:
    def handle(_request: Request, error: Exception) -> Response:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            log.warning("not available", error=str(error))
        return problem(status, str(error), headers=headers)

    return handle


HTTP_PHRASES = {status.value: status.phrase for status in HTTPStatus}
PARSING = "There was an error parsing the body"
HINTS = {
    400: "The body could not be parsed. Send one valid JSON value in UTF-8, not nested too deep.",
    404: "There is nothing at this address. The addresses are listed under /docs.",
    405: "This address does not take this method. The methods are listed under /docs.",
}


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # The framework's own words say no more than the status does.
    own = error.detail not in {HTTP_PHRASES.get(error.status_code), PARSING}
    detail = str(error.detail) if own else HINTS.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of this path; the framework names those of the first one only."""
    paths: dict[str, Any] = request.app.openapi()["paths"]
    patterns = {re.sub(r"{[^}]*}", "[^/]+", path): set(methods) for path, methods in paths.items()}
    found = {
        method.upper()
        for pattern, methods in patterns.items()
        for method in methods
        if re.fullmatch(pattern, request.scope["path"])
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set())) or ["GET", "HEAD"]


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes) and error.body and not _is_json(request):
        return problem(415, "The body is JSON, so say so: send the header `Content-Type: application/json`.")
    in_body = [{**item, "loc": item["loc"][1:]} for item in error.errors() if item["loc"][:1] == (BODY,)]
    problems = field_problems(in_body, error.body)
    problems += [_outside_body(item) for item in error.errors() if item["loc"][:1] != (BODY,)]
    return problem(422, SOME_FIELDS, errors=problems)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _outside_body(error: Any) -> FieldProblem:
    """A bad parameter of the path, the query or the headers, shown as `query:limit`."""
    place, *path = error["loc"]
    found = field_problems([{**error, "loc": ()}], None)[0]
    if path == ["cursor"]:
        found = {**found, "message": "This is no cursor.", "hint": "Take `next_cursor` of the page before."}
    return {**found, "pointer": f"{place}:{'.'.join(str(part) for part in path)}"}


def _not_unicode(_request: Request, _error: Exception) -> Response:
    """JSON can spell half a character (a lone surrogate), which is no text."""
    return problem(400, "The body holds text that is not valid Unicode.")


def _bad_fields(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadFields)
    return problem(422, str(error), errors=error.problems, **error.more)


def _bad_image(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ImageProblem)
    found: FieldProblem = {"pointer": pointer(error.path), "message": str(error), "hint": error.error.hint}
    status = 415 if error.error.reason == "format_not_allowed" else 422
    return problem(status, str(error), errors=[found], reason=error.error.reason)


def _queue_full(_request: Request, error: Exception) -> Response:
    assert isinstance(error, QueueFull)
    seconds = str(max(1, round(error.retry_after)))
    return problem(429, "Too many images wait for this model.", headers={"Retry-After": seconds})


def _wrong_offset(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WrongOffset)
    return problem(409, str(error), received=error.received)


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", method=request.method, path=request.url.path, kind=type(error).__name__)
    return problem(500, "Something went wrong here. It is in the log of the service.")
