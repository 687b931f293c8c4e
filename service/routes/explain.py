"""Where in an image a model sees a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service import deadlines
from service.explainer import Method, Question
from service.heatmap import LARGEST_SIDE, LEAST_SIDE, USUAL_SIDE
from service.house import House, TheHouse
from service.problems import SOME_FIELDS, BadField, BadFields
from service.routes.predict import BODY
from service.uploads import Upload, read_upload

router = APIRouter(prefix="/v1/models", tags=["predictions"])

PNG = "image/png"
HEADERS = {
    "X-Label": ("The class that is explained, percent-encoded UTF-8.", "7"),
    "X-Probability": ("How probable it is.", "0.98"),
    "X-Method": ("`cam` or `occlusion`.", "cam"),
}
ANSWER: dict[int | str, Any] = {
    200: {
        "description": "The map, as a picture.",
        "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            name: {"description": text, "schema": {"type": "string"}, "example": example}
            for name, (text, example) in HEADERS.items()
        },
    }
}


@router.post(
    "/{reference}/explain",
    summary="Show where in an image a class is seen",
    response_class=Response,
    responses=ANSWER,
    openapi_extra=BODY | {"parameters": [*BODY["parameters"], deadlines.PARAMETER]},
)
async def explain(
    reference: str,
    request: Request,
    house: TheHouse,
    *,
    wanted: Annotated[
        str | None,
        Query(
            alias="class",
            max_length=1000,
            description="A label, or the index of one; without it the most probable class is explained.",
            openapi_examples={"the most probable": {"value": None}, "a label or index": {"value": "7"}},
        ),
    ] = None,
    method: Annotated[
        Method, Query(description="`cam` reads the network's own features, `occlusion` covers one place after another.")
    ] = "auto",
    overlay: Annotated[bool, Query(description="Over the image, in colours; else the map alone, in grey.")] = True,
    size: Annotated[
        int | None,
        Query(
            ge=16,
            le=LARGEST_SIDE,
            description="Of the picture's longer side, in pixels; without it the image's own, but not under "
            f"{LEAST_SIDE} or over {USUAL_SIDE}.",
        ),
    ] = None,
) -> Response:
    """The body is one image, in any form that predict takes. The light places speak for the class.

    `auto` takes the class activation map where the network ends in global average pooling and one linear layer, and
    has three places or more along a side there; else it covers the image place by place and tells what that takes.
    """
    question = Question(None, method, size, overlay)
    async with deadlines.deadline(request):
        upload = _one_image(await read_upload(request))
        return await house.predictor.follow(
            reference, lambda model_id: _explained(house, model_id, upload, wanted, question)
        )


async def _explained(house: House, model_id: str, upload: Upload, wanted: str | None, question: Question) -> Response:
    predictor = house.predictor
    model = await predictor.loaded(model_id)
    question = replace(question, index=_index(model.manifest.classes, wanted))
    if upload.pixels is None:
        images = await predictor.decode(model, upload.files, *upload.path)
    else:
        images = await predictor.fit(model, upload.pixels)
    explanation, picture = await house.explainer.draw(model, images[0], upload, question)
    headers = {
        "X-Label": quote(model.manifest.classes[explanation.index], safe="", errors="replace"),
        "X-Probability": repr(explanation.probability),
        "X-Method": explanation.method,
    }
    return Response(picture, media_type=PNG, headers=headers)


def _one_image(upload: Upload) -> Upload:
    count = len(upload.files) if upload.pixels is None else len(upload.pixels)
    if count != 1:
        raise BadField(*upload.path, message="A request explains one image.", hint="Send each in a request of its own.")
    return upload


def _index(classes: Sequence[str], wanted: str | None) -> int | None:
    """The number of a class by its label or, where no label is so, by that number."""
    if wanted is None:
        return None
    if wanted in classes:
        return classes.index(wanted)
    if re.fullmatch(r"[0-9]{1,9}", wanted) and int(wanted) < len(classes):
        return int(wanted)
    hint = "GET /v1/models/{reference} lists the labels; an index counts from 0."
    raise BadFields(SOME_FIELDS, [{"pointer": "query:class", "message": "The model has no such class.", "hint": hint}])
