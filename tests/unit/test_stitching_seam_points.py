"""Parts of a seam: each has its own displacement, where its structure lies."""

import numpy as np
import pytest
from scipy import ndimage

from terareg.stitching.least_squares import Cut
from terareg.stitching.seam_points import points_of


def structure(shape, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return (field / field.std()).astype(np.float32)


@pytest.mark.parametrize("planes", [24, 1])
def test_parts_of_a_seam_show_how_the_displacement_changes_along_it(planes):
    """The second image is 2 % larger along the seam (y), and shifted by 3 pixels along x."""
    canvas = structure((planes, 220, 60), 1)
    a = canvas[:, 4:212, 6:46]
    rows = (np.arange(208) - 104) / 1.02 + 104
    shifted = ndimage.map_coordinates(
        canvas,
        np.meshgrid(np.arange(planes), rows + 4, np.arange(40) + 9, indexing="ij"),
        order=3,
    )
    noisy = shifted + np.random.default_rng(2).normal(0, 0.3, shifted.shape)
    cut = Cut(a, noisy.astype(np.float32), np.zeros(3, int), (10, 100, 50))
    points = points_of([cut, None], np.array([0.0, 0.0, 3.0]), 1)
    at, displ = (np.array([getattr(p, k) for p in points]) for k in ("at_vox", "displ_vox"))
    assert len(points) == 4 and np.ptp(at[:, 1]) > 120
    assert np.all((at >= (10, 100, 50)) & (at < (10 + planes, 308, 90)))
    along = at[:, 1] - 100
    # row r of the first lies at 104 + 1.02 (r - 104) in the second
    assert np.abs(displ[:, 1] + 0.02 * (along - 104)).max() < 0.25
    assert np.abs(displ[:, 2] - 3).max() < 0.15


def test_parts_without_common_structure_have_no_point():
    shape = (12, 96, 40)
    cut = Cut(structure(shape, 1), structure(shape, 2), np.zeros(3, int))
    assert points_of([cut], np.zeros(3), 1) == ()
    empty = Cut(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(3, int))
    assert points_of([empty], np.zeros(3), 1) == ()
    narrow = Cut(structure((12, 96, 8), 1), structure((12, 96, 8), 1), np.zeros(3, int))
    assert points_of([narrow], np.zeros(3), 1) == ()
