"""Raw tiles of other layouts than COLM's: the same jobs, and the same bytes from the same tiles."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import running
import tifffile
import yaml
from container_files import write_array
from running import job_counts
from test_dry_run import CHAIN
from workspaces import ROOT

from terareg.cli.main import main as terareg
from terareg.cli.running import snakemake_command
from terareg.phantom.cli import main as phantom
from terareg.stitching.terastitcher import reading

SPACING = [100, 23.36, 23.36]
STEP = 0.8 * 128 * 23.36


def write_image(path, *shape) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.ones(shape, np.uint16), photometric="minisblack")


def describe(workspace, kind: str, **source) -> dict:
    """Configuration of a sample of small files."""
    config = workspace.sample(kind)
    config["input"] = {
        "kind": kind, "path": f"raw-{kind}", "orientation": "SAR", "spacing_um": SPACING,
    } | source  # fmt: skip
    return config


def folders(workspace, **source) -> dict:
    root = workspace.folder / "raw-terastitcher"
    for channel in ("green", "red"):
        for tile in ("000000_000000", "000000_023921", "023921_000000", "023921_023921"):
            folder = root / channel / tile.split("_")[0] / tile
            write_image(folder / f"{tile}_000000.tif", 128, 128)
    return describe(workspace, "terastitcher", **{"channels": {"a": "green", "b": "red"}} | source)


def table(workspace, text="path\tchannel\n0.tif\t1\n1.tif\t1\n0b.tif\t2\n1b.tif\t2\n", **source):
    root = workspace.folder / "raw-table"
    write_image(root / "0.tif", 5, 128, 128)
    (root / "tiles.tsv").write_text(text)
    own = {"channels": {"a": 1, "b": 2}, "table": "tiles.tsv", "overlap": [0.2, 0.2],
           "grid": {"columns": 2}}  # fmt: skip
    return describe(workspace, "table", **own | source)


def test_the_chain_is_that_of_any_tiles(workspace):
    samples = {"colm": workspace.sample(), "folders": folders(workspace), "table": table(workspace)}
    for name, config in samples.items():
        workspace.write(config, f"{name}.yaml")
    workspace.write({"cohort": [f"{name}.yaml" for name in samples]})
    jobs = job_counts(workspace.snakemake("-n", "--quiet", "rules"))
    assert CHAIN <= jobs.keys()
    assert jobs["index_acquisition"] == jobs["place_tiles"] == jobs["register"] == 3
    assert jobs["init_volume"] == 6, "two channels each"


@pytest.mark.parametrize(
    ("make", "source", "words"),
    [
        (folders, {"spacing_um": [100, 10, 23]}, "names of tile folders are 239 pixels apart in y"),
        (table, {"text": "path\tchannel\n5.tif\t1\n6.tif\t1\n"}, "line 2: 5.tif does not exist in"),
    ],
)  # fmt: skip
def test_bad_tiles_stop_the_workflow_before_any_job(workspace, make, source, words):
    workspace.write(make(workspace, **source))
    done = workspace.snakemake("-n")
    assert done.returncode != 0
    assert [line for line in (done.stdout + done.stderr).splitlines() if words in line], done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- the same tiles, laid out anew
def raw_planes(raw):
    """Row, column and planes of channel 0 of each tile of the generated acquisition."""
    for folder in sorted((raw / "VW0").iterdir()):
        row, column = divmod(int(folder.name[3:]), 4)
        yield row, column, sorted(folder.glob("*CHN00_PLN*"))


def as_folders(raw, root) -> None:
    """TeraStitcher's folders, by links."""
    for row, column, planes in raw_planes(raw):
        v, h = (f"{round(10 * n * STEP):06d}" for n in (row, column))
        folder = root / v / f"{v}_{h}"
        folder.mkdir(parents=True)
        for z, path in enumerate(planes):
            os.link(path, folder / f"{folder.name}_{1000 * z:06d}.tif")


def tutorial_commands() -> list[list[str]]:
    """Commands of the tutorial's section on a folder of OME-TIFF files."""
    text = (ROOT / "docs/tutorial.md").read_text().split("\n## 2. ")[1].split("\n## ")[0]
    commands = [shlex.split(line) for line in re.findall("^    (.*)$", text, re.MULTILINE)]
    assert [words[:2] for words in commands] == [
        ["python", "-m"], ["terareg", "init"], ["terareg", "check"], ["terareg", "run"],
    ]  # fmt: skip
    return [[word.replace("demo/seed-0", "demo") for word in words] for words in commands]


def fill_in(path, demo) -> None:
    """What the tutorial leaves to its reader."""
    lines = path.read_text().splitlines()
    assert lines[-2] == "atlases:" and lines.count("  orientation:") == 1
    lines[lines.index("  orientation:")] = "  orientation: ILA"
    own = {key: demo[key] for key in ("atlases", "stitching")}
    # beside what the tutorial says: blocks as those of the finished run
    own["volume"] = demo["volume"]
    path.write_text("\n".join(lines[:-2]) + "\n" + yaml.safe_dump(own))


