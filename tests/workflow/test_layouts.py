"""Raw tiles of other layouts than COLM's: the same jobs, and the same bytes from the same tiles."""

from __future__ import annotations

import json
import os
import re

import h5py
import numpy as np
import pytest
import running
import tifffile
import yaml
from container_files import write_array
from running import job_counts
from test_dry_run import CHAIN

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
        (table, {"text": "path\tchannel\n5.tif\t1\n6.tif\t1\n"}, "line 2: 5.tif is not there in"),
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


def as_table(raw, root) -> None:
    """A TIFF of many pages per tile, half of them compressed; some tiles in one HDF5 file, or N5."""
    root.mkdir()
    lines = []
    for row, column, planes in raw_planes(raw):
        number = len(lines)
        name = f"tile{number}.ome.tif"
        stack = np.stack([tifffile.imread(path) for path in planes])
        if number % 4 == 2:
            with h5py.File(root / "scan.h5", "a") as file:
                file.create_dataset(f"t00000/s{number}/0/cells", data=stack.view(np.int16),
                                    chunks=(16, 32, 48), compression="gzip")  # fmt: skip
            name = f"scan.h5#t00000:s{number}:0:cells"
        elif number % 4 == 3:
            write_array(root / f"scan.n5/setup{number}/timepoint0/s0", "n5", stack.T)
            name = f"scan.n5#setup{number}:timepoint0:s0"
        else:
            compression = "zlib" if number % 2 else None
            tifffile.imwrite(root / name, stack, ome=True, metadata={"axes": "ZYX"},
                             compression=compression)  # fmt: skip
        lines.append(f"{name},{row + 1},{column + 1}")
    (root / "tiles.csv").write_text("\n".join(["path,row,column", *lines[::-1]]))


@pytest.fixture(scope="module")
def laid_out(finished, acquired, tmp_path_factory):
    """The tiles of the finished run in other layouts, stitched and fused in one run."""
    workspace = running.with_acquisition(type(finished)(tmp_path_factory.mktemp("laid")), acquired)
    config = yaml.safe_load((workspace.folder / "sample.yaml").read_text())
    raw = workspace.folder / "demo/raw"
    as_folders(raw, workspace.folder / "folders")
    as_table(raw, workspace.folder / "pages")
    same = {"orientation": config["input"]["orientation"], "spacing_um": SPACING,
            "overlap": [0.2, 0.2]}  # fmt: skip
    samples = {
        "folders": {"kind": "terastitcher", "path": "folders", "channels": {"ch0": "."}},
        "pages": {"kind": "table", "path": "pages", "table": "tiles.csv", "channels": {"ch0": 0}},
    }
    for name, source in samples.items():
        own = {key: config[key] for key in ("stitching", "volume")}
        workspace.write({"sample": name, "input": source | same, **own}, f"{name}.yaml")
    workspace.write({"cohort": [f"{name}.yaml" for name in samples]})
    before = running.states(workspace.folder / "folders") | running.states(
        workspace.folder / "pages"
    )
    volumes = [f"results/{name}/fused/ch0/complete.json" for name in samples]
    done = workspace.snakemake("--cores", "2", *volumes, "--quiet")
    assert done.returncode == 0, done.stderr
    after = running.states(workspace.folder / "folders") | running.states(
        workspace.folder / "pages"
    )
    assert after == before, "raw data stay as they are"
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["folders", "pages"])
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
    pages = reading.read_xml(results / "pages/stitching/xml_merging.xml")
    assert (pages.volume_format, pages.input_plugin) == ("TiledXY|3Dseries", "tiff3D")
    assert [s.abs_vhd for s in planes.stacks] == [s.abs_vhd for s in pages.stacks]
    for xml, count in ((planes, 58), (pages, 1)):
        for stack in xml.stacks:
            # TeraStitcher has no plugin for arrays in files of many
            if stack.dir_name and "#" not in stack.img_regex:
                folder = laid_out.folder / xml.stacks_dir / stack.dir_name
                names = [p.name for p in folder.iterdir() if re.fullmatch(stack.img_regex, p.name)]
                assert len(names) == count
    acquisition = json.loads((results / "pages/acquisition.json").read_text())
    assert acquisition["problems"] == [] and acquisition["layout"] == "table"
