"""The app: wires guards, errors and routes. Nothing is built at import time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from inference.devices import GPU, Device
from service.guards import guarded
from service.house import open_house
from service.metrics import Metrics
from service.observation import Observation
from service.pressure import watched
from service.problems import MEDIA_TYPE, add_problem_handlers
from service.quick import QuickPaths
from service.routes import (
    aliases,
    catalogue,
    datasets,
    evaluation,
    events,
    explain,
    exports,
    families,
    health,
    inference_protocol,
    jobs,
    loading,
    metrics,
    models,
    predict,
    records,
    reports,
)
from service.schemas import Problem
from specs.settings import Settings

DESCRIPTION = """
Train, prune and serve image classifiers on the machine you already have.

1. `POST /v1/jobs` with `{"kind": "train", "dataset": "digits", "architecture": "resnet18"}`; a worker trains it.
2. `GET /v1/jobs/{id}` until `status` is `succeeded`; its `result.model` is the model's id.
3. `POST /v1/jobs` with `{"kind": "prune", "model": "mdl_...", "sparsity": 0.9}` makes a smaller one.
4. `POST /v1/models/{reference}/predict` with the bytes of an image answers with classes and probabilities.

Your own images: `POST /v1/datasets` with `{"name": "cats"}`, then `PUT /v1/datasets/{id}/content` with a zip of
folders, one for each class. Once its `status` is `ready`, name it as `dataset` of a job.

Clients of Triton and KServe find the models under `/v2`.

Every error is `application/problem+json`; `errors` names the field and the fix. Below `/v2` it is `{"error": "..."}`.
"""
# In the order in which a request is held against them: the hot path first.
ROUTERS = (
    predict.router,
    inference_protocol.router,
    families.router,
    loading.router,
    explain.router,
    jobs.router,
    records.router,
    events.router,
    models.router,
    evaluation.router,
    reports.router,
    exports.router,
    aliases.router,
    catalogue.router,
    datasets.router,
)
# In the order of the docs page.
TAGS = [
    {"name": name}
    for name in ("jobs", "models", "predictions", inference_protocol.TAG, "datasets", "catalogue", "health")
]
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": "What is wrong, and the fix."},
    "5XX": {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": "What is wrong here."},
}


@cache
def _routes(*, keyed: bool) -> tuple[BaseRoute, ...]:
    """All routes. Kept, since what each of them takes is found out at an app's first request, for a tenth of a second.

    A key is shown on the docs page, with a field to enter it; the guards are what asks for it.
    """
    scheme = HTTPBearer(auto_error=False, scheme_name="API key", description="The value of PRUNEYARD_API_KEY.")
    described = [Security(scheme)] if keyed else []
    app = FastAPI(responses=ERRORS, openapi_url=None)
    for router in ROUTERS:
        app.include_router(router, dependencies=described)
    app.include_router(health.router)
    app.include_router(metrics.router, dependencies=described)
    return tuple(app.routes)


def create_app(settings: Settings, *, graphics: Device = GPU) -> FastAPI:
    """The API over one data folder; `graphics` are what models may be served on beside the CPU."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_house(settings, graphics) as house:
            app.state.house = house
            async with watched(app.state.metrics.traffic, settings):
                yield

    app = FastAPIOffline(
        title="Pruneyard",
        version=version("pruneyard"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # A tenth of a small request went into spans that nobody collects.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        redoc_url=None,
        # A redirect tells a client of the inference protocol nothing: to it, whatever is not 200 is an error.
        redirect_slashes=False,
        openapi_tags=TAGS,
    )
    add_problem_handlers(app)
    app.routes.extend(_routes(keyed=settings.api_key is not None))
    app.state.metrics = Metrics()
    app.middleware_stack = _guarded(app, settings)
    return app


def _guarded(app: FastAPI, settings: Settings) -> ASGIApp:
    """What a request goes through: it is counted, held against the guards, and answered by a quick route or the app."""
    quick = [*predict.quick_paths(), *inference_protocol.quick_paths()]
    answering = QuickPaths(app.build_middleware_stack(), routes=quick, handlers=app.exception_handlers)
    traffic = app.state.metrics.traffic
    return Observation(guarded(answering, settings), traffic=traffic, access_log=settings.access_log)
