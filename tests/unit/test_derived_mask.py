"""Sources that are read within labels: as if they were zeros elsewhere, and unread where empty."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import pytest
from derived_helpers import entry_of, make_source, run_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.derived.mask import Mask, nearest_labels
from terareg.derived.section import entries_of
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.storage.records import read_record
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.reader import Volume

WITHIN = "derived/tissue"
TOOLS = (
    ("convert", {"format": "both"}),
    ("downsample", {"factor": [1, 2, 4]}),
    ("quantize", {"percent": [1, 99], "least_range": 1}),
    ("equalize", {}),
    ("equalize", {"local_um": 24, "per": "whole"}),
    ("components", {"low": 1500, "connectivity": 6}),
    ("reorder", {"order": [2, 0, 1], "losses": True}),
)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(np.uint16)


def everything(volume):
    return [volume.read(level).tobytes() for level in range(volume.levels)]


@pytest.mark.slow
@pytest.mark.parametrize(("do", "more"), TOOLS, ids=lambda value: value if value in TOOLS else "")
def test_a_tool_makes_what_it_makes_of_a_source_with_zeros(tmp_path, do, more):
    """The mask has larger voxels, is shifted, and ends within the source."""
    array, rng = noise((9, 18, 26)), np.random.default_rng(1)
    labels = np.zeros((3, 5, 8), np.uint32)
    labels[1:, 1:, 1:6] = rng.integers(0, 3, (2, 4, 5))
    inside = np.zeros(array.shape, bool)
    frame = Frame(labels.shape, (6.0, 3.0, 3.0), (1.5, 2.0, -1.0))
    for index in np.ndindex(*array.shape):
        at = [int(np.floor((i * s - o) / t + 0.5)) for i, s, o, t in
              zip(index, (2.0, 1.0, 1.0), frame.origin_um, frame.spacing_um)]  # fmt: skip
        known = all(0 <= a < n for a, n in zip(at, labels.shape))
        inside[index] = known and labels[tuple(at)] > 0
    assert 0.05 < inside.mean() < 0.5 and not inside[:, :, -8:].any()
    masked, plain = Store(str(tmp_path / "masked")), Store(str(tmp_path / "plain"))
    make_source(masked, array)
    make_source(masked, labels, name=WITHIN, frame=frame)
    make_source(plain, np.where(inside, array, 0).astype(np.uint16))
    made = run_entry(masked, entry_of(do, within=WITHIN, **more), order=rng)
    assert everything(made) == everything(run_entry(plain, entry_of(do, **more)))


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.integers(0, 99),
)
def test_records_tell_which_boxes_are_empty(shape, grid, origin, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(grid) < rng.choice([0.002, 0.5, 1])).astype(np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        make_source(store, labels, name=WITHIN, frame=Frame(grid, (1.0, 1.0, 1.0)))
        volume = Volume(store, f"brain/{WITHIN}")
        mask, frame = Mask(volume), Frame(shape, (1.0, 2.0, 1.0), tuple(map(float, origin)))
        inside = nearest_labels(volume, frame) != 0
        voxels = noise(shape)
        wanted = np.where(inside, voxels, 0)
        if mask.is_outside(frame):
            assert not wanted.any()
        np.testing.assert_array_equal(mask.keep(voxels.copy(), frame), wanted)
        voxels.flags.writeable = False
        np.testing.assert_array_equal(mask.keep(voxels, frame), wanted)


def voxels_of(boxes):
    return sum(math.prod(b - a for a, b in zip(*box)) for box in boxes)


def test_what_the_mask_covers_is_all_and_empty_blocks_are_not_read(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    array = np.zeros((12, 20, 34), np.uint16)
    array[1:7, 9:14, 17:30] = noise((6, 5, 13))
    make_source(store, array)
    make_source(store, (array > 0).astype(np.uint32), name=WITHIN)
    boxes, read = [], Volume.read

    def counted(self, level, start=None, stop=None):
        if self.key.endswith("signal"):
            boxes.append((start, stop))
        return read(self, level, start, stop)

    monkeypatch.setattr(Volume, "read", counted)
    plain = everything(run_entry(store, entry_of("convert", "plain")))
    whole, boxes[:] = list(boxes), []
    volume = run_entry(store, entry_of("convert", within=WITHIN))
    assert everything(volume) == plain
    blocks = volume.plan.blocks()
    records = [read_record(store, f"{volume.key}/blocks/{block.name}.json") for block in blocks]
    full = [b for b in blocks if array[tuple(map(slice, b.start, b.stop))].any()]
    assert len(blocks) == 30 and len(full) == 2
    assert voxels_of(whole) == array.size and voxels_of(boxes) == sum(
        math.prod(block.shape) for block in full
    )
    assert [b for b, record in zip(blocks, records) if not record["outside"]] == full
    summary = finalize_volume(store, volume.key, volume.plan)
    assert (summary["blocks"], summary["blocks_outside"]) == (30, 28)


def test_a_mask_without_anything_in_the_source_is_an_error(tmp_path):
    store = Store(str(tmp_path))
    make_source(store, noise((5, 6, 7)))
    labels = np.ones((4, 4, 4), np.uint32)
    elsewhere = Frame(labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 900.0))
    make_source(store, labels, name=WITHIN, frame=elsewhere)
    with pytest.raises(VolumeError, match="all of it lies outside of what within: names; check"):
        run_entry(store, entry_of("convert", within=WITHIN))
    entry = entry_of("convert", within="fused/signal")
    with pytest.raises(ConfigError, match=r"derived\.made: within: source is an image; give a vol"):
        make_tool(open_view(store, "brain", entry), entry)
    key = f"brain/{WITHIN}/blocks/0_0_0.json"
    mask = Mask(Volume(store, f"brain/{WITHIN}"))
    store.delete(key)
    with pytest.raises(VolumeError, match=r"within: block 0_0_0 of .* is missing; run again"):
        mask.is_outside(elsewhere)


def test_entries_follow_their_masks_and_circles_are_told():
    def described(**more):
        return {"derived": {
            "a": {"from": "fused/signal", "do": "convert", "within": WITHIN},
            "tissue": {"from": "fused/signal", "do": "tissue"} | more,
        }}  # fmt: skip

    found = entries_of(described())
    assert list(found) == ["tissue", "a"]
    assert found["a"].mask == WITHIN and found["a"].others == {"within": WITHIN}
    words = r"derived\.tissue\.within: the entries are each other.s sources: a <- tissue <- a"
    with pytest.raises(ConfigError, match=words):
        entries_of(described(within="derived/a"))
    signal = {"from": "fused/signal", "do": "signal", "threshold": 9, "within": "derived/s"}
    with pytest.raises(ConfigError, match=r"derived\.s\.within: the entry is its own source"):
        entries_of({"derived": {"s": signal}})
