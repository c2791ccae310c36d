"""The map of cells in the atlas: a Gaussian of known width, and the number of cells."""

import numpy as np
import pytest

from terareg.core.frames import Frame
from terareg.signal.density import density_map

FRAME = Frame((40, 44, 48), (25.0, 30.0, 20.0), (100.0, 0.0, -50.0))


def test_one_cell_becomes_a_gaussian_of_the_stated_width():
    place = FRAME.to_um(np.array([[20, 22, 24]]))
    found = density_map(place, FRAME, 60.0)
    z, y, x = np.meshgrid(*FRAME.axes_um(), indexing="ij")
    squares = sum((a - p) ** 2 for a, p in zip((z, y, x), place[0]))
    wanted = np.exp(-squares / (2 * 60.0**2)) / (60.0 * np.sqrt(2 * np.pi)) ** 3 * 1e9
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 0.02 * wanted.max()


@pytest.mark.parametrize("sd_um", [0.0, 40.0])
def test_the_map_holds_as_many_cells_as_lie_well_inside(sd_um):
    rng = np.random.default_rng(0)
    low, high = FRAME.to_um(np.array([(10, 10, 12), (30, 34, 36)]))
    points = np.vstack([rng.uniform(low, high, (500, 3)), [[1e6, 0, 0], [np.nan, 0, 0]]])
    total = density_map(points, FRAME, sd_um).sum(dtype=float) * FRAME.voxel_volume_um3 / 1e9
    assert total == pytest.approx(500, rel=1e-3)


def test_without_smoothing_voxels_count_their_cells():
    points = FRAME.to_um(np.array([[3, 4, 5], [3.4, 4.4, 4.6], [0, 0, 47.49], [0, 0, 47.51]]))
    counts = density_map(points, FRAME, 0.0) * FRAME.voxel_volume_um3 / 1e9
    assert counts[3, 4, 5] == pytest.approx(2) and counts[0, 0, 47] == pytest.approx(1)
    assert np.count_nonzero(counts) == 2


def test_no_cells_are_a_map_of_zeros():
    assert not density_map(np.zeros((0, 3)), FRAME, 100.0).any()
