"""Other ways through the workflow: kept tiles, own positions, another channel, several brains."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import running
import tifffile
import yaml

from terareg.stitching.terastitcher import reading

pytestmark = pytest.mark.slow

PLACEMENT = "results/{}/stitching/placement.json"
#: what kept and temporary tiles make anew: of one channel, since the other is more of the same
FUSED = "results/demo/fused/ch0/complete.json"


def run(workspace, *arguments: str):
    done = workspace.snakemake("--cores", "2", *arguments, "--quiet")
    assert done.returncode == 0, done.stderr
    return done


def placement(workspace, sample="demo") -> dict[str, list[int]]:
    """Whole-voxel position of every tile."""
    data = json.loads((workspace.folder / PLACEMENT.format(sample)).read_text())
    return {name: tile["integer"] for name, tile in data["tiles"].items()}


# ---------------------------------------------------------------- corrected tiles, own positions
@pytest.fixture(scope="module")
def kept(finished, tmp_path_factory):
    """Tiles corrected once and kept, and a volume written anew from them; before that the finished
    run, which streams, has done the same."""
    workspace = running.copy_of(finished, type(finished)(tmp_path_factory.mktemp("kept")))
    running.configure(workspace, intensity__corrected_tiles="keep")
    run(workspace, FUSED, "-R", "init_volume")
    return workspace


@pytest.fixture(scope="module")
def temporary(finished, tmp_path_factory):
    """Tiles deleted when the volume is complete, which is written anew from them."""
    workspace = running.copy_of(finished, type(finished)(tmp_path_factory.mktemp("temporary")))
    running.configure(workspace, intensity__corrected_tiles="temporary")
    run(workspace, FUSED, "results/demo/corrected/ch0/dropped.json", "-R", "init_volume")
    return workspace


@pytest.fixture(scope="module")
def striped(finished, tmp_path_factory):
    """Fused anew with the stripes of the light sheet left in."""
    workspace = running.copy_of(finished, type(finished)(tmp_path_factory.mktemp("striped")))
    running.configure(workspace, intensity__destriping="none")
    for found in workspace.folder.glob("results/demo/intensity/*/stripes.json"):
        found.unlink()
    run(workspace, "fused_volumes", "-R", "init_volume")
    return workspace


@pytest.fixture(scope="module")
def placed(finished, acquired, tmp_path_factory):
    """Tiles placed by the user's own file, which holds whole voxels; stripes left in."""
    workspace = running.with_acquisition(
        type(finished)(tmp_path_factory.mktemp("placed")), acquired,
        input__channels={"ch0": 0}, stitching__xml={"xml_merging": "own.xml"},
        intensity__destriping="none",
    )  # fmt: skip
    own = finished.folder / "results/demo/stitching/xml_merging.xml"
    shutil.copy(own, workspace.folder / "own.xml")
    run(workspace, "fused_volumes")
    return workspace


def test_tiles_that_are_kept_give_the_bytes_of_tiles_that_are_not(finished, kept):
    assert "zarr.json" in {p.name for p in (kept.folder / "results/demo/corrected").rglob("*")}
    assert len(running.voxels_of(kept)) > 6
    assert running.voxels_of(kept) == running.voxels_of(finished)


def test_temporary_tiles_give_the_same_bytes_and_are_gone(finished, temporary):
    assert running.voxels_of(temporary) == running.voxels_of(finished)
    left = [p.name for p in (temporary.folder / "results/demo/corrected").rglob("*") if p.is_file()]
    assert left == ["dropped.json"]


def test_own_positions_replace_the_measurement(finished, striped, placed):
    assert not (placed.folder / "results/demo/stitching/pairs").exists()
    assert placement(placed) == placement(finished)
    assert running.voxels_of(placed) == running.voxels_of(striped)


def test_stripes_of_the_sheet_are_evened_out(finished, striped, acquired, tmp_path):
    """Unasked, because the statistics of the tiles show them; beside a run that leaves them."""
    assert not list(finished.folder.glob("results/demo/intensity/*/lines/*"))
    for channel in ("ch0", "ch1"):
        path = f"results/demo/intensity/{channel}/stripes.json"
        found = json.loads((finished.folder / path).read_text())
        assert found["lines"] == "rows"
        assert found["seam_percent"]["after"] < 0.75 * found["seam_percent"]["before"]
    assert running.planned(striped, "fused_volumes") == {}
    assert fused_psnr(finished) > fused_psnr(striped) + 0.3
    workspace = running.copy_of(striped, type(finished)(tmp_path))
    config = yaml.safe_load((acquired / "demo/sample.yaml").read_text())
    workspace.write(config)
    planned = running.planned(workspace, "fused_volumes")
    assert planned["fuse_blocks"] >= 2 and planned["sum_lines"] == 2
    assert "refine_flatfield" not in planned


