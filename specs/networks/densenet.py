"""Densely connected networks."""

from __future__ import annotations

from specs.options import Entry

DENSENETS: list[Entry] = []
