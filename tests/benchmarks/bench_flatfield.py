"""Accuracy of the flat-field beside a plain smoothed mean, on generated tiles of known truth.

    PYTHONPATH=workflow/scripts python tests/benchmarks/bench_flatfield.py [--seeds 0 1 2]
    ... --flatbench FOLDER [FOLDER ...]      # sets made by shared/tools/flatbench.py
    ... --flatbench FOLDER --stripes rows    # their tiles without stripes, for flatbench.py score
    ... --mosaic ../shared/data/tiles_mosaic2d

Prints a table: root mean square error of the profile (percent), error of the dark offset (counts),
what neighbouring tiles differ by after the correction and what is corrected beside the profile, CPU
seconds. The plain mean subtracts the 2nd percentile of the tiles' darkest percentiles. With
--stripes it prints the seams of lines (percent) instead, and writes FOLDER/corrected.npz. With
--mosaic it prints the seams of real tiles in tissue: root mean square of the log ratio of blocks of
16 x 16 pixels in overlaps at the measured positions, percent of one tile, where both hold more than
1500 counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from bench_stitching import mosaic_tiles
from intensity_truth import Scene, TruthSource, profile_error

from terareg.acquisition.line_gains import LINES, load_line_gains
from terareg.intensity.blocks import block_means
from terareg.intensity.destriping import estimate_stripes
from terareg.intensity.flatfield import estimate_flatfield
from terareg.intensity.lines import LineLayout, sum_lines
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.sums import SIDES, BlockLayout, sum_tiles
from terareg.stitching.displacement import measure_batch
from terareg.stitching.pairs import neighbours
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.solver import place
from terareg.storage.records import write_json
from terareg.storage.store import Store

KINDS = {
    "brain": {},
    "fixed_lines 4 %": {"fixed_lines": 0.04},
    "stripes 5 %": {"stripes": 0.05},
    "drift 15 %": {"drift": 0.15},
    "dark outside": {"medium": 0.0},
    "4 tiles": {"rows": 2, "columns": 2, "empty": ()},
    "30 tiles": {"rows": 5, "columns": 6, "empty": ()},
}


def plain_mean(tiles: np.ndarray) -> tuple[np.ndarray, float]:
    """Smoothed mean of all planes (n, y, x) above a low percentile."""
    low = [np.percentile(plane[::4, ::4], 1) for plane in tiles]
    dark = float(np.percentile(low, 2))
    mean = tiles.mean(0, dtype=np.float64) - dark
    return ndimage.gaussian_filter(mean, tiles.shape[-1] / 20, mode="nearest"), dark


def flatbench_source(folder: Path) -> tuple[SimpleNamespace, np.ndarray, float]:
    """Tile source, profile and dark offset of a set made by flatbench."""
    with np.load(folder / "tiles.npz") as archive:
        planes, places, step = archive["tiles"], archive["pos"], int(archive["step"])
    with np.load(folder / "truth" / "truth.npz") as archive:
        profile, dark = archive["V"], float(archive["dark"])
    cells = sorted({(int(row), int(column)) for _, row, column in places})
    data, tiles = {}, {}
    for row, column in cells:
        name = f"LOC{column + row * 100:03d}"
        data[name] = planes[(places[:, 1] == row) & (places[:, 2] == column)]
        origin = (0.0, float(row * step), float(column * step))
        tiles[name] = SimpleNamespace(name=name, row=row, column=column, origin_vox=origin)
    source = SimpleNamespace(
        names=list(data),
        data=data,
        read=lambda tile, z0, z1: data[tile][z0:z1],
        acquisition=SimpleNamespace(
            tiles=tuple(tiles.values()),
            tile_shape=next(iter(data.values())).shape,
            tile=tiles.__getitem__,
        ),
    )
    return source, profile, dark


def row(name: str, source, profile: np.ndarray, dark: float) -> str:
    mean, low = plain_mean(np.concatenate(list(source.data.values())))
    start = time.process_time()
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names)])
    seconds = time.process_time() - start
    seams = info["seam_percent"] or {"after": float("nan")}
    return (
        f"| {name} | {profile_error(flatfield.profile, profile):.2f} | "
        f"{flatfield.background - dark:+.1f} | {profile_error(mean, profile):.1f} | "
        f"{low - dark:+.1f} | {seams['after']:.2f} | {info['corrected']}; stripes: "
        f"{info['stripes']} | {seconds:.1f} |"
    )


def even_stripes(folder: Path, lines: str) -> str:
    """Correct the tiles of a flatbench set, lines as well; a row of seams and CPU seconds."""
    source, *_ = flatbench_source(folder)
    start = time.process_time()
    flatfield, _ = estimate_flatfield([sum_tiles(source, source.names)])
    middle = time.process_time()
    places = ((name, source.acquisition.tile(name).origin_vox) for name in source.names)
    layout = LineLayout.of(source.acquisition, dict(places), lines)
    with tempfile.TemporaryDirectory() as scratch:
        sums, info, store = Path(scratch, "0.npz"), Path(scratch, "s.json"), Store(scratch)
        shaded = SimpleNamespace(
            acquisition=source.acquisition,
            read=lambda tile, z0, z1: np.stack(
                [flatfield.correct(plane)[0] for plane in source.data[tile][z0:z1]]
            ),
        )
        sum_lines(sums, shaded, source.names, layout)
        record = estimate_stripes([sums], layout, store, "gains", "bench")
        seconds = time.process_time() - middle
        write_json(info, record)
        stripes = load_line_gains(info, store)
        with np.load(folder / "tiles.npz") as archive:
            planes, places = archive["tiles"].astype(np.float32), archive["pos"].tolist()
        names = {(tile.row, tile.column): tile.name for tile in source.acquisition.tiles}
        for plane, (z, row, column) in zip(planes, places):
            plane -= np.float32(flatfield.background)
            plane /= flatfield.profile * stripes.of(names[row, column], z)
    np.savez_compressed(folder / "corrected.npz", tiles=planes)
    seams = record["seam_percent"]
    return (
        f"| {folder.name} | {seams['before']:.2f} | {seams['after']:.2f} | "
        f"{middle - start:.1f} | {seconds:.2f} |"
    )


def mosaic_seams(folder: Path) -> None:
    """Print the seams that ways of correcting the real mosaic leave in tissue."""
    source = mosaic_tiles(folder)
    acquisition = source.acquisition
    search = DisplacementSettings(search_um=(0.0, 60.0, 60.0))
    pairs = measure_batch(source, acquisition, neighbours(acquisition), search)
    places = {n: t.origin_vox for n, t in place(acquisition, pairs).tiles.items()}
    raw = {tile.name: source.planes[tile.name][0].astype(np.float64) for tile in acquisition.tiles}
    layout = BlockLayout.of(acquisition, places, acquisition.tile_shape[1] // 16)
    ways = {
        "default": FlatfieldSettings(),
        "no gains": FlatfieldSettings(tile_gains=False),
        "background 1075": FlatfieldSettings(background=1075.0),
    }
    print("| correction | positions | seams % | background | corrected | CPU s |")
    print("|---|---|---|---|---|---|")
    print(f"| none | measured | {_tissue_seams(raw, raw, layout, acquisition):.2f} | | | |")
    for dark in (0.0, 600.0, 1075.0):
        seams = _tissue_seams(raw, _by_log_statistics(raw, dark), layout, acquisition)
        print(f"| log statistics | measured | {seams:.2f} | {dark:g} given | | |")
    for label, settings in ways.items():
        for where, origins in (("stage", None), ("measured", places)):
            start = time.process_time()
            sums = sum_tiles(source, list(raw), settings, origins)
            flatfield, info = estimate_flatfield([sums], settings)
            seconds = time.process_time() - start
            gains = info["gains"] if info["tile_gains"] else dict.fromkeys(raw, 1.0)
            images = {
                name: (image - flatfield.dark()) / (flatfield.profile * gains[name])
                for name, image in raw.items()
            }
            seams = _tissue_seams(raw, images, layout, acquisition)
            print(
                f"| {label} | {where} | {seams:.2f} | {info['background_from']} | "
                f"{info['corrected']} | {seconds:.1f} |",
                flush=True,
            )


def _by_log_statistics(raw: dict, dark: float) -> dict:
    """Tiles without the pattern of mean and scatter of their log10, as TissueMAPS takes it out.

    At each pixel, over tiles, smoothed with sigma = 5: 10^((log I - mean) / sd * <sd> + <mean>).
    """
    logs = {name: np.log10(np.maximum(image - dark, 1)) for name, image in raw.items()}
    stack = np.stack(list(logs.values()))
    mean, scatter = (ndimage.gaussian_filter(m, 5) for m in (stack.mean(0), stack.std(0)))
    return {
        name: 10 ** ((each - mean) / scatter * scatter.mean() + mean.mean())
        for name, each in logs.items()
    }


def _tissue_seams(raw: dict, images: dict, layout: BlockLayout, acquisition) -> float:
    names = [tile.name for tile in acquisition.tiles]
    found = []
    for side in SIDES:
        for first, second, edges in layout.pairs(side):
            pair = list(zip((names[first], names[second]), edges))
            before, after = (
                [block_means(part[name], *(e[None] for e in cut)) for name, cut in pair]
                for part in (raw, images)
            )
            seen = np.minimum(*before) > 1500
            found.append(np.log(after[0][seen] / after[1][seen]))
    return 100 * float(np.sqrt(np.mean(np.concatenate(found) ** 2) / 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--flatbench", type=Path, nargs="+", default=[])
    parser.add_argument("--stripes", choices=LINES)
    parser.add_argument("--mosaic", type=Path, help="folder of the real 2-D mosaic")
    options = parser.parse_args()
    if options.stripes:
        print("| tiles | seams of lines, before % | after % | flat-field, CPU s | lines, CPU s |")
        print("|---|---|---|---|---|")
        for folder in options.flatbench:
            print(even_stripes(folder, options.stripes), flush=True)
        return
    if options.mosaic:
        mosaic_seams(options.mosaic)
        return
    print(
        "| tiles | profile error % | dark offset | plain mean: error % | dark offset | "
        "seams left % | corrected | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    if options.flatbench:
        for folder in options.flatbench:
            print(row(folder.name, *flatbench_source(folder)), flush=True)
        return
    for name, changes in KINDS.items():
        for seed in options.seeds:
            source = TruthSource(Scene(seed=seed, pixels=128, planes=24, **changes))
            truth = source.profile, source.scene.dark
            print(row(f"{name}, seed {seed}", source, *truth), flush=True)


if __name__ == "__main__":
    main()