def into_files_of_many(tiles, table) -> None:
    """Move some tiles into one HDF5 file and an N5, in place of files of their own."""
    lines = table.read_text().splitlines()
    for number, line in enumerate(lines[1:]):
        name, *rest = line.split("\t")
        if number % 4 < 2:
            continue
        stack = tifffile.imread(tiles / name)
        if number % 4 == 2:
            with h5py.File(tiles / "scan.h5", "a") as file:
                file.create_dataset(f"t00000/s{number}/0/cells", data=stack.view(np.int16),
                                    chunks=(16, 32, 48), compression="gzip")  # fmt: skip
            part = f"scan.h5#t00000:s{number}:0:cells"
        else:
            write_array(tiles / f"scan.n5/setup{number}/timepoint0/s0", "n5", stack.T)
            part = f"scan.n5#setup{number}:timepoint0:s0"
        lines[1 + number] = "\t".join([part, *rest])
        (tiles / name).unlink()
    table.write_text("\n".join(lines) + "\n")


def follow_the_tutorial(workspace, demo) -> None:
    """From generated files to a fused volume by the commands of the page."""
    make, init, check, run = tutorial_commands()
    with contextlib.chdir(workspace.folder):
        assert phantom(make[3:]) == 0
        assert terareg(init[1:]) == 0
        fill_in(Path("tutorial.yaml"), demo)
        assert terareg(check[1:]) == 0, "the tutorial says that nothing is left to correct"
        into_files_of_many(Path("tutorial/tiles"), Path("tutorial_tiles.tsv"))
        command = snakemake_command(Path(run[2]), run[3:])
    assert command[:3] == ["snakemake", "--configfile", "tutorial.yaml"]
    done = workspace.snakemake(*command[3:], "--quiet", configfile="tutorial.yaml")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def laid_out(finished, acquired, tmp_path_factory):
    """The tiles of the finished run in other layouts, stitched and fused in one run."""
    workspace = running.with_acquisition(type(finished)(tmp_path_factory.mktemp("laid")), acquired)
    config = yaml.safe_load((workspace.folder / "sample.yaml").read_text())
    raw = workspace.folder / "demo/raw"
    as_folders(raw, workspace.folder / "folders")
    source = {
        "kind": "terastitcher", "path": "folders", "channels": {"ch0": "."},
        "orientation": config["input"]["orientation"], "spacing_um": SPACING, "overlap": [0.2, 0.2],
    }  # fmt: skip
    own = {key: config[key] for key in ("stitching", "volume")}
    workspace.write({"sample": "folders", "input": source, **own}, "folders.yaml")
    before = running.states(workspace.folder / "folders")
    volume = "results/folders/fused/ch0/complete.json"
    done = workspace.snakemake("--cores", "2", volume, "--quiet", configfile="folders.yaml")
    assert done.returncode == 0, done.stderr
    follow_the_tutorial(workspace, config)
    assert running.states(workspace.folder / "folders") == before, "raw data stay as they are"
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["folders", "tiles"])
def test_the_same_tiles_give_the_same_volume_in_every_layout(finished, laid_out, sample):
    theirs, ours = running.voxels_of(finished), running.voxels_of(laid_out, sample)
    assert len(ours) > 6
    assert running.differing(theirs, ours) == ["ome.zarr/zarr.json"], "it holds the sample's name"
    name = "results/{0}/fused/ch0/ome.zarr/zarr.json"
    text = (laid_out.folder / name.format(sample)).read_text()
    demo = (finished.folder / name.format("demo")).read_text()
    assert text.replace(sample, "demo") == demo


@pytest.mark.slow
def test_the_project_files_say_what_the_files_are(laid_out):
    results = laid_out.folder / "results"
    planes = reading.read_xml(results / "folders/stitching/xml_merging.xml")
    assert (planes.volume_format, planes.input_plugin) == ("TiledXY|2Dseries", "tiff2D")
    pages = reading.read_xml(results / "tiles/stitching/xml_merging.xml")
    assert (pages.volume_format, pages.input_plugin) == ("TiledXY|3Dseries", "tiff3D")
    assert [s.abs_vhd for s in planes.stacks] == [s.abs_vhd for s in pages.stacks]
    for xml, count in ((planes, 58), (pages, 1)):
        for stack in xml.stacks:
            # TeraStitcher has no plugin for arrays in files of many
            if stack.dir_name and "#" not in stack.img_regex:
                folder = laid_out.folder / xml.stacks_dir / stack.dir_name
                names = [p.name for p in folder.iterdir() if re.fullmatch(stack.img_regex, p.name)]
                assert len(names) == count
    acquisition = json.loads((results / "tiles/acquisition.json").read_text())
    assert acquisition["problems"] == [] and acquisition["layout"] == "table"
