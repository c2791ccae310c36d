"""Every kind of input that ``terareg init`` recognises, from its raw files to the report."""

from __future__ import annotations

import contextlib
import csv
import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import container_files as files
import microscope_folders as folders
import numpy as np
import pytest
import running
import SimpleITK as sitk
import yaml
from microscope_folders import Tiles
from workspaces import Workspace

from terareg.cli.main import main as terareg
from terareg.core.frames import Frame
from terareg.phantom.atlas import ATLAS_ORIENTATION, BrainSettings, make_atlas, write_atlas
from terareg.phantom.demo import SAMPLE_ORIENTATION
from terareg.phantom.sample import GeneratedSample, SampleSettings
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

pytestmark = pytest.mark.slow

CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
BESIDE_PX = {(0, 0): (0, 0), (0, 1): (1, -2), (1, 0): (-2, 1), (1, 1): (2, 2)}
#: no two axes alike; what is written in this grid covers the brain
TILES = Tiles(CELLS, (53, 65, 75), (120.0, 80.0, 90.0))
SQUARE = Tiles(CELLS, (53, 65, 80), (120.0, 85.0, 85.0))


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes
    ----------
    write : callable
        Writes a folder of these tiles.
    title : str
        What ``init`` says that it is.
    channels : tuple of str
        Their names, as the files have them.
    asked : mapping
        What the files do not say.
    tiles : Tiles
    """

    write: Callable[[Path, Tiles], None]
    title: str
    channels: tuple[str, ...] = files.NAMES
    asked: Mapping = field(default_factory=dict)
    tiles: Tiles = TILES


def n5(root: Path, tiles: Tiles) -> None:
    files.big_stitcher(root, tiles, "n5")


def nifti(root: Path, tiles: Tiles) -> None:
    """An image for each channel, which says how its axes lie."""
    root.mkdir()
    for channel, name in enumerate(files.NAMES):
        image = sitk.GetImageFromArray(tiles.stack(None, channel))
        image.SetSpacing([s / 1000 for s in tiles.spacing_um[::-1]])
        # where x (anterior), y (left) and z (inferior) of SAMPLE_ORIENTATION go: columns, in LPS
        image.SetDirection([0, 1, 0, -1, 0, 0, 0, 0, -1])
        sitk.WriteImage(image, str(root / f"{name}.nii.gz"))


LASERS = ("Ex_488_Em_525", "Ex_561_Em_600")
UNKNOWN = {"spacing_um": list(TILES.spacing_um)}
KINDS = {
    "smartspim": Kind(folders.smartspim, "tiles of a SmartSPIM", LASERS, tiles=SQUARE),
    "terastitcher": Kind(
        folders.terastitcher, "tiles in TeraStitcher's folders", ("signal",), UNKNOWN
    ),
    "ome": Kind(folders.zeiss, "OME-TIFF tiles with stage positions"),
    "blaze": Kind(
        folders.blaze, "tiles of an UltraMicroscope or Blaze (LaVision, Miltenyi)", ("C00", "C01")
    ),
    "micromanager": Kind(
        folders.micromanager, "OME-TIFF tiles with stage positions", ("DAPI", "Cy5")
    ),
    "czi": Kind(files.zeiss, "CZI tiles with stage positions"),
    "lif": Kind(files.leica, "LIF tiles with stage positions", ("ch0", "ch1")),
    "imaris": Kind(files.imaris_tiles, "Imaris tiles with stage positions"),
    "bdv": Kind(files.big_stitcher, "4 tiles of BigStitcher"),
    "n5": Kind(n5, "4 tiles of BigStitcher"),
    "fiji": Kind(folders.fiji, "tiles of the stitching plugin of Fiji", ("signal",), UNKNOWN),
    "bids": Kind(files.bids, "4 chunks of a BIDS dataset"),
    "nifti": Kind(nifti, "a volume"),
}
#: the smallest settings that still register
OWN = {
    "atlases": {
        "phantom": {
            "template": "atlas/template.nrrd",
            "annotation": "atlas/annotation.nrrd",
            "ontology": "atlas/ontology.json",
            "orientation": ATLAS_ORIENTATION,
        }
    },
    "intensity": {
        "flatfield": {"method": "none"}, "destriping": "none", "bias": {"enabled": False},
    },
    "stitching": {"channel_shift": "none"},
    "registration": {
        "resolution_um": 300, "levels": 1, "iterations": 16, "kernel_um": 1500,
        "regions": "none", "symmetric": False, "pose": {"check_orientation": False},
    },
    "labels": {"resolution_um": 200},
    "atlas_space": {"enabled": False},
    "volume": {"formats": ["ome-zarr"]},
}  # fmt: skip


@dataclass(frozen=True)
class Brain:
    """A generated brain, and tiles of it.

    Attributes
    ----------
    sample : GeneratedSample
    image : numpy.ndarray, uint16, (channels, z, y, x)
        The box that the tiles cover.
    covered : numpy.ndarray of bool, (y, x)
        Where in it there is a tile.
    tiles : Tiles
        Their ``stack`` of no cell is the whole image.
    """

    sample: GeneratedSample
    image: np.ndarray
    covered: np.ndarray
    tiles: Tiles


def make_brain(atlas, tiles: Tiles) -> Brain:
    """A brain of two channels; the stage has put every tile some pixels beside its place."""
    _, height, width = tiles.shape
    corners = {c: np.add(tuple(map(round, tiles.step_px(c))), BESIDE_PX[c]) for c in CELLS}
    shape = tiles.shape[0], *(np.max(list(corners.values()), axis=0) + (height, width)).tolist()
    frame = Frame(shape, tiles.spacing_um, (0, 0, 0), SAMPLE_ORIENTATION)
    sample = GeneratedSample(atlas, frame, SampleSettings(cells=300))
    noise = np.random.default_rng(0).normal(180, 8, (2, *shape))
    image = np.clip(np.rint(sample.block((0, 0, 0), shape) + noise), 0, 65535).astype(np.uint16)
    boxes = {c: np.s_[y : y + height, x : x + width] for c, (y, x) in corners.items()}
    covered = np.zeros(shape[1:], bool)
    for box in boxes.values():
        covered[box] = True

    def stack(cell, channel: int = 0) -> np.ndarray:
        return image[channel] if cell is None else image[(channel, slice(None), *boxes[cell])]

    return Brain(sample, image, covered, replace(tiles, stack=stack))


def start(kind: str, chosen: Kind) -> None:
    """``terareg init``, its questions answered."""
    path = Path(f"{kind}.yaml")
    assert terareg(["init", kind, "--out", str(path)]) == 0
    text = path.read_text()
    for key, value in {"orientation": SAMPLE_ORIENTATION, **chosen.asked}.items():
        assert text.count(f"\n  {key}:\n") == 1, f"{key} is not asked for"
        text = text.replace(f"\n  {key}:\n", f"\n  {key}: {json.dumps(value)}\n")
    told, _, atlases = text.partition("\natlases:\n")
    assert atlases, text
    path.write_text(f"{told}\n{yaml.safe_dump(OWN)}")
    assert terareg(["check", str(path)]) == 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A workspace with an atlas, and the brains that the tiles show."""
    workspace = Workspace(tmp_path_factory.mktemp("kinds"))
    atlas = make_atlas(BrainSettings(atlas_spacing_um=100.0))
    write_atlas(atlas, workspace.folder / "atlas")
    return workspace, {tiles.shape: make_brain(atlas, tiles) for tiles in (TILES, SQUARE)}


