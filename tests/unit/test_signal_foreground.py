"""What stands out from its background: any box is the part of the whole, and the whole is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from terareg.core.errors import ConfigError, VolumeError
from terareg.signal.foreground import (
    METHODS,
    ForegroundSettings,
    as_probability,
    check_settings,
    foreground,
    halo_vox,
)

SPACING_UM = (2.0, 1.0, 1.5)


def image_of(shape, seed, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    slow = ndimage.gaussian_filter(rng.normal(0, 1, shape), 4, mode="wrap") * 3000
    return (1000 + slow + rng.gamma(1, 100, shape)).clip(0).astype(dtype)


def answer(image, chosen, box=None):
    def read(start, stop):
        assert all(0 <= a < b <= n for a, b, n in zip(start, stop, image.shape))
        return image[tuple(slice(a, b) for a, b in zip(start, stop))]

    box = box or ((0, 0, 0), image.shape)
    return foreground(read, box, image.shape, SPACING_UM, chosen)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(6, 34)] * 3), st.sampled_from(METHODS), st.floats(6, 30),
    st.sampled_from([0.0, 1.6]), st.sampled_from([np.uint8, np.uint16, np.float32]), st.data(),
)  # fmt: skip
def test_any_box_is_the_part_of_the_whole(shape, method, background_um, smooth_um, dtype, data):
    image = image_of(shape, data.draw(st.integers(0, 99)), dtype)
    if method == "probability" and dtype == np.float32:
        image /= image.max()
    chosen = ForegroundSettings(method, background_um, 1.6 if method == "gradient" else smooth_um)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape))
    part = tuple(slice(a, b) for a, b in zip(start, stop))
    assert np.array_equal(answer(image, chosen, (start, stop)), answer(image, chosen)[part])


def test_probabilities_are_0_to_1_whatever_their_type():
    bytes_ = np.arange(256, dtype=np.uint8)
    expected = np.arange(256) / 255
    for values in (bytes_, bytes_.astype(np.uint16) * 257, expected, expected.astype(np.float32)):
        np.testing.assert_allclose(as_probability(values), expected, atol=1e-6)
    assert as_probability(np.array([np.nan, 1.0005])).tolist() == [0, 1]
    with pytest.raises(VolumeError, match="have type int32; give uint8 or uint16"):
        as_probability(np.zeros(3, np.int32))
    with pytest.raises(VolumeError, match="reach from 0 to 100, and not from 0 to 1"):
        as_probability(np.array([0.0, 100.0]))


def plain_background(image, method, background_um):
    """The same by one call of ndimage for each step, on an image of whole coarse voxels."""
    factor = [max(1, int(background_um / s / 4)) for s in SPACING_UM]
    cells = [n // f for n, f in zip(image.shape, factor)]
    sizes = [n for pair in zip(cells, factor) for n in pair]
    coarse = image.astype(float).reshape(sizes).mean(axis=(1, 3, 5))
    width = [background_um / f / s for f, s in zip(factor, SPACING_UM)]
    if method == "difference":
        coarse = ndimage.gaussian_filter(coarse, width, truncate=3)
    else:
        coarse = ndimage.grey_opening(coarse, [2 * round(w / 2) + 1 for w in width])
    index = np.indices(image.shape, float)
    place = [(i + 0.5) / f - 0.5 for i, f in zip(index, factor)]
    return ndimage.map_coordinates(coarse, place, order=1, mode="nearest")


@pytest.mark.parametrize("method", ["difference", "top_hat"])
def test_the_background_is_that_of_plain_steps(method):
    image = image_of((24, 48, 32), 3)  # 3 x 6 x 4 voxels of 24 um / 4 each
    found = answer(image, ForegroundSettings(method, 24.0, 0.0))
    expected = image - plain_background(image, method, 24.0)
    assert np.allclose(found, expected, atol=0.02)


def test_a_fibre_stands_out_from_a_bright_region_and_its_border():
    """The threshold alone takes the whole bright half, or misses the fibre in the dark one."""
    image = np.full((30, 60, 60), 500.0, np.float32)
    image[:, :, 30:] = 2500
    image[14:16, 20, :] += 800
    image[14:16, 40:42, 5:25] += 800
    fibre = np.zeros(image.shape, bool)
    fibre[14:16, 20] = fibre[14:16, 40:42, 5:25] = True
    found = answer(image, ForegroundSettings("top_hat", 16.0)) > 350
    assert found[fibre].mean() > 0.98
    far = ~ndimage.binary_dilation(fibre, iterations=2)
    far[:, :, 26:34] = False  # where the coarse background climbs
    assert not found[far].any()
    # a Gaussian sees the step for as far as it reaches, and is right beyond
    found = answer(image, ForegroundSettings("difference", 6.0)) > 350
    far[:, :, 15:45] = False
    assert found[fibre][:40].mean() > 0.5 and not found[far].any()


def test_the_slope_is_that_of_grey_values_for_each_micrometre():
    index = np.indices((20, 24, 28), float)
    image = (10 * SPACING_UM[0] * index[0] + 30 * SPACING_UM[2] * index[2]).astype(np.float32)
    found = answer(image, ForegroundSettings("gradient", smooth_um=2.0))
    assert np.allclose(found[8:-8, 8:-8, 8:-8], np.hypot(10, 30), rtol=1e-3)


def test_settings_that_do_not_fit_the_voxels():
    with pytest.raises(ConfigError, match="background_um: 3 is less than two voxels of 2 um"):
        check_settings(ForegroundSettings(background_um=3.0), SPACING_UM)
    with pytest.raises(ConfigError, match=r"smooth_um: 0.5 is less than half a voxel along z"):
        check_settings(ForegroundSettings("gradient", smooth_um=0.5), SPACING_UM)
    check_settings(ForegroundSettings("plain", background_um=0.1), SPACING_UM)
    with pytest.raises(
        ConfigError, match=r"needs \d+ voxels around every block, more than the 256 allowed"
    ):
        check_settings(ForegroundSettings("difference", 100.0), SPACING_UM)
    assert halo_vox(ForegroundSettings("plain", smooth_um=4.0), SPACING_UM) == (8, 16, 11)
    assert min(halo_vox(ForegroundSettings("difference", 24.0), SPACING_UM)) >= 3 * 24 / 2
