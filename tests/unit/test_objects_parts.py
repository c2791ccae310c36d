"""Arrays that blocks leave for the next job."""

import numpy as np
import pytest

from terareg.core.errors import StoreError
from terareg.objects.parts import Parts
from terareg.storage.store import Store

ARRAYS = {
    "a": np.arange(40_000, dtype=np.int64) ** 2,
    "none": np.zeros((0, 3), np.float32),
    "b/2": np.random.default_rng(0).integers(0, 255, (30, 40, 50), np.uint8),
}


@pytest.fixture
def parts(tmp_path):
    return Parts(Store(str(tmp_path)), "x")


def test_round_trip(parts):
    found = parts.read("p", parts.write("p", ARRAYS))
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert array.dtype == ARRAYS[name].dtype and np.array_equal(array, ARRAYS[name])


def test_only_what_is_asked_for(parts):
    found = parts.read("p", parts.write("p", ARRAYS), {"b/2", "absent"})
    assert list(found) == ["b/2"] and np.array_equal(found["b/2"], ARRAYS["b/2"])


def test_a_head_of_many_arrays(parts):
    many = {f"{n}/{'name' * 20}": np.array([n]) for n in range(1000)}
    assert len(parts.read("p", parts.write("p", many))) == 1000


def test_digest_is_of_the_arrays(parts):
    first = parts.write("p", ARRAYS)
    assert parts.write("q", ARRAYS) == first
    other = parts.write("q", {**ARRAYS, "none": np.zeros((0, 4), np.float32)})
    assert other != first
    with pytest.raises(StoreError, match="q was not written by this run; delete the folder"):
        parts.read("q", first)


def test_damage_and_absence_are_told(parts):
    digest = parts.write("p", ARRAYS)
    data = parts.store.read("x/p")
    parts.store.write("x/p", data[:-1] + bytes([data[-1] ^ 1]))
    assert "a" in parts.read("p", digest, {"a"})
    with pytest.raises(
        StoreError, match=r"the checksum of b/2 differs.*delete the folder 'measured'"
    ):
        parts.read("p", digest)
    parts.store.write("x/p", data[:-40])
    with pytest.raises(StoreError, match=r"differs|is cut off"):
        parts.read("p", digest)
    parts.store.write("x/p", b"no part")
    with pytest.raises(StoreError, match="was not written"):
        parts.read("p", digest)
    parts.store.delete("x/p")
    with pytest.raises(StoreError, match="is missing; delete the folder 'measured'"):
        parts.read("p", digest)
