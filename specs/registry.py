"""Named things that can be asked for, and the error for a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """Anything that bears the name it is registered under."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Named)


class UnknownName(KeyError):
    """A name that no entry of the registry bears; says which ones are near it."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        super().__init__(name)
        self.kind = kind
        self.known = sorted(known)
        self.hint = nearest(name, self.known)

    def __str__(self) -> str:
        return f"There is no {self.kind} of this name. {self.hint}"


class Registry(Mapping[str, E], Generic[E]):
    """An ordered, closed set of entries; two entries of one name are an error."""

    def __init__(self, kind: str, entries: Iterable[E]) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"two entries of the registry of {kind}s are named {entry.name!r}")
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> E:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownName(self.kind, name, self._entries) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def nearest(name: object, known: Iterable[str]) -> str:
    """A sentence that offers the known name closest to the given one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name)[:100].lower(), names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}? Known: {', '.join(names)}."
    return f"Known: {', '.join(names)}."
