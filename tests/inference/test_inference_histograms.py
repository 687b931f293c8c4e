"""Histograms count each value once, in the bucket of the least bound that it does not exceed."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.histograms import IMAGES, SECONDS, Histogram

values = st.lists(st.floats(min_value=0, max_value=1000))


@given(values, st.sampled_from([SECONDS, IMAGES, ()]))
def test_every_bound_has_all_values_that_do_not_exceed_it(given_values: list[float], bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for value in given_values:
        histogram.add(value)
    expected = [(bound, sum(value <= bound for value in given_values)) for bound in (*bounds, inf)]
    assert histogram.cumulative() == expected
    assert histogram.count == len(given_values)
    assert histogram.sum == pytest.approx(sum(given_values))


def test_a_copy_stays_as_it_was() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(1.0)
    copied = histogram.copy()
    histogram.add(5.0)
    assert copied.cumulative() == [(1.0, 1), (2.0, 1), (inf, 1)]
    assert (copied.sum, copied.bounds) == (1.0, (1.0, 2.0))
    assert histogram.cumulative() == [(1.0, 1), (2.0, 1), (inf, 2)]


def test_bounds_rise() -> None:
    for bounds in (SECONDS, IMAGES):
        assert list(bounds) == sorted(set(bounds))
