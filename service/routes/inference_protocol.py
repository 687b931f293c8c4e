"""The Open Inference Protocol v2: what clients of Triton and KServe speak. Success is always 200.

Each route of a model is there twice, with and without a version; there is one version of a model, "1".
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from inference.models import LoadedModel
from service.house import House, TheHouse, house_of
from service.protocol import bodies, schemas
from service.protocol.compression import (
    QUICK_BYTES,
    WORTH_COMPRESSING_BYTES,
    accepted_encoding,
    compress,
    read_body,
)
from service.protocol.documents import flag, object_at, read_object
from service.protocol.errors import FAILED_TO_LOAD, BadRequest, UnknownModel
from service.protocol.inputs import predict_logits
from service.protocol.metadata import model_config, model_metadata, server_metadata
from service.protocol.outputs import VERSION, Answer, write_answer
from service.protocol.requests import HEADER_LENGTH, InferRequest, read_request
from service.quick import QuickRoute, quick_routes
from service.routes.health import check_readiness
from service.uploads import MAX_IMAGES

TAG = "open inference protocol"
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schemas.Refusal, "description": "What is wrong, and the fix."},
    "5XX": {"model": schemas.Refusal, "description": "What is wrong here."},
}

# An answer of so many numbers is written at once; in a thread it would take longer.
QUICK_VALUES = 2048

ANY_VERSION = "/v2/models/{model}"
ONE_VERSION = ANY_VERSION + "/versions/{version}"

router = APIRouter(tags=[TAG], responses=REFUSALS)
models = APIRouter()
server = APIRouter(prefix="/v2")


async def _only_version(version: Annotated[str, Path(description='There is one: "1".')]) -> None:
    if version != VERSION:
        raise UnknownModel(f'there is only version "{VERSION}" of a model.')


def _max_images(house: House) -> int:
    return min(MAX_IMAGES, house.settings.max_queued_images)


quick = APIRouter(route_class=QuickRoute)


@quick.post("/infer", summary="Predict", response_model=schemas.InferAnswer, openapi_extra=bodies.described_infer())
async def infer(request: Request) -> Response:
    """One input, `images`: FP32 [N, C, H, W] as the network reads it, UINT8 [N, H, W, C] pixels of any size, or BYTES
    [N] image files (in JSON: base64). Outputs: `logits`, or by name `probabilities`, or classes by `classification`.

    Raw tensors may follow the JSON; the content type is not looked at. Bodies may be under gzip or deflate.
    """
    house, name = house_of(request), request.path_params["model"]
    await _only_version(request.path_params.get("version", VERSION))
    body = await read_body(request, limit=house.settings.max_body_bytes)
    model = await house.repository.model(name)
    with house.predictor.statistics(model.manifest.id).request():
        asked = await _read(body, request.headers.get(HEADER_LENGTH), _max_images(house))
        logits = await predict_logits(house, model, asked.tensor)
        answer = await _answer(house, name, model, asked, logits)
    return await _respond(answer, request.headers.get("accept-encoding", ""))


async def _answer(
    house: House, name: str, model: LoadedModel, asked: InferRequest, logits: NDArray[np.float32]
) -> Answer:
    started, model_id = time.perf_counter(), model.manifest.id
    head: dict[str, Any] = {"model_name": name, "model_version": VERSION, "parameters": {"model": model_id}}
    if asked.id is not None:
        head["id"] = asked.id
    write = partial(write_answer, head, asked.outputs, logits, model.manifest)
    quick = logits.size * len(asked.outputs) <= QUICK_VALUES
    answer = write() if quick else await run_in_threadpool(write)
    house.predictor.statistics(model_id).count_output(len(logits), time.perf_counter() - started)
    return answer


async def _read(body: bytes, header_length: str | None, max_images: int) -> InferRequest:
    if len(body) <= QUICK_BYTES:
        return read_request(body, header_length, max_images=max_images)
    return await run_in_threadpool(read_request, body, header_length, max_images=max_images)


async def _respond(answer: Answer, accepted: str) -> Response:
    headers, body = {}, answer.body
    if answer.json_length is not None:
        headers[HEADER_LENGTH] = str(answer.json_length)
    encoding = accepted_encoding(accepted) if len(body) >= WORTH_COMPRESSING_BYTES else None
    if encoding is not None:
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
        body = await compress(body, encoding)
    media_type = "application/json" if answer.json_length is None else "application/octet-stream"
    return Response(body, media_type=media_type, headers=headers)


@models.get("", summary="Metadata of a model")
async def get_model(model: str, house: TheHouse) -> schemas.ModelMetadata:
    metadata = model_metadata(model, await house.repository.model(model))
    return schemas.ModelMetadata.model_validate(metadata)


@models.get("/config", summary="Configuration of a model")
async def get_config(model: str, house: TheHouse) -> dict[str, Any]:
    """As Triton's ModelConfig. `parameters` say how an image becomes the input: (pixel / 255 - mean) / std."""
    return model_config(model, await house.repository.model(model), max_images=_max_images(house))


