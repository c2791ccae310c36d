"""Sharded files, read by tensorstore."""

import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding


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
