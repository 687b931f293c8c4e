"""Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, arXiv 1512.00567, table 1 and section 6.

How we differ: layers bear torchvision's names, so that its weights fit, and its channels, which are those of the
authors' TensorFlow code. As in torchvision the average poolings of the branches count the padding, which the authors'
do not. Dropout is the authors' 0.2 (the paper is silent); torchvision takes 0.5. The paper's stem takes 299 pixels to
35 and, without padding, needs 75 at least; `auto` takes the small one below that. In it the first convolution has
stride 1, the first pooling is left out, and every layer pads, so that an image is halved three times and no pixel is
lost at its rim.

The auxiliary head is an option. With it a forward pass in training mode returns the logits and those of the head;
its loss counts `auxiliary_weight`. Features under 17 pixels, which the paper's 299 give, are averaged to 5 x 5 there.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from nets.models.normalised_convolution import Convolutions, truncated_normal
from specs.networks.inception import LEAST_SIZE_OF_INCEPTION_V3, InceptionV3Options

# `train_image_classifier.py` of the authors' TensorFlow code; the paper gives none.
AUXILIARY_WEIGHT = 0.4
AUXILIARY_SIDE = 17
AUXILIARY_CELLS = 5
# Those of the authors' `inception_v3.py`; the last two are of the auxiliary head.
WEIGHT_DEVIATION = 0.1
AUXILIARY_CONVOLUTION_DEVIATION = 0.01
AUXILIARY_LINEAR_DEVIATION = 0.001


def _averaged(images: Tensor) -> Tensor:
    return avg_pool2d(images, 3, stride=1, padding=1)


class InceptionA(nn.Module):
    """Branches of 1 x 1, 5 x 5 and two 3 x 3 convolutions and a pooling (figure 5)."""

    def __init__(self, convolution: Convolutions, inputs: int, *, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = convolution(inputs, 64, 1)
        self.branch5x5_1 = convolution(inputs, 48, 1)
        self.branch5x5_2 = convolution(self.branch5x5_1.outputs, 64, 5, padding=2)
        self.branch3x3dbl_1 = convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = convolution(self.branch3x3dbl_1.outputs, 96, 3, padding=1)
        self.branch3x3dbl_3 = convolution(self.branch3x3dbl_2.outputs, 96, 3, padding=1)
        self.branch_pool = convolution(inputs, pool_features, 1)
        last = (self.branch1x1, self.branch5x5_2, self.branch3x3dbl_3, self.branch_pool)
        self.outputs = sum(branch.outputs for branch in last)

    def forward(self, images: Tensor) -> Tensor:
        ones = self.branch1x1(images)
        fives = self.branch5x5_2(self.branch5x5_1(images))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(images)))
        return torch.cat([ones, fives, threes, self.branch_pool(_averaged(images))], 1)


class InceptionB(nn.Module):
    """Halves the size in three branches at once, so that nothing is squeezed (figure 10)."""

    def __init__(self, convolution: Convolutions, inputs: int, *, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.branch3x3 = convolution(inputs, 384, 3, stride=2, padding=padding)
        self.branch3x3dbl_1 = convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = convolution(self.branch3x3dbl_1.outputs, 96, 3, padding=1)
        self.branch3x3dbl_3 = convolution(self.branch3x3dbl_2.outputs, 96, 3, stride=2, padding=padding)
        self.outputs = self.branch3x3.outputs + self.branch3x3dbl_3.outputs + inputs

    def forward(self, images: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(images)))
        pooled = max_pool2d(images, 3, stride=2, padding=self.padding)
        return torch.cat([self.branch3x3(images), threes, pooled], 1)


class InceptionC(nn.Module):
    """7 x 7 convolutions taken apart into rows and columns (figure 6)."""

    def __init__(self, convolution: Convolutions, inputs: int, *, inner: int) -> None:
        super().__init__()
        row = partial(convolution, kernel=(1, 7), padding=(0, 3))
        column = partial(convolution, kernel=(7, 1), padding=(3, 0))
        self.branch1x1 = convolution(inputs, 192, 1)
        self.branch7x7_1 = convolution(inputs, inner, 1)
        between = self.branch7x7_1.outputs
        self.branch7x7_2 = row(between, inner)
        self.branch7x7_3 = column(between, 192)
        self.branch7x7dbl_1 = convolution(inputs, inner, 1)
        self.branch7x7dbl_2 = column(between, inner)
        self.branch7x7dbl_3 = row(between, inner)
        self.branch7x7dbl_4 = column(between, inner)
        self.branch7x7dbl_5 = row(between, 192)
        self.branch_pool = convolution(inputs, 192, 1)
        self.outputs = 4 * self.branch1x1.outputs

    def forward(self, images: Tensor) -> Tensor:
        ones = self.branch1x1(images)
        sevens = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(images)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(images)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([ones, sevens, twice, self.branch_pool(_averaged(images))], 1)


class InceptionD(nn.Module):
    """Halves the size once more."""

    def __init__(self, convolution: Convolutions, inputs: int, *, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.branch3x3_1 = convolution(inputs, 192, 1)
        self.branch3x3_2 = convolution(self.branch3x3_1.outputs, 320, 3, stride=2, padding=padding)
        self.branch7x7x3_1 = convolution(inputs, 192, 1)
        between = self.branch7x7x3_1.outputs
        self.branch7x7x3_2 = convolution(between, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = convolution(between, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = convolution(between, 192, 3, stride=2, padding=padding)
        self.outputs = self.branch3x3_2.outputs + self.branch7x7x3_4.outputs + inputs

    def forward(self, images: Tensor) -> Tensor:
        threes = self.branch3x3_2(self.branch3x3_1(images))
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(images))))
        return torch.cat([threes, sevens, max_pool2d(images, 3, stride=2, padding=self.padding)], 1)


class InceptionE(nn.Module):
    """3 x 3 convolutions taken apart into a row and a column side by side (figure 7)."""

    def __init__(self, convolution: Convolutions, inputs: int) -> None:
        super().__init__()
        row = partial(convolution, kernel=(1, 3), padding=(0, 1))
        column = partial(convolution, kernel=(3, 1), padding=(1, 0))
        self.branch1x1 = convolution(inputs, 320, 1)
        self.branch3x3_1 = convolution(inputs, 384, 1)
        between = self.branch3x3_1.outputs
        self.branch3x3_2a = row(between, 384)
        self.branch3x3_2b = column(between, 384)
        self.branch3x3dbl_1 = convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = convolution(self.branch3x3dbl_1.outputs, 384, 3, padding=1)
        self.branch3x3dbl_3a = row(between, 384)
        self.branch3x3dbl_3b = column(between, 384)
        self.branch_pool = convolution(inputs, 192, 1)
        self.outputs = self.branch1x1.outputs + 4 * between + self.branch_pool.outputs

    def forward(self, images: Tensor) -> Tensor:
        threes = self.branch3x3_1(images)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(images))
        split = [self.branch3x3_2a(threes), self.branch3x3_2b(threes)]
        split += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(images), *split, self.branch_pool(_averaged(images))], 1)


class AuxiliaryHead(nn.Module):
    """Logits of shape (N, classes) from the features before the last halving (figure 8)."""

    def __init__(self, convolution: Convolutions, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv0 = convolution(inputs, 128, 1)
        self.conv1 = convolution(self.conv0.outputs, 768, AUXILIARY_CELLS)
        self.fc = nn.Linear(self.conv1.outputs, classes)

    def forward(self, features: Tensor) -> Tensor:
        if min(features.shape[-2:]) >= AUXILIARY_SIDE:
            pooled = avg_pool2d(features, 5, stride=3)
        else:
            pooled = adaptive_avg_pool2d(features, AUXILIARY_CELLS)
        inner = adaptive_avg_pool2d(self.conv1(self.conv0(pooled)), 1)
        logits: Tensor = self.fc(torch.flatten(inner, 1))
        return logits


class InceptionV3(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes)."""

    def __init__(self, options: InceptionV3Options, *, classes: int, channels: int, small: bool) -> None:
        super().__init__()
        convolution = Convolutions(options, options.activation)
        padding = 1 if small else 0
        self.Conv2d_1a_3x3 = convolution(channels, 32, 3, stride=1 if small else 2, padding=padding)
        self.Conv2d_2a_3x3 = convolution(self.Conv2d_1a_3x3.outputs, 32, 3, padding=padding)
        self.Conv2d_2b_3x3 = convolution(self.Conv2d_2a_3x3.outputs, 64, 3, padding=1)
        self.maxpool1 = nn.Identity() if small else nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = convolution(self.Conv2d_2b_3x3.outputs, 80, 1)
        self.Conv2d_4a_3x3 = convolution(self.Conv2d_3b_1x1.outputs, 192, 3, padding=padding)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, padding=padding)
        self.Mixed_5b = InceptionA(convolution, self.Conv2d_4a_3x3.outputs, pool_features=32)
        self.Mixed_5c = InceptionA(convolution, self.Mixed_5b.outputs, pool_features=64)
        self.Mixed_5d = InceptionA(convolution, self.Mixed_5c.outputs, pool_features=64)
        self.Mixed_6a = InceptionB(convolution, self.Mixed_5d.outputs, padding=padding)
        self.Mixed_6b = InceptionC(convolution, self.Mixed_6a.outputs, inner=128)
        self.Mixed_6c = InceptionC(convolution, self.Mixed_6b.outputs, inner=160)
        self.Mixed_6d = InceptionC(convolution, self.Mixed_6c.outputs, inner=160)
        self.Mixed_6e = InceptionC(convolution, self.Mixed_6d.outputs, inner=192)
        self.AuxLogits = None
        if options.auxiliary:
            self.auxiliary_weight = AUXILIARY_WEIGHT
            self.AuxLogits = AuxiliaryHead(convolution, self.Mixed_6e.outputs, classes)
        self.Mixed_7a = InceptionD(convolution, self.Mixed_6e.outputs, padding=padding)
        self.Mixed_7b = InceptionE(convolution, self.Mixed_7a.outputs)
        self.Mixed_7c = InceptionE(convolution, self.Mixed_7b.outputs)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(self.Mixed_7c.outputs, classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        features = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(features)))
        features = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(features))))
        features = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(features)))
        middle = self.Mixed_6e(self.Mixed_6d(features))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(middle)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))
        if self.training and self.AuxLogits is not None:
            return logits, self.AuxLogits(middle)
        return logits


def _initialise(network: InceptionV3) -> None:
    network.apply(partial(truncated_normal, std=WEIGHT_DEVIATION))
    if network.AuxLogits is not None:
        truncated_normal(network.AuxLogits.conv1.conv, AUXILIARY_CONVOLUTION_DEVIATION)
        truncated_normal(network.AuxLogits.fc, AUXILIARY_LINEAR_DEVIATION)


def inception_v3(options: InceptionV3Options, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """Inception v3 with fresh weights."""
    takes_paper = image_size >= LEAST_SIZE_OF_INCEPTION_V3
    small = options.stem == "small" or (options.stem == "auto" and not takes_paper)
    return InceptionV3(options, classes=classes, channels=channels, small=small)