@models.get("/ready", summary="Whether a model is ready")
async def get_ready(model: str, house: TheHouse) -> schemas.ModelReadiness:
    """Brings the model into memory, unless it was unloaded: then it is not ready until something needs it again."""
    await house.repository.check_ready(model)
    return schemas.ModelReadiness(name=model, ready=True)


@models.get("/stats", summary="Statistics of a model")
async def get_model_statistics(model: str, house: TheHouse) -> schemas.Statistics:
    return schemas.Statistics(model_stats=await house.repository.statistics(model))


@router.get("/v2/models/stats", summary="Statistics of all models")
async def get_statistics(house: TheHouse) -> schemas.Statistics:
    return schemas.Statistics(model_stats=await house.repository.statistics())


@server.get("", summary="Metadata of the service")
async def get_server() -> schemas.ServerMetadata:
    return schemas.ServerMetadata.model_validate(server_metadata())


@server.get("/health/live", summary="Whether the service is alive")
async def get_live() -> schemas.Liveness:
    return schemas.Liveness(live=True)


@server.get("/health/ready", summary="Whether the service takes requests")
async def get_server_ready(house: TheHouse) -> schemas.Readiness:
    checks, ready = await run_in_threadpool(check_readiness, house)
    if not ready:
        found = ", ".join(f"{name}: {state}" for name, state in checks.items())
        raise BadRequest(f"The service is not ready: {found}.")  # the protocol's word for no is 4xx
    return schemas.Readiness(ready=True)


@server.post(
    "/repository/index", summary="All models", openapi_extra=bodies.described(bodies.INDEX_SCHEMA, bodies.INDEX)
)
async def get_index(request: Request, house: TheHouse) -> list[schemas.IndexEntry]:
    """A model is READY while it is in memory; the others are UNAVAILABLE until they are asked for."""
    asked = await _read_optional(request, house)
    entries = await house.repository.index(only_ready=flag(asked, "ready", default=False))
    return [schemas.IndexEntry.model_validate(entry) for entry in entries]


@server.post(
    "/repository/models/{model}/load",
    summary="Bring a model into memory",
    openapi_extra=bodies.described(bodies.REQUEST_SCHEMA, bodies.LOAD),
)
async def load(model: str, request: Request, house: TheHouse) -> Response:
    """The parameter `config` may hold the model's own configuration; another is refused. The answer is empty."""
    parameters = object_at(await _read_optional(request, house), "parameters", "parameters")
    config = parameters.get("config")
    if not isinstance(config, str | None) or any(name.startswith("file:") for name in parameters):
        raise BadRequest(f"{FAILED_TO_LOAD}: the one parameter is `config`, a JSON object as a string.")
    await house.repository.load(model, config, max_images=_max_images(house))
    return Response()


@server.post(
    "/repository/models/{model}/unload",
    summary="Take a model out of memory",
    openapi_extra=bodies.described(bodies.REQUEST_SCHEMA, bodies.UNLOAD),
)
async def unload(model: str, request: Request, house: TheHouse) -> Response:
    """Its `ready` says no until something needs it again, such as `load` or a prediction. The answer is empty."""
    parameters = object_at(await _read_optional(request, house), "parameters", "parameters")
    flag(parameters, "unload_dependents", default=False)  # no model has any
    await house.repository.unload(model)
    return Response()


async def _read_optional(request: Request, house: House) -> dict[str, Any]:
    """The object in the body; Triton's client sends none where there is nothing to say."""
    body = await read_body(request, limit=house.settings.max_body_bytes)
    return read_object(body) if body.strip() else {}


def quick_paths() -> list[Route]:
    """What is answered past the framework's layers."""
    return [*quick_routes(quick.routes, prefix=ANY_VERSION), *quick_routes(quick.routes, prefix=ONE_VERSION)]


# `/v2/models/stats`, which is no model, is there already.
for routes in (quick, models):
    router.include_router(routes, prefix=ANY_VERSION)
    router.include_router(routes, prefix=ONE_VERSION, dependencies=[Depends(_only_version)])
router.include_router(server)
