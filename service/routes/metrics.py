"""The figures of this process, for Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.house import TheHouse
from service.metrics import Metrics

router = APIRouter(tags=["health"])
TEXT = {"text/plain": {"schema": {"type": "string"}}}


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


TheMetrics = Annotated[Metrics, Depends(_metrics)]


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses={200: {"content": TEXT}})
async def get_metrics(house: TheHouse, metrics: TheMetrics) -> Response:
    """Requests, models, the cache, jobs, workers and the process, in Prometheus' text format.

    When the database cannot tell of jobs and workers, their series are left out and `pruneyard_scrape_errors_total`
    rises.
    """
    return Response(await metrics.scrape(house), media_type=CONTENT_TYPE_PLAIN_0_0_4)