def words(page: str) -> str:
    """Text of a page."""
    text = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


@pytest.mark.parametrize("name", KINDS)
def test_from_raw_files_to_the_report(prepared, name, capsys):
    workspace, brains = prepared
    kind, brain = KINDS[name], brains[KINDS[name].tiles.shape]
    with contextlib.chdir(workspace.folder):
        kind.write(Path(name), brain.tiles)
        start(name, kind)
    assert f"{name}: {kind.title}" in capsys.readouterr().out
    before = running.states(workspace.folder / name)
    report = f"results/{name}/report.html"
    done = workspace.snakemake("--cores", "2", report, "--quiet", configfile=f"{name}.yaml")
    assert done.returncode == 0, done.stderr
    assert running.states(workspace.folder / name) == before, "raw data stay as they are"

    # the stage's errors were measured: every channel is the image again
    store = Store(str(workspace.folder / "results"))
    frame = Frame(brain.image.shape[1:], kind.tiles.spacing_um, (0, 0, 0), SAMPLE_ORIENTATION)
    for channel, image in zip(kind.channels, brain.image):
        volume = Volume(store, f"{name}/fused/{channel}")
        assert volume.frame == frame
        np.testing.assert_array_equal(volume.read(0), np.where(wanted(kind, brain), image, 0))

    # labels, and the volume of the brain
    labels = Volume(store, f"{name}/labels/phantom")
    true, _ = brain.sample.labels_grid(labels.frame.axes_um())
    found = labels.read(0)
    overlaps = [2 * np.count_nonzero((found == n) & (true == n))
                / (np.count_nonzero(found == n) + np.count_nonzero(true == n))
                for n in np.unique(true[true > 0])]  # fmt: skip
    assert np.mean(overlaps) > 0.82 and min(overlaps) > 0.6
    with open(workspace.folder / f"results/{name}/regions/phantom.tsv", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    (whole,) = (
        row for row in rows
        if (row["acronym"], row["scope"], row["hemisphere"]) == ("root", "tree", "both")
    )  # fmt: skip
    true_mm3 = np.count_nonzero(true) * labels.frame.voxel_volume_um3 / 1e9
    assert float(whole["volume_mm3"]) == pytest.approx(true_mm3, rel=0.04)
    assert [c for c in rows[0] if c.endswith("_mean")] == [f"{c}_mean" for c in kind.channels]

    # the report
    page = (workspace.folder / report).read_text()
    text = words(page)
    assert re.search(r"Usable because all \d\d checks passed", text)
    assert raw_data(name, kind, workspace.folder) in text
    pictures = re.findall(r'<img[^>]* alt="([^"]*)"', page)
    shown = [f"{channel}: Three middle slices of the volume" for channel in kind.channels]
    shown += ["phantom: First look: raw tiles at their stage positions, or the raw image"]
    shown += ["phantom: Borders of the atlas regions", "phantom: Volumes of the largest regions"]
    of_tiles = ["Map of the placed tiles", "Worst seams", "Loop closure"]
    of_kind = [] if kind.write is nifti else of_tiles
    assert [each for each in shown + of_kind if not any(p.startswith(each) for p in pictures)] == []
    if kind.write is nifti:
        assert "The volume was imported unchanged." in text and "Stitching" not in text
        assert not [p for p in pictures if p.startswith(tuple(of_tiles))]
        return
    size = ", ".join(f"{v:g}" for v in kind.tiles.spacing_um)
    assert f"grid (rows, columns) 2, 2 tile (planes, y, x) {kind.tiles.shape[0]}, " in text
    assert f"voxel size z, y, x (µm) {size} orientation" in text
    assert f"overlap y, x (%) 20, 20 channels {', '.join(kind.channels)} missing" in text
    assert "The displacements of neighbouring tiles were measured" in text


def raw_data(name: str, kind: Kind, folder: Path) -> str:
    """How the report names the raw files."""
    if kind.write is nifti:
        return f"raw data Cy5 {folder}/{name}/Cy5.nii.gz"
    return f"raw data {folder}/{name} store"


def wanted(kind: Kind, brain: Brain) -> np.ndarray:
    """Where the fused volume has voxels: everywhere in an image, elsewhere where tiles are."""
    return brain.covered if kind.write is not nifti else np.ones_like(brain.covered)
