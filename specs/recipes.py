"""Recipes: settings of a training that go well together, under one name. Whatever a job sets itself wins over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specs.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """What a training is given where it says nothing, as JSON; `source` is where it comes from.

    Trainings of at least `long_epochs` are given what stands in `longer` instead of the same in `settings`.
    """

    name: str
    title: str
    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    longer: Mapping[str, Any] = field(default_factory=dict)
    long_epochs: int = 8

    def fill(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a job with these settings, where it says nothing itself."""
        epochs = body.get("epochs", self.settings.get("epochs", 0))
        longer = isinstance(epochs, int) and epochs >= self.long_epochs
        return {**self.settings, **(self.longer if longer else {}), **body}


RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [
        Recipe("plain", "Plain", "The default of each field: Adam at 0.001, 20 epochs, images as they are."),
        Recipe(
            "fast",
            "Fast",
            "To a useful accuracy in a fraction of the time: Muon, one cycle of the learning rate, smoothed labels, "
            "and flips of colour images. Name more epochs for more accuracy: the cycle stretches, and from eight on "
            "images are cropped too.",
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
                "augmentation": {"name": "auto", "crop": False},
            },
            "Jordan: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, for the cycle, smoothing, "
            "flips and small crops; its airbench94_muon for the optimizer",
            longer={"augmentation": "auto"},
        ),
    ],
)
