"""Points of all seams in arrays."""

import numpy as np
import pytest

from terareg.stitching.pairs import PairResult, SeamPoint
from terareg.stitching.seam_tables import seam_table


def pair(status="ok", points=()):
    return PairResult(
        "A", "B", "EAST", status, (0.0, 1.0, 80.0), (0.1,) * 3, 1.0, 0.8, 6, 6,
        (0.0, 0.0, 80.0), (5, 5, 5), points=tuple(points),
    )  # fmt: skip


def test_points_follow_each_other_with_the_noise_of_their_pair():
    rng = np.random.default_rng(0)
    at = rng.uniform(0, 1, (200, 3)) * (20, 100, 20) + (0, 0, 80)
    tilted = (0, 1, 80) + 0.05 * at[:, 1:2] + rng.normal(0, 0.4, at.shape)
    noisy = pair(points=[SeamPoint(tuple(i), tuple(d)) for i, d in zip(at, tilted)])
    table = seam_table([pair("no_signal"), noisy, pair()], (20, 100, 100))
    assert table.of_pair(0) == slice(0, 0) and table.of_pair(1) == slice(0, 200)
    assert table.noise[0] == pytest.approx(0.4, rel=0.25)
    last = table.of_pair(2)
    np.testing.assert_array_equal(table.first[last], [[9.5, 50.0, 89.5]] * 4)
    np.testing.assert_array_equal(table.displ[last], [[0.0, 1.0, 80.0]] * 4)
    assert (table.noise[last] == table.noise[0]).all()
    assert len(seam_table([], (20, 100, 100)).first) == 0
