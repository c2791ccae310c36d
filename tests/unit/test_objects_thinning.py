"""Thinning: pieces, tunnels and cavities stay; labels and lists are thinned as masks and boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import euler_number

from terareg.objects.line_reach import axes_of_round, thinning_rounds
from terareg.objects.thinning import (
    BoxVoxels,
    ListedVoxels,
    cleaned,
    edges_among,
    fill_cavities,
    may_end,
    thinned,
    unfinished,
)

ISOTROPIC, COARSE_Z = (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)
FIRST = (3, 8, 5)


def noise_mask(seed, share, edge=20):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((edge,) * 3), 1)
    return np.pad(noise > np.quantile(noise, share), 1)


def thin(box, spacing_um=ISOTROPIC, thickest_um=12.0):
    """Thin a box in place; its voxels, and which lines need."""
    voxels, needed = BoxVoxels(box, FIRST), np.zeros(box.size, bool)
    rounds = [axes_of_round(n, spacing_um) for n in range(thinning_rounds(thickest_um, spacing_um))]
    thinned(voxels, needed, rounds)
    return voxels, needed


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.7, 0.9]), st.sampled_from([ISOTROPIC, COARSE_Z]))
def test_thinning_keeps_pieces_tunnels_and_cavities(seed, share, spacing_um):
    mask = noise_mask(seed, share)
    before = ndimage.label(mask, np.ones((3, 3, 3)))[1], euler_number(mask, connectivity=3)
    full = mask.copy()
    voxels, needed = thin(mask, spacing_um)
    cleaned(voxels, needed)
    after = ndimage.label(mask, np.ones((3, 3, 3)))[1], euler_number(mask, connectivity=3)
    assert before == after
    assert not (mask & ~full).any() and not (needed & ~mask.reshape(-1)).any()


def test_labels_that_touch_are_thinned_as_each_alone():
    mask = noise_mask(3, 0.5, 16)
    labels = np.where(mask, 1 + np.indices(mask.shape)[0] // 6, 0).astype(np.uint64) * 2**40
    together = labels.copy()
    thin(together)
    for label in np.unique(labels)[1:]:
        alone = labels == label
        thin(alone)
        assert np.array_equal(alone, together == label)
        assert np.count_nonzero(alone) < np.count_nonzero(labels == label) / 2


def test_a_list_is_thinned_as_a_box():
    labels = np.where(noise_mask(5, 0.6), 1 + np.indices((22, 22, 22))[2] // 8, 0)
    at = np.argwhere(labels)
    order = np.argsort(labels[tuple(at.T)], kind="stable")
    at, number = at[order], labels[tuple(at[order].T)]
    listed, needed = ListedVoxels(at - 1 + FIRST, number), np.zeros(len(at) + 1, bool)
    thinned(listed, needed, [axes_of_round(n, COARSE_Z) for n in range(30)])
    cleaned(listed, needed)
    box, box_needed = thin(labels, COARSE_Z, 16.0)
    cleaned(box, box_needed)
    left = listed.solid[:-1] != 0
    assert {*map(tuple, at[left])} == {*map(tuple, np.argwhere(labels))}
    pairs = at[edges_among(listed, np.flatnonzero(left))]
    places = edges_among(box, np.flatnonzero(box.solid))
    expected = box.indices(places.reshape(-1)).reshape(-1, 6)
    assert {tuple(p.reshape(-1)) for p in pairs} == {*map(tuple, expected)}


def test_what_is_unfinished_goes_on_as_if_it_had_not_stopped():
    whole, halves = noise_mask(7, 0.4), noise_mask(7, 0.4)
    thin(whole, thickest_um=20.0)
    voxels, needed = BoxVoxels(halves, FIRST), np.zeros(halves.size, bool)
    thinned(voxels, needed, [[0, 1, 2]])
    assert len(unfinished(voxels, needed))
    thinned(voxels, needed, [[0, 1, 2]] * 30)
    assert np.array_equal(whole, halves)


def test_ends_are_found_before_lines_are_cleaned():
    line = np.zeros((5, 5, 12), bool)
    line[2, 2, 2:10] = True
    voxels, needed = thin(line)
    places = np.flatnonzero(voxels.solid)
    index = voxels.indices(places)[:, 2]
    assert index[may_end(voxels, needed, places)].tolist() == [3, 8]  # tips went in the first round


def test_cavities_of_one_voxel_are_filled():
    box = np.zeros((9, 9, 12), np.uint32)
    box[1:8, 1:8, 1:6], box[1:8, 1:8, 6:11] = 4, 7
    expected = box.copy()
    box[4, 4, 3] = 0
    box[4, 4, 8:10] = expected[4, 4, 8:10] = 0
    assert np.array_equal(fill_cavities(BoxVoxels(box, FIRST)), np.flatnonzero(expected))
    assert np.array_equal(box, expected)
