"""Values, names and colours of regions in exports."""

from __future__ import annotations

import numpy as np
import pytest

from terareg.atlas.ontology import Ontology, Structure
from terareg.core.errors import VolumeError
from terareg.exports.label_tables import LabelTable

ONTOLOGY = Ontology([
    Structure(997, "root", "root", None, "FFFFFF"),
    Structure(614_454_277, "SS", 'sense "S"', 997, "188064"),
    Structure(5, "CTX", "cortex", 997, "0A0B0C"),
])  # fmt: skip
IDS = [0, 5, 614_454_277]


def test_ids_are_kept_to_the_last_bit():
    table = LabelTable.of(IDS, ONTOLOGY)
    assert table.dtype == "uint32"
    assert [r.id for r in table.regions] == list(table.values) == [614_454_277, 5]
    assert table.to_rows()[0] == {
        "value": 614_454_277, "id": 614_454_277, "acronym": "SS", "name": 'sense "S"',
        "parent": 997, "red": 0x18, "green": 0x80, "blue": 0x64,
    }  # fmt: skip


def test_consecutive_numbers_follow_the_ontology_and_lead_back():
    table = LabelTable.of(IDS, ONTOLOGY, "consecutive")
    assert table.dtype == "uint8" and table.values == (1, 2)
    ids = np.array([[0, 5], [614_454_277, 5]], np.uint32)
    numbers = table.renumbered(ids)
    assert numbers.dtype == np.uint8 and numbers.tolist() == [[0, 2], [1, 2]]
    back = {row["value"]: row["id"] for row in table.to_rows()} | {0: 0}
    assert np.vectorize(back.get)(numbers).tolist() == ids.tolist()
    assert table.palette()[:, 1].tolist() == [0x18 * 257, 0x80 * 257, 0x64 * 257]
    many = Ontology([Structure(i, f"R{i}", "r", None) for i in range(1, 301)])
    assert LabelTable.of(many.ids, many, "consecutive").dtype == "uint16"


def test_colours_are_those_of_the_ontology():
    colours = LabelTable.of(IDS, ONTOLOGY).coloured(np.array([[[0, 5]]], np.uint32))
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[[0, 0, 0], [10, 11, 12]]]]


def test_an_id_that_the_atlas_lacks_is_an_error():
    with pytest.raises(VolumeError, match="contain id 77, which is not in the atlas"):
        LabelTable.of(IDS, ONTOLOGY, "consecutive").renumbered(np.array([5, 77], np.uint32))


def test_itk_snap_reads_the_label_file_and_is_told_of_large_ids():
    text = LabelTable.of(IDS, ONTOLOGY, "consecutive").to_itksnap().decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0].split()[:7] == ["0"] * 7
    assert lines[1] == "1 24 128 100 1 1 1 \"SS: sense 'S'\""
    assert "ITK-SNAP shows labels up to 65535" not in text
    large = LabelTable.of(IDS, ONTOLOGY).to_itksnap().decode()
    assert "# ITK-SNAP shows labels up to 65535, and here they reach 614454277: export" in large
