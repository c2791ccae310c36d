"""Saturated pixels are counted whatever the bits of the camera, and bright tissue is not."""

import numpy as np
import pytest

from terareg.intensity.saturation import add_peak, saturation


def peaks(planes):
    peak = np.zeros(5, np.int64)
    for plane in planes:
        peak = add_peak(peak, plane)
    return peak.tolist()


def tissue(limit, seed=0, share=0.01, dtype=np.uint16):
    """Planes with a bright tail, of which a share lies beyond the limit of the camera."""
    rng = np.random.default_rng(seed)
    planes = rng.lognormal(0, 0.6, (3, 128, 128))
    planes *= limit / np.quantile(planes, 1 - share)
    return np.minimum(np.rint(planes), limit).astype(dtype)


@pytest.mark.parametrize(
    "limit, bits", [(255, 8), (4095, 12), (16383, 14), (65535, 16), (3995, None)]
)
def test_a_plateau_at_the_limit_of_the_camera_is_counted(limit, bits):
    planes = tissue(limit)
    found = saturation([peaks(planes), peaks(planes // 2)])
    assert found["at"] == limit and found["bits"] == bits
    assert found["percent"] == pytest.approx(100 * (planes == limit).mean() / 2, rel=1e-3)


def test_bright_tissue_below_the_limit_is_not_saturated():
    planes = tissue(60000, share=1e-7)
    assert planes.max() < 65535
    assert saturation([peaks(planes)]) is None
    # as many as happen to have the brightest value, at 2^n - 1
    planes = tissue(4000, share=1e-7)
    planes[0, 0, :5] = 4095
    assert saturation([peaks(planes)]) is None


def test_a_few_pixels_at_the_limit_of_the_file_are_counted():
    planes = tissue(3000, share=1e-7)
    planes[1, 5, 7] = 65535
    found = saturation([peaks(planes)])
    assert (found["at"], found["bits"]) == (65535, 16)
    assert found["percent"] == pytest.approx(100 / planes.size, rel=1e-3)
    bytes_only = np.clip(planes // 12, 0, 255).astype(np.uint8)
    assert saturation([peaks(bytes_only)])["at"] == 255


def test_planes_that_are_dark_or_no_integers_say_nothing():
    assert saturation([]) is None
    assert saturation([peaks(np.zeros((2, 8, 8), np.uint16))]) is None
    assert saturation([peaks(np.ones((2, 80, 80), np.float32))]) is None
