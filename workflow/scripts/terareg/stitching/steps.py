"""The true step of the stage, where the metadata's overlap may be wrong."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from terareg.parallel import map_items
from terareg.stitching.consensus import largest_cluster
from terareg.stitching.correlation import best_peak, correlate, subvoxel
from terareg.stitching.filters import bin_pixels, levels_of, prepare
from terareg.stitching.pairs import DIRECTIONS, SEAM_AXIS, as_tuples, neighbours
from terareg.stitching.settings import DisplacementSettings

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tiles import TileSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """Stage steps found by :func:`estimate_steps`.

    Attributes
    ----------
    measured_vox : dict of str to tuple of float, or None
        Displacement (z, y, x) per step for "EAST" and "SOUTH"; None where pairs do not agree.
    used : dict of str to bool
        Whether it replaces the nominal step, from which it differs by more than half the search
        range.
    agree, of : dict of str to int
        Pairs that agree and pairs tried, per direction.
    warnings : tuple of str
    """

    measured_vox: dict[str, tuple[float, float, float] | None]
    used: dict[str, bool]
    agree: dict[str, int]
    of: dict[str, int]
    warnings: tuple[str, ...] = ()

    def apply(self, settings: DisplacementSettings) -> DisplacementSettings:
        """Return the settings with the measured steps in place of the nominal ones."""
        east, south = (self.measured_vox[d] if self.used[d] else None for d in DIRECTIONS)
        return replace(settings, step_east_vox=east, step_south_vox=south)

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Steps:
        """Inverse of :meth:`to_json`."""
        measured = {k: as_tuples(v) for k, v in data["measured_vox"].items()}
        return cls(
            measured, data["used"], data["agree"], data["of"], tuple(data.get("warnings", ()))
        )


def estimate_steps(
    source: TileSource,
    acquisition: Acquisition,
    settings: DisplacementSettings | None = None,
    pairs_per_direction: int = 8,
    workers: int = 1,
) -> Steps:
    """Find the true stage step where the metadata's overlap may be wrong.

    Whole planes, strongly binned, of a few pairs spread over the grid are correlated over every
    step that leaves 4 to 60 % of the tile overlapping, and 12 % sideways. The pairs vote as windows
    do in :func:`measure_pair`.

    Returns
    -------
    Steps
    """
    settings = settings or DisplacementSettings()
    shape = tuple(int(n) for n in acquisition.tile_shape)
    spacing = acquisition.spacing_um
    found, used, agree, of, warnings = {}, {}, {}, {}, []
    everyone = neighbours(acquisition)
    for direction in DIRECTIONS:
        pairs = [p for p in everyone if p[2] == direction]
        ranked = _spread(pairs, 3 * pairs_per_direction)
        votes = list(
            map_items(
                lambda pair: _whole_tile_vote(source, shape, pair, settings),
                ranked,
                workers=workers,
                what=f"tried {direction} pairs",
            )
        )
        # the pairs with the clearest peak vote; empty tiles have none
        votes = [v for v in votes if v is not None]
        votes = sorted(votes, key=lambda v: -v[1])[:pairs_per_direction]
        of[direction] = len(votes)
        agree[direction] = 0
        found[direction], used[direction] = None, False
        if not votes:
            continue
        shifts = np.array([v[0] for v in votes])
        bins, lags = votes[0][2:]
        search = np.array(settings.search_um) / np.array(spacing)
        # stages jitter; it is enough that every true displacement falls into the search range
        tolerance = np.maximum(2 * bins, 0.75 * search)
        members = largest_cluster(shifts, np.array([v[1] for v in votes]), tolerance)
        share = np.prod(np.minimum(2 * tolerance / bins + 1, lags) / lags)
        chance = math.comb(len(votes), len(members)) * share ** (len(members) - 1)
        if len(members) < 2 or chance > 1 - settings.min_reliability:
            logger.info(
                "%s step: %d of %d pairs agree, the nominal one is used",
                direction, len(members), len(votes),
            )  # fmt: skip
            continue
        agree[direction] = len(members)
        step = np.median(shifts[members], axis=0)
        found[direction] = tuple(float(v) for v in step)
        nominal = _nominal_step(acquisition, pairs)
        off = step - nominal
        used[direction] = bool(np.any(np.abs(off[1:]) > 0.5 * search[1:]))
        if used[direction]:
            warnings.append(
                f"{direction} step is {step[1]:.0f}, {step[2]:.0f} px (y, x) but the metadata say "
                f"{nominal[1]:.0f}, {nominal[2]:.0f}; the measured step is used"
            )
    for text in warnings:
        logger.warning("%s", text)
    return Steps(found, used, agree, of, tuple(warnings))


def _whole_tile_vote(source, shape, pair, settings):
    """(displacement, score, bin, lags) of whole planes at every plausible step, or None."""
    a, b, direction = pair
    axis = SEAM_AXIS[direction]
    planes = min(shape[0], 16)
    z0 = (shape[0] - planes) // 2
    k = max(1, min(shape[1:]) // 192)
    bins = (1, k, k)
    raw = [source.read(name, z0, z0 + planes, slice(None), slice(None)) for name in (a, b)]
    levels = levels_of(raw, settings.dark)
    images, signal = zip(*(prepare(bin_pixels(r, bins), levels) for r in raw))
    if not all(signal):
        return None
    deep = 0 if shape[0] < 4 else planes // 2
    low, high = [-deep, 0, 0], [deep, 0, 0]
    for n_axis in (1, 2):
        n = images[0].shape[n_axis]
        low[n_axis], high[n_axis] = -round(0.12 * n) - 1, round(0.12 * n) + 1
        if n_axis == axis:
            low[n_axis], high[n_axis] = round(0.4 * n) - 1, round(0.96 * n) + 1
    score, ncc = correlate(*images, low, high)
    index, _, _ = best_peak(score, ncc)
    value = float(score[index])
    if value <= 0:
        return None
    displ = (subvoxel(ncc, index) + np.array(low)) * np.array(bins)
    # how far the peak stands out of the map, in standard deviations
    clear = value / max(float(score.std()), 1e-12)
    return displ, clear, np.array(bins, float), np.array(score.shape, float)


def _nominal_step(acquisition, pairs) -> np.ndarray:
    origin = {t.name: np.array(t.origin_vox, float) for t in acquisition.tiles}
    return np.median([origin[b] - origin[a] for a, b, _ in pairs], axis=0)


def _spread(items: list, number: int) -> list:
    if len(items) <= number:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, number).round()]
