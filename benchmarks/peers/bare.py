"""A route that does nothing: the body is read, and answered by as many bytes as a prediction has.

What uvicorn, the load generator and this machine can do at all. In our own environment, with the settings of ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]

TOP = [{"label": "7", "index": 7, "probability": 0.1234567890123456} for _ in range(5)]
ANSWER = json.dumps({"model": "mdl_" + 26 * "0", "predictions": [{**TOP[0], "top": TOP}]}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), lifespan="off", access_log=False, server_header=False)
