"""Images as request bodies: a file or bytes with their media type."""

from __future__ import annotations

import mimetypes
from os import PathLike
from pathlib import Path

from pruneyard.errors import BadFile, PruneyardError

Image = str | PathLike[str] | bytes

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}


def image_part(image: Image) -> tuple[str, bytes, str]:
    """File name, bytes and media type of an image given as a path or as bytes."""
    if isinstance(image, bytes):
        return "image", image, _media_type(image, "the given bytes")
    if not isinstance(image, str | PathLike):
        raise PruneyardError(f"An image is given as a path or as bytes, not as {type(image).__name__}.")
    path = Path(image)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{image}: {error.strerror}.") from error
    # A name may be anything where files are named by bytes; nobody reads it.
    return path.name.encode(errors="replace").decode(), content, _media_type(content, str(image))


def _media_type(content: bytes, name: str) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    known = next((media for start, media in SIGNATURES.items() if content.startswith(start)), None)
    guessed = known or mimetypes.guess_type(name)[0] or ""
    if not guessed.startswith("image/"):
        raise BadFile(f"{name}: this does not look like an image.")
    return guessed
