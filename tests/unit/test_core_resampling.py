"""Values on another grid: what is linear stays exact, and faces go on."""

import numpy as np

from terareg.core.frames import Frame
from terareg.core.resampling import resampled

OWN = Frame((7, 9, 8), (30.0, 20.0, 25.0), (10.0, -40.0, 5.0), "SAR")


def linear(frame):
    z, y, x = np.meshgrid(*frame.axes_um(), indexing="ij", sparse=True)
    return 0.02 * z - 0.01 * y + 0.03 * x


def test_what_is_linear_stays_so_between_voxels():
    frame = Frame((11, 10, 9), (13.0, 11.0, 17.0), (20.0, -30.0, 10.0), "SAR")
    found = resampled(linear(OWN), OWN, frame)
    assert found.dtype == np.float32 and found.shape == frame.shape
    np.testing.assert_allclose(found, linear(frame), atol=1e-5)


def test_beyond_the_faces_values_go_on():
    frame = Frame((3, 1, 1), (1000.0, 20.0, 25.0), (-990.0, -40.0, 5.0), "SAR")
    found = resampled(linear(OWN), OWN, frame)[:, 0, 0]
    np.testing.assert_allclose(found, linear(OWN)[[0, 0, -1], 0, 0], atol=1e-6)
