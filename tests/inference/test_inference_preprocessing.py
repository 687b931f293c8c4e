from __future__ import annotations

import numpy as np
import pytest

from formats.manifest import Preprocessing
from inference.preprocessing import normaliser


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_follows_the_manifest(count, channels):
    rule = Preprocessing(
        image_size=4, channels=channels, mean=(0.485, 0.456, 0.406)[:channels], std=(0.229, 0.224, 0.225)[:channels]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    images = normaliser(rule)(pixels)
    expected = ((pixels / 255 - np.array(rule.mean)) / np.array(rule.std)).transpose(0, 3, 1, 2)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_pixels_need_not_be_contiguous():
    rule = Preprocessing(image_size=4, channels=3, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), dtype=np.uint8)[:, :, ::2]
    np.testing.assert_allclose(normaliser(rule)(pixels), pixels.transpose(0, 3, 1, 2) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5,), (1, 1, 1)),
        ((0, 0, 0), (1, 1)),
        ((0, 0, 0), (1, -1, 1)),
        ((1, 1, 1), (1, 1, 1e-40)),
        ((float("nan"),) * 3, (1, 1, 1)),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(mean, std):
    with pytest.raises(ValueError, match="for each channel"):
        normaliser(Preprocessing(image_size=4, channels=3, mean=mean, std=std))
