"""Correlation of shifted images against its definition."""

import numpy as np
import pytest

from terareg.stitching.correlation import correlate


def test_correlation_is_pearson_of_the_overlap():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 9, 8)), rng.standard_normal((6, 11, 8))
    low, high = (-2, -3, 1), (3, 2, 9)
    _, ncc = correlate(a, b, low, high)
    assert not ncc[..., 7:].any(), "images of 8 columns, 8 or more apart"
    for index in np.ndindex(ncc.shape):
        lag = np.array(index) + low
        first = np.maximum(lag, 0)
        last = np.minimum(a.shape, np.array(b.shape) + lag)
        if np.any(last - first < 4):
            continue
        part_a = a[tuple(slice(f, t) for f, t in zip(first, last))]
        part_b = b[tuple(slice(f, t) for f, t in zip(first - lag, last - lag))]
        wanted = np.corrcoef(part_a.ravel(), part_b.ravel())[0, 1]
        assert ncc[index] == pytest.approx(wanted, abs=1e-6)
