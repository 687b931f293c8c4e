"""FPNet. No paper defines it; we read the name, which stands beside MobileNet v1, ShuffleNet and MobileNet v2, as a
lightweight network by weight pruning: a light base whose small weights are cut while it trains, and stored sparse.

Cut by magnitude after Han et al.: Learning both Weights and Connections for Efficient Neural Networks, arXiv
1506.02626, in rounds after Zhu, Gupta: To prune, or not to prune, arXiv 1710.01878, equation 1.
"""

from __future__ import annotations

from torch import nn

from nets.architectures import build
from specs.networks.fpnet import FpnetOptions


def fpnet(options: FpnetOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """The base with fresh weights, none of them cut: that comes with the training."""
    return build(options.base, classes=classes, channels=channels, image_size=image_size)
