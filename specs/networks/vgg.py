"""Stacks of 3 x 3 convolutions (VGG)."""

from __future__ import annotations

from specs.options import Entry

VGGS: list[Entry] = []
