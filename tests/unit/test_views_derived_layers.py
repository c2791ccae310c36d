"""Derived volumes and objects in the viewer's state."""

from __future__ import annotations

import numpy as np
import pytest
from derived_helpers import entry_of, make_source, run_entry

from terareg.storage.records import write_json, write_table
from terareg.storage.store import Store
from terareg.views.derived_layers import derived_layer

ARRAY = np.random.default_rng(0).integers(0, 900, (13, 18, 21)).astype(np.uint16)
COLOURS = {"labels/toy": {7: "#102030"}}


@pytest.fixture
def made(tmp_path):
    """Function: the layer of an entry that is run on an array, and the volume."""

    def run(entry, array=ARRAY, rows=None):
        store = Store(str(tmp_path / "store"))
        make_source(store, array)
        volume = run_entry(store, entry)
        files = str(tmp_path / "plan.json"), str(tmp_path / "done")
        write_json(files[0], {"plan": volume.plan.to_json()})
        if rows is None:
            write_json(files[1], {"window": [3, 800]})
        else:
            write_table(files[1], rows)
        return derived_layer(entry, "brain", files, COLOURS), volume

    return run


def place_um(transform, position):
    """Where a viewer shows a position of a source, in micrometres x, y, z."""
    matrix = np.array(transform["matrix"])
    scales = np.array([scale for scale, _ in transform["outputDimensions"].values()]) * 1e6
    return (matrix[:, :3] @ position + matrix[:, 3]) * scales


def test_a_region_with_a_voxel_offset_lies_where_it_was_cut_out(made):
    entry = entry_of("convert", format="precomputed", box_vox=[[3, 2, 5], [12, 15, 20]])
    layer, volume = made(entry)
    assert layer["name"] == "derived made" and layer["type"] == "image"
    assert not layer["visible"] and layer["shaderControls"]["contrast"]["range"] == [3, 800]
    assert layer["source"]["url"] == "precomputed://{store}/brain/derived/made/precomputed"
    # the middle of its first voxel, which Neuroglancer calls offset + 1/2
    found = place_um(layer["source"]["transform"], np.array([5, 2, 3]) + 0.5)
    np.testing.assert_allclose(found, volume.frame.to_um(np.zeros(3))[::-1])
    np.testing.assert_allclose(found, [5, 2, 6])


@pytest.mark.parametrize(("form", "scheme"), [("ome-zarr", "zarr3"), ("ome-zarr-0.4", "zarr2")])
def test_both_versions_of_ome_zarr_are_named(made, form, scheme):
    layer, _ = made(entry_of("convert", format=form))
    assert layer["source"] == f"{scheme}://{{store}}/brain/derived/made/ome.zarr"


def test_labels_are_a_segmentation(made):
    layer, _ = made(entry_of("convert", format="precomputed"), ARRAY.astype(np.uint32))
    assert layer["type"] == "segmentation" and "segmentColors" not in layer


def test_the_largest_meshes_are_drawn_in_the_colours_of_their_atlas(made, tmp_path):
    entry = entry_of("convert", box_vox=[[3, 2, 5], [12, 15, 20]])
    rows = [{"label": n, "voxels": n % 150} for n in range(1, 200)]
    made(entry)
    files = str(tmp_path / "plan.json"), str(tmp_path / "objects.tsv")
    write_table(files[1], rows)
    mesh = entry_of("mesh", source="labels/toy")
    layer = derived_layer(mesh, "brain", files, COLOURS)
    assert len(layer["segments"]) == 100 and "149" in layer["segments"]
    assert "1" not in layer["segments"] and layer["segmentColors"] == {"7": "#102030"}
    objects, names = layer["source"]
    assert names == "precomputed://{store}/brain/labels/toy/precomputed/segment_properties"
    assert objects["url"] == "precomputed://{store}/brain/derived/made/mesh"
    # meshes count in nanometres like precomputed voxels
    first = (np.array([5, 2, 3]) + 0.5) * np.array([1000, 1000, 2000])
    np.testing.assert_allclose(place_um(objects["transform"], first), [5, 2, 6])


def test_skeletons_are_drawn_by_their_length(made, tmp_path):
    made(entry_of("convert"))
    files = str(tmp_path / "plan.json"), str(tmp_path / "objects.tsv")
    write_table(files[1], [{"label": n, "length_um": 5.0 * n} for n in range(1, 120)])
    layer = derived_layer(entry_of("skeletonize"), "brain", files, COLOURS)
    assert layer["segments"] == [str(n) for n in range(20, 120)]
    assert layer["source"][0]["url"].endswith("/made/skeletons") and len(layer["source"]) == 1
