"""Models to take away."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from inference.exporting import export
from service.house import House, TheHouse
from service.problems import BadField
from service.sources import source_of
from store import models

router = APIRouter(prefix="/v1/models", tags=["models"])
ZIP: dict[int | str, Any] = {200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}}

# Each archive is made anew and differs in its times: parts of two would be no archive.
RANGES = frozenset({b"range", b"if-range"})


class PassingFile(FileResponse):
    """A file that is sent whole, and is gone with its folder afterwards, sent or not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in RANGES]
        try:
            await super().__call__({**scope, "headers": headers}, receive, send)
        finally:
            await run_in_threadpool(shutil.rmtree, Path(self.path).parent, ignore_errors=True)


@router.get(
    "/{reference}/export",
    summary="Take a model away",
    response_class=FileResponse,
    responses=ZIP,
)
async def export_model(
    reference: str,
    house: TheHouse,
    form: Annotated[
        str, Query(alias="format", max_length=100, description="`onnx`, `openvino` or `safetensors`.")
    ] = "onnx",
) -> FileResponse:
    """A zip: the network, `preprocessing.json`, `labels.json`, `model.json`, and a program that predicts.

    It was held against the model's golden answers in the form that it has there. `safetensors` has the weights by the
    names of PyTorch's state dict and the network as a program of plain PyTorch; quantized models have none.
    """
    path, name = await run_in_threadpool(_export, house, reference, form)
    return PassingFile(path, headers={"Accept-Ranges": "none"}, media_type="application/zip", filename=name)


def _export(house: House, reference: str, form: str) -> tuple[Path, str]:
    with house.database.read() as session:
        row = models.find_model(session, reference)
    if row.kind == "quantized" and form == "safetensors":
        message = "A quantized model has no weights that PyTorch could compute with."
        raise BadField("format", message=message, hint="Take onnx or openvino, or its parent as safetensors.")
    scratch = house.artifacts.new_scratch()
    path = scratch / "model.zip"
    try:
        directory = house.artifacts.model(row.id)
        export(directory, form, path, source=partial(source_of, directory))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return path, f"{re.sub(r'[^A-Za-z0-9._-]+', '-', row.name)}.{form}.zip"
