"""Arrays handed from one job to the next."""

import numpy as np
import pytest

from terareg.core.errors import StoreError
from terareg.objects.parts import has_part, read_part, write_part
from terareg.storage.store import Store

ARRAYS = {
    "a": np.arange(40_000, dtype=np.int64) ** 2,
    "none": np.zeros((0, 3), np.float32),
    "b/2": np.random.default_rng(0).integers(0, 255, (30, 40, 50), np.uint8),
}


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path))
    write_part(store, "x/part", ARRAYS, "print")
    return store


def test_round_trip(store):
    found = read_part(store, "x/part")
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert array.dtype == ARRAYS[name].dtype and np.array_equal(array, ARRAYS[name])


def test_only_what_is_asked_for(store):
    found = read_part(store, "x/part", {"b/2", "absent"})
    assert list(found) == ["b/2"] and np.array_equal(found["b/2"], ARRAYS["b/2"])


def test_a_head_of_many_arrays(tmp_path):
    store = Store(str(tmp_path))
    many = {f"{n}/{'name' * 20}": np.array([n]) for n in range(1000)}
    write_part(store, "p", many, "f")
    assert has_part(store, "p", "f") and len(read_part(store, "p")) == 1000


def test_fingerprint(store):
    assert has_part(store, "x/part", "print")
    assert not has_part(store, "x/part", "other") and not has_part(store, "x/other", "print")


def test_damage_and_absence_are_told(store):
    data = store.read("x/part")
    store.write("x/part", data[:-1] + bytes([data[-1] ^ 1]))
    assert "a" in read_part(store, "x/part", {"a"})
    with pytest.raises(StoreError, match=r"the checksum of b/2 differs.*run again"):
        read_part(store, "x/part")
    store.write("x/part", data[:-40])
    with pytest.raises(StoreError, match="is not what was written"):
        read_part(store, "x/part")
    store.write("x/part", b"no part")
    with pytest.raises(StoreError, match="was damaged; delete it and run again"):
        read_part(store, "x/part")
    assert not has_part(store, "x/part", "print")
    store.delete("x/part")
    with pytest.raises(StoreError, match="is missing; run again"):
        read_part(store, "x/part")
