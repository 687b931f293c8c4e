"""He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1.

How we differ: shortcuts that change shape are projections (option B of section 3.3) and layers bear torchvision's
names, so that its weights fit. The small stem is the paper's own for CIFAR-10 (section 4.2): a 3 x 3 convolution of
stride 1 and no pooling. Width scales all channels; the activation can be chosen; dropout may precede the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.activations import activation
from nets.models.projection import StridedProjection
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.resnet import ResNetOptions

STAGE_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (figure 5, left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation_name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = activation(activation_name)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        inner = self.relu(self.bn1(self.conv1(images)))
        outputs: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return outputs


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(StridedProjection(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes); `depths` counts the blocks of each stage."""

    def __init__(
        self, options: ResNetOptions, depths: tuple[int, int, int, int], *, classes: int, channels: int, small: bool
    ) -> None:
        super().__init__()
        widths = [scaled_channels(count, options.width) for count in STAGE_CHANNELS]
        first = widths[0]
        self.conv1 = nn.Conv2d(channels, first, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = activation(options.activation)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(first, widths[0], depths[0], 1, options.activation)
        self.layer2 = _stage(widths[0], widths[1], depths[1], 2, options.activation)
        self.layer3 = _stage(widths[1], widths[2], depths[2], 2, options.activation)
        self.layer4 = _stage(widths[2], widths[3], depths[3], 2, options.activation)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(widths[3], classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        return logits


def _stage(inputs: int, outputs: int, depth: int, stride: int, activation_name: str) -> nn.Sequential:
    blocks = [BasicBlock(inputs, outputs, stride, activation_name)]
    blocks += [BasicBlock(outputs, outputs, 1, activation_name) for _ in range(1, depth)]
    return nn.Sequential(*blocks)


def _initialise(module: nn.Module) -> None:
    # He et al., arXiv 1502.01852, equation 14; batch normalisation begins at 1 and 0 by itself.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(options: ResNetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """ResNet-18 with fresh weights."""
    small = has_small_stem(options, image_size)
    return ResNet(options, (2, 2, 2, 2), classes=classes, channels=channels, small=small)
