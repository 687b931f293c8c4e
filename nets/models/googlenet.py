"""Szegedy et al.: Going Deeper with Convolutions, arXiv 1409.4842, table 1.

How we differ: batch normalisation follows each convolution and there is no local response normalisation, as in the
authors' TensorFlow code and in torchvision, whose names the layers bear, so that its weights fit. The third branch's
kernels are 3 x 3 as there, by a mistake that its weights have kept (pytorch/vision issue 906); the option
`branch3_kernel` gives the paper's 5 x 5. The last large pooling is 2 x 2. Dropout is the paper's 0.4; torchvision
takes 0.2. The small stem is a 3 x 3 convolution of stride 1 without the pooling after it: two halvings fewer.

Auxiliary heads (section 5) are an option. With it a forward pass in training mode returns the logits and those of the
two heads; their losses count `auxiliary_weight` each. Their features are averaged to 4 x 4 whatever their size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from nets.activations import activation
from nets.models.normalised_convolution import Convolutions, truncated_normal
from nets.models.scaling import has_small_stem, scaled_channels
from specs.networks.inception import GoogLeNetOptions

# Table 1: 1 x 1, 3 x 3 reduce, 3 x 3, 5 x 5 reduce, 5 x 5, pool projection.
BRANCHES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Section 5.
AUXILIARY_WEIGHT = 0.3
AUXILIARY_DROPOUT = 0.7
AUXILIARY_CELLS = 4
# That of the authors' `inception_v1.py`; the paper gives none.
WEIGHT_DEVIATION = 0.01


class Inception(nn.Module):
    """Four branches over the same features, side by side in the result (figure 2b)."""

    def __init__(self, convolution: Convolutions, inputs: int, branches: tuple[int, ...], *, kernel: int) -> None:
        super().__init__()
        ones, threes_reduce, threes, fives_reduce, fives, pooled = branches
        self.branch1 = convolution(inputs, ones, 1)
        reduced = convolution(inputs, threes_reduce, 1)
        second = convolution(reduced.outputs, threes, 3, padding=1)
        self.branch2 = nn.Sequential(reduced, second)
        reduced = convolution(inputs, fives_reduce, 1)
        third = convolution(reduced.outputs, fives, kernel, padding=kernel // 2)
        self.branch3 = nn.Sequential(reduced, third)
        fourth = convolution(inputs, pooled, 1)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), fourth)
        self.outputs = self.branch1.outputs + second.outputs + third.outputs + fourth.outputs

    def forward(self, images: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(images) for branch in branches], 1)


class Halving(nn.Module):
    """Largest values of windows that lie two pixels apart, the last of which may reach over the rim.

    A window is no larger than the image: PyTorch takes one of 3 on two pixels, but OpenVINO does not.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, images: Tensor) -> Tensor:
        window = min(self.window, *images.shape[-2:])
        return max_pool2d(images, window, stride=2, ceil_mode=True)


class AuxiliaryHead(nn.Module):
    """Logits of shape (N, classes) from features half-way (section 5)."""

    def __init__(self, convolution: Convolutions, inputs: int, classes: int) -> None:
        super().__init__()
        hidden = scaled_channels(1024, convolution.options.width)
        self.avgpool = nn.AdaptiveAvgPool2d((AUXILIARY_CELLS, AUXILIARY_CELLS))
        self.conv = convolution(inputs, 128, 1)
        self.fc1 = nn.Linear(self.conv.outputs * AUXILIARY_CELLS**2, hidden)
        self.relu = activation(convolution.activation)
        self.dropout = nn.Dropout(AUXILIARY_DROPOUT)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        flat = torch.flatten(self.conv(self.avgpool(features)), 1)
        logits: Tensor = self.fc2(self.dropout(self.relu(self.fc1(flat))))
        return logits


class GoogLeNet(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: GoogLeNetOptions, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        convolution = Convolutions(options, options.activation)
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = convolution(channels, 64, kernel, stride=stride, padding=kernel // 2)
        self.maxpool1 = nn.Identity() if small else Halving(3)
        self.conv2 = convolution(self.conv1.outputs, 64, 1)
        self.conv3 = convolution(self.conv2.outputs, 192, 3, padding=1)
        self.maxpool2, self.maxpool3, self.maxpool4 = Halving(3), Halving(3), Halving(2)
        block = partial(Inception, convolution, kernel=options.branch3_kernel)
        self.inception3a = block(self.conv3.outputs, BRANCHES["3a"])
        self.inception3b = block(self.inception3a.outputs, BRANCHES["3b"])
        self.inception4a = block(self.inception3b.outputs, BRANCHES["4a"])
        self.inception4b = block(self.inception4a.outputs, BRANCHES["4b"])
        self.inception4c = block(self.inception4b.outputs, BRANCHES["4c"])
        self.inception4d = block(self.inception4c.outputs, BRANCHES["4d"])
        self.inception4e = block(self.inception4d.outputs, BRANCHES["4e"])
        self.inception5a = block(self.inception4e.outputs, BRANCHES["5a"])
        self.inception5b = block(self.inception5a.outputs, BRANCHES["5b"])
        self.aux1 = self.aux2 = None
        if options.auxiliary:
            self.auxiliary_weight = AUXILIARY_WEIGHT
            self.aux1 = AuxiliaryHead(convolution, self.inception4a.outputs, classes)
            self.aux2 = AuxiliaryHead(convolution, self.inception4d.outputs, classes)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(self.inception5b.outputs, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.conv3(self.conv2(self.maxpool1(self.conv1(images))))
        features = self.inception3b(self.inception3a(self.maxpool2(features)))
        first = self.inception4a(self.maxpool3(features))
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        features = self.maxpool4(self.inception4e(second))
        features = self.inception5b(self.inception5a(features))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return logits, self.aux1(first), self.aux2(second)
        return logits


def _initialise(module: nn.Module) -> None:
    truncated_normal(module, WEIGHT_DEVIATION)


def googlenet(options: GoogLeNetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """GoogLeNet with fresh weights."""
    return GoogLeNet(options, classes=classes, channels=channels, small=has_small_stem(options, image_size))
