"""How smaller models compare: with their parents one by one, and with their whole family."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import Field

from service.charts import MEDIA_TYPE, SAFE
from service.house import TheDatabase
from service.pareto import Contestant, contestants, front
from service.pareto_picture import picture
from service.report_page import page
from service.schemas import Schema
from store import models
from store.errors import NotFound

router = APIRouter(prefix="/v1", tags=["models"])


class Report(Schema):
    """What a pruned model lost and gained against its parent, measured when it was made."""

    model: str
    parent: str | None
    dense_epoch: int | None = Field(
        default=None,
        description="Of a model whose weights were cut while it trained, which has no parent: it is held against "
        "itself as it was after this epoch, before the first cut. Null for all others.",
    )
    verdict: Literal["faster", "smaller_only", "not_faster", "too_costly"]
    reason: str
    accuracy: dict[str, Any] = Field(
        description="For `validation` and `test`: `before`, `after_cut` without retraining (null where the cut was "
        "made in rounds), `after`, and the `difference` with its interval at 95 %, paired by image."
    )
    calibration_error: dict[str, float | None] = Field(
        description="Expected calibration error on the test images, without temperatures."
    )
    calibration: dict[str, Any] | None = Field(
        default=None,
        description="`before` and `after` on the test images: `temperature`, expected calibration error without it and "
        "with it, and for two coverages how often label sets held the label and how many labels they had. Null "
        "in reports of before there was calibration.",
    )
    classes: list[dict[str, Any]] = Field(description="Those that lost most on the test images, worst first.")
    sizes: dict[str, dict[str, int | None]] = Field(description="`before` and `after`, of the parent and of the model.")
    latency: list[dict[str, Any]] = Field(
        description="For each size of a batch: milliseconds of both, measured in turn, and how many times as fast the "
        "model is: the median of pairs, with its interval at 95 %."
    )
    vnni: bool | None = Field(
        default=None,
        description="Whether the processor that this was measured on multiplies 8-bit integers four at a time (VNNI), "
        "by which models of integers gain most. Null in reports of before this was noted.",
    )
    layers: list[dict[str, Any]] = Field(description="Shape of the weights before and after, and the share of zeros.")


@router.get(
    "/models/{reference}/report",
    summary="What a pruned model lost and gained",
    response_model=Report,
    responses={200: {"content": {"text/html": {}}}},
)
def get_report(reference: str, request: Request, database: TheDatabase) -> Report | Response:
    """With `Accept: text/html`, as browsers send it, a page.

    404 for a model that was neither made out of another nor cut while it trained.
    """
    with database.read() as session:
        row = models.find_model(session, reference)
        if row.report is None:
            why = "it was neither made out of another model nor cut while it trained, or before there were reports"
            raise NotFound("report", f"model: {why}")
        report = Report(model=row.id, parent=row.parent, **row.report)
        name = row.name
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(page(name, report.model_dump()), headers=SAFE)
    return report


class Pareto(Schema):
    """A model and all that was made out of it."""

    family: str
    items: list[Contestant]
    front: list[str] = Field(
        description="The best choices: ids of those to which no other is as good in everything and better in something."
    )


@router.get(
    "/families/{family}/pareto",
    summary="A model and its descendants: accuracy against latency and bytes",
    response_model=Pareto,
    responses={200: {"content": {MEDIA_TYPE: {}}}},
)
def get_pareto(
    family: str, database: TheDatabase, form: Annotated[Literal["json", "svg"], Query(alias="format")] = "json"
) -> Pareto | Response:
    """`?format=svg` draws it. Each was timed when it was published: the report of a model has both at once."""
    with database.read() as session:
        items = contestants(models.list_family(session, family))
    if not items:
        raise NotFound("family")
    best = front(items)
    if form == "svg":
        return Response(picture(items, best), media_type=MEDIA_TYPE, headers=SAFE)
    return Pareto(family=family, items=items, front=best)