def fused_psnr(workspace) -> float:
    """Peak signal-to-noise ratio of the fused volume against the truth, dB."""
    done = running.phantom(
        workspace, "score", "--truth", "demo/truth", "--results", "results/demo", "--store",
        "results", "--stages", "fused", "--out", "fused.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((workspace.folder / "fused.json").read_text())["fused_psnr_db"]


def test_temporary_tiles_do_not_come_back_without_need(temporary):
    targets = (FUSED, "results/demo/corrected/ch0/dropped.json")
    assert running.planned(temporary, *targets) == {}


@pytest.mark.parametrize("wrong", [False, True])
def test_positions_from_fiji_are_checked_and_become_the_nominal_ones(acquired, workspace, wrong):
    running.with_acquisition(workspace, acquired, stitching__tile_configuration="own.txt")
    tiles = sorted(p.name for p in (workspace.folder / "demo/raw/VW0").iterdir())
    places = {name: divmod(int(name[3:]), 4) for name in tiles}
    lines = [f"{n}.tif; ; ({99 * c}, {101 * r}, {c})" for n, (r, c) in places.items()]
    lines[-1] = lines[-1].replace(tiles[-1], "LOC777") if wrong else lines[-1]
    (workspace.folder / "own.txt").write_text("\r\n".join(["dim = 3", *lines]))
    results = workspace.folder / "results/demo"
    targets = ("results/demo/inputs.json", "results/demo/stitching/xml_import.xml")
    done = workspace.snakemake("--cores", "2", *targets, "--quiet")
    if wrong:
        (line,) = [x for x in done.stderr.splitlines() if x.startswith("check_inputs: ")]
        assert f"own.txt line {len(lines) + 1}: 'LOC777.tif' is not a tile" in line
        assert done.returncode != 0 and not (results / "inputs.json").exists()
        return
    assert done.returncode == 0, done.stderr
    assert "own.txt" in json.loads((results / "inputs.json").read_text())["checked"]
    xml = reading.read_xml(results / "stitching/xml_import.xml")
    first = places[tiles[0]]
    found = {(s.row, s.column): s.abs_vhd for s in xml.stacks if s.dir_name}
    assert len(found) == len(tiles)
    for r, c in places.values():
        step = np.subtract(found[r, c], found[first])
        assert tuple(step) == (101 * (r - first[0]), 99 * (c - first[1]), c - first[1])


# ---------------------------------------------------------------- several samples in one run
@pytest.fixture(scope="module")
def cohort(finished, acquired, tmp_path_factory):
    """Four samples in one run with --keep-going; returns the workspace and the finished process.

    plain: as generated. broken: a plane is missing. aligned, misled: channel 0 shows only noise,
    and is the alignment channel of the latter.
    """
    workspace = running.with_acquisition(
        type(finished)(tmp_path_factory.mktemp("cohort")), acquired
    )
    config = yaml.safe_load((workspace.folder / "sample.yaml").read_text())
    raw = workspace.folder / "demo/raw"
    _link(raw, workspace.folder / "broken")
    sorted((workspace.folder / "broken").rglob("*CHN00_PLN*"))[5].unlink()
    _link(raw, workspace.folder / "blank")
    rng = np.random.default_rng(12)
    for path in sorted((workspace.folder / "blank").rglob("*CHN00_PLN*")):
        stream = io.BytesIO()
        noise = rng.normal(200, 5, tifffile.imread(path).shape)
        tifffile.imwrite(stream, noise.round().astype(np.uint16))
        running.replace(path, stream.getvalue())
    samples = {
        "plain": {},
        "broken": {"input__path": "broken"},
        "aligned": {"input__path": "blank", "stitching__channel": "ch1"},
        "misled": {"input__path": "blank"},
    }
    for name, over in samples.items():
        own = {key: json.loads(json.dumps(config[key])) for key in ("input", "stitching", "volume")}
        workspace.write(running.changed({"sample": name, **own}, **over), f"{name}.yaml")
    workspace.write({"cohort": [f"{name}.yaml" for name in samples]})
    done = workspace.snakemake("--cores", "2", "--keep-going", "stitching", "--quiet")
    return workspace, done


def _link(source, target):
    shutil.copytree(source, target, copy_function=running.link)


def test_samples_of_one_run_end_in_folders_of_their_own(cohort, finished):
    workspace, _ = cohort
    assert placement(workspace, "plain") == placement(finished)
    mine = running.artefacts(workspace.folder / "results/plain/intensity")
    assert mine == {
        k: v for k, v in running.artefacts(finished.folder / "results/demo/intensity").items()
        if k in mine
    }  # fmt: skip


def test_a_sample_that_fails_does_not_stop_the_others_and_fails_the_run(cohort):
    """D21: the run's status says that something failed."""
    workspace, done = cohort
    assert done.returncode != 0
    lines = [x for x in done.stderr.splitlines() if x.startswith("index_acquisition: ")]
    assert len(lines) == 1 and "LOC" in lines[0] and "results/broken/logs" in lines[0]
    assert not list((workspace.folder / "results/broken").rglob("*.json"))
    for sample in ("plain", "aligned"):
        assert (workspace.folder / f"results/{sample}/stitching/render/tilespecs.json.gz").exists()


def test_the_alignment_channel_is_the_one_that_is_named(cohort, finished):
    """D12: where only channel 1 shows anything, naming it recovers every position."""
    workspace, _ = cohort
    assert placement(workspace, "aligned") == placement(finished)
    flatfields = workspace.folder / "results/aligned/intensity"
    assert sorted(p.name for p in flatfields.iterdir()) == ["ch1"]
    misled = workspace.folder / PLACEMENT.format("misled")
    if misled.exists():
        assert placement(workspace, "misled") != placement(finished)


def test_no_way_through_writes_to_the_raw_data(kept, temporary, cohort, acquired, raw_before):
    assert running.states(acquired / "demo/raw") == raw_before
