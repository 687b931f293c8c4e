"""From the options of an architecture to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from nets.seeds import derived_seed
from specs.architectures import ARCHITECTURES
from specs.options import Options

Network = nn.Module


def build(options: Options, *, classes: int, channels: int, image_size: int, seed: int | None = None) -> nn.Module:
    """A network with fresh weights: those of the seed, or without one those of the global random state.

    With a seed the global random state stays as it is.
    """
    builder = resolve_name(ARCHITECTURES[options.name].target)
    if seed is None:
        network: nn.Module = builder(options, classes=classes, channels=channels, image_size=image_size)
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("weights", seed))
        return build(options, classes=classes, channels=channels, image_size=image_size)


def without_auxiliary(
    network: nn.Module, options: Options, *, classes: int, channels: int, image_size: int
) -> tuple[nn.Module, Options]:
    """The network and its options without the heads that only a training needs; as they are if there are none."""
    bare = _bare(options)
    if bare == options:
        return network, options
    lean = build(bare, classes=classes, channels=channels, image_size=image_size, seed=0)
    state = network.state_dict()
    lean.load_state_dict({name: state[name] for name in lean.state_dict()})
    return lean.train(network.training), bare


def _bare(options: Options) -> Options:
    """The same without auxiliary heads, of its base too if it has one."""
    without: dict[str, Any] = {"auxiliary": False} if getattr(options, "auxiliary", False) else {}
    base = getattr(options, "base", None)
    if isinstance(base, Options):
        without["base"] = _bare(base)
    return options.model_copy(update=without)


def architecture_options(fields: Mapping[str, Any]) -> Options:
    """The options written down by `model_dump`; UnknownName for a name that is not in the catalogue."""
    return ARCHITECTURES[fields["name"]].options.model_validate(dict(fields))
