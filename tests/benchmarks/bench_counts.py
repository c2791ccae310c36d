"""How far are counts of cells per region off, from the image of a whole brain to the table?

    python tests/benchmarks/bench_counts.py --folder FOLDER [--seed 0] [--cells 20000] [--cores 2]

The generated brain of the demo as two images of 20 um voxels, with cells of 70 um in the second
one (2 to 10 times the texture brighter than the tissue). The workflow registers both channels,
finds the cells and counts them in the regions that it found. Printed: F1 score; the sum over
regions of |counted - true| for cells of contrast 4 and more, % of these (a cell counted in the
neighbouring region counts twice); the same with true places, which leaves the registration alone.
Takes about 8 minutes of processor time and 2 GB of FOLDER, which has to be new.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "scripts"))

from terareg.core.frames import Frame
from terareg.phantom.atlas import ATLAS_ORIENTATION, BrainSettings, make_atlas, write_atlas
from terareg.phantom.demo import CHANNELS, SAMPLE_ORIENTATION
from terareg.phantom.sample import GeneratedSample, SampleSettings
from terareg.phantom.score import match_cells
from terareg.phantom.truth import TruthSettings, write_sample_truth
from terareg.registration.transform import Transform

ROOT = Path(__file__).parents[2]
VOXEL_UM = 20.0
DIAMETER_UM = 70.0
CLEAR = 4.0
_OFFSET = 200  # counts of the camera without light
_SLAB = 10  # planes that are made at once


def make(folder: Path, seed: int, cells: int) -> GeneratedSample:
    """Images, truth, and ``sample.yaml``."""
    atlas = make_atlas(BrainSettings(seed=seed))
    frame = Frame((290, 420, 580), (VOXEL_UM,) * 3, (0.0, 0.0, 0.0), SAMPLE_ORIENTATION)
    sample = GeneratedSample(
        atlas,
        frame,
        SampleSettings(seed=seed, counted_cells=cells, counted_cell_um=DIAMETER_UM),
    )
    files = write_atlas(atlas, folder / "atlas")
    rng = np.random.default_rng(seed)
    images = np.empty((2, *frame.shape), np.uint16)
    for z in range(0, frame.shape[0], _SLAB):
        stop = min(z + _SLAB, frame.shape[0])
        counts = sample.block((z, 0, 0), (stop, *frame.shape[1:])) + _OFFSET
        counts += rng.standard_normal(counts.shape) * np.sqrt(counts)
        images[:, z:stop] = np.clip(counts, 0, 65535)
    paths = {name: str(folder / f"{name}.tif") for name in CHANNELS}
    for path, image in zip(paths.values(), images):
        tifffile.imwrite(path, image)
    (folder / "truth").mkdir()
    write_sample_truth(sample, folder / "truth", TruthSettings(label_stride=(8, 8, 8)))
    config = {
        "sample": "brain",
        "input": {
            "kind": "volume",
            "orientation": SAMPLE_ORIENTATION,
            "channels": paths,
            "spacing_um": [VOXEL_UM] * 3,
        },
        "atlases": {
            "phantom": {
                **{role: str(folder / "atlas" / name) for role, name in files.items()},
                "orientation": ATLAS_ORIENTATION,
            }
        },
        "registration": {"channel": list(CHANNELS)},
        "cells": {"counted": {"channel": CHANNELS[1], "diameter_um": DIAMETER_UM}},
    }
    (folder / "sample.yaml").write_text(yaml.safe_dump(config))
    return sample


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def places(table: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"{axis}_um"]) for axis in "zyx"] for row in table])


def off_percent(counted: Counter, true: Counter) -> float:
    wrong = sum(abs(counted[region] - true[region]) for region in {*counted, *true})
    return 100 * wrong / true.total()


def regions_of(sample: GeneratedSample, atlas_um: np.ndarray) -> Iterable[str]:
    frame, annotation = sample.atlas.frame, sample.atlas.annotation
    index = np.rint(frame.to_index(atlas_um)).astype(int)
    index = np.clip(index, 0, np.array(annotation.shape) - 1)
    return map(str, annotation[tuple(index.T)])


def show(sample: GeneratedSample, folder: Path) -> None:
    results = folder / "results" / "brain"
    true = rows(folder / "truth" / "cells.csv")
    found = rows(results / "cells" / "counted.csv")
    in_atlas = rows(results / "cells" / "counted" / "phantom" / "cells.csv")
    contrast = np.array([float(row["contrast"]) for row in true])
    figures, partner = match_cells(places(found), places(true), contrast, DIAMETER_UM)
    clear = contrast >= CLEAR
    wanted = Counter(row["region_id"] for row, is_clear in zip(true, clear) if is_clear)
    # faint cells may be found or not
    counted = Counter(row["region_id"] for row, n in zip(in_atlas, partner) if n < 0 or clear[n])
    transform = Transform.load(results / "registration" / "phantom")
    alone = Counter(regions_of(sample, transform.to_atlas(places(true)[clear])))
    each = [100 * abs(counted[i] / number - 1) for i, number in wanted.items()]
    print(f"{wanted.total()} clear cells in {len(wanted)} regions, F1 {figures['f1']:.3f}")
    print(f"counts off, in sum: {off_percent(counted, wanted):.2f} %, registration alone "
          f"{off_percent(alone, wanted):.2f} %")  # fmt: skip
    print(f"counts off, a region: median {np.median(each):.2f} %, "
          f"{sum(e <= 3 for e in each)} of {len(each)} within 3 %")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    sample = make(folder, options.seed, options.cells)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"),
        "--directory", str(folder), "--configfile", str(folder / "sample.yaml"),
        "--cores", str(options.cores), "regions",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    show(sample, folder)


if __name__ == "__main__":
    main()
