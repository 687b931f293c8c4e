"""A convolution with batch normalisation and an activation, as GoogLeNet and Inception v3 are made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nets.activations import activation
from nets.models.scaling import scaled_channels
from specs.networks.base import ConvolutionalOptions

# That of the authors' TensorFlow code, from which the usual pretrained weights come.
EPSILON = 0.001

Sides = int | tuple[int, int]


class NormalisedConvolution(nn.Module):
    """Images of shape (N, inputs, H, W) to (N, outputs, H', W')."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sides, *, stride: int, padding: Sides, activation_name: str
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.relu = activation(activation_name)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.relu(self.bn(self.conv(images)))
        return outputs


@dataclass(frozen=True)
class Convolutions:
    """Makes the convolutions of one network, which share their width and activation."""

    options: ConvolutionalOptions
    activation: str

    def __call__(
        self, inputs: int, outputs: int, kernel: Sides, *, stride: int = 1, padding: Sides = 0
    ) -> NormalisedConvolution:
        """`inputs` is what comes in; `outputs` is the paper's number, which the width has yet to scale."""
        scaled = scaled_channels(outputs, self.options.width)
        return NormalisedConvolution(
            inputs, scaled, kernel, stride=stride, padding=padding, activation_name=self.activation
        )


def truncated_normal(module: nn.Module, std: float) -> None:
    """Fills the weights of a convolution or linear layer; draws further out than two deviations are drawn again.

    That is `truncated_normal_initializer` of the authors' code. torchvision's limits are -2 and 2 whatever the
    deviation, and so cut nothing off.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
