"""The scorer: perfect artefacts score perfectly, and each fault moves the figure it should."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import yaml
import zarr
from cloudvolume import CloudVolume

from terareg.core.frames import Frame
from terareg.phantom import cli, demo
from terareg.phantom.atlas import make_atlas
from terareg.phantom.floors import Floors, format_table, verdicts
from terareg.phantom.sample import GeneratedSample
from terareg.phantom.score import ScoreError, ScorePaths, match_cells, score

XML_HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">\n'


def write_xml(path, origins):
    stacks = "".join(
        f'<Stack ABS_V="{y}" ABS_H="{x}" ABS_D="{z}" DIR_NAME="VW0/{name}" />'
        for name, (z, y, x) in origins.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'{XML_HEAD}<TeraStitcher><STACKS>{stacks}<Stack ABS_V="0" ABS_H="0" ABS_D="0" '
        'DIR_NAME="" /></STACKS></TeraStitcher>\n'
    )


def write_zarr(folder, array):
    group = zarr.open_group(str(folder / "ome.zarr"), mode="w")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{"path": "0"}]}]}
    group.create_array("0", data=array, chunks=(16, 64, 64))


def write_precomputed(folder, array):
    info = CloudVolume.create_new_info(
        1, "segmentation", str(array.dtype), "raw", (1000, 1000, 1000), (0, 0, 0),
        array.shape[::-1], chunk_size=(64, 64, 16),
    )  # fmt: skip
    layer = CloudVolume(f"file://{folder / 'precomputed'}", info=info, compress=False)
    layer.commit_info()
    layer[:] = array.transpose(2, 1, 0)[..., None]


def write_image(path, array, frame, vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing([s / 1000 for s in frame.spacing_um[::-1]])
    image.SetOrigin([o / 1000 for o in frame.origin_um[::-1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    settings = demo.demo_settings(2, small=True)
    truth = demo.make_demo(out, settings)
    sample = GeneratedSample(
        make_atlas(settings.brain), Frame.from_json(truth["frame"]), settings.sample
    )
    return out, truth, sample


@pytest.fixture(scope="module")
def perfect(phantom, tmp_path_factory):
    """Results and store of a run without any error; the XML is off by a common shift."""
    out, truth, sample = phantom
    root = tmp_path_factory.mktemp("run")
    results, store = root / "results" / "demo", root / "store"
    write_xml(
        results / "stitching" / "xml_merging.xml",
        {n: [o - 7 for o in t["origin_vox"]] for n, t in truth["tiles"].items()},
    )
    whole = sample.block((0, 0, 0), sample.frame.shape)
    labels, _ = sample.labels_grid(sample.frame.axes_um())
    for index, channel in enumerate(("ch0", "ch1")):
        folder = results / "intensity" / channel
        folder.mkdir(parents=True)
        profile = tifffile.imread(out / "truth" / f"profile_{channel}.tif")
        tifffile.imwrite(folder / "flatfield.tif", 3 * profile)
        bias = sitk.ReadImage(str(out / "truth" / f"bias_{channel}.nrrd"))
        (results / "bias").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.Log(bias) + 0.3, str(results / "bias" / f"{channel}.nrrd"))
        fused = np.rint(np.clip(0.5 * whole[index] + 40, 0, 65535)).astype(np.uint16)
        write_zarr(store / "demo" / "fused" / channel, fused)
    write_zarr(store / "demo" / "labels" / "phantom", labels)
    atlas_frame = sample.atlas.frame.resampled((300.0,) * 3)
    grid = np.stack(np.meshgrid(*atlas_frame.axes_um(), indexing="ij"), -1)
    moved = sample.to_sample(grid.reshape(-1, 3)).reshape(grid.shape)
    registration = results / "registration" / "phantom"
    field = ((moved - grid) / 1000)[..., ::-1].astype(np.float32)
    write_image(registration / "atlas_to_sample_displacement.nrrd", field, atlas_frame, True)
    working = sample.frame.resampled((200.0,) * 3)
    write_image(
        registration / "sample_to_atlas_displacement.nrrd",
        np.zeros((*working.shape, 3), np.float32), working, True,
    )  # fmt: skip
    write_image(registration / "jacobian.nrrd", np.full((4, 4, 4), 0.6, np.float32), atlas_frame)
    (results / "regions").mkdir()
    with (
        open(out / "truth" / "region_volumes.tsv") as source,
        open(results / "regions" / "phantom.tsv", "w") as target,
    ):
        rows = list(csv.DictReader(source, delimiter="\t"))
        target.write("id\tscope\themisphere\tvolume_mm3\n")
        for row in rows:
            for scope, factor in (("own", 1), ("tree", 9)):
                volume = factor * float(row["volume_mm3"])
                target.write(f"{row['id']}\t{scope}\t{row['hemisphere']}\t{volume}\n")
    for name, seconds, memory in (
        ("fuse_blocks/ch0/0", "10.5", "300"),
        ("fuse_blocks/ch1/0", "9.5", "350.5"),
        ("register", "60", "-"),
    ):
        path = results / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t{memory}\n")
    return ScorePaths(out / "truth", results, store)


@pytest.fixture
def run(perfect, tmp_path):
    """A copy of the perfect results that a test may spoil (the store is shared)."""
    results = tmp_path / "results" / "demo"
    shutil.copytree(perfect.results, results)
    return ScorePaths(perfect.truth, results, perfect.store)


@pytest.mark.slow
def test_perfect_artefacts_score_perfectly(perfect):
    result = score(perfect)
    assert result["tile_error_vox"] == {"mean": 0.0, "max": 0.0}
    assert result["details"]["tiles"]["frame_offset_vox"] == [0, 0, 0]
    assert result["flatfield_rms_percent"] < 1e-3
    assert result["fused_psnr_db"] > 70
    assert result["details"]["fused"]["ch0"]["gain"] == pytest.approx(2, abs=1e-3)
    assert result["bias_rms_percent"] < 1.5
    assert result["tre_um"]["mean"] < 10
    assert result["tre_um"]["start"] > 250
    assert result["details"]["registration"]["best_affine_um"] > 120
    assert result["details"]["registration"]["working_voxel_um"] == pytest.approx(200)
    assert result["jacobian_min"] == pytest.approx(0.6)
    assert result["dice_mean"] == 1.0
    assert result["details"]["labels"]["foreign_ids"] == []
    assert result["region_volume_error_percent"] < 1e-6
    assert result["seconds"] == {"fuse_blocks": 20.0, "register": 60.0}
    assert result["peak_memory_mb"] == {"fuse_blocks": 350.5, "register": 0.0}
    lines = verdicts(result, Floors())
    assert len([v for v in lines if v.passed]) == 6
    assert not [v for v in lines if v.passed is False]
    assert "FAIL" not in format_table(lines) and "<= 300" in format_table(lines)


@pytest.mark.slow
def test_precomputed_labels_score_as_ome_zarr(perfect, phantom, tmp_path):
    _, _, sample = phantom
    labels, _ = sample.labels_grid(sample.frame.axes_um())
    write_precomputed(tmp_path / "demo" / "labels" / "phantom", labels)
    paths = ScorePaths(perfect.truth, perfect.results, tmp_path)
    assert score(paths, ["labels"])["dice_mean"] == 1.0


def test_one_misplaced_tile_is_found(run, phantom):
    tiles = {n: list(t["origin_vox"]) for n, t in phantom[1]["tiles"].items()}
    tiles["LOC005"][2] += 3
    tiles["LOC005"][0] -= 1
    write_xml(run.results / "stitching" / "xml_merging.xml", tiles)
    result = score(run, ["tiles"])
    assert result["tile_error_vox"] == {"mean": pytest.approx(3 / 10), "max": 3.0}
    assert result["details"]["tiles"]["worst_tile"] == "LOC005"
    assert result["dice_mean"] is None
    assert [v.name for v in verdicts(result, Floors()) if v.passed is False] == [
        "tile error, max (voxels)"
    ]


@pytest.mark.slow
def test_a_shift_of_the_whole_fused_frame_is_counted_once(run, phantom):
    _, truth, sample = phantom
    tiles = {n: list(t["origin_vox"]) for n, t in truth["tiles"].items()}
    first = min(tiles, key=lambda n: tiles[n][1])
    tiles[first][1] -= 2
    assert min(t[1] for n, t in tiles.items() if n != first) >= 0
    write_xml(run.results / "stitching" / "xml_merging.xml", tiles)
    store = run.results.parent / "store"
    whole = sample.block((0, -2, 0), sample.frame.shape)
    for index in range(2):
        fused = np.rint(np.clip(whole[index], 0, 65535)).astype(np.uint16)
        write_zarr(store / "demo" / "fused" / f"ch{index}", fused)
    result = score(ScorePaths(run.truth, run.results, store), ["tiles", "fused"])
    assert result["details"]["tiles"]["frame_offset_vox"] == [0, 2, 0]
    assert result["tile_error_vox"]["max"] == 2
    assert result["fused_psnr_db"] > 70


def test_worst_channel_counts(run):
    path = run.results / "intensity" / "ch1" / "flatfield.tif"
    profile = tifffile.imread(path)
    wave = np.where(np.arange(profile.shape[1]) % 2, 1.05, 0.95).astype(np.float32)
    tifffile.imwrite(path, profile * wave)
    result = score(run, ["flatfield"])
    assert result["flatfield_rms_percent"] == pytest.approx(5, abs=0.1)
    assert result["details"]["flatfield"]["ch0"]["rms_percent"] < 1e-3


def test_bias_that_was_not_corrected_shows(run):
    for channel in ("ch0", "ch1"):
        path = run.results / "bias" / f"{channel}.nrrd"
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    result = score(run, ["bias"])
    details = result["details"]["bias"]
    assert details["ch0"]["rms_percent"] == pytest.approx(details["ch0"]["uncorrected_percent"])
    assert result["bias_rms_percent"] > 5


def test_registration_error_is_in_micrometres(run):
    path = run.results / "registration" / "phantom" / "atlas_to_sample_displacement.nrrd"
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[..., 2] += 0.4  # z, millimetres
    moved = sitk.GetImageFromArray(array, isVector=True)
    moved.CopyInformation(image)
    sitk.WriteImage(moved, str(path))
    result = score(run, ["registration"])
    assert result["tre_um"]["mean"] == pytest.approx(400, abs=10)
    failed = [v.name for v in verdicts(result, Floors()) if v.passed is False]
    assert failed == ["TRE, mean (um)"]


def test_a_folded_map_fails(run):
    path = run.results / "registration" / "phantom" / "jacobian.nrrd"
    array = np.full((3, 3, 3), 0.5, np.float32)
    array[1, 1, 1] = 0
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    result = score(run, ["registration"])
    assert "Jacobian, min" in [v.name for v in verdicts(result, Floors()) if v.passed is False]


def test_region_that_was_not_measured_counts_in_full(run):
    path = run.results / "regions" / "phantom.tsv"
    lines = path.read_text().splitlines()
    rows = (len(lines) - 1) // 2
    path.write_text("\n".join(lines[:1] + lines[3:]) + "\n")
    result = score(run, ["regions"])
    assert result["region_volume_error_percent"] == pytest.approx(100 / rows, rel=1e-3)
    assert result["details"]["regions"]["worst_percent"] == 100


@pytest.mark.parametrize(
    ("remove", "stage", "made_by"),
    [
        ("stitching", "tiles", "place_tiles"),
        ("intensity", "flatfield", "estimate_flatfield"),
        ("bias", "bias", "estimate_bias_field"),
        ("registration", "registration", "register"),
        ("regions", "regions", "measure_regions"),
        ("benchmarks", "cost", "its end"),
    ],
)
def test_missing_artefacts_are_named(run, remove, stage, made_by):
    shutil.rmtree(run.results / remove)
    with pytest.raises(ScoreError, match=rf"is missing; run the workflow up to {made_by} first"):
        score(run, [stage])


def test_missing_volumes_and_stages_are_named(run, tmp_path):
    empty = ScorePaths(run.truth, run.results, tmp_path)
    with pytest.raises(ScoreError, match="contains no volume; run the workflow up to"):
        score(empty, ["fused"])
    with pytest.raises(ScoreError, match="stage 'fuse' is unknown; choose from tiles, flatfield"):
        score(run, ["fuse"])


def test_truth_of_a_cut_volume_judges_what_it_can(run, tmp_path):
    volume = np.random.default_rng(0).integers(0, 900, (8, 60, 60)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "v.tif", volume)
    out = tmp_path / "cut"
    arguments = f"cut --volume {tmp_path}/v.tif --spacing 5,2,2 --grid 1 2 --noise 0 --out {out}"
    assert cli.main(arguments.split()) == 0
    truth = json.loads((out / "truth" / "truth.json").read_text())
    first = truth["volume_offset_vox"]
    fused = np.zeros(truth["shape"], np.uint16)
    inner = tuple(slice(o, o + n) for o, n in zip(first, volume.shape))
    fused[inner] = volume
    write_zarr(tmp_path / "demo" / "fused" / "ch0", fused)
    paths = ScorePaths(out / "truth", tmp_path / "results", tmp_path)
    assert score(paths, ["fused"])["fused_psnr_db"] > 100
    with pytest.raises(ScoreError, match="has no landmarks, because its volume was cut"):
        score(paths, ["registration"])


@pytest.mark.slow
def test_command_writes_the_score_and_the_table(run, capsys):
    out = run.results / "score.json"
    arguments = ["score", "--truth", run.truth, "--results", run.results, "--store", run.store]
    arguments += ["--out", out]
    assert cli.main([str(a) for a in arguments]) == 0
    text = capsys.readouterr().out
    assert "pass" in text and "FAIL" not in text and str(out) in text
    keys = set(json.loads(Path(out).read_text()))
    assert keys == {
        "tile_error_vox", "flatfield_rms_percent", "fused_psnr_db", "bias_rms_percent", "tre_um",
        "dice_mean", "jacobian_min", "region_volume_error_percent", "cells_f1",
        "cell_count_error_percent", "seconds", "peak_memory_mb", "details",
    }  # fmt: skip


def test_command_fails_if_a_floor_is_not_kept(run, capsys):
    path = run.results / "intensity" / "ch0" / "flatfield.tif"
    tifffile.imwrite(path, np.ones_like(tifffile.imread(path)))
    arguments = ["score", "--truth", run.truth, "--results", run.results, "--store", run.store]
    assert cli.main([str(a) for a in [*arguments, "--stages", "flatfield"]]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_scorer_uses_no_reader_of_the_library():
    source = (Path(cli.__file__).parent / "score.py").read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith("from terareg")}
    assert imported == {"terareg.core.errors", "terareg.core.frames"}


def test_demo_writes_a_configuration_and_refuses_to_overwrite(phantom, capsys):
    out, _, _ = phantom
    config = yaml.safe_load((out / "sample.yaml").read_text())
    assert config["input"]["orientation"] == "ILA"
    assert config["input"]["channels"] == {"ch0": 0, "ch1": 1}
    for key in ("template", "annotation", "ontology"):
        assert Path(config["atlases"]["phantom"][key]).exists()
    assert all(Path(p).exists() for p in config["fiducials"]["phantom"].values())
    assert cli.main(["make", "--out", str(out), "--small"]) == 1
    assert "already contains an acquisition" in capsys.readouterr().err


def test_cells_are_paired_once_and_faint_ones_may_be_missed():
    true = np.array([[0.0, 0, 0], [0, 0, 100], [0, 0, 200], [0, 0, 300]])
    contrast = np.array([8.0, 5.0, 2.5, 6.0])
    found = np.array([[0.0, 0, 4], [0, 0, 9], [0, 0, 104], [0, 60, 300]])
    figures, partner = match_cells(found, true, contrast, 100.0)
    assert partner == [0, -1, 1, -1]
    assert figures == {"precision": 0.5, "recall": pytest.approx(2 / 3), "f1": pytest.approx(4 / 7)}
    none, partner = match_cells(found[:0], true, contrast, 100.0)
    assert none["f1"] == 0 and partner == []
