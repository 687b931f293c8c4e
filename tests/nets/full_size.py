"""Whole networks on the meta device, which has shapes and no values: what papers and others publish of them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nets import architectures
from specs.architectures import ARCHITECTURES


def parameters_and_macs(name: str, *, classes: int = 1000, image_size: int = 224, **options: Any) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image as torch counts them, which is in operations of two each."""
    with torch.device("meta"):
        chosen = ARCHITECTURES[name].options(**options)
        network = architectures.build(chosen, classes=classes, channels=3, image_size=image_size).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2
