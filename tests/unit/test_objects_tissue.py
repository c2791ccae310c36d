"""Tissue of a phantom with known extent."""

import logging

import numpy as np
import pytest
from derived_helpers import entry_of, make_source, run_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import ball, blocks_of
from scipy import ndimage

from terareg.core.errors import ConfigError, VolumeError
from terareg.objects.tissue import (
    NO_BACKGROUND,
    TissueSettings,
    boxes_of,
    cell_sums,
    dark_spread,
    tissue_mask,
)
from terareg.storage.store import Store


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(1, 7)] * 3),
       st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 2**32 - 1))  # fmt: skip
def test_sums_of_any_blocks_add_up(shape, edge, cell, seed):
    voxels = np.random.default_rng(seed).integers(0, 65535, shape, np.uint16, endpoint=True)
    grid = [-(-n // c) for n, c in zip(shape, cell)]
    sums, counts = np.zeros(grid, np.int64), np.zeros(grid, np.int64)
    for block in blocks_of(shape, edge):
        part = voxels[tuple(slice(a, b) for a, b in zip(block.start, block.stop))]
        first, some, number = cell_sums(part, block.start, cell)
        box = tuple(slice(a, a + n) for a, n in zip(first, some.shape))
        sums[box] += some
        counts[box] += number
    for index in np.ndindex(*grid):
        inside = voxels[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, cell))]
        assert sums[index] == inside.sum() and counts[index] == inside.size


def phantom(dim=300.0):
    """A ball of dim tissue with a dark ventricle, a speck, and noise; and the ball."""
    rng = np.random.default_rng(0)
    tissue = ball(17, (48, 46, 50))
    image = np.where(tissue & ~ball(5, tissue.shape), dim, 100.0)
    image[2, 2, 2] = 5000
    return image + rng.normal(0, 20, image.shape), tissue


def test_mask_is_the_ball_with_its_holes_filled_and_without_specks():
    image, tissue = phantom()
    mask, threshold = tissue_mask(image, TissueSettings())
    both = np.count_nonzero(mask & tissue)
    assert 2 * both / (np.count_nonzero(mask) + np.count_nonzero(tissue)) > 0.96
    assert 100 < threshold < 300 and not mask[2, 2, 2]
    (box,) = boxes_of(mask)
    index = np.argwhere(tissue)
    assert np.abs(box - [*index.min(0), *(index.max(0) + 1)]).max() <= 1


def test_given_threshold_and_share():
    image, _ = phantom()
    mask, threshold = tissue_mask(image, TissueSettings(250.0, 0.0))
    assert threshold == 250 and len(boxes_of(mask)) > 1


def textured():
    """Tissue with structures of some cells, and noise: the inside of a sample."""
    rng = np.random.default_rng(0)
    structure = ndimage.gaussian_filter(rng.standard_normal((24, 26, 28)), 2)
    return 400 + 60 * structure / structure.std() + rng.normal(0, 20, structure.shape)


@pytest.mark.parametrize("more", [{}, {"threshold": 400.0}])
@pytest.mark.parametrize("whole", [True, False])
def test_a_source_without_background_is_told_of(tmp_path, caplog, whole, more):
    image = phantom()[0][8:32, 10:36, 10:38] if whole else textured()
    image = image.clip(0).round().astype(np.uint16)
    _, threshold = tissue_mask(image.astype(float), TissueSettings())
    assert (dark_spread(image, threshold) < NO_BACKGROUND) == whole
    store = Store(str(tmp_path))
    make_source(store, image)
    entry = entry_of("tissue", resolution_um=1, **more if not whole else {})
    with caplog.at_level(logging.WARNING):
        run_entry(store, entry, volume={"chunk": 8, "block": 16, "formats": ["ome-zarr"],
                                        "codec": "zstd", "precomputed": "raw"})  # fmt: skip
    told = [r.getMessage() for r in caplog.records if "may have no background" in r.getMessage()]
    # whoever gives a threshold has looked
    assert len(told) == (not whole and not more)


def test_errors():
    with pytest.raises(VolumeError, match="all means are 5, so no threshold separates"):
        tissue_mask(np.full((4, 4, 4), 5.0), TissueSettings())
    with pytest.raises(VolumeError, match=r"no mean reaches the threshold 9 \(the largest is 5"):
        tissue_mask(np.full((4, 4, 4), 5.0), TissueSettings(9.0))
    with pytest.raises(VolumeError, match="everything is above the threshold 2; give a higher"):
        tissue_mask(np.full((4, 4, 4), 5.0), TissueSettings(2.0))
    with pytest.raises(ConfigError, match="least_share 2 is not a fraction"):
        TissueSettings(least_share=2)
