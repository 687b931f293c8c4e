"""What is refused under /v2. The statuses are few: clients of the protocol read the sentence."""

from __future__ import annotations

from fastapi import HTTPException

# Clients look for these words: the examples that come with Triton's client do.
UNKNOWN_MODEL = "Request for unknown model"
FAILED_TO_LOAD = "failed to load"


class BadRequest(HTTPException):
    """A body that says something that cannot be."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class UnknownModel(HTTPException):
    """A model, or a version of it, that is not there."""

    def __init__(self, message: str = "there is none of this id, alias or name.") -> None:
        super().__init__(404, f"{UNKNOWN_MODEL}: {message}")
