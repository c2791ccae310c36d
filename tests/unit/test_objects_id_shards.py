"""Sharded objects, found again by a plain reader of the specification."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.objects.id_shards import IdShards, write_shard
from terareg.storage.store import Store


def found(data, number):
    """Object of an id in a file of 64 indices, and where it begins; None if it is not there."""
    start, stop = np.frombuffer(data, "<u8", 2, 16 * (number & 63))
    table = np.frombuffer(data[1024 + start : 1024 + stop], "<u8").reshape(3, -1)
    ids = np.cumsum(table[0])
    starts = np.cumsum(table[1]) + np.append(0, np.cumsum(table[2])[:-1])
    for i in np.flatnonzero(ids == number):
        begin = 1024 + int(starts[i])
        return data[begin : begin + int(table[2][i])], begin
    return None


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.integers(1, 2**32 - 1),
        st.tuples(st.binary(max_size=9), st.binary(max_size=9)),
        max_size=40,
    ),
    st.integers(0, 9),
)
def test_every_object_is_in_its_file_behind_what_belongs_before_it(tmp_path_factory, objects, bits):
    store, shards = Store(str(tmp_path_factory.mktemp("shards"))), IdShards(bits)
    numbers = shards.number(np.array(list(objects), np.uint64))
    files = {}
    for number in set(numbers.tolist()):
        chosen = {k: v for (k, v), n in zip(objects.items(), numbers) if n == number}
        write_shard(store, shards.name(number), chosen)
        files[number] = store.read(shards.name(number))
    for (key, (before, data)), number in zip(objects.items(), numbers.tolist()):
        assert number == (key >> 6) % 2**bits
        piece, begin = found(files[number], key)
        assert piece == data and files[number][begin - len(before) : begin] == before
    assert all(found(data, 0) is None for data in files.values())


def test_names_have_as_many_digits_as_the_bits_need():
    assert [IdShards(b).name(1) for b in (0, 4, 5, 9)] == [
        "1.shard",
        "1.shard",
        "01.shard",
        "001.shard",
    ]
