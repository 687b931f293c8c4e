"""Networks of grouped convolutions with channel shuffle."""

from __future__ import annotations

from specs.options import Entry

SHUFFLENETS: list[Entry] = []
