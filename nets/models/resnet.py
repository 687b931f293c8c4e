"""He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1; and the wide ones of
Zagoruyko, Komodakis: Wide Residual Networks, arXiv 1605.07146 (WRN-50-2-bottleneck).

How we differ: shortcuts that change shape are projections (option B of section 3.3) and layers bear torchvision's
names, so that its weights fit. As there, a bottleneck takes its stride in the 3 x 3 convolution ("version 1.5"; the
paper: in the first 1 x 1). The small stem is the paper's own for CIFAR-10 (section 4.2): a 3 x 3 convolution of
stride 1 and no pooling. Width scales all channels; the activation can be chosen; dropout may precede the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from nets.models.projection import StridedProjection
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.resnet import ResNetOptions

STAGE_CHANNELS = (64, 128, 256, 512)
# A bottleneck gives out four times the channels that it has inside.
EXPANSION = 4


@dataclass(frozen=True)
class Layout:
    """Blocks of each stage, and the factor on the channels inside a bottleneck; without one the blocks are basic."""

    depths: tuple[int, int, int, int]
    bottleneck: int | None = None


LAYOUTS = {
    "resnet18": Layout((2, 2, 2, 2)),
    "resnet34": Layout((3, 4, 6, 3)),
    "resnet50": Layout((3, 4, 6, 3), bottleneck=1),
    "resnet101": Layout((3, 4, 23, 3), bottleneck=1),
    "resnet152": Layout((3, 8, 36, 3), bottleneck=1),
    "wide_resnet50_2": Layout((3, 4, 6, 3), bottleneck=2),
    "wide_resnet101_2": Layout((3, 4, 23, 3), bottleneck=2),
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (figure 5, left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation_name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = activation(activation_name)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        inner = self.relu(self.bn1(self.conv1(images)))
        outputs: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return outputs


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside a shortcut (figure 5, right)."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int, activation_name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = activation(activation_name)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        inner = self.relu(self.bn1(self.conv1(images)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        outputs: Tensor = self.relu(self.bn3(self.conv3(inner)) + shortcut)
        return outputs


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape, and None for one that does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(StridedProjection(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: ResNetOptions, layout: Layout, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        first = scaled_channels(STAGE_CHANNELS[0], options.width)
        self.conv1 = nn.Conv2d(channels, first, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = activation(options.activation)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, outputs = _stage(first, 0, options, layout)
        self.layer2, outputs = _stage(outputs, 1, options, layout)
        self.layer3, outputs = _stage(outputs, 2, options, layout)
        self.layer4, outputs = _stage(outputs, 3, options, layout)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(outputs, classes)
        for part in (self.conv1, self.layer1, self.layer2, self.layer3, self.layer4):
            part.apply(partial(initialise, name=options.activation))

    def forward(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        return logits


def _stage(inputs: int, number: int, options: ResNetOptions, layout: Layout) -> tuple[nn.Sequential, int]:
    """A stage, counted from 0, and the channels that come out of it."""
    name, channels = options.activation, STAGE_CHANNELS[number]
    outputs = scaled_channels(channels * (1 if layout.bottleneck is None else EXPANSION), options.width)
    blocks: list[nn.Module] = []
    for repetition in range(layout.depths[number]):
        stride = 2 if number > 0 and repetition == 0 else 1
        if layout.bottleneck is None:
            blocks.append(BasicBlock(inputs, outputs, stride, name))
        else:
            inner = scaled_channels(channels * layout.bottleneck, options.width)
            blocks.append(Bottleneck(inputs, inner, outputs, stride=stride, activation_name=name))
        inputs = outputs
    return nn.Sequential(*blocks), outputs


def resnet(options: ResNetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """The residual network of the options' name with fresh weights."""
    small = has_small_stem(options, image_size)
    return ResNet(options, LAYOUTS[options.name], classes=classes, channels=channels, small=small)
