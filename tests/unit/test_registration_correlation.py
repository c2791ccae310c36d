"""The share of variance that no function of the atlas intensity explains, and its slopes."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from terareg.core.frames import Frame
from terareg.registration.correlation import CorrelationRatio, Seen

FRAME = Frame((9, 7, 8), (300.0, 400.0, 350.0), (100.0, -200.0, 50.0))
CUTS = ((), ((1, 1),), ((0, -1), (2, 1)))


def an_atlas():
    noise = np.random.default_rng(0).standard_normal(FRAME.shape)
    smooth = ndimage.gaussian_filter(noise, 1.0)
    return np.clip(0.6 + smooth, 0, 1.3).astype(np.float32)


def a_sample():
    """Scattered voxels, some of them outside of the atlas."""
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.1, 1.05, (3, 700)) * np.array([[2700.0], [2800.0], [2800.0]])
    values = np.sin(points[0] / 500) + np.cos(points[2] / 700)
    return Seen(points, values, rng.uniform(0, 1, 700))


def a_map(seed):
    rng = np.random.default_rng(seed)
    return np.eye(3) + 0.1 * rng.standard_normal((3, 3)), 100 * rng.standard_normal(3)


def plainly(cut, linear, offset):
    """The same with SciPy's interpolation and least squares."""
    atlas, sample = an_atlas(), a_sample()
    moved = linear @ sample.points_um + offset[:, None]
    axes = FRAME.axes_um()
    inside = [np.clip(p, axis[0], axis[-1]) for p, axis in zip(moved, axes)]
    image = RegularGridInterpolator(axes, atlas)(np.stack(inside, 1)) / 1.3
    terms = np.maximum(0, 1 - np.abs(7 * image - np.arange(8)[:, None]))
    if cut:
        before = np.ones_like(image)
        for axis, sign in cut:
            step, n = FRAME.spacing_um[axis], FRAME.shape[axis]
            face = FRAME.origin_um[axis] + step * (n - 0.5 if sign > 0 else -0.5)
            before = before * np.clip(0.5 - sign * (moved[axis] - face) / step, 0, 1)
        terms = np.vstack([terms * before, (1 - before) * image, (1 - before) * (1 - image)])
    root = np.sqrt(sample.weight)
    curve = np.linalg.lstsq((terms * root).T, sample.values * root, rcond=None)[0]
    left = sample.weight @ (sample.values - curve @ terms) ** 2
    mean = np.average(sample.values, weights=sample.weight)
    return left / (sample.weight @ (sample.values - mean) ** 2)


@pytest.mark.parametrize("cut", CUTS)
def test_the_share_is_that_of_least_squares_with_hat_functions(cut):
    criterion = CorrelationRatio(an_atlas(), FRAME, cut, a_sample(), 1.3)
    for seed in range(3):
        linear, offset = a_map(seed)
        found = criterion.unexplained(linear, offset)
        assert found == pytest.approx(plainly(cut, linear, offset), abs=1e-4)
        assert criterion.slopes(linear, offset)[0] == found


@pytest.mark.parametrize("cut", CUTS)
def test_slopes_are_those_of_differences(cut):
    criterion = CorrelationRatio(an_atlas(), FRAME, cut, a_sample(), 1.3)
    linear, offset = a_map(5)
    _, by_linear, by_offset = criterion.slopes(linear, offset)
    rng = np.random.default_rng(2)
    for _ in range(6):
        turn, shift = 1e-5 * rng.standard_normal((3, 3)), 0.01 * rng.standard_normal(3)
        ends = [plainly(cut, linear + s * turn, offset + s * shift) for s in (1, -1)]
        expected = (ends[0] - ends[1]) / 2
        found = (by_linear * turn).sum() + by_offset @ shift
        assert found == pytest.approx(expected, rel=0.01, abs=1e-7)


def test_a_function_of_the_atlas_leaves_nothing_and_noise_all():
    atlas, places = an_atlas(), np.stack(np.meshgrid(*FRAME.axes_um(), indexing="ij"))
    points, weight = places.reshape(3, -1), np.ones(atlas.size)
    there = np.eye(3), np.zeros(3)
    bins = np.linspace(0, 1.3, 8)
    inverted = np.interp(atlas.reshape(-1), bins, [0, 3, 1, 0.5, 2, 1, 0, 4])
    criterion = CorrelationRatio(atlas, FRAME, (), Seen(points, inverted, weight), 1.3)
    assert criterion.unexplained(*there) < 1e-4
    noise = np.random.default_rng(3).standard_normal(atlas.size)
    criterion = CorrelationRatio(atlas, FRAME, (), Seen(points, noise, weight), 1.3)
    assert criterion.unexplained(*there) > 0.95
