"""Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, arXiv 1704.04861,
table 1.

Parameters and multiply-accumulates at 1000 classes and 224 pixels, as in tables 6 and 7: width 1 4.2 M and 569 M,
0.75 2.6 M and 325 M, 0.5 1.3 M and 149 M, 0.25 0.5 M and 41 M.

How we differ: table 1 gives the last depthwise convolution stride 2, but 7 x 7 pixels before and after it: its stride
is 1, as in the authors' code. The small stem takes stride 1 in the first convolution and in the first strided block,
as ours of MobileNetV2 does. The activation can be chosen; dropout may precede the head.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.mobilenet import MobileNetV1Options

STEM_CHANNELS = 32
# Table 1: channels and stride of each depthwise separable convolution.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
FIRST_STRIDED_BLOCK = 1


def _convolution(
    inputs: int, outputs: int, kernel: int, *, activation_name: str, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation(activation_name))


class SeparableConvolution(nn.Module):
    """A depthwise convolution and a pointwise one, each normalised (figure 3, right)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, activation_name: str) -> None:
        super().__init__()
        self.depthwise = _convolution(inputs, inputs, 3, stride=stride, groups=inputs, activation_name=activation_name)
        self.pointwise = _convolution(inputs, outputs, 1, activation_name=activation_name)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.pointwise(self.depthwise(images))
        return outputs


class MobileNetV1(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: MobileNetV1Options, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        name = options.activation
        before = scaled_channels(STEM_CHANNELS, options.width)
        layers: list[nn.Module] = [_convolution(channels, before, 3, stride=1 if small else 2, activation_name=name)]
        for number, (count, block_stride) in enumerate(BLOCKS):
            stride = 1 if small and number == FIRST_STRIDED_BLOCK else block_stride
            after = scaled_channels(count, options.width)
            layers.append(SeparableConvolution(before, after, stride=stride, activation_name=name))
            before = after
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(before, classes))
        self.features.apply(partial(initialise, name=name))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def mobilenet_v1(options: MobileNetV1Options, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """MobileNetV1 with fresh weights."""
    small = has_small_stem(options, image_size)
    return MobileNetV1(options, classes=classes, channels=channels, small=small)
