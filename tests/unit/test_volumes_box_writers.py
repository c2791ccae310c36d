"""Writers that are given the same layers."""

import numpy as np
import pytest

from terareg.storage.store import Store
from terareg.volumes.box_writers import OwnObjects, Together


class Told:
    def __init__(self, told, name):
        if name == "late":
            raise OSError("no room")
        self.told, self.name = told, name

    def add(self, first, layer):
        self.told.append((self.name, first, len(layer)))

    def close(self):
        return {self.name: 1}

    def discard(self):
        self.told.append((self.name, "discarded"))


def test_all_are_given_every_layer_and_name_their_objects():
    told = []
    writer = Together(Told(told, name) for name in "ab")
    writer.add(4, np.zeros((2, 1, 1)))
    assert told == [("a", 4, 2), ("b", 4, 2)]
    assert writer.close() == {"a": 1, "b": 1}


def test_where_one_cannot_begin_those_before_it_are_discarded():
    told = []
    with pytest.raises(OSError, match="no room"):
        Together(Told(told, name) for name in ("early", "late", "never"))
    assert told == [("early", "discarded")]


def test_objects_of_their_own_are_there_at_once_and_stay(tmp_path):
    store = Store(str(tmp_path))
    writer = OwnObjects(store)
    writer.put("a/b", b"abc")
    assert store.read("a/b") == b"abc"
    writer.discard()
    assert writer.close() == {"a/b": 3} and store.exists("a/b")
