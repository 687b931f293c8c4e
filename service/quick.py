"""Routes for requests that come by the thousand: what the framework does for each takes as long as a small network."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import deadlines

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class QuickRoute(APIRoute):
    """A route whose function is given the request alone, and has as long as the request says.

    The framework works out anew for each request what a function wants. What it wants is declared all the same, for
    the docs page, with defaults.
    """

    def get_route_handler(self) -> Endpoint:
        async def handle(request: Request) -> Response:
            request.scope["route"] = self  # whose template figures and logs tell
            if deadlines.HEADER not in request.headers:
                return await self._answer(request)
            async with deadlines.deadline(request):
                return await self._answer(request)

        return handle

    async def _answer(self, request: Request) -> Response:
        response: Response = await self.endpoint(request)
        return response


class QuickPaths:
    """Answers requests for quick routes before the framework, past all layers that it has for any route.

    All else goes on to the framework, and so does a quick route below a path that a proxy puts before it. What nobody
    expected is answered and raised, as the framework does it, for the server to log.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[Route], handlers: Mapping[Any, Any]) -> None:
        self.app = app
        self._routes = tuple(routes)
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope)
        if route is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            response, expected = self._problem(request, error)
            if not expected:
                await response(scope, receive, send)
                raise
            # Its traceback holds the body, and is held by a future that it holds: until garbage is looked for.
            error.__traceback__ = error.__context__ = error.__cause__ = None
        finally:
            scope["route"] = route  # whose template figures and logs tell
        await response(scope, receive, send)

    def _route(self, scope: Scope) -> Route | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return None
        path = scope["path"]
        for route in self._routes:
            match = route.path_regex.match(path)
            if match is not None:
                scope["path_params"] = match.groupdict()
                return route
        return None

    def _problem(self, request: Request, error: Exception) -> tuple[Response, bool]:
        """What the handler of the nearest class makes of an error, and whether it is one for errors of this kind."""
        kind = next(kind for kind in type(error).__mro__ if kind in self._handlers)
        return self._handlers[kind](request, error), kind is not Exception


def quick_routes(routes: Iterable[BaseRoute], *, prefix: str = "") -> Iterator[Route]:
    """The quick ones among routes, for `QuickPaths`."""
    for route in routes:
        if isinstance(route, QuickRoute):
            yield Route(prefix + route.path, route.get_route_handler(), methods=route.methods, include_in_schema=False)
