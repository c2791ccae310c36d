"""Centre lines of tubes of known length, radius and branching, the same whatever the blocks."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from objects_helpers import ball, skeletons_of, tube
from scipy import ndimage

from terareg.objects.skeletons import SkeletonSettings, facts_of

SPACING_UM = (2.0, 1.0, 1.5)
EDGES = [(99, 99, 99), (20, 25, 18), (13, 40, 31)]


def skeleton_of(mask, edge, chosen=SkeletonSettings(), spacing_um=SPACING_UM):  # noqa: B008
    return skeletons_of(mask.astype(np.uint32) * 9, edge, spacing_um, chosen)[9]


def assert_same(found, other):
    assert found.keys() == other.keys()
    for label, one in found.items():
        for name in ("vertices", "edges", "radius_um"):
            mine, its = getattr(one, name), getattr(other[label], name)
            assert np.array_equal(mine, its), (label, name)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("end", [(50, 12, 14), (50, 60, 70), (10, 60, 50)])
def test_a_straight_tube(edge, end):
    start, radius_um = np.array([10.0, 12.0, 14.0]), 4.5
    mask = tube((32, 76, 60), SPACING_UM, [[start, end]], radius_um)
    found = skeleton_of(mask, edge)
    facts = facts_of(found, SPACING_UM)
    length_um = np.linalg.norm(start - end)
    # its rounded ends are in the mask
    assert facts.length_um == pytest.approx(length_um + 2 * radius_um, rel=0.03)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
    way = (np.array(end) - start) / length_um
    off = found.vertices * SPACING_UM - start
    off -= (off @ way)[:, None] * way
    inside = np.abs((found.vertices * SPACING_UM - start) @ way - length_um / 2) < length_um / 2 - 3
    assert np.linalg.norm(off, axis=1)[inside].max() < 1.5
    assert found.radius_um[inside].mean() == pytest.approx(radius_um, abs=0.5)


@examples(12)
@given(
    end=st.tuples(st.integers(8, 56), st.integers(8, 68), st.integers(8, 78)),
    edge=st.tuples(*[st.integers(18, 60)] * 3),
    radius_um=st.sampled_from([3.5, 4.5, 6.0]),
)
def test_any_tube_is_as_long_as_it_is_and_the_same_whatever_the_blocks(end, edge, radius_um):
    start = np.array([32.0, 38.0, 43.0])
    mask = tube((32, 76, 58), SPACING_UM, [[start, end]], radius_um)
    whole, cut = (
        skeletons_of(mask.astype(np.uint8), each, SPACING_UM) for each in (mask.shape, edge)
    )
    assert_same(whole, cut)
    facts, length_um = facts_of(whole[1], SPACING_UM), np.linalg.norm(start - end)
    if length_um > 4 * radius_um:  # it is a tube
        assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
        assert facts.length_um == pytest.approx(length_um + 2 * radius_um, rel=0.03, abs=2)


@examples(6)
@given(
    seed=st.integers(0, 999),
    edge=st.tuples(*[st.integers(10, 30)] * 3),
    spacing_um=st.sampled_from([(1.0, 1.0, 1.0), (2.5, 1.0, 1.3), (4.0, 2.0, 0.5)]),
)
def test_any_labels_are_the_same_whatever_the_blocks(seed, edge, spacing_um):
    """Lumps, sheets and holes, thicker than blocks thin, that touch one another and the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((30, 33, 27)), 3)
    labels = (noise > np.quantile(noise, 0.5)) * (1 + np.indices(noise.shape)[1] // 11)
    labels = labels.astype(np.uint64) * 2**40
    chosen = SkeletonSettings(margin_um=2.0, spur_um=3.0)
    whole = skeletons_of(labels, labels.shape, spacing_um, chosen, rounds=2)
    assert len(whole) == 3
    assert_same(whole, skeletons_of(labels, edge, spacing_um, chosen, rounds=2))


@pytest.mark.parametrize("radius_um", [4.0, 12.0])
def test_a_tube_along_borders_of_blocks_has_one_line(radius_um):
    """Its axis is where four blocks meet; the thick one has a core after all rounds of blocks."""
    shape, spacing_um = (64, 64, 90), (1.0, 1.0, 1.0)
    mask = tube(shape, spacing_um, [[(31.5, 31.5, 20), (31.5, 31.5, 70)]], radius_um)
    whole = skeletons_of(mask.astype(np.uint32), shape, spacing_um)
    facts = facts_of(whole[1], spacing_um)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
    assert facts.length_um == pytest.approx(50 + 2 * radius_um, rel=0.02)
    middle = np.abs(whole[1].vertices[:, 2] - 45) < 20
    assert np.abs(whole[1].radius_um[middle] - radius_um).max() < 1
    for edge in ((32, 32, 32), (16, 32, 30)):
        assert_same(whole, skeletons_of(mask.astype(np.uint32), edge, spacing_um))


@pytest.mark.parametrize("edge", EDGES)
def test_a_tree_of_tubes(edge):
    """A trunk with two branches: two branch points, four ends."""
    trunk = [(10, 10, 10), (90, 10, 10)]
    branches = [[(35, 10, 10), (35, 55, 10)], [(65, 10, 10), (65, 10, 60)]]
    mask = tube((52, 66, 50), SPACING_UM, [trunk, *branches], 3.5)
    facts = facts_of(skeleton_of(mask, edge, SkeletonSettings(spur_um=10)), SPACING_UM)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 2, 4)
    assert facts.length_um == pytest.approx(80 + 45 + 50 + 4 * 3.5, rel=0.03)


