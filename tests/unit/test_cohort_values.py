"""Values of regions: absent is not zero, and a channel that is not there is named."""

from __future__ import annotations

import numpy as np
import pytest
from cohort_truth import write_sample

from terareg.cohort.values import (
    Measured,
    check_same_atlas,
    read_values,
    values_of,
    write_values,
)
from terareg.core.errors import CohortError
from terareg.storage.records import read_table


@pytest.fixture
def measured(tmp_path):
    folder = write_sample(tmp_path, "brain", np.random.default_rng(0), more=False)
    counts = read_table(folder / "cells/cfos/ccf/regions.tsv")
    return Measured(read_table(folder / "regions/ccf.tsv"), {"cfos": counts})


def value(rows, measure, region, scope="own", hemisphere="both"):
    key = (measure, str(region), scope, hemisphere)
    (found,) = [r["value"] for r in rows
                if (r["measure"], r["id"], r["scope"], r["hemisphere"]) == key]  # fmt: skip
    return found


def test_every_measure_of_every_region(measured):
    rows = list(values_of(measured, ["signal"], 0.9))
    assert {row["measure"] for row in rows} == {
        "volume_mm3", "volume_percent", "signal_mean", "cfos_count", "cfos_per_mm3",
    }  # fmt: skip
    volume = value(rows, "volume_mm3", 2)
    assert volume == pytest.approx(2.0, rel=0.1)
    assert value(rows, "volume_percent", 2) + value(rows, "volume_percent", 4) == pytest.approx(100)
    count = value(rows, "cfos_count", 2)
    assert value(rows, "cfos_per_mm3", 2) == pytest.approx(count / volume)
    # cells outside of all regions have a row of their own in the table, and no value here
    assert "0" not in {row["id"] for row in rows}


def test_signal_has_its_share_and_its_brightness(measured):
    rows = [dict(row, signal_percent="2.5", intensity_per_mm3="40") for row in measured.regions]
    found = list(values_of(Measured(measured.regions, {}, {"axons": rows}), [], 0.9))
    assert value(found, "axons_percent", 2) == 2.5
    assert value(found, "axons_intensity_per_mm3", 2) == 40
    assert value(found, "axons_percent", 1) is None  # no voxels of its own


def test_what_was_not_imaged_has_no_value(measured):
    for row in measured.regions:
        if row["id"] == "2" and row["hemisphere"] == "left":
            row["coverage"] = "0.6"
    rows = list(values_of(measured, [], 0.9))
    assert value(rows, "volume_mm3", 2, "own", "left") is None
    assert value(rows, "volume_mm3", 2, "own", "right") is not None
    assert value(rows, "volume_mm3", 1) is None  # it has no voxels of its own in the atlas
    assert value(list(values_of(measured, [], 0.5)), "volume_mm3", 2, "own", "left") is not None


def test_a_channel_that_is_not_there_is_named(measured):
    with pytest.raises(CohortError, match=r"no channel 'gfp' \(it has signal\); correct the name"):
        list(values_of(measured, ["gfp"], 0.9))


def test_values_are_written_and_read(measured, tmp_path):
    rows = [{"sample": "=b", "group": "x", **row} for row in values_of(measured, [], 0.9)]
    write_values(tmp_path / "values.csv", rows)
    read = list(read_values(tmp_path / "values.csv"))
    assert len(read) == len(rows) and read[0]["sample"] == "'=b"  # no formula of a spreadsheet
    assert [r["value"] for r in read[:4]] == ["", "", "", f"{rows[3]['value']:.9g}"]


def test_different_atlases_are_not_compared():
    info = {"frame": {"shape": [2, 2, 2]}, "files": {"annotation.nrrd": "a"}}
    check_same_atlas({"one": info, "two": dict(info)}, "ccf")
    other = info | {"files": {"annotation.nrrd": "b"}}
    with pytest.raises(
        CohortError, match="atlas 'ccf' of sample 'two' differs from that of sample 'one'"
    ):
        check_same_atlas({"one": info, "two": other}, "ccf")
