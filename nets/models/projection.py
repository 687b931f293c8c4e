"""Strided 1 x 1 convolutions that are safe to train."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d

SAFE_CHANNELS = 16


class StridedProjection(nn.Conv2d):
    """A 1 x 1 convolution with a stride that, if it is narrow, drops the skipped pixels first in training.

    oneDNN's weight gradient of the strided form writes past its workspace on channels-last images of fewer channels
    than a vector register holds (16 with AVX-512): wrong gradients or a corrupted heap, seen with oneDNN 3.12
    (uxlfoundation/oneDNN issue 6035). Wider ones are right, and twice as fast without the detour.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.in_channels >= SAFE_CHANNELS:
            return super().forward(input)
        rows, columns = self.stride
        return conv2d(input[:, :, ::rows, ::columns], self.weight)
