"""Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381, table 2.

How we differ: the first bottleneck has no expansion layer (as in the authors' code) and layers bear torchvision's
names, so that its weights fit. The small stem takes stride 1 in the first convolution and in the first strided
stage, as is usual for CIFAR-10. The activation can be chosen.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.mobilenet import MobileNetV2Options

# Table 2: expansion t, channels c, repetitions n, stride s.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FIRST_STRIDED_STAGE = 1


def _convolution(
    inputs: int, outputs: int, kernel: int, *, activation_name: str, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation(activation_name))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection (figure 4d), with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int, activation_name: str) -> None:
        super().__init__()
        inner = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_convolution(inputs, inner, 1, activation_name=activation_name))
        layers.append(_convolution(inner, inner, 3, stride=stride, groups=inner, activation_name=activation_name))
        layers += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.conv(images)
        return images + outputs if self.has_shortcut else outputs


class MobileNetV2(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: MobileNetV2Options, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        name = options.activation
        first = scaled_channels(32, options.width)
        # Section 4: width factors below 1 leave the last convolution as it is.
        last = scaled_channels(1280, max(1.0, options.width))
        stem = _convolution(channels, first, 3, stride=1 if small else 2, activation_name=name)
        blocks, before = _blocks(first, options, small=small)
        self.features = nn.Sequential(stem, *blocks, _convolution(before, last, 1, activation_name=name))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        head = nn.Linear(last, classes)
        # As in the authors' code: the first logits are next to nothing.
        nn.init.normal_(head.weight, 0, 0.01)
        nn.init.zeros_(head.bias)
        self.classifier = nn.Sequential(nn.Dropout(options.dropout), head)
        self.features.apply(partial(initialise, name=name))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def _blocks(inputs: int, options: MobileNetV2Options, *, small: bool) -> tuple[list[nn.Module], int]:
    """The blocks of all stages, and the channels that come out of the last."""
    blocks: list[nn.Module] = []
    for number, (expansion, channels, repetitions, stage_stride) in enumerate(STAGES):
        outputs = scaled_channels(channels, options.width)
        for repetition in range(repetitions):
            keeps_size = repetition > 0 or (small and number == FIRST_STRIDED_STAGE)
            stride = 1 if keeps_size else stage_stride
            activation_name = options.activation
            blocks.append(
                InvertedResidual(inputs, outputs, stride=stride, expansion=expansion, activation_name=activation_name)
            )
            inputs = outputs
    return blocks, inputs


def mobilenet_v2(options: MobileNetV2Options, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """MobileNetV2 with fresh weights."""
    small = has_small_stem(options, image_size)
    return MobileNetV2(options, classes=classes, channels=channels, small=small)
