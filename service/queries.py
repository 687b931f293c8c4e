"""A network as a query string describes it: its options, and the images and classes that it is for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError

from service.figures import Question
from service.problems import SOME_FIELDS, BadFields
from specs.networks.base import NetworkOptions
from specs.options import Entry, Strict
from specs.problems import MAX_PROBLEMS, FieldProblem, field_problems
from specs.registry import nearest

Values = Mapping[str, Sequence[str]]


class Look(Strict):
    """What a network looks at and tells apart; where null, the catalogue chooses."""

    image_size: Annotated[int, Field(strict=True, ge=8, le=512)] | None = Field(
        default=None, description="Side of the images in pixels."
    )
    classes: Annotated[int, Field(strict=True, ge=2, le=100_000)] | None = Field(
        default=None, description="How many classes there are."
    )
    channels: Literal[1, 3] | None = Field(default=None, description="1 for grey images, 3 for colour.")


def read_question(entry: Entry, values: Values) -> Question:
    """The network of this entry that a query asks about; BadFields names each parameter that is wrong.

    `values` are the texts of each parameter: they may be given in JSON, and a list also by naming it several times.
    """
    _check_names(entry, values)
    of_look = {name: texts for name, texts in values.items() if name in Look.model_fields}
    of_network = {name: texts for name, texts in values.items() if name not in of_look}
    look, problems = _read(Look, of_look, {})
    options, more = _read(entry.options, of_network, {"name": entry.name})
    if look is None or options is None:
        raise BadFields(SOME_FIELDS, problems + more)
    given = {name: value for name, value in look.model_dump().items() if value is not None}
    question = dataclasses.replace(Question.of_defaults(cast(NetworkOptions, options)), **given)
    _check_size(question)
    return question


def _check_names(entry: Entry, values: Values) -> None:
    known = [*Look.model_fields, *(name for name in entry.options.model_fields if name != "name")]
    unknown = [name for name in values if name not in known]
    if unknown:
        message = "This parameter is not known here."
        raise BadFields(SOME_FIELDS, [_problem(name, message, nearest(name, known)) for name in unknown[:MAX_PROBLEMS]])


def _check_size(question: Question) -> None:
    least = question.options.least_image_size()
    if question.image_size < least:
        message = f"With these options {question.options.name} takes images of {least} pixels a side or more."
        raise BadFields(SOME_FIELDS, [_problem("image_size", message, f"Give an image_size of at least {least}.")])


def _read(
    model: type[BaseModel], values: Values, body: Mapping[str, Any]
) -> tuple[BaseModel | None, list[FieldProblem]]:
    """The model with these values, or what is wrong with them."""
    schema = _properties(model)
    twice = [name for name, texts in values.items() if len(texts) > 1 and not _is_list(schema[name])]
    if twice:
        hint = "Give it once."
        return None, [_problem(name, "This parameter is there more than once.", hint) for name in twice]
    body = {**body, **{name: _decoded(texts, schema[name]) for name, texts in values.items()}}
    try:
        return model.model_validate(body), []
    except ValidationError as error:
        found = field_problems(error.errors(), body)
        return None, [{**problem, "pointer": _as_parameter(problem["pointer"])} for problem in found]


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties


def _is_list(schema: Mapping[str, Any]) -> bool:
    return any(kind.get("type") == "array" for kind in (schema, *schema.get("anyOf", ())))


def _decoded(texts: Sequence[str], schema: Mapping[str, Any]) -> Any:
    if _is_list(schema) and (len(texts) > 1 or not texts[0].lstrip().startswith("[")):
        return [_value(text, schema.get("items", {})) for text in texts]
    return _value(texts[0], schema)


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """What a text says as JSON; itself where a text is wanted, or if it is no JSON, which validation then tells."""
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def _problem(name: str, message: str, hint: str) -> FieldProblem:
    return {"pointer": f"query:{name[:100]}", "message": message, "hint": hint}


def _as_parameter(pointer: str) -> str:
    """`query:hidden.1` for `#/hidden/1`."""
    return "query:" + pointer.removeprefix("#/").replace("/", ".")
