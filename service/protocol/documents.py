"""JSON from outside: one object, and the parameters in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from service.protocol.errors import BadRequest


def read_object(text: bytes) -> dict[str, Any]:
    """The object that this JSON is; NaN and Infinity, which Python would take, are not JSON."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The JSON cannot be parsed. Send one valid value in UTF-8, not nested too deep.") from None
    if not isinstance(content, dict):
        raise BadRequest("The JSON is an object.")
    return content


def _refuse_constant(_: str) -> NoReturn:
    raise BadRequest("NaN and Infinity are no values of JSON.")


def object_at(content: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    """The object under a key, empty where there is none; `place` is for people."""
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise BadRequest(f"`{place}` is an object.")
    return value


def flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"The parameter `{name}` is true or false.")
    return value


def count(parameters: Mapping[str, Any], name: str) -> int | None:
    """A parameter that is a whole number from 0 on; None where there is none."""
    value = parameters.get(name)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise BadRequest(f"The parameter `{name}` is a whole number, 0 or more.")
