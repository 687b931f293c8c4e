"""Routes for requests that come by the thousand: what the framework does for each takes as long as a small network."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from service import deadlines


class QuickRoute(APIRoute):
    """A route whose function is given the request alone, and has as long as the request says.

    The framework works out anew for each request what a function wants. What it wants is declared all the same, for
    the docs page, with defaults.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
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


def shortcuts(routes: Iterable[BaseRoute]) -> list[Route]:
    """Quick routes without the layers that the framework puts around each; they come before all others."""
    return [
        Route(route.path, route.get_route_handler(), methods=route.methods, include_in_schema=False)
        for route in routes
        if isinstance(route, QuickRoute)
    ]
