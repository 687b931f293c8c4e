"""The images of a request, in any of the forms that predict takes."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from formats.images import MAX_SIDE, MEDIA_TYPES
from service.problems import SOME_FIELDS, BadField, BadFields
from specs.options import Strict
from specs.problems import field_problems

MAX_IMAGES = 256
RAW = "application/octet-stream"
# More than so much JSON is read in a thread; of base64 so much at a time, since no other thread has a turn meanwhile.
QUICK_BYTES = 64 * 1024
PIECE = 1024 * 1024
BAD_CHARSET = "The names in the form are not of the charset in its Content-Type. Leave the charset out."
SHAPE_PATTERN = re.compile(r"^\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*$")


@dataclass(frozen=True)
class Upload:
    """What a request brought: image files, or pixels; `path` is where in the body files are listed."""

    files: tuple[bytes, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    path: tuple[str, ...] = ()


class Base64Images(Strict):
    """Image files in base64."""

    images: Annotated[list[str], Field(min_length=1, max_length=MAX_IMAGES)]


async def read_upload(request: Request) -> Upload:
    """Reads the body by its content type; 415 for another type than the documented ones."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    reader = _READERS.get(media_type)
    if reader is None and media_type.startswith("image/"):
        reader = _read_image  # what it really is, its bytes tell
    if reader is None:
        known = ", ".join([*MEDIA_TYPES, *_READERS])
        raise HTTPException(415, f"Send the image with one of these content types: {known}.")
    return await reader(request)


async def _read_image(request: Request) -> Upload:
    return Upload(files=(await request.body(),))


async def _read_form(request: Request) -> Upload:
    try:
        async with request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            files = tuple([await part.read() for part in parts])
    except UnicodeError:  # some charsets that Python knows decode nothing, or refuse what others let pass
        raise HTTPException(400, BAD_CHARSET) from None
    if not files:
        hint = "Send each image as a file part, for instance curl -F image=@7.png."
        raise BadField("images", message="The form holds no file.", hint=hint)
    return Upload(files=files, path=("images",))


async def _read_json(request: Request) -> Upload:
    data = await request.body()
    return _from_json(data) if len(data) <= QUICK_BYTES else await run_in_threadpool(_from_json, data)


def _from_json(data: bytes) -> Upload:
    body = _parse_json(data)
    try:
        images = Base64Images.model_validate(body).images
    except ValidationError as error:
        raise BadFields(SOME_FIELDS, field_problems(error.errors(), body)) from None
    return Upload(files=tuple(_from_base64(text, number) for number, text in enumerate(images)), path=("images",))


def _parse_json(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:
        hint = "Send one valid JSON value in UTF-8, not nested too deep."
        raise BadField(message="The body is not JSON.", hint=hint) from None


def _from_base64(text: str, number: int) -> bytes:
    try:
        if 0 <= text.find("=") < len(text) - 2:  # it ends what it is in, which may be a piece here
            raise ValueError
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        return b"".join([base64.b64decode(piece, validate=True) for piece in pieces])
    except (binascii.Error, ValueError):
        hint = "Send the bytes of an image file in base64, without line breaks and without a data: prefix."
        raise BadField("images", number, message="This is not base64.", hint=hint) from None


async def _read_pixels(request: Request) -> Upload:
    match = SHAPE_PATTERN.match(request.headers.get("x-shape", ""))
    if match is None:
        hint = "Send the header X-Shape: count,height,width,channels."
        raise BadField(message="Raw pixels need their shape.", hint=hint)
    shape = tuple(int(part) for part in match.groups())
    data = await request.body()
    if not 1 <= shape[0] <= MAX_IMAGES or shape[3] not in {1, 3} or math.prod(shape) != len(data) or not data:
        message = f"X-Shape does not fit the body of {len(data)} bytes."
        hint = f"1 to {MAX_IMAGES} images of 1 or 3 channels, one byte a value, rows first."
        raise BadField(message=message, hint=hint)
    if max(shape[1:3]) > MAX_SIDE:
        raise BadField(message=f"An image has at most {MAX_SIDE:,} pixels along a side.", hint="Scale it down.")
    return Upload(pixels=np.frombuffer(data, dtype=np.uint8).reshape(shape))


_READERS: dict[str, Callable[[Request], Awaitable[Upload]]] = {
    "multipart/form-data": _read_form,
    "application/json": _read_json,
    RAW: _read_pixels,
}
