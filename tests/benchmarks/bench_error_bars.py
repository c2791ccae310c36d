"""Do error bars of registrations hold what they promise? Intervals of 90 % against known truth.

    python tests/benchmarks/bench_error_bars.py cases --folder CASES       # made by regbench.py
    python tests/benchmarks/bench_error_bars.py phantom --seeds 0 1 2 3
    python tests/benchmarks/bench_error_bars.py real --data ../shared/data --only P28

Every case is registered with the defaults, its error bars are estimated, and three things are
counted: how often the true position lies within the interval along each axis (at landmarks), how
often the true volume of a region does (regions of at least 0.1 mm3), and how often the true number
of 30 000 voxels, drawn in the tissue, whose centres lie in a region. The last column says by
what both factors of ``CALIBRATION`` would have to be multiplied for exactly 90 %: factors were set
with the first half of the cases, and hold on the other half. ``real`` takes the volumes of groups
of regions from the sample's own annotation, which others drew: its errors count as ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_registration import Pair, case_pairs, phantom_pairs, real_pairs, voted
from scipy import ndimage, stats

from terareg.atlas.ontology import Ontology, Structure
from terareg.atlas.prepare import make_atlas
from terareg.core.frames import Frame
from terareg.regions.counts import count_table
from terareg.regions.drawn_regions import Shifts
from terareg.regions.points import located_in_atlas
from terareg.registration import checkpoint
from terareg.registration.emlddmm import register
from terareg.registration.error_bars import DRAWS, ErrorBars, error_bars
from terareg.registration.pose import initial_affine
from terareg.registration.schedule import Hints, Plan
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform

# components of a displacement are alike, so that a deviation is that of three values a draw
POSITION = float(stats.t.ppf(0.95, 3 * DRAWS))
VOLUME = float(stats.t.ppf(0.95, DRAWS))
LEAST_MM3 = 0.1
POINTS = 30_000


def registered(pair: Pair) -> tuple[Transform, ErrorBars, float, float]:
    """Transform, error bars, and CPU seconds of both."""
    affine, info = initial_affine(pair.atlas, pair.sample)
    settings = RegistrationSettings(device="cpu")
    hints = Hints(info["extent"], regions=pair.regions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.npz"
        start = time.process_time()
        result = register(pair.atlas, pair.sample, settings, affine, path, hints)
        middle = time.process_time()
        plan = Plan([pair.atlas], [pair.sample], settings, affine, hints)
        state = checkpoint.load(path, None)
        kept = result.summary["kept"] == "deformation"
        bars = error_bars(plan, state, deformed=kept)
    return result.transform, bars, middle - start, time.process_time() - middle


def position_scores(pair: Pair, transform: Transform, bars: ErrorBars) -> np.ndarray:
    """Errors of landmarks along each axis, in units of their deviation."""
    sample, atlas = pair.points_um
    index = bars.sample_frame.to_index(sample).T
    deviation = ndimage.map_coordinates(bars.deviation_um, index, order=1, mode="nearest")
    return (transform.to_sample(atlas) - sample) / deviation[:, None]


def volume_scores(pair: Pair, transform: Transform, bars: ErrorBars) -> np.ndarray:
    """Errors of the logarithm of volumes of regions, in units of their deviation."""
    labels, frame = pair.atlas_labels, pair.atlas_label_frame
    ids = np.unique(labels)
    inside = labels > 0
    key = np.searchsorted(ids, labels[inside])
    points = np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"))[:, inside].T

    def at(values: np.ndarray, grid: Frame) -> np.ndarray:
        return ndimage.map_coordinates(values, grid.to_index(points).T, order=1, mode="nearest")

    usual = at(transform.jacobian(), transform.frame)
    parts = [usual, *(usual * at(ratio, bars.frame) for ratio in bars.volume_ratios)]
    drawn = np.array([np.bincount(key, part, len(ids)) for part in parts])
    grid = np.stack(np.meshgrid(*pair.label_frame.axes_um(), indexing="ij")).reshape(3, -1).T
    found = voted(labels, frame, transform.to_atlas(grid))
    true, measured = (
        np.bincount(np.searchsorted(ids, values[np.isin(values, ids) & (values > 0)]),
                    minlength=len(ids))
        for values in (pair.labels.reshape(-1), found)
    )  # fmt: skip
    least = LEAST_MM3 * 1e9 / pair.label_frame.voxel_volume_um3
    used = (true >= least) & (drawn[0] > 0) & (measured > 0)
    if pair.points_um is None:
        used &= np.isin(ids, pair.ids)  # groups that both annotations have
    logs = np.log(drawn[1:, used] / drawn[0, used])
    return np.log(measured[used] / true[used]) / np.sqrt((logs**2).mean(0))


def count_scores(pair: Pair, transform: Transform, bars: ErrorBars) -> tuple[float, float, float]:
    """Share of regions whose true count lies within its interval, and how far counts are off.

    The second figure is the sum of the differences of the counts, the third the same of the means
    of all draws, each as a share of the points.
    """
    rng = np.random.default_rng(0)
    ids = np.unique(pair.atlas_labels)
    places = np.argwhere(np.isin(pair.labels, ids[ids > 0]))
    places = places[rng.integers(0, len(places), POINTS)]
    true = np.bincount(np.searchsorted(ids, pair.labels[tuple(places.T)]), minlength=len(ids))
    # labels are those of the centres of voxels
    points = pair.label_frame.to_um(places)
    names = Ontology([Structure(int(i), str(i), str(i)) for i in ids if i > 0])
    atlas = make_atlas(pair.atlas_labels.astype(np.uint32), pair.atlas_label_frame, names)
    _, found, sides = located_in_atlas(points, transform, atlas)
    drawn = list(Shifts(bars.shifts_um, bars.part).regions(points, transform, atlas))
    usual = {"scope": "own", "hemisphere": "both", "volume_mm3": 1.0, "coverage": 1.0}
    measured = [usual | {"id": int(i)} for i in ids if i > 0]
    rows = count_table((found, sides), measured, names, drawn)[:-1]
    wanted = dict(zip(ids.tolist(), true.tolist()))
    held = [r["count_low"] <= wanted[r["id"]] <= r["count_high"] for r in rows if wanted[r["id"]]]
    means = dict.fromkeys(wanted, 0.0)
    for each, _ in drawn:
        for region, count in zip(*np.unique(each, return_counts=True)):
            means[int(region)] += count / len(drawn)
    off = sum(abs(r["count"] - wanted[r["id"]]) for r in rows) / POINTS
    return (
        float(np.mean(held)),
        off,
        sum(abs(means[r["id"]] - wanted[r["id"]]) for r in rows) / POINTS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("cases", "phantom", "real"))
    parser.add_argument("--folder", type=Path, help="cases made by regbench.py")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--voxel-um", type=float, default=200.0)
    parser.add_argument("--only", default="", help="pairs whose name holds this text")
    options = parser.parse_args()
    pairs = {
        "cases": lambda: case_pairs(options.folder, options.data),
        "phantom": lambda: phantom_pairs(options.seeds, options.voxel_um),
        "real": lambda: real_pairs(options.data),
    }[options.what]()
    write = sys.stdout.write
    write("| case | CPU-s registration / bars | median sd (um) | position in 90 % | ")
    write("volume in 90 % | regions | factors needed | count in 90 %, counts off (%), ")
    write("means of draws off (%) |\n|---|---|---|---|---|---|---|---|\n")
    for pair in (pair for pair in pairs if options.only in pair.name):
        transform, bars, first, second = registered(pair)
        scored: Pair | None = pair
        while scored is not None:
            place, factor = "-", "-"
            if scored.points_um is not None:
                position = np.abs(position_scores(scored, transform, bars))
                place = f"{np.mean(position < POSITION):.3f}"
                factor = f"{np.quantile(position, 0.9) / POSITION:.2f}"
            volume = np.abs(volume_scores(scored, transform, bars))
            counted = count_scores(scored, transform, bars)
            write(
                f"| {scored.name} | {first:.0f} / {second:.0f} | "
                f"{bars.summary['median_um']:.0f} | {place} | {np.mean(volume < VOLUME):.3f} | "
                f"{len(volume)} | {factor}, {np.quantile(volume, 0.9) / VOLUME:.2f} | "
                f"{counted[0]:.3f}, {100 * counted[1]:.2f}, {100 * counted[2]:.2f} |\n"
            )
            sys.stdout.flush()
            scored = scored.also


if __name__ == "__main__":
    main()
