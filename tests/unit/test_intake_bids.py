"""Chunks of BIDS data sets."""

from __future__ import annotations

import json

import container_files as files
import pytest

from terareg.core.errors import AcquisitionError
from terareg.intake.bids import bids
from terareg.intake.found import Look
from terareg.storage.store import Store


def found(folder):
    return bids(Look(Store(str(folder))))


def sidecars(root):
    return sorted((root / "sub-01/micr").glob("*.json"))


def edit(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_of_chunks_below_the_data_set(tmp_path):
    files.bids(tmp_path)
    (tmp_path / "none").mkdir()
    assert found(tmp_path / "none") is None
    (tmp_path / "sample-brain_SPIM.json").rename(tmp_path / "sub-01/micr/sample-brain_SPIM.json")
    assert found(tmp_path / "sub-01/micr").source["spacing_um"] == list(files.SPACING_UM)


def test_what_stands_nearest_to_an_image_counts(tmp_path):
    files.bids(tmp_path)
    for path in sidecars(tmp_path):
        edit(path, PixelSize=[4, 4, 10])
    assert found(tmp_path).source["spacing_um"] == [10, 4, 4]


def test_without_a_pixel_size_it_is_asked_for_only_where_positions_do_not_need_it(tmp_path):
    files.bids(tmp_path)
    (tmp_path / "sample-brain_SPIM.json").unlink()
    with pytest.raises(AcquisitionError, match="no JSON file states ChunkTransformationMatrix and"):
        found(tmp_path)
    for path in (tmp_path / "sub-01/micr").glob("*chunk-0[2-6]*"):
        path.unlink()
    one = found(tmp_path)
    assert "spacing_um" in one.asked and one.table.splitlines()[1].endswith("\tchunk01\t0\t0")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ChunkTransformationMatrix": [[1, 0], [0, 1]]}, "give a matrix of 4 x 4"),
        ({"ChunkTransformationMatrixAxis": None}, "give a matrix of 4 x 4"),
        ({"ChunkTransformationMatrix": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
         "rotates or stretches the chunk along X"),
        ({"ChunkTransformationMatrix": [["a", 0, 0, 0]] + [[0, 0, 1, 0]] * 3}, "are not numbers"),
        ({"PixelSize": [-1, 2, 3]}, r"PixelSize is \[-1, 2, 3\]"),
        ({"PixelSize": [9, 9, 9]}, "its chunks have PixelSize"),
    ],
)  # fmt: skip
def test_sidecars_that_cannot_be(tmp_path, values, words):
    files.bids(tmp_path)
    edit(sidecars(tmp_path)[0], **values)
    with pytest.raises(AcquisitionError, match=words):
        found(tmp_path)


def test_one_sample_at_a_time(tmp_path):
    files.bids(tmp_path)
    folder = tmp_path / "sub-02/micr"
    folder.mkdir(parents=True)
    (folder / "sub-02_sample-a_chunk-01_SPIM.ome.tif").touch()
    with pytest.raises(
        AcquisitionError, match="of 2 samples, sub-01_sample-brain, sub-02_sample-a"
    ):
        found(tmp_path)


def test_a_sidecar_that_is_no_json(tmp_path):
    files.bids(tmp_path)
    sidecars(tmp_path)[0].write_text("[" * 100_000)
    with pytest.raises(AcquisitionError, match="nested too deeply"):
        found(tmp_path)
