"""Sharded files: what is written is read by tensorstore, and what that writes is read here."""

import gzip
import itertools
import struct
from collections import Counter

import numpy as np
import pytest
import tensorstore as ts
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding, ShardReader


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**48 - 1), st.binary(min_size=1, max_size=20), max_size=40),
    st.integers(0, 9),
    st.integers(0, 5),
    st.integers(0, 9),
    st.sampled_from(["raw", "gzip"]),
)
def test_tensorstore_finds_every_object(tmp_path_factory, objects, shift, parts, files, encoding):
    store = Store(str(tmp_path_factory.mktemp("shards")))
    sharding = Sharding(shift, parts, files, encoding)
    of_file = {}
    for number in sorted(objects):
        of_file.setdefault((number >> (shift + parts)) & (2**files - 1), []).append(number)
    for file, numbers in of_file.items():
        sizes = [len(objects[number]) for number in numbers]
        # a gap before each object, as for the fragments of a mesh
        starts = [sum(sizes[:i]) + 3 * (i + 1) for i in range(len(sizes))]
        end = sum(sizes) + 3 * len(sizes)
        head, tail = sharding.head_and_tail(numbers, starts, sizes, end)
        body = b"".join(b"gap" + objects[number] for number in numbers)
        store.write(sharding.file_name(file), head + body + tail)
    found = ts.KvStore.open(
        {
            "driver": "neuroglancer_uint64_sharded",
            "base": {"driver": "file", "path": f"{store.url}/"},
            "metadata": sharding.to_json(),
        }
    ).result()
    for number, data in objects.items():
        assert found[number.to_bytes(8, "big")] == data
    absent = next(n for n in range(100) if n not in objects)
    assert found.read(absent.to_bytes(8, "big")).result().state == "missing"


@examples(25)
@given(
    st.dictionaries(st.integers(0, 2**64 - 1), st.binary(max_size=20), min_size=1, max_size=40),
    st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(*[st.sampled_from(["raw", "gzip"])] * 2),
    st.sampled_from(["identity", "murmurhash3_x86_128"]),
)
def test_every_object_that_tensorstore_writes_is_found(
    tmp_path_factory, objects, bits, encodings, hash_name
):
    store = Store(str(tmp_path_factory.mktemp("shards")))
    stated = {
        **dict(zip(("preshift_bits", "minishard_bits", "shard_bits"), bits)),
        **dict(zip(("minishard_index_encoding", "data_encoding"), encodings)),
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": hash_name,
    }
    kept = ts.KvStore.open(
        {
            "driver": "neuroglancer_uint64_sharded",
            "base": {"driver": "file", "path": f"{store.url}/a/"},
            "metadata": stated,
        }
    ).result()
    with ts.Transaction() as transaction:
        for number, data in objects.items():
            kept.with_transaction(transaction)[number.to_bytes(8, "big")] = data
    reader = ShardReader(store, "a", Sharding.from_json(stated), len(objects), 64)
    assert {number: reader.read(number) for number in objects} == objects
    assert reader.read(next(n for n in itertools.count() if n not in objects)) is None
    files = [entry.key.removeprefix("a/") for entry in store.list("a")]
    assert Counter(n for name in files for n in reader.numbers(name).tolist()) == Counter(
        list(objects)
    )


def _one_index(folder, index, data=b"abc", encoding="gzip"):
    (folder / "a").mkdir()
    head = struct.pack("<QQ", len(data), len(data) + len(index))
    (folder / "a/0.shard").write_bytes(head + data + index)
    sharding = Sharding(0, 0, 0, encoding, "gzip")
    return ShardReader(Store(str(folder)), "a", sharding, 10, 1000)


def _table(size):
    return np.array([[7], [0], [size]], "<u8").tobytes()


def _packed(data):
    return gzip.compress(data, mtime=0)


LARGE = _packed(bytes(2**16))
#: index, objects, and what is said of them
DEMANDS = {
    "a long index": (_packed(bytes(2**26)), b"", "index 0 of 0.shard from byte 0 to"),
    "an index of zeros": (LARGE, b"", "larger than 240 bytes"),
    "an index that is cut": (_packed(_table(3))[:-9], b"abc", "cut off"),
    "an odd index": (_packed(bytes(25)), b"", "has 25 bytes"),
    "a large object": (_packed(_table(2**40)), b"abc", "object 7 has 1099511627776 bytes, 1000"),
    "an object beyond the end": (_packed(_table(900)), b"abc", "bytes 16 to 916 are asked for"),
    "an object of zeros": (_packed(_table(len(LARGE))), LARGE, "larger than 1000 bytes"),
}


@pytest.mark.parametrize("name", DEMANDS)
def test_files_that_ask_for_more_than_they_hold(tmp_path, name):
    index, data, message = DEMANDS[name]
    with pytest.raises(ValueError, match=message):
        _one_index(tmp_path, index, data).read(7)


@pytest.mark.parametrize(
    "change",
    [
        {"@type": "x"}, {"hash": "md5"}, {"minishard_bits": 60}, {"shard_bits": -1},
        {"preshift_bits": "3"}, {"data_encoding": "zstd"},
    ],
)  # fmt: skip
def test_unknown_ways_of_sharding_are_refused(change):
    with pytest.raises(ValueError, match="sharding"):
        Sharding.from_json(Sharding(1, 2, 3).to_json() | change)
