"""Where a model is served, as the figures that are stored with it say, or as its user wants it.

The figures are those of `inference.measuring.Measurement`. A user's choice stands in their place, beside `asked`, what
was asked for, and `measured`, what the figures had chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from inference.devices import Device
from inference.latency import Latency, costs_of
from inference.placements import Placement, placements
from inference.runtimes import RUNTIMES

AUTO = "auto"
Figures = Mapping[str, Any]


def placement_of(figures: Figures | None) -> Placement | None:
    """Where the model is to be served; None where nobody knows."""
    if not figures or not figures.get("runtime"):
        return None
    return Placement(figures["runtime"], figures.get("device", "cpu"), figures.get("precision", "f32"))


def on_cpu_of(figures: Figures | None) -> str | None:
    """The runtime that was the fastest on the CPU; None where nobody knows."""
    measured = (figures or {}).get("runtimes", {})
    costs = costs_of({name: _latency(measured[name]) for name in RUNTIMES if name in measured})
    if costs:
        return min(costs, key=costs.__getitem__)
    placement = placement_of(figures)
    return placement.runtime if placement is not None and placement.on_cpu else None


def _latency(figures: Figures) -> Latency:
    """As it was measured; models of before there was a second size have one."""
    return Latency(float(figures["batch_1_p50"]), figures.get("batch_8_p50"))


def runtimes_of(figures: Figures | None) -> set[str]:
    """The runtimes that serving the model loads."""
    placement, on_cpu = placement_of(figures), on_cpu_of(figures)
    if placement is None:
        return set()
    return {placement.runtime} if placement.on_cpu or on_cpu is None else {placement.runtime, on_cpu}


def asked_of(figures: Figures | None, changes: Mapping[str, str]) -> dict[str, str]:
    """What a user wants of runtime and device after these changes; `auto` wants nothing."""
    asked = {**(figures or {}).get("asked", {}), **changes}
    return {name: value for name, value in asked.items() if value != AUTO}


def matching(asked: Mapping[str, str], devices: Iterable[Device]) -> list[Placement]:
    """The ways to serve a model that are as asked for."""
    return [each for each in placements(devices) if all(getattr(each, name) == asked[name] for name in asked)]


def as_asked(
    figures: Figures | None, asked: Mapping[str, str], placement: Placement, latency: Latency
) -> dict[str, Any]:
    """The figures with a user's choice in them, and what it was measured to take just now."""
    before, measured = dict(figures or {}), placement_of(figures)
    return {
        **before,
        **asdict(placement),
        **asdict(latency),
        "runtimes": {**before.get("runtimes", {}), placement.label: asdict(latency)},
        "skipped": {label: why for label, why in before.get("skipped", {}).items() if label != placement.label},
        "chosen_by": "user",
        "asked": dict(asked),
        "measured": before.get("measured", {} if measured is None else asdict(measured)),
    }


def as_measured(figures: Figures | None) -> dict[str, Any] | None:
    """The figures as they were before any user's choice."""
    if not figures or "measured" not in figures:
        return None if figures is None else dict(figures)
    chosen = placement_of(figures["measured"])
    if chosen is None:
        return None  # nobody had measured it
    rest = {name: value for name, value in figures.items() if name not in {"measured", "asked"}}
    return {**rest, **asdict(chosen), **rest["runtimes"].get(chosen.label, {}), "chosen_by": "measured"}


def shown(figures: Figures | None) -> dict[str, Any] | None:
    """The figures for people; those of older models lack what was always so then."""
    if not figures:
        return None
    return {"precision": "f32", "chosen_by": "measured", **figures}
