"""What blocks contribute: each voxel once, radii as an exact distance transform has them."""

import numpy as np
import pytest
from objects_helpers import surrounded_blocks, tube
from scipy import ndimage

from terareg.objects.line_reach import ROUNDS, voxels_reach
from terareg.objects.line_voxels import (
    DIRECTIONS,
    LineVoxels,
    centred,
    extent_step_um,
    line_voxels,
    surroundings,
)

SHAPE = (30, 70, 40)


def parts_of(labels, edge, spacing_um, rounds=ROUNDS):
    return [
        line_voxels(voxels, start, block, spacing_um, rounds)
        for block, voxels, start in surrounded_blocks(labels, edge, spacing_um, rounds)
    ]


def scene(spacing_um):
    labels = np.zeros(SHAPE, np.uint64)
    labels[tube(SHAPE, spacing_um, [[(12, 10, 10), (12, 60, 20)]], 3.4)] = 2**40
    labels[tube(SHAPE, spacing_um, [[(18.4, 10, 20), (18.4, 60, 8)]], 3.4)] = 7  # they touch
    return labels


@pytest.mark.parametrize("spacing_um", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.7)])
def test_every_voxel_and_its_radius_whatever_the_blocks(spacing_um):
    labels = scene(spacing_um)
    (whole,) = parts_of(labels, SHAPE, spacing_um)
    cut = LineVoxels.together(parts_of(labels, (13, 20, 17), spacing_um))
    for name in ("labels", "voxels", "places", "radius_um", "end_labels", "ends", "extents"):
        assert np.array_equal(getattr(whole, name), getattr(cut, name)), name
    assert set(whole.labels.tolist()) == {7, 2**40} and (whole.radius_um > 0).all()
    for label in (7, 2**40):
        far_um = ndimage.distance_transform_edt(np.pad(labels == label, 1), spacing_um)
        mine = whole.labels == label
        expected = far_um[tuple((whole.places[mine] + 1).T)]
        np.testing.assert_allclose(whole.radius_um[mine], expected, rtol=1e-6)


def test_extents_reach_the_surface():
    spacing_um = (1.0, 1.0, 1.0)
    labels = scene(spacing_um)
    (found,) = parts_of(labels, SHAPE, spacing_um)
    mine = {tuple(v): p for v, p in zip(found.voxels.tolist(), found.places)}
    for label, voxel, extents in zip(found.end_labels, found.ends.tolist(), found.extents):
        far = extents[:, None].astype(float) * DIRECTIONS * extent_step_um(spacing_um)
        place = mine[tuple(voxel)]
        met = extents < found.extents.max()  # what is farther is not looked at
        at = np.floor(place + far + 0.5).astype(int)[met]
        assert (labels[tuple(at.T)] != label).all()
        nearer = np.floor(place + far * 0.9 + 0.5).astype(int)
        assert (labels[tuple(nearer.T)] == label).mean() > 0.8


def test_a_core_is_left_with_the_surface_near_it():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 5:35, 5:35] = 3
    (found,) = parts_of(labels, labels.shape, (1.0, 1.0, 1.0), rounds=4)
    assert (found.radius_um < 0).all() and set(found.labels) == {3}
    assert len(found.surfaces) == 6 * 30**2 and (found.surface_labels == 3).all()
    assert (labels[tuple(found.surfaces.T)] == 0).all()
    (thinner,) = parts_of(labels, labels.shape, (1.0, 1.0, 1.0), rounds=8)
    assert len(thinner.voxels) < len(found.voxels) < 30**3


def test_parts_of_labels():
    (found,) = parts_of(scene((1.0, 1.0, 1.0)), SHAPE, (1.0, 1.0, 1.0))
    one = found.between(np.uint64(7), np.uint64(7))
    other = found.part(lambda labels: labels == 7)
    assert set(one.labels.tolist()) == set(one.end_labels.tolist()) == {7}
    assert np.array_equal(one.voxels, other.voxels)
    assert np.array_equal(one.extents, other.extents)


def test_places_move_to_the_centre():
    def far_um(places, of, least_um):
        return 9 - np.linalg.norm(places - 20.0, axis=1).astype(np.float32)

    places, deep_um = centred(np.array([[20, 20, 20], [20, 22, 19]]), far_um, np.ones(3))
    assert (places == 20).all() and deep_um.tolist() == [9, 9]


def test_surroundings_end_with_the_volume():
    for block, _, start in surrounded_blocks(np.zeros((90, 90, 90), bool), (80, 80, 80), (1, 1, 1)):
        low, high = surroundings(block, (90, 90, 90), (1, 1, 1))
        reach = voxels_reach((1, 1, 1))
        assert low == start == tuple(max(0, a - r) for a, r in zip(block.start, reach))
        assert high == tuple(min(90, b + r) for b, r in zip(block.stop, reach))


def test_nothing_is_left_of_nothing():
    (found,) = parts_of(np.zeros((5, 6, 7), np.uint32), (5, 6, 7), (1.0, 1.0, 1.0))
    assert len(found.labels) == len(found.surfaces) == len(found.extents) == 0
