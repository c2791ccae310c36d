"""Names of arrays inside of files."""

from __future__ import annotations

import pytest

from terareg.storage.part_names import join_part, part_entry, split_part, without_indices
from terareg.storage.store import Store


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("a/b.h5#t00000:s00:0:cells", ("a/b.h5", "t00000/s00/0/cells")),
        ("x.IMS#DataSet:ResolutionLevel 0", ("x.IMS", "DataSet/ResolutionLevel 0")),
        ("a#1/b.ome.zarr#0", ("a#1/b.ome.zarr", "0")),
        ("b#1.h5#a#2", ("b#1.h5", "a#2")),
        ("tile#1.tif", None), ("a.h5", None), ("a.h5#", None), ("a.h5#x/y.tif", None),
        (".h5#a", None),
    ],
)  # fmt: skip
def test_file_and_part(key, found):
    assert split_part(key) == found
    if found is not None:
        assert join_part(*found) == key


def test_indices_stand_last():
    assert without_indices("0/T0/C12") == ("0", {"C": 12, "T": 0})
    assert without_indices("C1/x") == ("C1/x", {})


def test_the_state_of_a_part_is_that_of_its_file(tmp_path):
    store = Store(str(tmp_path))
    (tmp_path / "a.h5").write_bytes(b"12345")
    (tmp_path / "b.n5/s0").mkdir(parents=True)
    assert part_entry(store, "a.h5#x").size == 5
    assert part_entry(store, "a.h5#x").key == "a.h5#x"
    assert part_entry(store, "b.n5#s0") is None
    (tmp_path / "b.n5/s0/attributes.json").write_bytes(b"{}")
    assert part_entry(store, "b.n5#s0").size == 2
