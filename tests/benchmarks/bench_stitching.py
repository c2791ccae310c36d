"""Stitching accuracy and cost on tiles with known offsets.

Give folders that a tile generator made (``colm/`` and ``truth.json``, the format of the house's
make_tiles.py), or the generator itself, and sets are made first:

    python tests/benchmarks/bench_stitching.py /tmp/tiles/A /tmp/tiles/S2
    python tests/benchmarks/bench_stitching.py --tool ../shared/tools/make_tiles.py --seed 1 \
        --work /tmp/tiles --sets A S2 S3 S4 S5 S7
    python tests/benchmarks/bench_stitching.py --mosaic ../shared/data/tiles_mosaic2d
    python tests/benchmarks/bench_stitching.py --crop ../shared/data/lightsheet_crop3d/*.tif

Tiles are corrected by a first flat-field, measured and placed, and the flat-field is estimated
again there, and stripes if it shows any, as the workflow does by default. Prints one line per set:
seam errors (largest of the three axes, voxels), measured pairs, false links kept, usable links
lost, the brightness step that is left and what of it is beyond noise, CPU seconds of one flat-field
and per pair of the
measurement, the share of the data set that was read for the steps and the displacements, and the
checks of the report that do not pass. ``--peer PYTHON``, the interpreter of an environment with
multiview-stitcher, registers the same tiles with that library in the same run.

``--crop`` cuts 2 x 2 tiles at known places out of a real volume and adds noise of its own to each.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from terareg.acquisition.colm import ColmLayout  # noqa: E402
from terareg.acquisition.indexing import IndexSettings, index_acquisition  # noqa: E402
from terareg.acquisition.layout import LayoutOptions  # noqa: E402
from terareg.acquisition.line_gains import wanted_lines  # noqa: E402
from terareg.acquisition.model import Acquisition, Channel, Tile  # noqa: E402
from terareg.acquisition.tile_correction import Flatfield  # noqa: E402
from terareg.acquisition.tiles import TileSource  # noqa: E402
from terareg.intensity.destriping import estimate_stripes  # noqa: E402
from terareg.intensity.flatfield import estimate_flatfield, save_flatfield  # noqa: E402
from terareg.intensity.lines import LineLayout, sum_lines  # noqa: E402
from terareg.intensity.sums import sum_tiles  # noqa: E402
from terareg.stitching.displacement import measure_batch  # noqa: E402
from terareg.stitching.pairs import neighbours  # noqa: E402
from terareg.stitching.placement import Placement, save_placement  # noqa: E402
from terareg.stitching.settings import (  # noqa: E402
    ENGINES,
    MODELS,
    MODELS_OF_POINTS,
    DisplacementSettings,
)
from terareg.stitching.solver import place  # noqa: E402
from terareg.stitching.steps import estimate_steps  # noqa: E402
from terareg.storage.records import write_json  # noqa: E402
from terareg.storage.store import Store  # noqa: E402
from terareg.views.stages import Results, gather_stages  # noqa: E402
from terareg.views.thresholds import PASS, judge  # noqa: E402

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


def run(
    folder: Path, settings: DisplacementSettings, workers: int, peer_python: str | None, model: str
) -> Iterator[dict]:
    """Correct, measure and place one set as the workflow does, and compare with its truth.

    The peer's row follows ours.
    """
    truth = json.loads((folder / "truth.json").read_text())
    store = Store(str(folder / "colm"))
    acquisition = index_acquisition(
        ColmLayout(store, LayoutOptions()), IndexSettings(folder.name, "SAR")
    )
    channel = acquisition.channels[0].name
    raw = TileSource(acquisition, channel)
    tiles = [tile.name for tile in acquisition.tiles]
    start = time.process_time()
    flatfield, _ = estimate_flatfield([sum_tiles(raw, tiles)])
    source = TileSource(acquisition, channel, flatfield=flatfield)
    flat_seconds = time.process_time() - start
    steps = estimate_steps(source, acquisition, settings)
    settings = steps.apply(replace(settings, points=model in MODELS_OF_POINTS))
    start = time.process_time()
    pairs = measure_batch(source, acquisition, neighbours(acquisition), settings, workers)
    seconds = time.process_time() - start
    placement = place(acquisition, pairs, None, model)
    origins = {n: tile.origin_vox for n, tile in placement.tiles.items()}
    start = time.process_time()
    profile, info = estimate_flatfield([sum_tiles(raw, tiles, None, origins)])
    flat_seconds = max(flat_seconds, time.process_time() - start)
    stripes = _stripes(TileSource(acquisition, channel, flatfield=profile), placement, info)
    told = _told(acquisition, channel, placement, (profile, info, stripes))
    steps_left = (stripes and stripes["seam_percent"]) or info["seam_percent"] or {}
    name = {(t.row, t.column): t.name for t in acquisition.tiles}
    links = {(link.a, link.b): link for link in placement.links}
    seams, pair_errors, false, lost, usable, usable_seams = [], [], 0, 0, 0, []
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
        usable_seams.append((a, b, true))
        lost += not kept
        pair_errors.append(measured if kept else np.nan)
        placed = np.array(placement.tiles[b].origin_vox) - placement.tiles[a].origin_vox
        seams.append(np.abs(placed - true).max())
    stored = np.prod([float(n) for n in acquisition.tile_shape]) * len(acquisition.tiles)
    stored *= np.dtype(acquisition.dtype).itemsize
    yield {
        "set": folder.name,
        "tool": "terareg",
        "seam_mean": float(np.mean(seams)),
        "seam_worst": float(np.max(seams)),
        "pair_worst": float(np.nanmax(pair_errors)),
        "usable": usable,
        "lost": lost,
        "false": false,
        "closure": placement.summary["closure_max_vox"],
        "brightness_%": steps_left.get("after", float("nan")),
        "beyond_noise_%": steps_left.get("beyond", float("nan")),
        "cpu_s_flat": flat_seconds,
        "cpu_s_per_pair": seconds / len(pairs),
        "asked_share": (steps.bytes + sum(p.bytes for p in pairs)) / stored,
        "told": ", ".join(told) or "nothing",
    }
    if peer_python:
        origins, seconds = peer(peer_python, source, acquisition)
        errors = [np.abs(origins[b] - origins[a] - true).max() for a, b, true in usable_seams]
        yield {
            "set": folder.name,
            "tool": "multiview-stitcher",
            "seam_mean": float(np.mean(errors)),
            "seam_worst": float(np.max(errors)),
            "usable": usable,
            "cpu_s_per_pair": seconds / len(pairs),
        }


def _stripes(source: TileSource, placement: Placement, info: dict) -> dict | None:
    """The record of the gains of lines, where the flat-field's statistics ask for them."""
    lines = wanted_lines("auto", info)
    if lines == "none":
        return None
    layout = LineLayout.of(source.acquisition, placement.origins(subpixel=True), lines)
    with tempfile.TemporaryDirectory() as name:
        sums = Path(name, "0.npz")
        sum_lines(sums, source, [tile.name for tile in source.acquisition.tiles], layout)
        return estimate_stripes([sums], layout, Store(name), "gains", "bench")


