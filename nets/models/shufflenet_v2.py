"""Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv 1807.11164,
table 5.

How we differ: layers bear torchvision's names, so that its weights fit at widths 0.5, 1, 1.5 and 2. Other widths have
the channels that lie between those of the table in proportion. The small stem is a 3 x 3 convolution of stride 1 and
no pooling. The activation can be chosen; dropout may precede the head.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.scaling import has_small_stem
from nets.models.shuffling import JoinAndShuffle
from specs.networks.shufflenet import ShuffleNetV2Options

STEM_CHANNELS = 24
# Table 5: width and channels of the first stage; each stage has twice the channels of the one before.
FIRST_STAGE_CHANNELS = ((0.0, 0), (0.5, 48), (1.0, 116), (1.5, 176), (2.0, 244))
LAST_CHANNELS = 1024
REPETITIONS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Half of the channels pass (figure 3c), or both branches take all of them with stride 2 (figure 3d)."""

    def __init__(self, inputs: int, outputs: int, *, strided: bool, activation_name: str) -> None:
        super().__init__()
        half = outputs // 2
        name = activation_name
        self.strided = strided
        self.branch1 = nn.Sequential()
        if strided:
            self.branch1 = nn.Sequential(*_depthwise(inputs, 2), *_pointwise(inputs, half, name))
        self.branch2 = nn.Sequential(
            *_pointwise(inputs if strided else half, half, name),
            *_depthwise(half, 2 if strided else 1),
            *_pointwise(half, half, name),
        )
        self.shuffle = JoinAndShuffle()

    def forward(self, images: Tensor) -> Tensor:
        left, right = (images, images) if self.strided else images.chunk(2, dim=1)
        outputs: Tensor = self.shuffle(self.branch1(left), self.branch2(right))
        return outputs


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


def _pointwise(inputs: int, outputs: int, activation_name: str) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), activation(activation_name)]


class ShuffleNetV2(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: ShuffleNetV2Options, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        name, outputs = options.activation, first_stage_channels(options.width)
        # Table 5: 1024 up to width 1.5, and 2048 at 2.
        last = int(LAST_CHANNELS * options.width) if options.width >= 2 else LAST_CHANNELS
        stem = nn.Conv2d(channels, STEM_CHANNELS, 3, 1 if small else 2, padding=1, bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(STEM_CHANNELS), activation(name))
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(STEM_CHANNELS, outputs, REPETITIONS[0], name)
        self.stage3 = _stage(outputs, 2 * outputs, REPETITIONS[1], name)
        self.stage4 = _stage(2 * outputs, 4 * outputs, REPETITIONS[2], name)
        self.conv5 = nn.Sequential(*_pointwise(4 * outputs, last, name))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(last, classes)
        for part in (self.conv1, self.stage2, self.stage3, self.stage4, self.conv5):
            part.apply(partial(initialise, name=name))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage2(self.maxpool(self.conv1(images)))
        features = self.conv5(self.stage4(self.stage3(features)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        return logits


def first_stage_channels(width: float) -> int:
    """Channels of the first stage: the table's at its widths, an even number in proportion elsewhere."""
    pairs = list(pairwise(FIRST_STAGE_CHANNELS))
    (narrower, fewer), (wider, more) = next((pair for pair in pairs if width <= pair[1][0]), pairs[-1])
    exact = fewer + (more - fewer) * (width - narrower) / (wider - narrower)
    return max(2, 2 * round(exact / 2))


def _stage(inputs: int, outputs: int, repetitions: int, activation_name: str) -> nn.Sequential:
    units = [ShuffleUnit(inputs, outputs, strided=True, activation_name=activation_name)]
    units += [
        ShuffleUnit(outputs, outputs, strided=False, activation_name=activation_name) for _ in range(1, repetitions)
    ]
    return nn.Sequential(*units)


def shufflenet_v2(options: ShuffleNetV2Options, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """ShuffleNetV2 with fresh weights."""
    small = has_small_stem(options, image_size)
    return ShuffleNetV2(options, classes=classes, channels=channels, small=small)
