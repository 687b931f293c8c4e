"""Zhang, Zhou, Lin, Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, arXiv
1707.01083, table 1.

Parameters at 1000 classes are those of osmr/imgclsmob, which published trained ones: 1,865,728 for three groups. The
authors' own code (megvii-model/ShuffleNet-Series) has 1000 fewer, since its head has no bias. Multiply-accumulates at
224 pixels are the paper's: 143, 140, 137, 133 and 137 million for 1, 2, 3, 4 and 8 groups.

As in the paper: the first pointwise convolution of the first unit is not grouped (section 3.3), strided units
concatenate with an average pooling of their input (figure 2c), the activation follows concatenation and addition,
and none follows the depthwise convolution.

How we differ: width scales the first convolution and the first stage, to channels that the groups divide, and stages
double. The small stem is a 3 x 3 convolution of stride 1 and no pooling. The activation can be chosen; dropout may
precede the head.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.shufflenet import ShuffleNetV1Options

STEM_CHANNELS = 24
# Table 1: channels of the first stage by groups; each stage has twice the channels of the one before.
FIRST_STAGE_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
REPETITIONS = (4, 8, 4)
# A unit has a quarter of its output channels inside (section 3.2).
BOTTLENECK = 4


class ShuffleUnit(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1, beside a shortcut (figures 2b and 2c)."""

    def __init__(
        self, inputs: int, outputs: int, *, strided: bool, groups: int, first_groups: int, activation_name: str
    ) -> None:
        super().__init__()
        inner = outputs // BOTTLENECK
        added = outputs - inputs if strided else outputs
        self.relu = activation(activation_name)
        self.compress = nn.Conv2d(inputs, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = nn.ChannelShuffle(groups)
        self.depthwise = nn.Conv2d(inner, inner, 3, 2 if strided else 1, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(added)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if strided else None

    def forward(self, images: Tensor) -> Tensor:
        inner = self.shuffle(self.relu(self.bn1(self.compress(images))))
        inner = self.bn3(self.expand(self.bn2(self.depthwise(inner))))
        joined = images + inner if self.pool is None else torch.cat((self.pool(images), inner), 1)
        outputs: Tensor = self.relu(joined)
        return outputs


class ShuffleNetV1(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: ShuffleNetV1Options, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        groups = options.groups
        first = scaled_channels(STEM_CHANNELS, options.width, divisor=groups)
        outputs = scaled_channels(FIRST_STAGE_CHANNELS[groups], options.width, divisor=BOTTLENECK * groups)
        self.conv1 = nn.Conv2d(channels, first, 3, 1 if small else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = activation(options.activation)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(first, outputs, 0, options)
        self.stage3 = _stage(outputs, 2 * outputs, 1, options)
        self.stage4 = _stage(2 * outputs, 4 * outputs, 2, options)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(4 * outputs, classes)
        for part in (self.conv1, self.stage2, self.stage3, self.stage4):
            part.apply(partial(initialise, name=options.activation))

    def forward(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.stage4(self.stage3(self.stage2(features)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        return logits


def _stage(inputs: int, outputs: int, number: int, options: ShuffleNetV1Options) -> nn.Sequential:
    units: list[nn.Module] = []
    for repetition in range(REPETITIONS[number]):
        strided = repetition == 0
        units.append(
            ShuffleUnit(
                inputs,
                outputs,
                strided=strided,
                groups=options.groups,
                first_groups=1 if strided and number == 0 else options.groups,
                activation_name=options.activation,
            )
        )
        inputs = outputs
    return nn.Sequential(*units)


def shufflenet_v1(options: ShuffleNetV1Options, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """ShuffleNetV1 with fresh weights."""
    small = has_small_stem(options, image_size)
    return ShuffleNetV1(options, classes=classes, channels=channels, small=small)
