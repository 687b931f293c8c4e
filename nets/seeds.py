"""Randomness without history: every draw is a pure function of what it is for and of numbers that name it."""

from __future__ import annotations

import hashlib

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
    mixed = np.uint64(seed) + (indices.astype(np.uint64) + np.uint64(1)) * _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed % np.uint64(below)).astype(np.int64)
