"""Which pretrained weights there are: torchvision's networks, and its names for their weights.

`nets.pretrained` asks torchvision itself where the files are and how they want their images; tests hold the two
together. VGG-16's IMAGENET1K_FEATURES is left out: it lacks the layers behind the convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from specs.options import Options
from specs.registry import nearest

# What the published networks have where ours leave a choice that changes shapes or what their features mean.
PUBLISHED_OPTIONS: dict[str, Any] = {"stem": "paper", "branch3_kernel": 3}


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network of ours with published weights; `peer` and `weights` are torchvision's names for it and for them."""

    name: str
    peer: str
    weights: tuple[str, ...] = ("IMAGENET1K_V1",)
    width: float = 1.0


def _alike(*names: str, versions: int = 1) -> list[PretrainedNetwork]:
    weights = tuple(f"IMAGENET1K_V{number + 1}" for number in range(versions))
    return [PretrainedNetwork(name, name, weights) for name in names]


PRETRAINED: tuple[PretrainedNetwork, ...] = (
    *_alike("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *_alike("resnet18", "resnet34"),
    *_alike("resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2", versions=2),
    *_alike("googlenet", "inception_v3"),
    *_alike("densenet121", "densenet161", "densenet169", "densenet201"),
    *_alike("mobilenet_v2", versions=2),
    *(
        PretrainedNetwork("shufflenet_v2", f"shufflenet_v2_x{width}".replace(".", "_"), width=width)
        for width in (0.5, 1.0, 1.5, 2.0)
    ),
)


def find_pretrained(network: Options) -> PretrainedNetwork | None:
    """What there is for a network of this name and width."""
    alike = (entry for entry in PRETRAINED if entry.name == network.name)
    return next((entry for entry in alike if entry.width == getattr(network, "width", entry.width)), None)


def with_paper_stem(network: Options) -> Options:
    """The network as its weights need it where `auto` leaves that open: with the paper's stem at any image size."""
    return network.model_copy(update={"stem": "paper"}) if getattr(network, "stem", None) == "auto" else network


def check_pretrained(network: Options, weights: str) -> None:
    """Refuses weights that this network does not have, and forms of it that no weights were published for."""
    names = list(dict.fromkeys(entry.name for entry in PRETRAINED))
    if network.name not in names:
        hint = f"Leave out pretrained. There are weights for: {', '.join(names)}."
        raise _refusal("There are no pretrained weights of this network.", hint)
    found = find_pretrained(network)
    if found is None:
        widths = ", ".join(str(entry.width) for entry in PRETRAINED if entry.name == network.name)
        raise _refusal("There are no pretrained weights of this width.", f"Set architecture.width to: {widths}.")
    if weights not in found.weights:
        raise _refusal("There are no pretrained weights of this name.", nearest(weights, found.weights))
    # Features are what the activation of the published network made of them.
    own = type(network).model_fields.get("activation")
    published = PUBLISHED_OPTIONS if own is None else {**PUBLISHED_OPTIONS, "activation": own.default}
    for option, needed in published.items():
        if getattr(network, option, needed) != needed:
            hint = f"Set architecture.{option} to {needed}, or leave out pretrained."
            raise _refusal(f"There are no pretrained weights of this network with another {option}.", hint)


def _refusal(message: str, hint: str) -> PydanticCustomError:
    context = {"message": message, "hint": hint, "field": "pretrained"}
    return PydanticCustomError("not_pretrained", "{message}", context)