def test_a_ring_is_opened_once():
    angle = np.linspace(0, 2 * np.pi, 60)
    line = np.stack([np.full(60, 10), 32 + 20 * np.sin(angle), 32 + 20 * np.cos(angle)], 1)
    mask = tube((20, 64, 64), (1, 1, 1), [line], 3)
    found = [facts_of(skeleton_of(mask, e, spacing_um=(1.0, 1.0, 1.0)), (1, 1, 1))
             for e in ((20, 64, 64), (20, 32, 32))]  # fmt: skip
    assert found[0] == found[1]
    assert (found[0].pieces, found[0].branch_points, found[0].ends) == (1, 0, 2)
    assert found[0].length_um == pytest.approx(40 * np.pi, rel=0.04)


@pytest.mark.parametrize("edge", EDGES[:2])
def test_two_tubes_of_a_label_are_two_pieces_and_short_ones_dust(edge):
    mask = tube((30, 60, 50), SPACING_UM, [[(8, 10, 8), (8, 50, 60)], [(50, 8, 8), (50, 18, 8)]], 3)
    assert facts_of(skeleton_of(mask, edge), SPACING_UM).pieces == 2
    facts = facts_of(skeleton_of(mask, edge, SkeletonSettings(dust_um=25)), SPACING_UM)
    assert facts.pieces == 1 and facts.length_um > 60
    assert skeleton_of(mask, edge, SkeletonSettings(dust_um=1000)) is None


@pytest.mark.parametrize("edge", EDGES)
def test_a_tube_that_leaves_the_volume_ends_at_its_border(edge):
    mask = tube((20, 24, 60), SPACING_UM, [[(20, 12, -20), (20, 12, 200)]], 5)
    found = skeleton_of(mask, edge, SkeletonSettings(spur_um=12))
    facts = facts_of(found, SPACING_UM)
    assert facts.length_um == pytest.approx(59 * 1.5, rel=0.03)
    assert {found.vertices[:, 2].min(), found.vertices[:, 2].max()} == {0, 59}


def test_a_rough_surface_has_no_branches():
    """Bumps of two voxels on a wide tube lie within reach of its line."""
    spacing_um = (1.0, 1.0, 1.0)
    mask = tube((40, 40, 90), spacing_um, [[(20, 20, 15), (20, 20, 75)]], 9)
    rng = np.random.default_rng(0)
    for at in rng.permutation(np.argwhere(ndimage.binary_dilation(mask) & ~mask))[:60]:
        mask[tuple(slice(a - 1, a + 1) for a in at)] = True
    facts = facts_of(skeleton_of(mask, (99,) * 3, spacing_um=spacing_um), spacing_um)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
    assert facts.length_um == pytest.approx(78, rel=0.04)


def test_a_ball_is_a_line_through_its_middle():
    mask = np.pad(ball(10, (22, 24, 26)), 3)
    for edge in ((99,) * 3, (13, 14, 15)):
        found = skeleton_of(mask, edge, spacing_um=(1.0, 1.0, 1.0))
        facts = facts_of(found, (1, 1, 1))
        assert (facts.pieces, facts.ends) == (1, 2)
        assert facts.length_um == pytest.approx(20, abs=2)
        assert found.radius_um.max() == pytest.approx(10, abs=0.9)  # between voxels


def test_one_voxel_is_one_vertex():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 2, 0] = True
    found = skeleton_of(mask, (2, 2, 2))
    assert found.vertices.tolist() == [[1, 2, 0]] and len(found.edges) == 0
    assert facts_of(found, SPACING_UM).length_um == 0


def test_a_label_that_fills_its_block():
    found = skeleton_of(np.ones((6, 6, 20), bool), (6, 6, 7))
    assert facts_of(found, SPACING_UM).pieces == 1
