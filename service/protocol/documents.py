"""JSON from outside: one object, and the parameters in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from service.protocol.errors import BadRequest

# Lists of lists are values too, a list for each row of pixels or even each pixel. To make more of them, or of objects,
# takes seconds in which nobody else is answered.
MAX_BRACKETS = 2_000_000


def read_object(text: bytes) -> dict[str, Any]:
    """The object that this JSON is; NaN and Infinity, which Python would take, are not JSON."""
    if text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
        raise BadRequest(f"The JSON has more than {MAX_BRACKETS:,} lists and objects. Send the values in binary.")
    try:
        content = from_json(text, allow_inf_nan=False)
    except ValueError:
        message = "The JSON cannot be parsed. Send one valid value in UTF-8, not nested too deep; NaN is none."
        raise BadRequest(message) from None
    if not isinstance(content, dict):
        raise BadRequest("The JSON is an object.")
    return content


def object_at(content: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    """The object under a key, empty where there is none; `place` is for people."""
    value = content.get(key)
    if value is None:  # as some clients write what they leave out
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"`{place}` is an object.")
    return value


def flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"The parameter `{name}` is true or false.")
    return value


def count(parameters: Mapping[str, Any], name: str) -> int | None:
    """A parameter that is a whole number from 0 on; None where there is none."""
    value = parameters.get(name)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise BadRequest(f"The parameter `{name}` is a whole number, 0 or more.")
