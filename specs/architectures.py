"""The networks that can be asked for: names, options, papers, and where they are built.

Figures (parameters, multiply-accumulates) depend on options, classes and image size; they are
counted on the built network and stored with each model.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from specs.networks.base import NetworkOptions
from specs.networks.densenet import DENSENETS
from specs.networks.fpnet import FPNETS
from specs.networks.inception import INCEPTIONS
from specs.networks.mlp import MLPS
from specs.networks.mobilenet import MOBILENETS
from specs.networks.resnet import RESNETS
from specs.networks.shufflenet import SHUFFLENETS
from specs.networks.vgg import VGGS
from specs.options import Entry, choice
from specs.registry import Registry


def _of_other_packages() -> list[Entry]:
    """Entries that installed packages add through the entry-point group `pruneyard.architectures`."""
    return [point.load() for point in entry_points(group="pruneyard.architectures")]


ARCHITECTURES: Registry[Entry] = Registry(
    "architecture",
    [
        *MLPS,
        *VGGS,
        *RESNETS,
        *INCEPTIONS,
        *DENSENETS,
        *MOBILENETS,
        *SHUFFLENETS,
        *FPNETS,
        *_of_other_packages(),
    ],
)

if TYPE_CHECKING:
    Architecture = NetworkOptions
else:
    Architecture = choice(ARCHITECTURES)
