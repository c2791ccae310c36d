"""Centre lines of tubes of known length, radius and branching, however they are cut into blocks."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from objects_helpers import blocks_of, tube

from terareg.core.errors import ConfigError
from terareg.objects.labelling import extended
from terareg.objects.skeletons import (
    SkeletonSettings,
    block_skeletons,
    encode_skeleton,
    facts_of,
    joined_skeleton,
    to_swc,
)

SPACING_UM = (2.0, 1.0, 1.5)
NM = np.array(SPACING_UM) * 1000


def skeleton_of(mask, edge, chosen=SkeletonSettings(), spacing_um=SPACING_UM):  # noqa: B008
    labels, parts = mask.astype(np.uint32) * 9, []
    for block in blocks_of(mask.shape, edge):
        box = tuple(slice(a, b) for a, b in zip(*extended(block, mask.shape)))
        for label, part in block_skeletons(labels[box], block, spacing_um, chosen):
            assert label == 9
            parts.append(part)
    return joined_skeleton(parts, spacing_um, chosen)


EDGES = [(99, 99, 99), (20, 25, 18), (13, 40, 31)]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("end", [(50, 12, 14), (50, 60, 70), (10, 60, 50)])
def test_a_straight_tube(edge, end):
    start, radius_um = np.array([10.0, 12.0, 14.0]), 4.5
    mask = tube((32, 76, 60), SPACING_UM, [[start, end]], radius_um)
    found = skeleton_of(mask, edge, SkeletonSettings(spur_um=12))
    facts = facts_of(found, SPACING_UM)
    length_um = np.linalg.norm(start - end)
    # its rounded ends are in the mask; a tube that grazes the border of blocks is pulled to it
    close = 0.03 if edge == EDGES[0] else 0.07
    assert facts.length_um == pytest.approx(length_um + 2 * radius_um, rel=close)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
    way = (np.array(end) - start) / length_um
    off = found.vertices * SPACING_UM - start
    off -= (off @ way)[:, None] * way
    inside = np.abs((found.vertices * SPACING_UM - start) @ way - length_um / 2) < length_um / 2 - 3
    assert np.linalg.norm(off, axis=1)[inside].max() < (1.5 if edge == EDGES[0] else 4)
    assert found.radius_um[inside].mean() == pytest.approx(radius_um, abs=1)


@examples(12)
@given(
    end=st.tuples(st.integers(8, 56), st.integers(8, 68), st.integers(8, 78)),
    edge=st.tuples(*[st.integers(13, 60)] * 3),
    radius_um=st.sampled_from([3.5, 4.5, 6.0]),
)
def test_the_line_of_any_tube_is_whole_and_inside_whatever_the_blocks(end, edge, radius_um):
    """One block measures its length; where borders run along a tube they move and double it."""
    start = np.array([32.0, 38.0, 43.0])
    mask = tube((32, 76, 58), SPACING_UM, [[start, end]], radius_um)
    chosen = SkeletonSettings(spur_um=2.5 * radius_um)
    length_um = np.linalg.norm(start - end)
    whole, cut = (skeleton_of(mask, each, chosen) for each in (mask.shape, edge))
    facts = facts_of(whole, SPACING_UM)
    if length_um > 4 * radius_um:  # it is a tube
        assert (facts.pieces, facts.branch_points, facts.ends) == (1, 0, 2)
        assert facts.length_um == pytest.approx(length_um + 2 * radius_um, rel=0.03, abs=2)
    assert facts_of(cut, SPACING_UM).pieces == 1
    places_um = cut.vertices * SPACING_UM
    axis = start + np.linspace(0, 1, 200)[:, None] * (np.array(end) - start)
    apart = np.linalg.norm(places_um[:, None] - axis, axis=2)
    assert apart.min(axis=1).max() < radius_um + 1
    # where two lines end beside one another, a piece of up to spur_um may be taken for a spur
    assert apart.min(axis=0).max() < chosen.spur_um + radius_um


@pytest.mark.parametrize("edge", EDGES)
def test_a_tree_of_tubes(edge):
    """A trunk with two branches: two branch points, four ends."""
    trunk = [(10, 10, 10), (90, 10, 10)]
    branches = [[(35, 10, 10), (35, 55, 10)], [(65, 10, 10), (65, 10, 60)]]
    mask = tube((52, 66, 50), SPACING_UM, [trunk, *branches], 3.5)
    facts = facts_of(skeleton_of(mask, edge, SkeletonSettings(spur_um=10)), SPACING_UM)
    assert (facts.pieces, facts.branch_points, facts.ends) == (1, 2, 4)
    assert facts.length_um == pytest.approx(80 + 45 + 50 + 4 * 2, rel=0.06)


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


def test_one_voxel_is_one_vertex():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 2, 0] = True
    found = skeleton_of(mask, (2, 2, 2))
    assert found.vertices.tolist() == [[1, 2, 0]] and len(found.edges) == 0
    assert facts_of(found, SPACING_UM).length_um == 0


def test_a_label_that_fills_its_block():
    found = skeleton_of(np.ones((6, 6, 20), bool), (6, 6, 7))
    assert facts_of(found, SPACING_UM).pieces == 1


def test_swc_is_a_tree_of_the_same_length():
    mask = tube(
        (32, 40, 30), (1, 1, 1), [[(5, 5, 5), (25, 30, 20)], [(15, 17, 12), (28, 8, 8)]], 2.5
    )
    found = skeleton_of(mask, (16, 16, 16), SkeletonSettings(spur_um=4), (1.0, 1.0, 1.0))
    rows = [line.split() for line in to_swc(found, found.vertices).splitlines()[1:]]
    assert [int(r[0]) for r in rows] == list(range(1, len(found.vertices) + 1))
    places = np.array([[float(v) for v in r[2:5]] for r in rows])
    parents = np.array([int(r[6]) for r in rows])
    assert np.count_nonzero(parents == -1) == 1 and (parents < np.arange(1, len(rows) + 1)).all()
    rest = parents > 0
    length = np.linalg.norm(places[rest] - places[parents[rest] - 1], axis=1).sum()
    assert length == pytest.approx(facts_of(found, (1, 1, 1)).length_um, rel=1e-3)


def test_bytes_for_neuroglancer():
    mask = tube((20, 20, 20), SPACING_UM, [[(6, 6, 6), (30, 14, 20)]], 3)
    found = skeleton_of(mask, (20, 20, 20))
    data = encode_skeleton(found, NM, np.zeros(3))
    n, m = np.frombuffer(data, "<u4", 2)
    assert (n, m) == (len(found.vertices), len(found.edges)) and len(data) == 8 + 16 * n + 8 * m
    places = np.frombuffer(data, "<f4", 3 * n, 8).reshape(-1, 3)
    assert np.allclose(places[:, ::-1], (found.vertices + 0.5) * NM, rtol=1e-5)
    assert np.array_equal(np.frombuffer(data, "<u4", 2 * m, 8 + 12 * n).reshape(-1, 2), found.edges)


def test_errors():
    with pytest.raises(ConfigError, match="scale -1 is impossible for skeletons; give 0 or more"):
        SkeletonSettings(scale=-1)
