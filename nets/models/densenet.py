"""Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, arXiv 1608.06993, table 1.

These are the DenseNet-BC of the paper: bottlenecks of four times the growth rate, and transitions that keep half of
the channels. How we differ: layers bear torchvision's names, so that its weights fit. The small stem is that of the
paper's CIFAR networks (a 3 x 3 convolution of stride 1 and no pooling) before the same four blocks. Width scales the
growth rate and the channels of the stem. Dropout follows each convolution but the first, as in section 4.2;
torchvision's follows the second of each layer alone. The activation can be chosen.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nets.activations import activation
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.densenet import DenseNetOptions

# Section 3: a bottleneck has four times the features that a layer adds, the stem twice as many; transitions halve.
BOTTLENECK = 4
COMPRESSION = 2
STEM = 2


@dataclass(frozen=True)
class Layout:
    """Layers of each block, and the features that each adds (k in the paper)."""

    depths: tuple[int, int, int, int]
    growth: int = 32


LAYOUTS = {
    "densenet121": Layout((6, 12, 24, 16)),
    "densenet161": Layout((6, 12, 36, 24), growth=48),
    "densenet169": Layout((6, 12, 32, 32)),
    "densenet201": Layout((6, 12, 48, 32)),
}


class DenseLayer(nn.Module):
    """`growth` new features of shape (N, growth, H, W) from all before them."""

    def __init__(self, inputs: int, growth: int, options: DenseNetOptions) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = activation(options.activation)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = activation(options.activation)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        inner = self.dropout(self.conv1(self.relu1(self.norm1(torch.cat(features, 1)))))
        outputs: Tensor = self.dropout(self.conv2(self.relu2(self.norm2(inner))))
        return outputs


class DenseBlock(nn.Module):
    """Layers that each see the block's inputs and the features of all layers before them; `outputs` counts all."""

    def __init__(self, inputs: int, growth: int, depth: int, options: DenseNetOptions) -> None:
        super().__init__()
        for number in range(depth):
            self.add_module(f"denselayer{number + 1}", DenseLayer(inputs + number * growth, growth, options))
        self.outputs = inputs + depth * growth

    def forward(self, images: Tensor) -> Tensor:
        features = [images]
        for layer in self.children():
            features.append(layer(features))
        return torch.cat(features, 1)


def _transition(inputs: int, outputs: int, options: DenseNetOptions) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [
        ("norm", nn.BatchNorm2d(inputs)),
        ("relu", activation(options.activation)),
        ("conv", nn.Conv2d(inputs, outputs, 1, bias=False)),
        ("dropout", nn.Dropout(options.dropout)),
        ("pool", nn.AvgPool2d(2)),
    ]
    return nn.Sequential(OrderedDict(layers))


def _stem(channels: int, outputs: int, options: DenseNetOptions, *, small: bool) -> list[tuple[str, nn.Module]]:
    kernel, stride = (3, 1) if small else (7, 2)
    return [
        ("conv0", nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2, bias=False)),
        ("norm0", nn.BatchNorm2d(outputs)),
        ("relu0", activation(options.activation)),
        ("pool0", nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)),
    ]


class DenseNet(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: DenseNetOptions, layout: Layout, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        growth = scaled_channels(layout.growth, options.width)
        before = scaled_channels(STEM * layout.growth, options.width)
        layers = _stem(channels, before, options, small=small)
        for number, depth in enumerate(layout.depths, start=1):
            block = DenseBlock(before, growth, depth, options)
            layers.append((f"denseblock{number}", block))
            before = block.outputs
            if number < len(layout.depths):
                layers.append((f"transition{number}", _transition(before, before // COMPRESSION, options)))
                before //= COMPRESSION
        layers += [("norm5", nn.BatchNorm2d(before)), ("relu5", activation(options.activation))]
        self.features = nn.Sequential(OrderedDict(layers))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(before, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def _initialise(module: nn.Module) -> None:
    # He et al., arXiv 1502.01852, as section 4.2 says; batch normalisation begins at 1 and 0 by itself.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def densenet(options: DenseNetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """The DenseNet of the options' name with fresh weights."""
    small = has_small_stem(options, image_size)
    return DenseNet(options, LAYOUTS[options.name], classes=classes, channels=channels, small=small)
