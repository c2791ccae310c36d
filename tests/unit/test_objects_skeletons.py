"""Skeletons: their measures, and their forms in files."""

import numpy as np
import pytest
from objects_helpers import skeletons_of, tube

from terareg.core.errors import ConfigError
from terareg.objects.skeletons import SkeletonSettings, encode_skeleton, facts_of, to_swc

SPACING_UM = (2.0, 1.0, 1.5)
NM = np.array(SPACING_UM) * 1000


def skeleton_of(mask, edge, chosen=SkeletonSettings(), spacing_um=SPACING_UM):  # noqa: B008
    return skeletons_of(mask.astype(np.uint32), edge, spacing_um, chosen)[1]


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
