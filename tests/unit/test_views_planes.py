"""Planes of volumes on square pixels: the right voxels, borders within half a voxel."""

import numpy as np
import pytest

from terareg.core.frames import Frame
from terareg.views.planes import (
    labelled_centre_um,
    labels_on,
    plane_frame,
    read_plane,
    spacing_for,
)
from terareg.volumes.reader import Levels

FRAME = Frame((12, 40, 30), (50.0, 10.0, 20.0), (-100.0, 500.0, 3.0), "SAR")


class Held(Levels):
    """A volume in memory, with a level of every second voxel along y."""

    def __init__(self, array, labels=False):
        self.array, self.name = array, "held"
        self.frames = (FRAME, FRAME.downsampled((1, 2, 1)))
        self.dtype, self.is_segmentation = array.dtype, labels
        self.asked = 0

    def _read(self, level, start, stop):
        part = self.array[:, :: 2**level][tuple(slice(a, b) for a, b in zip(start, stop))]
        self.asked += part.size
        return part


@pytest.fixture
def ramp():
    """Voxels hold their own position: a linear function of micrometres."""
    z, y, x = np.meshgrid(*FRAME.axes_um(), indexing="ij")
    return Held((z + 2 * y + 3 * x).astype(np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_has_square_pixels_and_the_values_of_its_place(ramp, axis):
    place = FRAME.to_um(np.array([5, 20, 14]))
    plane = plane_frame(FRAME, axis, place, 10.0)
    assert plane.shape[axis] == 1
    assert {s for a, s in enumerate(plane.spacing_um) if a != axis} == {10.0}
    found = read_plane(ramp, plane)
    z, y, x = np.meshgrid(*plane.axes_um(), indexing="ij")
    # beyond the centres of the outermost voxels the image is continued
    clipped = [np.clip(c, *line[[0, -1]]) for c, line in zip((z, y, x), FRAME.axes_um())]
    wanted = np.take(clipped[0] + 2 * clipped[1] + 3 * clipped[2], 0, axis=axis)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.01
    assert ramp.asked <= 40 * 30


def test_a_window_stays_in_the_volume_and_reads_no_more_than_it_shows(ramp):
    plane = plane_frame(FRAME, 0, (0, 500.0, 1e6), 10.0, half_um=60.0)
    low = [o - s / 2 for o, s in zip(FRAME.origin_um, FRAME.spacing_um)]
    high = [a + e for a, e in zip(low, FRAME.extent_um)]
    for a in (1, 2):
        assert plane.extent_um[a] == 120
        assert plane.origin_um[a] - 5 >= low[a] - 1e-9
        assert plane.origin_um[a] - 5 + 120 <= high[a] + 1e-9
    read_plane(ramp, plane)
    assert ramp.asked <= 13 * 8


def test_labels_are_looked_up_and_never_mixed():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4_000_000_000, FRAME.shape).astype(np.uint32)
    volume = Held(labels, labels=True)
    plane = plane_frame(FRAME, 2, FRAME.to_um(np.array([0, 0, 7])), 10.0)
    found = read_plane(volume, plane)
    assert np.array_equal(found, np.repeat(labels[:, :, 7], 5, axis=0))
    assert np.array_equal(labels_on(volume, FRAME), labels)
    wider = Frame((14, 42, 32), FRAME.spacing_um, tuple(FRAME.to_um(np.full(3, -1))), "SAR")
    assert np.array_equal(labels_on(volume, wider), np.pad(labels, 1))


def test_the_centre_is_that_of_the_labels():
    labels = np.zeros(FRAME.shape, np.uint32)
    volume = Held(labels, labels=True)
    assert np.allclose(labelled_centre_um(volume, 40), FRAME.centre_um)
    labels[3:6, 10:13, 4] = 9
    assert np.allclose(labelled_centre_um(volume, 40), FRAME.to_um(np.array([4, 11, 4])))


@pytest.mark.parametrize("voxels", [1e3, 5e3, 1e9])
def test_a_grid_of_so_many_voxels_is_never_finer_than_the_volume(voxels):
    spacing = spacing_for(FRAME, voxels)
    assert all(s >= own for s, own in zip(spacing, FRAME.spacing_um))
    count = np.prod([e / s for e, s in zip(FRAME.extent_um, spacing)])
    assert count <= voxels * 1.001
    assert voxels > 12 * 40 * 30 or count > 0.9 * voxels
