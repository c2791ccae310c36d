"""Volumes are read as finely as their registration needs, and no finer."""

from __future__ import annotations

import pytest

from terareg.core.frames import Frame
from terareg.registration.reading import reading_resolution
from terareg.registration.resolution import finest_voxel_um


def test_what_is_asked_for_is_read():
    atlas = Frame((100, 100, 100), (25.0,) * 3)
    assert reading_resolution(atlas, 80) == 80.0


@pytest.mark.parametrize("shape", [(528, 320, 456), (100, 100, 100), (60, 300, 300)])
def test_the_default_is_finer_than_the_default_working_voxel(shape):
    """A brain fills at most its atlas: its working voxel is no finer than that of the full box."""
    atlas = Frame(shape, (25.0,) * 3)
    tissue_um = 25.0 * (0.4 * shape[0] * shape[1] * shape[2]) ** (1 / 3)
    assert 25.0 <= reading_resolution(atlas, None)
    assert reading_resolution(atlas, None) <= max(25.0, finest_voxel_um(tissue_um) * 2)


def test_nothing_is_read_finer_than_the_atlas():
    for spacing in ((10.0, 10.0, 10.0), (100.0, 25.0, 25.0)):
        assert reading_resolution(Frame((40, 40, 40), spacing), None) >= max(spacing)


def test_the_default_grows_with_the_brain_and_not_with_its_voxels():
    coarse, fine, larger = (
        reading_resolution(Frame((n, n, n), (spacing,) * 3), None)
        for n, spacing in ((1000, 10.0), (2000, 5.0), (2000, 10.0))
    )
    assert coarse == pytest.approx(fine, rel=0.01) and larger == pytest.approx(2 * coarse, rel=0.01)
