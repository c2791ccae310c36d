"""Stitching accuracy and cost on tiles with known offsets.

Give folders that a tile generator made (``colm/`` and ``truth.json``, the format of the house's
make_tiles.py), or the generator itself, and sets are made first:

    python tests/benchmarks/bench_stitching.py /tmp/tiles/A /tmp/tiles/S2
    python tests/benchmarks/bench_stitching.py --tool ../shared/tools/make_tiles.py --seed 1 \
        --work /tmp/tiles --sets A S2 S3 S4 S5 S7
    python tests/benchmarks/bench_stitching.py --mosaic ../shared/data/tiles_mosaic2d

Prints one line per set: seam errors (largest of the three axes, voxels), measured pairs, false
links kept, usable links lost, CPU seconds per pair of the measurement, and the share of the data
set that was read.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from terareg.acquisition.colm import ColmLayout  # noqa: E402
from terareg.acquisition.indexing import IndexSettings, index_acquisition  # noqa: E402
from terareg.acquisition.layout import LayoutOptions  # noqa: E402
from terareg.acquisition.model import Acquisition, Channel, Tile  # noqa: E402
from terareg.acquisition.tiles import TileSource  # noqa: E402
from terareg.stitching.displacement import (  # noqa: E402
    ENGINES,
    DisplacementSettings,
    estimate_steps,
    measure_batch,
    neighbours,
)
from terareg.stitching.placement import place  # noqa: E402
from terareg.storage.store import Store  # noqa: E402

_COMMON = "--tile-size 256 256 --depth 120 --overlap .15 --layout colm --vignetting .4"
_SETS = {
    "A": "--grid 3 3 --jitter 4 4 3",
    "S2": "--grid 3 3 --jitter 8 8 5 --vignetting .6 --stripes .2 --gain-jitter .2",
    "S3": "--grid 3 3 --jitter 4 4 3 --signal 60 --noise 12",
    "S4": "--grid 5 5 --jitter 4 4 3 --drift 2 3 1 -3 2 -1 --empty 3,1 --missing 0,4 4,0 "
    "--crop .4 .6 0 1 0 1 --atlas {atlas}",
    "S5": "--grid 3 3 --jitter 4 4 3 --stripes .15 --texture 30 .03 --cells 12 --fibres .5 "
    "--signal 60 --noise 4",
    "S7": "--grid 3 3 --jitter 4 4 3 --subpixel --blur 3 --warp 1 --gain-jitter .3",
}
_LIMITS = {"S7": (1.0, 2.5)}  # mean, worst; the others .1 and .5


def make(tool: Path, name: str, seed: int, folder: Path) -> None:
    """Run the generator for one of the named sets."""
    if (folder / "truth.json").is_file():
        return
    atlas = tool.parents[1] / "data" / "allen_ccf" / "average_template_100.nrrd"
    options = f"{_COMMON} {_SETS[name].format(atlas=atlas)} --seed {seed} --out {folder}"
    subprocess.run([sys.executable, str(tool), *options.split()], check=True, stdout=sys.stderr)


def run(folder: Path, settings: DisplacementSettings, workers: int) -> dict:
    """Measure and place one set, and compare with its truth."""
    truth = json.loads((folder / "truth.json").read_text())
    store = Store(str(folder / "colm"))
    acquisition = index_acquisition(
        ColmLayout(store, LayoutOptions()), IndexSettings(folder.name, "SAR")
    )
    source = TileSource(acquisition, acquisition.channels[0].name)
    start = time.process_time()
    pairs = measure_batch(source, acquisition, neighbours(acquisition), settings, workers)
    seconds = time.process_time() - start
    placement = place(acquisition, pairs)
    name = {(t.row, t.column): t.name for t in acquisition.tiles}
    links = {(link.a, link.b): link for link in placement.links}
    seams, pair_errors, false, lost, usable = [], [], 0, 0, 0
    for item in truth["displacements"]:
        a, b = (name.get(tuple(item[key])) for key in ("first", "second"))
        if a is None or b is None:
            continue
        true = np.array(item["true"], float)[[2, 0, 1]]
        kept = links[a, b].state == "kept"
        measured = np.abs(np.array(links[a, b].displ_vox) - true).max()
        if not item["usable"]:
            false += kept
            continue
        usable += 1
        lost += not kept
        pair_errors.append(measured if kept else np.nan)
        placed = np.array(placement.tiles[b].origin_vox) - placement.tiles[a].origin_vox
        seams.append(np.abs(placed - true).max())
    stored = np.prod([float(n) for n in acquisition.tile_shape]) * len(acquisition.tiles)
    stored *= np.dtype(acquisition.dtype).itemsize
    return {
        "set": folder.name,
        "seam_mean": float(np.mean(seams)),
        "seam_worst": float(np.max(seams)),
        "pair_worst": float(np.nanmax(pair_errors)),
        "usable": usable,
        "lost": lost,
        "false": false,
        "closure": placement.summary["closure_max_vox"],
        "cpu_s_per_pair": seconds / len(pairs),
        "asked_share": sum(p.bytes for p in pairs) / stored,
    }


class _Mosaic:
    """Single planes as a tile source."""

    def __init__(self, planes: dict[str, np.ndarray]) -> None:
        self.planes = planes

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        return self.planes[tile][None, y, x][z0:z1]


def mosaic(folder: Path) -> None:
    """Place the real mosaic and print its loops, links and warnings."""
    tiles, planes = [], {}
    for line in (folder / "TileConfiguration.txt").read_text().splitlines():
        match = re.match(r"(\S+); *; *\(([-\d.]+), *([-\d.]+)\)", line)
        if match:
            x, y = float(match[2]), float(match[3])
            name = Path(match[1]).stem[-4:]
            planes[name] = tifffile.imread(folder / match[1])
            tiles.append(Tile(name, round(y / 460), round(x / 460), name, (0.0, y, x)))
    tiles.sort(key=lambda t: (t.row, t.column))
    acquisition = Acquisition(
        "mosaic", "colm", str(folder), 3, 9, tuple(tiles), (Channel("ch0", 0),), (1, 512, 512),
        "uint16", (2.583,) * 3, "SAR", (1 - 460 / 512,) * 2, {},
    )  # fmt: skip
    source = _Mosaic(planes)
    steps = estimate_steps(source, acquisition)
    print(steps)
    settings = replace(DisplacementSettings(), search_um=(0.0, 60.0, 60.0))
    start = time.process_time()
    pairs = measure_batch(source, acquisition, neighbours(acquisition), settings)
    seconds = time.process_time() - start
    placement = place(acquisition, pairs)
    for pair, link in zip(pairs, placement.links):
        print(
            pair.a, pair.b, pair.direction, link.state, f"{pair.agree}/{pair.of}",
            f"{pair.reliability:.4f} peak {pair.peak:.2f}",
            np.round(pair.displ_vox, 2).tolist(),
            "residual", np.round(link.residual_vox, 2).tolist(),
        )  # fmt: skip
    for loop in placement.loops:
        print(loop)
    print(placement.model, placement.summary, *placement.warnings, sep="\n")
    print(f"{seconds / len(pairs):.2f} CPU s per pair")
    for name, tile in placement.tiles.items():
        print(name, tile.state, np.round(tile.origin_vox, 2).tolist())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--tool", type=Path, help="the generator make_tiles.py")
    parser.add_argument("--sets", nargs="+", default=list(_SETS), choices=list(_SETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench_stitching"))
    parser.add_argument("--mosaic", type=Path, help="folder of the real 2-D mosaic")
    parser.add_argument("--search-um", nargs=3, type=float, default=(40.0, 60.0, 60.0))
    parser.add_argument("--engine", default="ncc", choices=ENGINES)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.mosaic:
        mosaic(arguments.mosaic)
    folders = list(arguments.folders)
    if arguments.tool:
        for name in arguments.sets:
            folders.append(arguments.work / f"s{arguments.seed}" / name)
            make(arguments.tool, name, arguments.seed, folders[-1])
    writer, failed = None, 0
    settings = DisplacementSettings(arguments.engine, tuple(arguments.search_um))
    for folder in folders:
        row = run(folder, settings, arguments.workers)
        mean, worst = _LIMITS.get(folder.name, (0.1, 0.5))
        good = row["seam_mean"] <= mean and row["seam_worst"] <= worst and not row["false"]
        good = good and row["lost"] < 0.05 * row["usable"]
        failed += not good
        row = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()}
        row["aim"] = "met" if good else "missed"
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row), delimiter="\t")
            writer.writeheader()
        writer.writerow(row)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
