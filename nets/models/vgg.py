"""Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv 1409.1556, table 1.

How we differ: there are forms with batch normalisation, and features of any size are averaged to 7 x 7 before the
head. Layers bear torchvision's names, so that its weights fit. Width scales the hidden linear layers too.

Weights begin as He et al. propose (arXiv 1502.01852, equation 14), so that the deep ones train without the shallow ones
before them (section 3.1). Of the terms of a sum we count those that are not padding: on features of 2 x 2 these are 4
of 9. And the first layer counts its inputs, since nobody needs the gradient of the image. With torchvision's count
VGG-19 without normalisation loses small images on the way and does not start to learn them.

Small images: five poolings leave nothing of an image under 32 pixels, and the paper's head holds 124 of VGG-16's 138
million parameters for features of 7 x 7, which small images never have. So the small stem has at most four poolings,
and no more than leave 2 x 2 features; the small head is one linear layer over the mean of each feature. This is the
form that papers on pruning take for CIFAR-10, as Liu et al., arXiv 1708.06519. Stem and head can be chosen apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.activations import ACTIVATIONS, activation, initialise
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.vgg import NormalisedVggOptions, VggOptions

STAGE_CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096
KERNEL = 3
PAPER_CELLS = 7
# A pooling is left out if it would leave fewer.
LEAST_SIDE = 2

# Convolutions of each stage: columns A, B, D and E of table 1.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes); `depths` counts the convolutions of each stage."""

    def __init__(
        self,
        options: VggOptions,
        depths: tuple[int, ...],
        *,
        classes: int,
        channels: int,
        image_size: int,
        poolings: int,
        small_head: bool,
    ) -> None:
        super().__init__()
        normalised = isinstance(options, NormalisedVggOptions)
        layers: list[nn.Module] = []
        for number, (depth, stage_channels) in enumerate(zip(depths, STAGE_CHANNELS, strict=True)):
            outputs = scaled_channels(stage_channels, options.width)
            for _ in range(depth):
                layers += _convolution(channels, outputs, options.activation, normalised=normalised)
                channels = outputs
            layers.append(nn.MaxPool2d(2) if number < poolings else nn.Identity())
        self.features = nn.Sequential(*layers)
        _initialise(self.features, options.activation, side=image_size)
        cells = 1 if small_head else PAPER_CELLS
        self.avgpool = nn.AdaptiveAvgPool2d((cells, cells))
        head = _small_head if small_head else _paper_head
        self.classifier = head(channels * cells**2, classes, options)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def _convolution(inputs: int, outputs: int, activation_name: str, *, normalised: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, KERNEL, padding=1)
    normalisation = [nn.BatchNorm2d(outputs)] if normalised else []
    return [convolution, *normalisation, activation(activation_name)]


def _initialise(features: nn.Sequential, activation_name: str, *, side: int) -> None:
    """Fresh weights for the convolutions over images of `side` pixels."""
    for number, layer in enumerate(features):
        if isinstance(layer, nn.MaxPool2d):
            side //= 2
        elif isinstance(layer, nn.Conv2d):
            # Of the rows under a kernel one is padding at the first and one at the last place; so of the columns.
            rows = KERNEL - 2 / side
            fan = (layer.in_channels if number == 0 else layer.out_channels) * rows**2
            nn.init.normal_(layer.weight, 0, ACTIVATIONS[activation_name].gain / fan**0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _linear(inputs: int, outputs: int, activation_name: str) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    initialise(layer, activation_name)
    return layer


def _paper_head(features: int, classes: int, options: VggOptions) -> nn.Sequential:
    name, hidden = options.activation, scaled_channels(HIDDEN, options.width)
    layers: list[nn.Module] = []
    for inputs in (features, hidden):
        layers += [_linear(inputs, hidden, name), activation(name), nn.Dropout(options.dropout)]
    return nn.Sequential(*layers, _linear(hidden, classes, "linear"))


def _small_head(features: int, classes: int, options: VggOptions) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(options.dropout), _linear(features, classes, "linear"))


def _small_poolings(image_size: int) -> int:
    """How many poolings the small stem has: one after each stage but the last, while enough is left."""
    halvings = (image_size // LEAST_SIDE).bit_length() - 1
    return min(halvings, len(STAGE_CHANNELS) - 1)


def vgg(options: VggOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """The VGG of the options' name with fresh weights."""
    small = has_small_stem(options, image_size)
    return VGG(
        options,
        DEPTHS[options.name.removesuffix("_bn")],
        classes=classes,
        channels=channels,
        image_size=image_size,
        poolings=_small_poolings(image_size) if small else len(STAGE_CHANNELS),
        small_head=small if options.head == "auto" else options.head == "small",
    )
