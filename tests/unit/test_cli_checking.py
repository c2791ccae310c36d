"""terareg check: what a run would stop at, and what it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import yaml
import zarr
from cohort_truth import write_cohort, write_table_of
from microscope_folders import smartspim
from web_server import serving

from terareg.cli import checking
from terareg.cli.main import main
from terareg.core.errors import ConfigError
from terareg.execution.config import check as check_config


def checked(workspace, config, capsys) -> tuple[int, str]:
    workspace.write(config)
    code = main(["check", "sample.yaml"])
    told = capsys.readouterr()
    return code, told.out + told.err


def scanned(workspace, *name, **over) -> dict:
    """A sample of two tiles, of whose planes there are the names alone."""
    config = workspace.sample(*name, grid=(1, 2), planes=100, **over)
    for tile in ("LOC000", "LOC001"):
        folder = Path(config["input"]["path"], "VW0", tile)
        folder.mkdir(parents=True, exist_ok=True)
        for channel in (0, 1):
            for plane in range(100):
                (folder / f"CHN{channel:02d}_PLN{plane:04d}.tif").touch()
    return config


def test_a_good_sample_is_told_on_one_screen(workspace, capsys):
    config = scanned(workspace)
    config["atlases"] = {"mine": write_atlas(workspace.folder)}
    code, text = checked(workspace, config, capsys)
    assert code == 0
    assert len(text.splitlines()) < 40
    for words in (
        "grid         1 rows x 2 columns, 2 tiles of 100 x 2048 x 2048 voxels",
        "channels     autofluorescence: 0, signal: 1",
        "orientation  SAR",
        "CPU hours",
        "GB free, up to",
        "Nothing to correct. Next: terareg run sample.yaml previews",
    ):
        assert words in text, words
    assert not Path("results").exists() and not Path(".snakemake").exists()


def test_the_sample_stands_beside_the_atlas_in_size(workspace, capsys):
    """A voxel size in another order makes a brain that is flat and long."""
    config = scanned(workspace)
    config["atlases"] = {"mine": write_atlas(workspace.folder)}
    config["atlases"]["mine"]["spacing_um"] = [25, 200, 300]
    _, text = checked(workspace, config, capsys)
    assert "mm of the atlas (front to back, top to bottom, side to side)" in text
    assert "of atlas mine" not in text
    config["input"]["spacing_um"] = [1.83, 1.83, 5]
    code, text = checked(workspace, config, capsys)
    assert code == 0 and "the sample has 0.183 mm top to bottom beside 0.5 mm" in text
    assert "18.9 mm side to side beside 7.2 mm of atlas mine; unless it is a part of" in text


@pytest.mark.parametrize("kind", ["tiles", "volume"])
def test_a_voxel_size_that_files_contradict_is_told(workspace, capsys, kind):
    """Half as large again: neither too large for an atlas nor an overlap that cannot be."""
    if kind == "tiles":
        smartspim(workspace.folder / "raw")
        channels = {"signal": "Ex_488_Em_525"}
        source = {"kind": "terastitcher", "path": "raw", "first_level": "H", "channels": channels}
        size_um, where = [5.0, 1.5, 1.5], "metadata.txt"
    else:
        image = sitk.GetImageFromArray(np.arange(60 * 50 * 40, dtype=np.uint16).reshape(60, 50, 40))
        image.SetSpacing((0.1, 0.1, 0.2))
        sitk.WriteImage(image, "brain.nii.gz")
        source = {"kind": "volume", "channels": {"signal": "brain.nii.gz"}}
        size_um, where = [200.0, 100.0, 100.0], "the header of brain.nii.gz"
    source |= {"orientation": "SAR", "spacing_um": size_um}
    code, text = checked(workspace, {"sample": "brain", "input": source}, capsys)
    assert code == 0 and "but the files give" not in text
    source["spacing_um"] = [1.5 * s for s in size_um]
    code, text = checked(workspace, {"sample": "brain", "input": source}, capsys)
    assert code == 0
    size = " x ".join(f"{s:g}" for s in size_um)
    assert f"(z, y, x) but the files give {size} um, from {where}; input.spacing_um is" in text


@pytest.mark.parametrize("kind", ["tiles", "volume"])
def test_results_of_other_raw_data_under_the_same_name_are_told(workspace, capsys, kind):
    image = sitk.GetImageFromArray(np.arange(60 * 50 * 40, dtype=np.uint16).reshape(60, 50, 40))
    image.SetSpacing((0.1, 0.1, 0.2))
    sitk.WriteImage(image, "brain.nii.gz")
    volume = {"kind": "volume", "channels": {"mri": "brain.nii.gz"}, "orientation": "SPL"}
    config = scanned(workspace) if kind == "tiles" else {"sample": "brain", "input": volume}
    path = Path("results", config["sample"])
    path.mkdir(parents=True)
    own, other = config["input"].get("path", "brain.nii.gz"), "/data/other"
    tiles = {raw: {"raw": raw} for raw in (own, other)}
    gone = {"source": "gone.nii.gz"}
    images = {raw: {"channels": {"mri": {"source": raw}, "gone": gone}} for raw in (own, other)}
    for name, results in (("acquisition.json", tiles), ("input.json", images)):
        for raw, told in ((own, False), (other, True)):
            if raw == own and (name == "input.json") == (kind == "tiles"):
                continue
            (path / name).write_text(json.dumps(results[raw]))
            _, text = checked(workspace, config, capsys)
            assert (f"{path} holds results of {raw}, which a run replaces" in text) == told
            assert ("give this sample another name" in text) == told
        (path / name).unlink()


def test_cells_of_the_grid_without_a_tile_are_told(workspace, capsys):
    smartspim(workspace.folder / "raw")
    channels = {"signal": "Ex_488_Em_525", "nuclei": "Ex_561_Em_600"}
    source = {"kind": "terastitcher", "path": "raw", "first_level": "H", "channels": channels}
    source |= {"orientation": "SAR", "spacing_um": [5, 1.5, 1.5]}
    _, text = checked(workspace, {"sample": "brain", "input": source}, capsys)
    assert "cells of the grid" not in text
    for channel in channels.values():
        shutil.rmtree(sorted(Path("raw", channel).glob("*/*"))[0])
    code, text = checked(workspace, {"sample": "brain", "input": source}, capsys)
    assert code == 0
    # x of the columns is -300, -264 and -228 um
    told = "1 of 6 cells of the grid have no tile: row 0 column 2 (counted from 0); right if"
    assert told in text


def test_a_plane_or_channel_that_a_tile_lacks_is_told_before_any_run(workspace, capsys):
    config = scanned(workspace)
    config["atlases"] = {"mine": write_atlas(workspace.folder)}
    folder = Path(config["input"]["path"], "VW0/LOC001")
    (folder / "CHN01_PLN0042.tif").unlink()
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "CPU hours" in text
    assert "To do: sample brain: LOC001 channel signal: 1 of 100 planes missing" in text
    config["input"]["missing_planes"] = "interpolate"
    code, text = checked(workspace, config, capsys)
    assert code == 0 and "note         1 planes are missing in 1 stacks and interpolated" in text
    for path in folder.glob("CHN01*"):
        path.unlink()
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "LOC001 has no plane of channel signal (CHN01) but other tiles" in text
    shutil.rmtree(folder)
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "1 of 2 tiles have no folder in VW0 (first: LOC001)" in text


def test_a_cohort_is_added_up_and_needs_the_room_of_all_its_samples(workspace, capsys, monkeypatch):
    for name in ("one", "two"):
        config = scanned(workspace, name)
        config["atlases"] = {"mine": write_atlas(workspace.folder)}
        workspace.write(config, f"{name}.yaml")
    disk = type("Disk", (), {"free": 5e9})  # of one sample, but not of both
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda folder: disk)
    code, text = checked(workspace, {"cohort": ["one.yaml"]}, capsys)
    assert code == 0 and "all 1 samples" not in text and "up to 3.8 GB" in text
    code, text = checked(workspace, {"cohort": ["one.yaml", "two.yaml"]}, capsys)
    assert code == 1 and "all 2 samples: " in text and text.count("GB free, up to") == 1
    assert "To do: samples one, two: store results has 5.0 GB free but the volumes may" in text


def test_a_blank_orientation_is_asked_for_and_the_rest_is_checked(workspace, capsys):
    config = scanned(workspace)
    config["input"]["orientation"] = None
    code, text = checked(workspace, config, capsys)
    assert code == 1
    assert "To do: input.orientation is left blank; write three letters" in text
    assert "CPU hours" in text and "orientation  " not in text
    with pytest.raises(ConfigError, match=r"input\.orientation is left blank; write three letters"):
        check_config(config)
    config["input"]["chanels"] = {}
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "input.chanels is not a known key" in text


def test_a_blank_orientation_is_that_of_the_header_until_it_is_filled_in(workspace, capsys):
    image = sitk.GetImageFromArray(np.ones((9, 8, 7), np.uint16))
    image.SetSpacing([0.2, 0.2, 0.2])  # columns grow to the left, rows to posterior: SPL
    sitk.WriteImage(image, "t1.nii.gz")
    source = {"kind": "volume", "channels": {"t1": "t1.nii.gz"}, "orientation": None}
    code, text = checked(workspace, {"sample": "only", "input": source, "atlases": {}}, capsys)
    assert code == 1 and text.count("To do") == 1
    assert "the header states SPL, which is to be confirmed" in text and "no file" not in text
    assert "Imported volume" in text and "Fused" not in text


def test_a_table_of_regions_that_cannot_be_read_is_to_be_corrected(workspace, capsys):
    config = scanned(workspace)
    bad = workspace.folder / "names.csv"
    bad.write_text("number,acronym\n1,A\n")
    next(iter(config["atlases"].values()))["ontology"] = str(bad)
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "CPU hours" in text
    assert "ontology: ontology" not in text and "names.csv, line 2: id and name missing" in text


def test_a_sample_of_derived_volumes_alone(workspace, capsys):
    group = zarr.create_group("v.ome.zarr", zarr_format=3)
    group.create_array("0", data=np.ones((8, 8, 8), np.uint8))
    scale = [{"type": "scale", "scale": [9.0, 9.0, 9.0]}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    derived = {"shared": {"from": "v.ome.zarr", "do": "convert", "format": "precomputed"}}
    code, text = checked(workspace, {"sample": "only", "derived": derived}, capsys)
    assert code == 0 and "sample only, without images of its own\n  derived      shared" in text
    assert "Next: terareg run sample.yaml derived_volumes" in text


def test_images_are_told_one_a_line(workspace, capsys):
    tifffile.imwrite("c.tif", np.ones((2, 9, 8, 7), np.uint16), metadata={"axes": "CZYX"}, ome=True)
    channels = {"red": {"path": "c.tif", "channel": 0}, "green": {"path": "c.tif", "channel": 1}}
    image = {
        "kind": "volume",
        "channels": channels,
        "spacing_um": [50, 50, 50],
        "orientation": "SAR",
    }
    code, text = checked(workspace, {"sample": "only", "input": image, "atlases": {}}, capsys)
    assert code == 0, text
    assert "Next: terareg run sample.yaml fused_volumes" in text, "there is no atlas"
    assert f"channels     red: c.tif, channel 0\n{'':15}green: c.tif, channel 1\n" in text


def test_the_first_mistake_is_one_sentence(workspace, capsys):
    config = workspace.sample(stitching__channel="red")
    code, text = checked(workspace, config, capsys)
    assert code == 1
    assert text == (
        "To do: stitching.channel: channel 'red' is not one of input.channels; use one of "
        "autofluorescence, signal\n"
    )


def test_settings_of_the_folder_are_read_first(workspace, capsys, monkeypatch, tmp_path):
    shared = tmp_path / "shared.yaml"
    monkeypatch.setattr(checking, "_SHARED", shared)
    config = scanned(workspace)
    shared.write_text(yaml.safe_dump({"stitching": {"channel": "red"}}))
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "channel 'red'" in text
    config["stitching"] = {"channel": "signal"}
    config["atlases"] = {"mine": write_atlas(workspace.folder)}
    assert checked(workspace, config, capsys)[0] == 0


def test_too_little_room_or_memory_is_to_be_corrected(workspace, capsys, monkeypatch):
    config = workspace.sample(grid=(40, 40), planes=100_000)
    monkeypatch.setattr(checking, "_memory_mb", lambda: 100.0)
    code, text = checked(workspace, config, capsys)
    assert code == 1
    assert "To do: sample brain: its largest job needs" in text
    assert "To do: sample brain: store results has" in text


def test_a_comparison_is_told_by_its_groups(workspace, capsys):
    samples = write_cohort(workspace.folder / "results", size=3)
    table = workspace.folder / "cohort.tsv"
    write_table_of(table, samples, {"age": [8, 9, 9, 8, 7, 9]})
    config = {"comparisons": {"drug": {"table": "cohort.tsv", "atlas": "ccf"}}}
    code, text = checked(workspace, config, capsys)
    assert code == 0 and "comparison drug: control 3, drug 3 samples; covariates: age" in text
    assert "Next: terareg run sample.yaml cohort" in text and "leaves out" not in text
    whole = table.read_text()
    table.write_text(whole.replace("drug", "durg", 1))
    config["comparisons"]["drug"]["groups"] = ["control", "drug"]
    code, text = checked(workspace, config, capsys)
    assert code == 0 and "control 3, drug 2 samples" in text
    assert "note: comparison drug leaves out the samples of durg 1; is a name misspelt?" in text
    del config["comparisons"]["drug"]["groups"]
    table.write_text("\n".join(whole.splitlines()[:5]) + "\n")
    code, text = checked(workspace, config, capsys)
    assert code == 1
    assert "To do: comparisons.drug: 4 samples are too few for 3 coefficients" in text
    table.write_text(whole)
    (workspace.folder / "results/brain0/regions/ccf.tsv").unlink()
    code, text = checked(workspace, config, capsys)
    assert code == 1 and "To do: comparisons.drug: sample 'brain0' has no results" in text


def write_atlas(folder, code="SAR", symmetric="x", annotation=(20, 22, 24), region=1):
    """A small atlas whose template mirrors itself along one axis; returns its description."""
    half = np.random.default_rng(0).integers(1, 900, (20, 22, 24)).astype(np.uint16)
    axis = "zyx".index(symmetric)
    template = half + np.flip(half, axis)
    labels = np.full(annotation, region, np.uint32)
    for name, array in (("t.nrrd", template), ("a.nrrd", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([0.2, 0.2, 0.2])
        sitk.WriteImage(image, str(folder / name))
    (folder / "o.csv").write_text("id,acronym,name\n1,A,a region\n")
    files = {"template": "t.nrrd", "annotation": "a.nrrd", "ontology": "o.csv"}
    return {key: str(folder / name) for key, name in files.items()} | {"orientation": code}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Nothing to correct"),
        ({"code": "RAS"}, "To do: template t.nrrd mirrors itself along x (correlation 1.00) and "
         "not along z"),
        ({"code": "RAS"}, "left-right in atlases.mine.orientation: RAS; a code written for x, y, z "
         "is SAR here, or give atlases.mine.hemispheres"),
        ({"annotation": (10, 11, 12)}, "To do: atlases.mine: template t.nrrd and annotation a.nrrd "
         "have different shapes"),
        ({"region": 7}, "that are not in the ontology: 7"),
    ],
)  # fmt: skip
def test_voxels_of_a_small_atlas_are_read(workspace, capsys, change, words):
    config = scanned(workspace)
    config["atlases"] = {"mine": write_atlas(workspace.folder, **change)}
    code, text = checked(workspace, config, capsys)
    assert words in text and "NAME" not in text
    assert code == (1 if change else 0) and "CPU hours" in text


def test_voxels_of_a_large_atlas_are_left_to_its_job(workspace, capsys, monkeypatch):
    monkeypatch.setattr(checking, "_ATLAS_MEGAVOXELS", 0.01)
    config = scanned(workspace)
    config["atlases"] = {"mine": write_atlas(workspace.folder, code="RAS")}
    code, text = checked(workspace, config, capsys)
    assert code == 0 and "million voxels of atlas mine are not read here" in text


def imported(workspace, capsys, path):
    image = {"kind": "volume", "channels": {"t1": str(path)}, "orientation": "SPL"}
    return checked(workspace, {"sample": "only", "input": image, "atlases": {}}, capsys)


def test_middle_planes_of_an_image_are_read(workspace, capsys):
    path = workspace.folder / "t1.nii.gz"
    voxels = np.random.default_rng(0).integers(1, 900, (40, 40, 40)).astype(np.uint16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([0.2, 0.2, 0.2])
    sitk.WriteImage(image, str(path))
    code, text = imported(workspace, capsys, path)
    assert code == 0 and "note" not in text
    path.write_bytes(path.read_bytes()[:-9000])
    with serving(workspace.folder) as url:
        code, text = imported(workspace, capsys, f"{url}/t1.nii.gz")
    assert code == 1 and f"To do: sample only, channel t1: {url}/t1.nii.gz " in text
    code, text = imported(workspace, capsys, path)
    assert code == 1 and "To do: sample only, channel t1: " in text and str(path) in text
    image = sitk.GetImageFromArray(np.zeros_like(voxels))
    image.SetSpacing([0.2, 0.2, 0.2])
    sitk.WriteImage(image, str(path))
    code, text = imported(workspace, capsys, path)
    assert code == 0 and f"middle planes of {path} hold nothing but 0" in text
