"""Components of a stored volume, in three steps."""

import numpy as np
import pytest
from objects_helpers import Held
from scipy import ndimage

from terareg.core.errors import StoreError, VolumeError
from terareg.objects.components import (
    NUMBERS,
    PARTS,
    Source,
    join_blocks,
    label_blocks,
    write_components,
)
from terareg.objects.labelling import ComponentSettings
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import init_volume

MASK = ndimage.gaussian_filter(np.random.default_rng(1).random((50, 70, 60)), 2) > 0.52


def plan_of(volume, name="seg"):
    settings = VolumeSettings(chunk=16, block=32, kind="segmentation")
    return make_plan(name, volume.frame, "uint32", settings)


def run(store, source, plan, batches=2, workers=1):
    init_volume(store, "seg", plan)
    where = (store, "seg")
    for batch in range(batches):
        label_blocks(
            source, where, plan, plan.batch(batch, batches), fingerprint="a", workers=workers
        )
    summary = join_blocks(where, plan, source.settings)
    for batch in range(batches):
        write_components(
            source, where, plan, plan.batch(batch, batches), fingerprint=summary["fingerprint"]
        )
    return summary


def test_labels_and_counts_are_those_of_the_whole_volume(tmp_path):
    volume = Held(MASK.astype(np.uint8))
    plan = plan_of(volume)
    store = Store(str(tmp_path))
    summary = run(store, Source(volume, 0, ComponentSettings(26, low=1, dust_vox=20)), plan)
    expected, count = ndimage.label(MASK, np.ones((3, 3, 3)))
    sizes = np.bincount(expected.ravel())[1:]
    kept = sizes[sizes >= 20]
    assert 1 < len(kept) < count
    assert summary["components"] == len(kept) and summary["dust"] == count - len(kept)
    assert summary["voxels"] == kept.sum() and summary["largest_vox"] == kept.max()
    found = Volume(store, "seg").read(0)
    assert sorted(np.bincount(found.ravel())[1:]) == sorted(kept)
    pairs = {(a, b) for a, b in zip(found.ravel(), expected.ravel()) if a}
    assert len(pairs) == len(kept)


def test_bytes_depend_neither_on_batches_nor_on_threads(tmp_path):
    volume = Held(MASK.astype(np.uint8))
    source, plan = Source(volume, 0, ComponentSettings(6, low=1)), plan_of(volume)
    stores = [Store(str(tmp_path / name)) for name in "ab"]
    run(stores[0], source, plan)
    run(stores[1], source, plan, batches=5, workers=3)
    files = [{e.key: s.read(e.key) for e in s.list() if "/blocks/" not in e.key} for s in stores]
    assert files[0] == files[1] and len(files[0]) > 20


def test_parts_are_found_again_and_damage_is_told(tmp_path):
    volume = Held(MASK.astype(np.uint8))
    source, plan, store = Source(volume, 0, ComponentSettings(6, low=1)), plan_of(volume), Store(str(tmp_path))  # fmt: skip
    run(store, source, plan)
    broken = Held(MASK.astype(np.uint8))
    broken.array = None  # not read again
    label_blocks(Source(broken, 0, source.settings), (store, "seg"), plan, plan.blocks(), fingerprint="a")  # fmt: skip
    name = f"seg/{PARTS}/{plan.blocks()[0].name}"
    data = bytearray(store.read(name))
    data[-3] ^= 1
    store.write(name, bytes(data))
    with pytest.raises(StoreError, match="is not what was written"):
        join_blocks((store, "seg"), plan, source.settings)
    store.delete(name)
    with pytest.raises(StoreError, match="is missing; run again"):
        join_blocks((store, "seg"), plan, source.settings)


def test_a_source_that_changed_between_the_steps_is_told(tmp_path):
    volume = Held(MASK.astype(np.uint8))
    source, plan, store = Source(volume, 0, ComponentSettings(6, low=1)), plan_of(volume), Store(str(tmp_path))  # fmt: skip
    run(store, source, plan)
    other = Source(Held(1 - volume.array), 0, source.settings)
    with pytest.raises(VolumeError, match="the source was changed; run again from the first"):
        write_components(other, (store, "seg"), plan, plan.blocks(), fingerprint="new")
    assert store.exists(f"seg/{NUMBERS}/0_0_0")


def test_nothing_found_is_an_error(tmp_path):
    volume = Held(np.zeros((20, 20, 20), np.uint8))
    source, plan, store = Source(volume, 0, ComponentSettings(6, low=1)), plan_of(volume), Store(str(tmp_path))  # fmt: skip
    with pytest.raises(VolumeError, match="no component is left .*check the threshold"):
        run(store, source, plan)
    with pytest.raises(VolumeError, match="has shape .* but its components"):
        label_blocks(source, (store, "seg"), plan_of(Held(MASK.astype(np.uint8))), [], fingerprint="")  # fmt: skip
