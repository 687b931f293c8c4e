"""Recipes: settings of a training that go well together, under one name. Whatever a job sets itself wins over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specs.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """What a training is given where it says nothing, as JSON; `source` is where it comes from."""

    name: str
    title: str
    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [
        Recipe("plain", "Plain", "The default of each field: Adam at 0.001, 20 epochs, images as they are."),
        Recipe(
            "fast",
            "Fast",
            "To a useful accuracy in a fraction of the time: Muon, one cycle of the learning rate, smoothed labels, "
            "crops, and flips of colour images. Name more epochs for more accuracy: the cycle stretches.",
            {
                "epochs": 4,
                "optimizer": {
                    "name": "muon",
                    "lr": 0.02,
                    "weight_decay": 0.05,
                    "decay_norms": False,
                    "adamw_lr": 0.005,
                },
                "schedule": {"name": "one-cycle"},
                "loss": {"label_smoothing": 0.1},
                "augmentation": "auto",
            },
            "Jordan: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, for the cycle, smoothing, "
            "flips and small crops; its airbench94_muon for the optimizer",
        ),
    ],
)
