"""Our networks beside torchvision's of the same name."""

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from nets import architectures
from specs.architectures import ARCHITECTURES


def ours(name: str, *, classes: int = 1000, image_size: int = 224, **options: Any) -> nn.Module:
    """Our network with the paper's stem, without storage."""
    chosen = ARCHITECTURES[name].options(**{"stem": "paper", **options})
    with torch.device("meta"):
        return architectures.build(chosen, classes=classes, channels=3, image_size=image_size)


def theirs(name: str, **arguments: Any) -> nn.Module:
    """torchvision's network, without storage."""
    with torch.device("meta"):
        network: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return network


def published_macs(name: str) -> float:
    """Thousand millions of multiply-accumulates, as torchvision says of its weights."""
    figure: float = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    return figure


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def assert_same_answers(mine: nn.Module, peer: nn.Module, *, image_size: int) -> None:
    """Both get the same random weights and statistics, by name, and two images; in evaluation mode."""
    share_random_state(mine, peer)
    images = torch.randn(2, 3, image_size, image_size)
    with torch.inference_mode():
        wanted = peer.eval()(images)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(mine.eval()(images), wanted, rtol=1e-5, atol=1e-6)


def share_random_state(mine: nn.Module, peer: nn.Module) -> None:
    """Loads the same tensors into both without a copy: the large networks have half a gigabyte of them."""
    generator = torch.Generator().manual_seed(0)
    state = {key: _random(key, value.shape, generator) for key, value in peer.state_dict().items()}
    for network in (mine, peer):
        network.load_state_dict(state, strict=True, assign=True)


def _random(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    uniform = torch.rand(shape, generator=generator)
    if len(shape) > 1:
        # The variance of He's initialisation, so that all layers pass something on.
        return uniform.sub_(0.5).mul_(math.sqrt(12 * 2 / math.prod(shape[1:])))
    return uniform.add_(0.5) if key.endswith(("running_var", "weight")) else uniform.sub_(0.5)
