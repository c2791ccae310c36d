"""Components of blocks, joined, are those of the whole volume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import blocks_of
from scipy import ndimage

from terareg.core.errors import ConfigError, VolumeError
from terareg.objects.joining import join_blocks
from terareg.objects.labelling import (
    ComponentSettings,
    block_components,
    extended,
    label_voxels,
    renumber,
)


class Held:
    """Components of blocks in memory."""

    def __init__(self, parts):
        self.parts = parts

    def low(self, index):
        return self.parts[index].low if index in self.parts else None

    def high(self, block):
        return self.parts[block.index].high

    def owned(self, block):
        part = self.parts[block.index]
        return part.voxels, part.first, part.strong


def by_blocks(voxels, edge, chosen):
    """Components of a volume that is cut into blocks of an edge, and what was joined."""
    blocks = blocks_of(voxels.shape, edge)
    local, parts = {}, {}
    for block in blocks:
        start, stop = extended(block, voxels.shape)
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        labels, count = label_voxels(voxels[box], chosen)
        parts[block.index] = block_components(labels, count, block, voxels.shape)
        local[block.index] = labels
    result = np.zeros(voxels.shape, np.uint32)

    def write(block, numbers):
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        result[box] = renumber(local[block.index], block, numbers)

    return result, join_blocks(blocks, Held(parts), chosen, write)


def whole(mask, connectivity, dust=0):
    """Plain version: components of a mask, in the order of their first voxels, without dust."""
    rank = (6, 18, 26).index(connectivity) + 1
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    counts = np.bincount(labels.ravel())
    kept = [n for n in range(1, len(counts)) if counts[n] >= dust]
    firsts = {n: np.flatnonzero(labels.ravel() == n)[0] for n in kept}
    table = np.zeros(len(counts), np.uint32)
    for number, n in enumerate(sorted(kept, key=firsts.get), 1):
        table[n] = number
    return table[labels]


SHAPES = st.tuples(*[st.integers(1, 10)] * 3)
EDGES = st.tuples(*[st.integers(2, 7)] * 3)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(SHAPES, EDGES, st.sampled_from([6, 18, 26]), st.sampled_from([0.1, 0.25, 0.5]),
       st.integers(0, 5), st.integers(0, 2**32 - 1))  # fmt: skip
def test_of_a_mask_for_any_blocks(shape, edge, connectivity, density, dust, seed):
    image = np.random.default_rng(seed).random(shape)
    chosen = ComponentSettings(connectivity, high=density, dust_vox=dust)
    found, joined = by_blocks(image, edge, chosen)
    expected = whole(image <= density, connectivity, dust)
    assert np.array_equal(found, expected)
    sizes = np.bincount(expected.ravel())[1:]
    assert (joined.count, joined.kept_vox) == (len(sizes), sizes.sum())
    assert joined.largest_vox == sizes.max(initial=0)
    assert joined.dust_vox == np.count_nonzero(image <= density) - sizes.sum()
    assert joined.dust == whole(image <= density, connectivity).max(initial=0) - len(sizes)


@settings(max_examples=30, deadline=None)
@given(SHAPES, EDGES, st.sampled_from([6, 18, 26]), st.integers(0, 2**32 - 1),
       st.sampled_from([np.uint8, np.uint32, np.uint64]))  # fmt: skip
def test_of_labels_for_any_blocks(shape, edge, connectivity, seed, dtype):
    big = np.array([0, 7, np.iinfo(dtype).max], dtype)
    labels = big[np.random.default_rng(seed).integers(0, 3, shape)]
    found, _ = by_blocks(labels, edge, ComponentSettings(connectivity))
    separate = [whole(labels == value, connectivity) for value in big[1:]]
    for part, value in zip(separate, big[1:]):
        pairs = {(a, b) for a, b in zip(found[labels == value], part[labels == value])}
        assert len(pairs) == part.max(initial=0) == len({a for a, _ in pairs})
    assert not found[labels == 0].any()
    assert found.max(initial=0) == sum(part.max(initial=0) for part in separate)


def test_a_spiral_through_all_blocks_is_one():
    """Its ends meet only after many blocks."""
    mask = np.zeros((5, 24, 24), bool)
    mask[2, ::2] = True
    mask[2, 1::4, -1] = mask[2, 3::4, 0] = True
    found, joined = by_blocks(mask, (3, 4, 5), ComponentSettings(6, low=1))
    assert (joined.count, joined.kept_vox) == (1, mask.sum()) and np.array_equal(found > 0, mask)


def test_branches_that_meet_far_below_have_the_number_of_the_highest():
    """One begins above, one in between, and they meet in the last layer of blocks."""
    mask = np.zeros((12, 3, 20), bool)
    mask[0:11, 1, 1] = mask[5:11, 1, 9] = mask[10, 1, 1:19] = mask[3:9, 1, 15] = True
    mask[1, 1, 5] = mask[6, 1, 5] = True
    found, joined = by_blocks(mask, (3, 3, 4), ComponentSettings(6, low=1))
    assert joined.count == 4 and np.array_equal(found, whole(mask, 6))


def test_both_ends_of_a_threshold_are_inside():
    image = np.array([[[1, 2, 3, 4, 5]]], np.uint16)
    labels, count = label_voxels(image, ComponentSettings(6, low=2, high=4))
    assert (labels > 0).tolist() == [[[False, True, True, True, False]]] and count == 1


def test_errors():
    with pytest.raises(ConfigError, match="connectivity 8 is unknown; use 6, 18 or 26"):
        ComponentSettings(8)
    with pytest.raises(ConfigError, match="threshold 5 is above the upper one, 4"):
        ComponentSettings(6, low=5, high=4)
    with pytest.raises(ConfigError, match="dust of -1 voxels"):
        ComponentSettings(6, dust_vox=-1)
    with pytest.raises(VolumeError, match="floating-point numbers; set low or high"):
        label_voxels(np.zeros((2, 2, 2), np.float32), ComponentSettings())
