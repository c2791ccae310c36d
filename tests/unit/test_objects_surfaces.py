"""Surfaces of blocks, joined, are those of the whole volume: closed, of the right volume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import ball, blocks_of, is_closed

from terareg.objects.labelling import extended
from terareg.objects.surfaces import STEPS, block_surfaces, enclosed_volume, joined, with_volume


def by_blocks(labels, edge):
    """Joined surfaces of a volume that is cut into blocks of an edge, by label."""
    parts = {}
    for block in blocks_of(labels.shape, edge):
        box = tuple(slice(a, b) for a, b in zip(*extended(block, labels.shape)))
        for label, surface in block_surfaces(labels[box], block, labels.shape):
            parts.setdefault(label, []).append(surface)
    return {label: joined(surfaces) for label, surfaces in sorted(parts.items())}


def triangles(surface):
    """Triangles as a set of vertex positions, rotated so that the least vertex comes first."""
    corners = surface.vertices[surface.faces].tolist()
    return sorted(min(t[i:] + t[:i] for i in range(3)) for t in corners)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 6)] * 3),
       st.integers(0, 2**32 - 1), st.integers(1, 3))  # fmt: skip
def test_any_blocks_have_the_triangles_of_the_whole(shape, edge, seed, count):
    labels = np.random.default_rng(seed).integers(0, count + 1, shape).astype(np.uint32) * 1000
    found, whole = by_blocks(labels, edge), by_blocks(labels, shape)
    assert list(found) == list(whole) == np.unique(labels[labels > 0]).tolist()
    for label, surface in found.items():
        assert triangles(surface) == triangles(whole[label])
        assert is_closed(surface.faces)
        assert enclosed_volume(surface.vertices / STEPS, surface.faces) > 0


def test_only_the_wanted_labels():
    labels = np.arange(27, dtype=np.uint32).reshape(3, 3, 3)
    (block,) = blocks_of(labels.shape, (3, 3, 3))
    assert [n for n, _ in block_surfaces(labels, block, labels.shape, frozenset({4, 13, 99}))] == [
        4,
        13,
    ]


@pytest.mark.parametrize("radius", [2.5, 5.0, 9.0])
def test_volume_is_that_of_the_voxels(radius):
    mask = ball(radius, (24, 24, 24))
    surface = by_blocks(mask.astype(np.uint32), (11, 13, 12))[1]
    vertices = with_volume(surface.vertices / STEPS, surface.faces, mask.sum())
    assert enclosed_volume(vertices, surface.faces) == pytest.approx(mask.sum(), rel=0.005)
    assert np.abs(np.linalg.norm(vertices - 11.5, axis=1) - radius).max() < 1.1
