"""Which windows agree, on one displacement or on a trend."""

import numpy as np

from terareg.stitching.consensus import (
    chance_of_trend,
    find_consensus,
    find_line,
    share_within,
)
from terareg.stitching.pairs import WindowResult


def test_noise_beside_windows_that_agree_is_no_trend():
    """Three windows hold structure, three noise: lines reach some of it, but not beyond chance."""
    rng = np.random.default_rng(0)
    tolerance, lags = np.full(3, 1.5), [9, 13, 13]
    reached = told = found_again = 0
    for _ in range(150):
        for lean in (0, 9):
            windows = []
            for k in range(6):
                at = np.array([0, lean * (k - 2.5) / 5, 0]) + rng.normal(0, 0.3, 3)
                if not lean and k % 2:
                    at = rng.uniform(-1, 1, 3) * (4, 6, 6)
                windows.append(
                    WindowResult((10 * k, 10 * k + 10), (0, 99), tuple(np.rint(at)), 0.5, 0.4,
                                 True, False)
                )  # fmt: skip
            flat = find_consensus(windows, tolerance, np.ones(3), lags)
            line = find_line(windows, tolerance, np.ones(3), lags)
            share = share_within(tolerance, np.ones(3), lags)
            beyond = chance_of_trend(line, flat, 1, share) < 0.01
            if lean:
                found_again += beyond
            else:
                reached += len(line.members) > len(flat.members)
                told += beyond
    assert reached > 3 and told == 0 and found_again > 140
