"""Components of a stored volume, in three steps."""

import numpy as np
import pytest
from objects_helpers import extended_blocks
from scipy import ndimage

from terareg.core.errors import StoreError, VolumeError
from terareg.objects.components import component_part, join_parts, numbered
from terareg.objects.labelling import ComponentSettings
from terareg.objects.parts import Parts
from terareg.storage.store import Store

NOISE = ndimage.gaussian_filter(np.random.default_rng(1).random((50, 70, 60)), 2)
IMAGE = (NOISE > 0.52).astype(np.uint8)
EDGE = (20, 32, 16)


def measured(parts, chosen, image=IMAGE, edge=EDGE):
    blocks, digests = [], {}
    for block, voxels in extended_blocks(image, edge):
        blocks.append(block)
        arrays = component_part(voxels, block, image.shape, chosen)
        digests[block.name] = parts.write(block.name, arrays)
    return blocks, digests


def labels_of(parts, chosen, image=IMAGE, edge=EDGE):
    joined, numbers = join_parts(parts, *measured(parts, chosen, image, edge), chosen)
    result = np.zeros(image.shape, np.uint32)
    for block, voxels in extended_blocks(image, edge):
        found = parts.read(f"numbers/{block.name}", numbers[block.name])["numbers"]
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        result[box] = numbered(voxels, block, found, chosen)
    return result, joined


@pytest.fixture
def parts(tmp_path):
    return Parts(Store(str(tmp_path)), "parts")


def test_labels_and_counts_are_those_of_the_whole_volume(parts):
    found, joined = labels_of(parts, ComponentSettings(26, low=1, dust_vox=20))
    expected, count = ndimage.label(IMAGE, np.ones((3, 3, 3)))
    sizes = np.bincount(expected.ravel())[1:]
    kept = sizes[sizes >= 20]
    assert 1 < len(kept) < count and joined.dust == count - len(kept)
    assert sorted(np.bincount(found.ravel())[1:]) == sorted(kept)
    assert (joined.kept_vox, joined.largest_vox) == (kept.sum(), kept.max())
    pairs = {(a, b) for a, b in zip(found.ravel(), expected.ravel()) if a}
    assert len(pairs) == len(kept)


def test_labels_do_not_depend_on_blocks(tmp_path):
    chosen = ComponentSettings(6, low=1)
    found = [
        labels_of(Parts(Store(str(tmp_path)), str(edge)), chosen, edge=edge)[0]
        for edge in (EDGE, (50, 70, 60), (49, 23, 59))
    ]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_damaged_parts_and_a_changed_source_are_told(parts):
    chosen = ComponentSettings(6, low=1)
    blocks, digests = measured(parts, chosen)
    _, numbers = join_parts(parts, blocks, digests, chosen)
    found = parts.read(f"numbers/{blocks[0].name}", numbers[blocks[0].name])["numbers"]
    block, voxels = next(extended_blocks(1 - IMAGE, EDGE))
    with pytest.raises(
        VolumeError, match="so the source has changed; delete the folder 'measured'"
    ):
        numbered(voxels, block, found, chosen)
    parts.write(blocks[1].name, {"voxels": np.zeros(1)})
    with pytest.raises(StoreError, match="was not written by this run"):
        join_parts(parts, blocks, digests, chosen)


def test_nothing_may_be_found(parts):
    chosen = ComponentSettings(6, low=1)
    nothing = np.zeros((20, 20, 20), np.uint8)
    joined, _ = join_parts(parts, *measured(parts, chosen, nothing), chosen)
    assert not joined.count and not joined.dust
    chosen = ComponentSettings(6, low=1, dust_vox=10**6)
    joined, _ = join_parts(parts, *measured(parts, chosen), chosen)
    assert not joined.count and joined.dust > 0
