"""Networks of parallel branches (GoogLeNet, Inception v3)."""

from __future__ import annotations

from specs.options import Entry

INCEPTIONS: list[Entry] = []
