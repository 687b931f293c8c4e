"""Validation errors as sentences: which field (an RFC 6901 pointer), what is wrong, what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict


class FieldProblem(TypedDict):
    """One bad field of a body; `pointer` is a URI fragment such as `#/architecture/width`."""

    pointer: str
    message: str
    hint: str


MAX_PROBLEMS = 50


def field_problems(errors: Iterable[Any], body: Any) -> list[FieldProblem]:
    """Pydantic's `errors()` against the body they are about; never repeats what the body holds."""
    return [_problem(error, body) for error in list(errors)[:MAX_PROBLEMS]]


def pointer(path: Sequence[str | int]) -> str:
    """An RFC 6901 pointer in URI-fragment form, each part cut to 100 characters."""
    parts = (str(part)[:100].replace("~", "~0").replace("/", "~1") for part in path)
    return "#" + "".join("/" + part for part in parts)


def _problem(error: Any, body: Any) -> FieldProblem:
    context = error.get("ctx") or {}
    path = _present(error["loc"], body, missing=error["type"] in {"missing", "union_tag_not_found"})
    field = context.get("field") or (_tag_field(context) if error["type"].startswith("union_tag") else "")
    message = _MESSAGES.get(error["type"], error["msg"])
    return {"pointer": pointer([*path, field] if field else path), "message": message, "hint": _hint(error, context)}


def _tag_field(context: dict[str, Any]) -> str:
    return str(context.get("discriminator", "")).strip("'")


def _present(location: Sequence[str | int], body: Any, *, missing: bool) -> list[str | int]:
    """The parts of `location` that lead into the body: pydantic also lists the classes it tried on the way."""
    path: list[str | int] = []
    for number, part in enumerate(location):
        inside = isinstance(body, dict) and part in body
        inside = inside or (isinstance(body, list) and isinstance(part, int) and part < len(body))
        if inside:
            body = body[part]
        elif not (missing and number == len(location) - 1 and isinstance(body, dict)):
            continue
        path.append(part)
    return path


# Pydantic's own words for these would repeat the input or speak of Python.
_MESSAGES = {
    "union_tag_invalid": "There is nothing of this name.",
    "union_tag_not_found": "Field required",
    "string_pattern_mismatch": "This is not a name.",
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "tuple_type": "Input should be a list",
}

_HINTS = {
    "missing": "Add this field.",
    "greater_than": "Give a number greater than {gt}.",
    "greater_than_equal": "Give a number of at least {ge}.",
    "less_than": "Give a number below {lt}.",
    "less_than_equal": "Give a number of at most {le}.",
    "finite_number": "Give a finite number.",
    "literal_error": "Give one of: {expected}.",
    "int_type": "Give a whole number.",
    "int_parsing": "Give a whole number.",
    "int_from_float": "Give a whole number.",
    "float_type": "Give a number.",
    "float_parsing": "Give a number.",
    "bool_type": "Give true or false.",
    "bool_parsing": "Give true or false.",
    "string_type": "Give a string.",
    "string_pattern_mismatch": "Give 1 to 100 letters, digits, spaces or any of . , _ ( ) + - and begin with "
    "a letter or a digit.",
    "too_short": "Give at least {min_length}.",
    "too_long": "Give at most {max_length}.",
    "union_tag_invalid": "Give one of: {expected_tags}.",
    "union_tag_not_found": "Add this field, so that it is clear what is meant.",
    "model_type": "Give an object.",
    "model_attributes_type": "Give an object.",
    "dict_type": "Give an object.",
    "tuple_type": "Give a list.",
    "json_invalid": "Send one valid JSON value.",
}


def _hint(error: Any, context: dict[str, Any]) -> str:
    if "hint" in context:
        return str(context["hint"])
    template = _HINTS.get(error["type"], "See the schema of this field under /docs.")
    return template.format(**context)
