"""Accuracy of the flat-field beside a plain smoothed mean, on generated tiles of known truth.

    PYTHONPATH=workflow/scripts python tests/benchmarks/bench_flatfield.py [--seeds 0 1 2]
    ... --flatbench FOLDER [FOLDER ...]      # sets made by shared/tools/flatbench.py
    ... --flatbench FOLDER --stripes rows    # their tiles without stripes, for flatbench.py score

Prints a table: root mean square error of the profile (percent), error of the dark offset (counts),
CPU seconds. The plain mean subtracts the 2nd percentile of the tiles' darkest percentiles. With
--stripes it prints the seams of lines (percent) instead, and writes FOLDER/corrected.npz.
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

from intensity_truth import Scene, TruthSource, profile_error

from terareg.acquisition.line_gains import LINES, load_line_gains
from terareg.intensity.destriping import estimate_stripes
from terareg.intensity.flatfield import estimate_flatfield
from terareg.intensity.lines import LineLayout, sum_lines
from terareg.intensity.sums import sum_tiles
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
    flatfield, _ = estimate_flatfield([sum_tiles(source, source.names)])
    seconds = time.process_time() - start
    return (
        f"| {name} | {profile_error(flatfield.profile, profile):.2f} | "
        f"{flatfield.background - dark:+.1f} | {profile_error(mean, profile):.1f} | "
        f"{low - dark:+.1f} | {seconds:.1f} |"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--flatbench", type=Path, nargs="+", default=[])
    parser.add_argument("--stripes", choices=LINES)
    options = parser.parse_args()
    if options.stripes:
        print("| tiles | seams of lines, before % | after % | flat-field, CPU s | lines, CPU s |")
        print("|---|---|---|---|---|")
        for folder in options.flatbench:
            print(even_stripes(folder, options.stripes), flush=True)
        return
    print("| tiles | profile error % | dark offset | plain mean: error % | dark offset | CPU s |")
    print("|---|---|---|---|---|---|")
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
