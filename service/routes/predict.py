"""Predictions from any published model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from formats.images import MEDIA_TYPES
from service import examples
from service.house import TheHouse
from service.schemas import Predictions
from service.uploads import RAW, Base64Images, read_upload

router = APIRouter(prefix="/v1/models", tags=["predictions"])

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


@router.post(
    "/{reference}/predict",
    summary="Predict the classes of images",
    response_model=Predictions,
    openapi_extra=BODY,
)
async def predict(
    reference: str,
    request: Request,
    house: TheHouse,
    top_k: Annotated[int, Query(ge=1, le=1000, description="How many classes to name for each image.")] = 5,
) -> JSONResponse:
    """The body: the bytes of one image file, a form with several, JSON with base64, or raw pixels.

    Raw pixels are uint8, `application/octet-stream`, with their shape in `X-Shape: count,height,width,channels`.
    """
    upload = await read_upload(request)
    predictor = house.predictor
    model = await predictor.model(reference)
    if upload.pixels is None:
        images = await predictor.decode(model, upload.files, *upload.path)
    else:
        images = await predictor.fit(model, upload.pixels)
    answers = await predictor.predict(model, images, top_k=top_k)
    return JSONResponse({"model": model.manifest.id, "predictions": answers})