def _told(
    acquisition: Acquisition,
    channel: str,
    placement: Placement,
    shading: tuple[Flatfield, dict, dict | None],
) -> list[str]:
    """What the report says of a set: the checks that do not pass, with their figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "acquisition.json", acquisition.to_json())
        save_placement(folder / "stitching" / "placement.json", placement)
        place_at = folder / "intensity" / channel / "flatfield"
        flatfield, info, stripes = shading
        save_flatfield(f"{place_at}.tif", f"{place_at}.json", flatfield, info)
        if stripes is not None:
            write_json(place_at.with_name("stripes.json"), stripes)
        stages = defaultdict(lambda: {"title": "", "warnings": [], "tables": []})
        verdicts = judge(gather_stages(Results(folder), stages, {}))
    for stage in ("intensity", "stitching"):
        for text in stages[stage]["warnings"]:
            print(f"  {text}", file=sys.stderr)
    return [f"{v.key} {v.value:.3g} {v.status}" for v in verdicts if v.status != PASS]


_PEER = """
import json, sys, time
import numpy as np
from multiview_stitcher import msi_utils, param_utils, registration, spatial_image_utils as si

data = np.load(sys.argv[1])
spacing = dict(zip("zyx", (1.0, 1.0, 1.0)))
sims = [
    si.get_sim_from_array(tile[None, None], dims=list("tczyx"), scale=spacing,
                          translation=dict(zip("zyx", origin)), transform_key="stage")
    for tile, origin in zip(data["tiles"], data["origins"])
]
msims = [msi_utils.get_msim_from_sim(sim, scale_factors=[]) for sim in sims]
start = time.process_time()
parameters = registration.register(
    msims, reg_channel_index=0, transform_key="stage", new_transform_key="found",
    registration_binning=dict(z=1, y=1, x=1), post_registration_do_quality_filter=False,
)
seconds = time.process_time() - start
shifts = [np.asarray(p.sel(t=p.t[0]) if "t" in p.dims else p)[:3, 3].tolist() for p in parameters]
print(json.dumps({"shifts": shifts, "seconds": seconds}))
"""


def peer(python: str, source: TileSource, acquisition: Acquisition) -> tuple[dict, float]:
    """Positions (z, y, x) by tile, and CPU seconds, of multiview-stitcher on the same tiles."""
    names = [tile.name for tile in acquisition.tiles]
    depth = acquisition.tile_shape[0]
    origins = np.array([tile.origin_vox for tile in acquisition.tiles])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.npz"
        np.savez(path, tiles=[source.read(name, 0, depth) for name in names], origins=origins)
        done = subprocess.run(
            [python, "-c", _PEER, str(path)], check=True, text=True, stdout=subprocess.PIPE
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(names, origins + np.array(found["shifts"]))), found["seconds"]


def crop(path: Path, seed: int) -> None:
    """Cut overlapping tiles out of a real volume, and find where they came from."""
    volume = tifffile.imread(path)
    rng = np.random.default_rng(seed)
    size = np.array(volume.shape) - (8, 100, 100)
    step = (0, 92, 92)
    noise = 0.02 * float(np.percentile(volume, 99))
    tiles, planes, places = [], {}, {}
    for row in (0, 1):
        for column in (0, 1):
            name = f"T{row}{column}"
            place_at = np.array((0, row * step[1], column * step[2])) + rng.integers(0, 9, 3)
            part = volume[tuple(slice(p, p + n) for p, n in zip(place_at, size))]
            noisy = part + rng.normal(0, noise, part.shape)
            planes[name] = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)
            places[name] = place_at
            nominal = (0.0, float(row * step[1]), float(column * step[2]))
            tiles.append(Tile(name, row, column, name, nominal))
    shape = tuple(int(n) for n in size)
    acquisition = Acquisition(
        "crop", "colm", str(path.parent), 2, 2, tuple(tiles), (Channel("ch0", 0),), shape,
        "uint16", (5.0,) * 3, "SAR", (1 - 92 / shape[1], 1 - 92 / shape[2]), {},
    )  # fmt: skip
    pairs = measure_batch(_Planes(planes, acquisition), acquisition, neighbours(acquisition))
    placement = place(acquisition, pairs)
    for pair in pairs:
        true = places[pair.b] - places[pair.a]
        solved = np.subtract(placement.tiles[pair.b].origin_vox, placement.tiles[pair.a].origin_vox)
        print(
            pair.a, pair.b, pair.status, f"{pair.agree}/{pair.of}", f"peak {pair.peak:.2f}",
            f"measured off by {np.abs(pair.displ_vox - true).max():.3f} voxels,",
            f"placed off by {np.abs(solved - true).max():.3f}",
        )  # fmt: skip


class _Planes:
    """Tiles in memory as a tile source."""

    def __init__(self, planes: dict[str, np.ndarray], acquisition: Acquisition) -> None:
        self.planes = planes
        self.acquisition = acquisition

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        return self.planes[tile][z0:z1, y, x]


def mosaic_tiles(folder: Path) -> _Planes:
    """The tiles of the real mosaic, with their acquisition."""
    tiles, planes = [], {}
    for line in (folder / "TileConfiguration.txt").read_text().splitlines():
        match = re.match(r"(\S+); *; *\(([-\d.]+), *([-\d.]+)\)", line)
        if match:
            x, y = float(match[2]), float(match[3])
            name = Path(match[1]).stem[-4:]
            planes[name] = tifffile.imread(folder / match[1])[None]
            tiles.append(Tile(name, round(y / 460), round(x / 460), name, (0.0, y, x)))
    tiles.sort(key=lambda t: (t.row, t.column))
    acquisition = Acquisition(
        "mosaic", "colm", str(folder), 3, 9, tuple(tiles), (Channel("ch0", 0),), (1, 512, 512),
        "uint16", (2.583,) * 3, "SAR", (1 - 460 / 512,) * 2, {},
    )  # fmt: skip
    return _Planes(planes, acquisition)


def mosaic(folder: Path) -> None:
    """Place the real mosaic and print its loops, links and warnings."""
    source = mosaic_tiles(folder)
    acquisition = source.acquisition
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
    parser.add_argument("--crop", type=Path, help="a real volume that tiles are cut from")
    parser.add_argument("--peer", help="Python of an environment with multiview-stitcher")
    parser.add_argument("--search-um", nargs=3, type=float, default=(40.0, 60.0, 60.0))
    parser.add_argument("--engine", default="ncc", choices=ENGINES)
    parser.add_argument("--model", default="auto", choices=MODELS)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.mosaic:
        mosaic(arguments.mosaic)
    folders = list(arguments.folders)
    if arguments.crop:
        crop(arguments.crop, arguments.seed)
    if arguments.tool:
        for name in arguments.sets:
            folders.append(arguments.work / f"s{arguments.seed}" / name)
            make(arguments.tool, name, arguments.seed, folders[-1])
    writer, failed = None, 0
    settings = DisplacementSettings(arguments.engine, tuple(arguments.search_um))
    rows = (
        row
        for folder in folders
        for row in run(folder, settings, arguments.workers, arguments.peer, arguments.model)
    )
    for row in rows:
        mean, worst = _LIMITS.get(row["set"], (0.1, 0.5))
        good = row["seam_mean"] <= mean and row["seam_worst"] <= worst and not row.get("false")
        good = good and row.get("lost", 0) < 0.05 * row["usable"]
        failed += row["tool"] == "terareg" and not good
        row = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()}
        row["aim"] = "met" if good else "missed"
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row), delimiter="\t", restval="-")
            writer.writeheader()
        writer.writerow(row)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
