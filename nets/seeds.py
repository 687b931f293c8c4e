"""Randomness without history: every draw is a pure function of what it is for and of numbers that name it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

# Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 17.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits from a purpose and numbers."""
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(count: int, *, seed: int) -> torch.Tensor:
    """The numbers 0 to count - 1 in an order that the seed decides; int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def draws(indices: NDArray[np.int64], *, seed: int, below: int) -> NDArray[np.int64]:
    """One number of 0 to below - 1 for each index, by SplitMix64 at position `index` of the seed's stream."""
    return (_mixed(indices, seed) % np.uint64(below)).astype(np.int64)


def uniform(indices: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """One number of [0, 1) for each index, a multiple of 2^-53, from the same stream."""
    return (_mixed(indices, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(indices: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    mixed = np.uint64(seed) + (indices.astype(np.uint64) + np.uint64(1)) * _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Chance:
    """What chance decides for some images of a split, `indices` int64 (N,), in one epoch; a stream for each purpose."""

    indices: NDArray[np.int64]
    seed: int
    epoch: int

    def whole(self, purpose: str, *, below: int) -> NDArray[np.int64]:
        """A number of 0 to below - 1 for each image."""
        return draws(self.indices, seed=derived_seed(purpose, self.seed, self.epoch), below=below)

    def uniform(self, purpose: str) -> NDArray[np.float64]:
        """A number of [0, 1) for each image."""
        return uniform(self.indices, seed=derived_seed(purpose, self.seed, self.epoch))

    def of(self, indices: NDArray[np.int64]) -> Chance:
        """The same for other images."""
        return replace(self, indices=indices)
