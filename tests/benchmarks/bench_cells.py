"""Cells of known places, found by terareg and by cellfinder's first step.

    python tests/benchmarks/bench_cells.py --contrast 2 4 10 [--cellfinder ENV/bin/python]

Volumes are those of the unit tests (tests/unit/cell_truth.py): 300 cells of 9 um in 90 x 110 x 130
voxels of 2 x 1.5 x 1.5 um, a tenth of them touching, in noise and texture. A cell is found where a
point lies within half a diameter, each once. Both programs get the diameter and else their
defaults; cellfinder, whose ball is made for cells of 16 um, also one for cells of this size
(--tried has further ones).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from cell_truth import Held, cell_volume, matched

from terareg.signal.blobs import BlobSettings, find_blobs, join_blobs

DIAMETER_UM = 9.0
#: ball that a cell must fill, across and along z, um; standard deviations above the mean
TRIED = ["6,15,10", "4,6,3"]


def by_terareg(image, frame):
    start = time.process_time()
    settings = BlobSettings((DIAMETER_UM,) * 3)
    held = Held(image, frame)
    found = join_blobs(find_blobs(held, (0, 0, 0), image.shape, settings), settings, frame)
    return found["centre_vox"], time.process_time() - start


def by_cellfinder(python: str, volume: Path, tried: list[str]) -> Iterator[tuple]:
    names = ("ball_xy_size", "ball_z_size", "n_sds_above_mean_thresh")
    settings = [
        {"soma_diameter": DIAMETER_UM} | dict(zip(names, map(float, each.split(","))))
        for each in tried
    ]
    worker = Path(__file__).with_name("cellfinder_worker.py")
    command = [python, str(worker), str(volume), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("FOUND "):
                found = json.loads(line.removeprefix("FOUND "))
                yield np.array(found["places_vox"]).reshape(-1, 3), found["cpu_s"]
    if process.returncode:
        raise SystemExit(f"cellfinder ended with {process.returncode}")


def show(name, contrast, found, truth, frame):
    places, seconds = found
    precision, recall, f1, far = matched(places, truth, frame.spacing_um, DIAMETER_UM / 2)
    error = float(np.median(far)) if len(far) else float("nan")
    print(
        f"{name:36} contrast {contrast:4g}  F1 {f1:.3f}  precision {precision:.3f}  recall "
        f"{recall:.3f}  centres off {error:.2f} um  {seconds:.1f} CPU s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contrast", type=float, nargs="+", default=[2, 4, 10])
    parser.add_argument("--cellfinder", help="interpreter of an environment that has it")
    parser.add_argument("--tried", nargs="+", default=TRIED, metavar="XY,Z,SD")
    options = parser.parse_args()
    for contrast in options.contrast:
        image, truth, frame = cell_volume(contrast=contrast)
        show("terareg", contrast, by_terareg(image, frame), truth, frame)
        if not options.cellfinder:
            continue
        with tempfile.TemporaryDirectory() as folder:
            volume = Path(folder) / "volume.npz"
            np.savez(volume, image=image, spacing_um=np.array(frame.spacing_um))
            searches = by_cellfinder(options.cellfinder, volume, options.tried)
            for tried, found in zip(options.tried, searches):
                show(f"cellfinder, ball and threshold {tried}", contrast, found, truth, frame)


if __name__ == "__main__":
    main()
