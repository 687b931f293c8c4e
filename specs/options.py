"""Options of a named choice: frozen values, each option with its type, bounds and default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from specs.registry import Registry, UnknownName, nearest

NAME_PATTERN = r"^\w[\w .,()+-]{0,99}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]


class Strict(BaseModel):
    """A frozen value that refuses fields it does not know and names the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, value: Any) -> Any:
        unknown = [key for key in value if key not in cls.model_fields] if isinstance(value, dict) else []
        if unknown:
            raise PydanticCustomError(
                "unknown_field",
                "This field is not known here.",
                {"field": str(unknown[0]), "hint": nearest(unknown[0], cls.model_fields)},
            )
        return value


class Options(Strict):
    """Options of one entry of a registry; `name` says which entry."""

    name: str = Field(description="Which entry of the catalogue this is.")


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue: its options, and where `nets` builds it.

    `target` is an import string ("package.module:function"), so that reading the
    catalogue imports no torch. `source` is the paper or document it follows.
    """

    name: str
    title: str
    options: type[Options]
    target: str
    source: str = ""


X = TypeVar("X", bound=Options)


def named(base: type[X], name: str) -> type[X]:
    """The option class of one name: `base` with `name` fixed to that name."""
    title = "".join(part.capitalize() for part in name.replace("-", "_").split("_"))
    field: Any = (Literal[name], Field(default=name))
    return create_model(f"{title}Options", __base__=base, __module__=base.__module__, name=field)


def _expand(registry: Registry[Any]) -> Callable[[Any], Any]:
    def expand(value: Any) -> Any:
        chosen = {"name": value} if isinstance(value, str) else value
        if isinstance(chosen, dict) and "name" not in chosen:
            hint = f"Say which {registry.kind}. {nearest('', registry)}"
            raise PydanticCustomError("name_missing", "This field is missing.", {"field": "name", "hint": hint})
        if isinstance(chosen, dict):
            try:
                registry[chosen["name"]]
            except UnknownName as error:
                context = {"field": "name" if chosen is value else "", "hint": error.hint}
                message = f"There is no {registry.kind} of this name."
                raise PydanticCustomError("unknown_name", "{message}", {**context, "message": message}) from None
        return chosen

    return expand


def choice(registry: Registry[Any]) -> Any:
    """A pydantic type: options of one of the registry's entries, told apart by `name`.

    A bare name is accepted for an entry with its default options.
    """
    classes = tuple(entry.options for entry in registry.values())
    union: Any = Union[classes]  # noqa: UP007 - the members are known only at run time
    if len(classes) > 1:
        union = Annotated[union, Discriminator("name")]
    short: Any = Literal[tuple(registry)]
    accepted: Any = Union[short, union]  # noqa: UP007
    return Annotated[union, BeforeValidator(_expand(registry), json_schema_input_type=accepted)]
