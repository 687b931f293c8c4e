"""Whether the service is alive and ready. These routes ask for no key."""

from __future__ import annotations

import shutil

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from service.house import House, TheHouse
from service.problems import problem
from service.schemas import Problem, Schema
from store.errors import StoreError

MIN_FREE_BYTES = 64 * 1024 * 1024

router = APIRouter(tags=["health"])


class Health(Schema):
    """The process answers."""

    status: str


class Readiness(Schema):
    """What was looked at, in words."""

    status: str
    checks: dict[str, str]


@router.get("/healthz", summary="Alive")
async def get_health() -> Health:
    return Health(status="alive")


@router.get("/readyz", summary="Ready for requests", responses={503: {"model": Problem}})
async def get_readiness(house: TheHouse) -> Response:
    """Ready when the database can be written and there is room on the disk.

    Without a worker the service is still ready, since it predicts and takes jobs; `checks` says that they wait.
    """
    checks, ready = await run_in_threadpool(check_readiness, house)
    if not ready:
        return problem(503, "The service is not ready; `checks` says why.", headers={"Retry-After": "1"}, checks=checks)
    return JSONResponse(Readiness(status="ready", checks=checks).model_dump())


def check_readiness(house: House) -> tuple[dict[str, str], bool]:
    """What was looked at, in words, and whether requests can be answered."""
    try:
        house.database.probe()
        workers = len(house.watch.alive())
    except StoreError as error:
        return {"database": str(error)}, False
    free = shutil.disk_usage(house.settings.home).free
    checks = {
        "database": "ok",
        "disk": "ok" if free >= MIN_FREE_BYTES else "less than 64 MiB are free",
        "workers": f"{workers} alive" if workers else "none: jobs wait until one starts",
    }
    return checks, free >= MIN_FREE_BYTES


@router.get("/", include_in_schema=False)
async def get_root() -> RedirectResponse:
    return RedirectResponse("docs")
