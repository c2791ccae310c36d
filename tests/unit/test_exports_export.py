"""Exports from what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from regions_helpers import toy_atlas

from terareg.core.frames import Frame
from terareg.exports import export
from terareg.exports.export import make_export, open_origin, prepare_export
from terareg.exports.label_tables import LabelTable
from terareg.exports.settings import ExportSettings, Origin
from terareg.storage import nrrd
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage

FRAME = Frame((4, 5, 6), (50.0, 50.0, 50.0), (10.0, 0.0, 0.0), "RIP")


def test_a_map_of_a_registration_is_its_component_on_its_grid(tmp_path):
    posteriors = np.random.default_rng(0).random((3, *FRAME.shape)).astype(np.float32)
    path = tmp_path / "posteriors.nrrd"
    nrrd.write_scalar(path, posteriors, FRAME)
    for number, name in enumerate(("match", "artefact", "missing")):
        origin = Origin("registration", "allen", image=name)
        source = open_origin(origin, Store(str(tmp_path)), "b", str(path))
        assert source.frame == FRAME and not source.is_segmentation
        np.testing.assert_array_equal(source.read(0), posteriors[number])


@pytest.mark.parametrize("labels", ["ids", "consecutive", "rgb"])
def test_regions_of_an_atlas_are_what_was_asked_for(labels):
    atlas = toy_atlas()
    source = OpenedImage("a", [atlas.frame], [atlas.annotation])
    table = LabelTable.of(atlas.ids.tolist(), atlas.ontology, labels)
    settings = ExportSettings(
        Origin("atlases", "toy", image="annotation"), "tiff", interpolation="vote", labels=labels
    )
    picture, boxes = prepare_export(settings, source, table, "regions")
    found = np.concatenate([slab for _, slab in boxes(picture.frame, None)])
    assert picture.aligned and picture.frame == atlas.frame
    if labels == "ids":
        np.testing.assert_array_equal(found, atlas.annotation)
    elif labels == "consecutive":
        np.testing.assert_array_equal(found, table.renumbered(atlas.annotation))
        assert picture.dtype == "uint8" and picture.palette is not None
    else:
        assert found.shape == (*atlas.frame.shape, 3) and picture.colours


def test_the_record_says_what_was_written_and_clipped(tmp_path):
    jacobian = np.linspace(0.5, 2, 120, dtype=np.float32).reshape(FRAME.shape)
    path = tmp_path / "jacobian.nrrd"
    nrrd.write_scalar(path, jacobian, FRAME)
    settings = ExportSettings(Origin("registration", "allen", image="jacobian"), "nifti")
    seen = []

    def write(export):
        seen.extend(slab for _, slab in export.slabs)
        return {"minimum": 0.5}

    place = Store(str(tmp_path)), "b"
    record = make_export("growth", settings, place, {"image": str(path)}, write)
    np.testing.assert_array_equal(np.concatenate(seen), jacobian)
    assert Frame.from_json(record.pop("frame")) == FRAME
    assert record == {
        "from": "registration/allen/jacobian", "format": "nifti", "interpolation": "mean",
        "labels": None, "source_spacing_um": [50.0, 50.0, 50.0], "dtype": "float32",
        "minimum": 0.5, "clipped_low": 0, "clipped_high": 0,
    }  # fmt: skip


@pytest.mark.parametrize("said", [{"window": [3.0, 90.0]}, {}])
def test_an_image_is_shown_as_the_report_shows_its_volume(tmp_path, monkeypatch, said):
    image = np.arange(120, dtype=np.uint16).reshape(FRAME.shape)
    source = OpenedImage("signal", [FRAME], [image])
    monkeypatch.setattr(export, "open_origin", lambda *_: source)
    write_json(tmp_path / "complete.json", said)
    settings = ExportSettings(Origin("fused", channel="signal"), "nifti")
    seen = []
    files = {"complete": str(tmp_path / "complete.json")}
    make_export("all", settings, (Store(str(tmp_path)), "b"), files,
                lambda each: seen.append(each.picture) or {})  # fmt: skip
    assert seen[0].window == (tuple(said["window"]) if said else None)
