"""Zagoruyko, Komodakis: Wide Residual Networks, arXiv 1605.07146, table 1.

Parameters at 10 classes, as in the paper's tables: depth 16 widening 8 11.0 M, 40-4 8.9 M, 28-10 36.5 M. To the last
one, and multiply-accumulates, those of osmr/imgclsmob: 28-10 36,479,194 and 5.24 G at 32 pixels.

How we differ: beside the paper's pre-activation block there is the one of ResNet-18 with dropout after each
activation. In a pre-activation block that changes the shape, convolutions and shortcut share the first
normalisation and activation, and the shortcut is a bare 1 x 1 convolution, as in the authors' code. The paper has
these networks for images of 32 pixels only; at 224 their stem would make them 49 times as costly, so `auto` takes
ResNet's there (7 x 7 of stride 2 and pooling, without normalisation where the blocks bring their own). The paper's
networks for ImageNet are wide bottlenecks: `wide_resnet50_2` in nets/models/resnet.py.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.projection import StridedProjection
from nets.models.resnet import projection
from nets.models.scaling import LARGEST_SMALL_IMAGE, scaled_channels
from specs.networks.resnet import WideResNetOptions

STEM_CHANNELS = 16
STAGE_CHANNELS = (16, 32, 64)


class PreActivationBlock(nn.Module):
    """Normalisation and activation before each of two 3 x 3 convolutions; dropout between them (figure 1d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: WideResNetOptions) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = activation(options.activation)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation(options.activation)
        self.dropout = nn.Dropout(options.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride > 1 or inputs != outputs
        self.shortcut = StridedProjection(inputs, outputs, stride) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        active = self.relu1(self.bn1(images))
        shortcut = images if self.shortcut is None else self.shortcut(active)
        inner = self.dropout(self.relu2(self.bn2(self.conv1(active))))
        outputs: Tensor = self.conv2(inner) + shortcut
        return outputs


class PostActivationBlock(nn.Module):
    """ResNet-18's block: normalisation and activation after the convolutions, dropout after each activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: WideResNetOptions) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = activation(options.activation)
        self.dropout1 = nn.Dropout(options.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation(options.activation)
        self.dropout2 = nn.Dropout(options.dropout)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        inner = self.dropout1(self.relu1(self.bn1(self.conv1(images))))
        outputs: Tensor = self.dropout2(self.relu2(self.bn2(self.conv2(inner)) + shortcut))
        return outputs


BLOCKS: dict[str, type[PreActivationBlock | PostActivationBlock]] = {
    "pre_activation": PreActivationBlock,
    "post_activation": PostActivationBlock,
}


class WideResNet(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: WideResNetOptions, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        first = scaled_channels(STEM_CHANNELS, options.width)
        widths = [scaled_channels(count * options.widening, options.width) for count in STAGE_CHANNELS]
        self.stem = _stem(channels, first, options, small=small)
        self.layer1 = _stage(first, widths[0], 1, options)
        self.layer2 = _stage(widths[0], widths[1], 2, options)
        self.layer3 = _stage(widths[1], widths[2], 2, options)
        self.last = nn.Identity() if _is_post(options) else _normalised(widths[2], options)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(widths[2], classes)
        for part in (self.stem, self.layer1, self.layer2, self.layer3):
            part.apply(partial(initialise, name=options.activation))

    def forward(self, images: Tensor) -> Tensor:
        features = self.last(self.layer3(self.layer2(self.layer1(self.stem(images)))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def _is_post(options: WideResNetOptions) -> bool:
    return options.block == "post_activation"


def _normalised(channels: int, options: WideResNetOptions) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), activation(options.activation))


def _stem(channels: int, outputs: int, options: WideResNetOptions, *, small: bool) -> nn.Sequential:
    kernel, stride = (3, 1) if small else (7, 2)
    layers: list[nn.Module] = [nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2, bias=False)]
    if _is_post(options):
        layers += _normalised(outputs, options)
    if not small:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _stage(inputs: int, outputs: int, stride: int, options: WideResNetOptions) -> nn.Sequential:
    block = BLOCKS[options.block]
    repetitions = (options.depth - 4) // 6
    blocks = [block(inputs, outputs, stride, options)]
    blocks += [block(outputs, outputs, 1, options) for _ in range(1, repetitions)]
    return nn.Sequential(*blocks)


def wide_resnet(options: WideResNetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """A wide residual network with fresh weights."""
    small = options.stem != "auto" or image_size <= LARGEST_SMALL_IMAGE
    return WideResNet(options, classes=classes, channels=channels, small=small)
