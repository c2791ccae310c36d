"""Lengths of fibres: known tubes, the same in any box, shells and blobs without a length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.objects.line_lengths import line_lengths

ISOTROPIC, COARSE_Z = (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)
T = np.linspace(0, 1, 801)[:, None]


def reader(mask):
    return lambda start, stop: mask[tuple(slice(a, b) for a, b in zip(start, stop))]


def measured(mask, spacing_um=ISOTROPIC, thickest_um=20.0, box=None):
    box = box or ((0, 0, 0), mask.shape)
    return line_lengths(reader(mask), box, mask.shape, spacing_um, thickest_um)


def tube(line_um, radius_um, spacing_um, extent_um=72.0):
    """Voxels whose centres are within the radius of a line."""
    shape = [round(extent_um / s) for s in spacing_um]
    axes = [np.arange(n) * s for n, s in zip(shape, spacing_um)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    far, _ = cKDTree(line_um).query(places, distance_upper_bound=radius_um)
    return np.isfinite(far)


def straight(*direction):
    return 36 + (T - 0.5) * 50 * np.array(direction) / np.linalg.norm(direction)


def arc():
    angle = T * 2 * np.pi * 0.8
    return 36 + 24 * np.concatenate([0.5 * np.sin(angle), 0.866 * np.sin(angle), np.cos(angle)], 1)


def helix():
    angle = T * 4 * np.pi
    return 36 + np.concatenate([(T - 0.5) * 50, 20 * np.sin(angle), 20 * np.cos(angle)], 1)


LINES = {
    "along z": straight(1, 0, 0),
    "diagonal": straight(1, 1, 1),
    "slight slope": straight(0.1, 0.25, 1),
    "oblique": straight(0.3, 0.7, 0.6),
    "arc": arc(),
    "helix": helix(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spacing_um", "radius_um", "within"),
    [(ISOTROPIC, 1.0, 0.04), (ISOTROPIC, 2.5, 0.03), (ISOTROPIC, 7.0, 0.02),
     (COARSE_Z, 2.0, 0.06), (COARSE_Z, 4.0, 0.08)],
)  # fmt: skip
def test_tubes_are_as_long_as_they_are(spacing_um, radius_um, within):
    """Straight, oblique and curved, from tip to tip; all of them together closer than each."""
    ratios = []
    for line in LINES.values():
        lengths, left = measured(tube(line, radius_um, spacing_um), spacing_um)
        true_um = np.linalg.norm(np.diff(line, axis=0), axis=1).sum() + 2 * radius_um
        ratios.append(lengths.sum() / 1000 / true_um)
        assert left == 0
    assert np.abs(np.array(ratios) - 1).max() < within
    assert abs(np.mean(ratios) - 1) < 0.02


def test_a_line_of_single_voxels_is_as_long_as_its_voxels():
    mask = np.zeros((5, 5, 40), bool)
    mask[2, 2, 5:35] = True
    lengths, _ = measured(mask, (3.0, 1.0, 2.0))
    assert lengths.sum() == pytest.approx(60_000, abs=200)
    assert np.count_nonzero(lengths[~mask]) == 0


@st.composite
def random_masks(draw):
    """Long masks of different texture, and a box in them."""
    axis, seed = draw(st.integers(0, 2)), draw(st.integers(0, 999))
    shape = [14, 15, 16]
    shape[axis] = 110
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.sampled_from([0.6, 1, 2])))
    mask = noise > np.quantile(noise, draw(st.sampled_from([0.6, 0.8, 0.95])))
    start, stop = [0, 0, 0], list(shape)
    start[axis] = draw(st.integers(1, 90))
    stop[axis] = start[axis] + draw(st.integers(1, 19))
    return mask, (tuple(start), tuple(stop))


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(random_masks(), st.sampled_from([(1.0, 1.0, 1.0), (2.5, 1.0, 1.3)]))
def test_any_box_is_the_part_of_the_whole(given_mask, spacing_um):
    mask, (start, stop) = given_mask
    whole, _ = measured(mask, spacing_um, 2.0)
    part, _ = measured(mask, spacing_um, 2.0, (start, stop))
    assert np.array_equal(part, whole[tuple(slice(a, b) for a, b in zip(start, stop))])


def test_blobs_and_shells_have_no_length():
    z, y, x = np.indices((30, 30, 30)) - 14.5
    far = np.sqrt(z**2 + y**2 + x**2)
    for mask in (far < 6, (far < 9) & (far > 7), far < 0):
        lengths, left = measured(mask)
        assert lengths.sum() == 0 and left == 0


def test_a_cavity_of_one_voxel_changes_no_length():
    mask = tube(LINES["oblique"], 3.0, ISOTROPIC)
    holed = mask.copy()
    holed[36, 36, 36] = False
    assert np.array_equal(measured(mask)[0], measured(holed)[0])


def test_what_is_too_thick_is_counted_and_has_no_length():
    mask = np.zeros((40, 40, 40), bool)
    mask[5:35, 5:35, 5:35] = True
    lengths, left = measured(mask, ISOTROPIC, 6.0)
    assert lengths.sum() == 0 and left > 1000


def test_short_side_branches_are_left_out():
    mask = np.zeros((9, 40, 60), bool)
    mask[4, 10, 5:55] = True
    plain = measured(mask, ISOTROPIC, 16.0)[0].sum()
    mask[4, 11:16, 30] = True
    assert measured(mask, ISOTROPIC, 16.0)[0].sum() == pytest.approx(plain, rel=0.02)
    mask[4, 11:31, 30] = True
    assert measured(mask, ISOTROPIC, 16.0)[0].sum() == pytest.approx(plain + 20_000, rel=0.03)
