"""Bodies under gzip or deflate, both ways.

`deflate` is a zlib stream (RFC 9110, 8.4.1.2). The length of the JSON, in its header, counts uncompressed bytes.
"""

from __future__ import annotations

import re
import zlib

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from service.guards import TooLarge
from service.protocol.errors import BadRequest

# How zlib is told of each by its window: 16 more than the largest is gzip.
WINDOWS = {"gzip": 31, "deflate": 15}
WORTH_COMPRESSING_BYTES = 1024
QUICK_BYTES = 64 * 1024
FAST = 1
# Empty ones take twenty bytes each, and time.
MOST_STREAMS = 1000
PIECE = 64 * 1024
NEVER = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")


async def read_body(request: Request, *, limit: int) -> bytes:
    """The body, uncompressed; 413 where that is more than `limit` bytes, 415 for another encoding."""
    body = await request.body()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in WINDOWS:
        known = ", ".join(WINDOWS)
        raise HTTPException(415, f"A body is plain or under one of: {known}.", headers={"Accept-Encoding": known})
    return await run_in_threadpool(decompress, body, encoding, limit=limit)


def decompress(data: bytes, encoding: str, *, limit: int) -> bytes:
    """What the streams hold, of which gzip may have several (RFC 1952, 2.2).

    No more than `limit` bytes are ever made of them, whatever they promise.
    """
    body, view, done = bytearray(), memoryview(data), 0
    for _ in range(MOST_STREAMS if encoding == "gzip" else 1):
        stream = zlib.decompressobj(WINDOWS[encoding])
        while not stream.eof and done < len(view):
            # Piece by piece: what comes after its end is copied, for each stream anew.
            piece = view[done : done + PIECE]
            try:
                body += stream.decompress(piece, limit + 1 - len(body))
            except zlib.error:
                raise BadRequest(f"The body is not what `Content-Encoding: {encoding}` says.") from None
            if len(body) > limit:
                raise TooLarge(limit)
            done += len(piece) - len(stream.unused_data)
        if not stream.eof:
            break
        if done == len(view):
            return bytes(body)
    raise BadRequest(f"The body is not made of whole {encoding} streams.")


def accepted_encoding(header: str) -> str | None:
    """The first of the encodings that a client accepts; None if it names none of them."""
    offers = [offer.lower().partition(";") for offer in header.split(",")]
    wanted = {name.strip() for name, _, weight in offers if not NEVER.fullmatch(weight)}
    refused = {name.strip() for name, _, weight in offers if NEVER.fullmatch(weight)}
    return next((name for name in WINDOWS if name in wanted or ("*" in wanted and name not in refused)), None)


async def compress(body: bytes, encoding: str) -> bytes:
    """The body under this encoding."""
    if len(body) <= QUICK_BYTES:
        return _compress(body, encoding)
    return await run_in_threadpool(_compress, body, encoding)


def _compress(body: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(FAST, wbits=WINDOWS[encoding])
    return stream.compress(body) + stream.flush()
