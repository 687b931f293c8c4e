"""Predictions from any published model."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from formats.images import MEDIA_TYPES
from inference.answers import AnswerRule, coverage_note
from inference.models import LoadedModel
from service import deadlines, examples
from service.house import house_of
from service.predictor import QUICK_ANSWERS, Predictor
from service.quick import QuickRoute, quick_routes
from service.schemas import Predictions
from service.uploads import RAW, Base64Images, Upload, read_upload

BINARY = {"schema": {"type": "string", "format": "binary"}}
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"image": FILES}}}
JSON_BODY = {"schema": Base64Images.model_json_schema(), "example": {"images": [examples.PNG_BASE64]}}
SHAPE = {
    "name": "X-Shape",
    "in": "header",
    "description": f"Of raw pixels ({RAW}): count,height,width,channels.",
    "schema": {"type": "string"},
    "example": "1,8,8,1",
}
REFERENCE = {
    "name": "reference",
    "in": "path",
    "required": True,
    "description": "Id, alias or name.",
    "schema": {"type": "string"},
}
BODY: dict[str, Any] = {
    "parameters": [SHAPE],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": JSON_BODY,
            **dict.fromkeys(MEDIA_TYPES, BINARY),
            "multipart/form-data": FORM,
            RAW: BINARY,
        },
    },
}

# What the framework learns from a function's arguments, and does not learn here.
PREDICTION = {**BODY, "parameters": [REFERENCE, SHAPE, deadlines.PARAMETER]}


class PredictQuery(BaseModel):
    """What a prediction can be asked for in the address."""

    model_config = ConfigDict(frozen=True)

    top_k: Annotated[int, Query(ge=1, le=1000, description="How many classes to name for each image.")] = 5
    threshold: Annotated[
        float | None,
        Query(ge=0, le=1, allow_inf_nan=False, description="Name only classes that are so probable, and the best one."),
    ] = None
    coverage: Annotated[
        float | None,
        Query(
            ge=0.5,
            lt=1,
            allow_inf_nan=False,
            description="Give each prediction a `label_set` that holds the right label so often.",
        ),
    ] = None

    @property
    def rule(self) -> AnswerRule:
        """What is told of each image."""
        return AnswerRule(self.top_k, self.threshold or 0.0, self.coverage)


USUAL = PredictQuery()


def query_of(request: Request) -> PredictQuery:
    """The query of a request; RequestValidationError as the framework would raise it."""
    if not request.scope["query_string"]:
        return USUAL
    try:
        return PredictQuery.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("query", *each["loc"])} for each in error.errors()]) from None


router = APIRouter(prefix="/v1/models", tags=["predictions"], route_class=QuickRoute)


@router.post(
    "/{reference}/predict",
    summary="Predict the classes of images",
    response_model=Predictions,
    openapi_extra=PREDICTION,
)
async def predict(request: Request, _query: Annotated[PredictQuery, Query()] = USUAL) -> Response:
    """The body: the bytes of one image file, a form with several, JSON with base64, or raw pixels.

    Raw pixels are uint8, `application/octet-stream`, with their shape in `X-Shape: count,height,width,channels`.
    """
    query, reference = query_of(request), request.path_params["reference"]
    upload = await read_upload(request)
    return await respond(await answer_upload(house_of(request).predictor, reference, upload, query))


def quick_paths() -> list[Route]:
    """What is answered past the framework's layers."""
    return list(quick_routes(router.routes))


async def respond(answer: dict[str, Any]) -> Response:
    """Predictions as they are sent; of many classes they are written in a thread."""
    found = answer["predictions"]
    if sum(len(each["top"]) + len(each.get("label_set", ())) for each in found) <= QUICK_ANSWERS:
        return JSONResponse(answer)
    return Response(await run_in_threadpool(_written, answer), media_type="application/json")


def _written(answer: dict[str, Any]) -> bytes:
    """As `JSONResponse` writes it, but image by image: other threads have no turn within one."""
    predictions = ",".join([_json(each) for each in answer["predictions"]])
    others = {key: value for key, value in answer.items() if key != "predictions"}
    return f'{_json(others)[:-1]},"predictions":[{predictions}]}}'.encode()


_json = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def answer_upload(predictor: Predictor, reference: str, upload: Upload, query: PredictQuery) -> dict[str, Any]:
    """What the model behind a reference says of the images of a request, as it is sent."""
    return await predictor.follow(reference, lambda model_id: _answer(predictor, model_id, upload, query))


async def _answer(predictor: Predictor, model_id: str, upload: Upload, query: PredictQuery) -> dict[str, Any]:
    model = await predictor.loaded(model_id)
    counts = predictor.statistics(model.manifest.id)
    with counts.request():
        started = time.perf_counter()
        if upload.pixels is None:
            images = await predictor.decode(model, upload.files, *upload.path)
        else:
            images = await predictor.fit(model, upload.pixels)
        counts.count_input(len(images), time.perf_counter() - started)
        found = await predictor.predict(model, images, query.rule)
    return {"model": model.manifest.id, "predictions": found, **_coverage(model, query.coverage)}


def _coverage(model: LoadedModel, coverage: float | None) -> dict[str, Any]:
    """What the response says of the label sets in it, if any were asked for."""
    if coverage is None:
        return {}
    note = coverage_note(model.manifest, coverage)
    return {"coverage": coverage, **({} if note is None else {"coverage_note": note})}
