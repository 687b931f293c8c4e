"""What every error of the API must look like."""

from __future__ import annotations

import json
from typing import Any

import pytest


def problem_of(response: Any, status: int, pointer: str | None = None) -> dict[str, Any]:
    """The problem in a response; checks that it is one, and that it names the field and a fix."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(response.text, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    if pointer is not None:
        named = {error["pointer"]: error for error in found["errors"]}
        assert pointer in named, found
        assert named[pointer]["message"]
        assert named[pointer]["hint"]
    return found


def refusal_of(response: Any, status: int) -> str:
    """The sentence of an error below /v2, which is all that its body has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = json.loads(response.text)
    assert list(found) == ["error"]
    assert isinstance(found["error"], str)
    assert found["error"]
    return str(found["error"])
