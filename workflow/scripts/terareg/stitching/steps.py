"""The true step of the stage, where the metadata's overlap may be wrong."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.errors import StitchingError
from terareg.core.parallel import map_items
from terareg.stitching.consensus import largest_cluster
from terareg.stitching.correlation import best_peak, correlate, subvoxel
from terareg.stitching.filters import Intensities, bin_pixels, common_levels, levels_of, prepare
from terareg.stitching.overview import BINNED_TO, PAIRS_PER_DIRECTION, overview_planes
from terareg.stitching.pairs import DIRECTIONS, as_tuples, neighbours
from terareg.stitching.settings import DisplacementSettings

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tiles import TileSource

logger = logging.getLogger(__name__)

_ABSURD = 1e-3  # probability of agreeing by chance below which the layout is held to be wrong
# the same, below which it is told where peaks are that much clearer than on the layout's side: two
# pairs alone cannot be surer; peaks of nothing are alike, about 4 standard deviations
_DOUBTFUL, _CLEARER = 0.1, 1.5


class Neighbour(Enum):
    """Side on which a neighbour lies: axis of the array and direction along it."""

    RIGHT = (2, 1)
    LEFT = (2, -1)
    BELOW = (1, 1)
    ABOVE = (1, -1)


@dataclass(frozen=True)
class Steps:
    """Stage steps found by :func:`estimate_steps`.

    Attributes
    ----------
    measured_vox : dict of str to tuple of float, or None
        Displacement (z, y, x) per step for "EAST" and "SOUTH"; None where pairs do not agree.
    used : dict of str to bool
        Whether it replaces the nominal step; it does if they differ by more than half the search
        range.
    agree, of : dict of str to int
        Pairs that agree and pairs tried, per direction.
    warnings : tuple of str
    contradicted : tuple of str
        Directions in which neighbours seem to lie on another side of each other than in the layout.
    bytes : int
        Bytes of pixels requested from the source.
    """

    measured_vox: dict[str, tuple[float, float, float] | None]
    used: dict[str, bool]
    agree: dict[str, int]
    of: dict[str, int]
    warnings: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()
    bytes: int = 0

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
        lists = {key: tuple(data[key]) for key in ("warnings", "contradicted")}
        return cls(**{**data, "measured_vox": measured, **lists})


@dataclass(frozen=True)
class _Overview:
    """The middle planes of a tile, binned, their intensities, and the bytes read for them."""

    image: np.ndarray
    levels: Intensities
    bytes: int


@dataclass(frozen=True)
class _Agreement:
    """What pairs agree on: displacement, pairs that do and that vote, probability by chance.

    ``clear`` is the mean clarity of the peaks of those that agree.
    """

    step: np.ndarray | None = None
    members: int = 0
    votes: int = 0
    chance: float = 1.0
    clear: float = 0.0


@dataclass(frozen=True)
class _Vote:
    """Displacement of a pair in voxels, clarity of its peak, and displacements searched."""

    displ: np.ndarray
    clear: float
    lags: np.ndarray


def estimate_steps(
    source: TileSource,
    acquisition: Acquisition,
    settings: DisplacementSettings | None = None,
    pairs_per_direction: int = PAIRS_PER_DIRECTION,
    workers: int = 1,
) -> Steps:
    """Find the true stage step where the metadata's overlap may be wrong.

    Whole planes, strongly binned, of a few pairs spread over the grid are correlated over all steps
    at which 4 to 60 % of the tile overlap, and up to 12 % sideways. The pairs vote as windows do in
    :func:`measure_pair`. If they do not agree, the other sides of the tile are tried: agreement
    there is an error if it is no chance, and a warning if it may be but the peaks are clearer.

    Returns
    -------
    Steps

    Raises
    ------
    StitchingError
        If in the images neighbours lie on another side of each other than in the layout.
    """
    settings = settings or DisplacementSettings()
    everyone = neighbours(acquisition)
    tried = {
        direction: _spread([p for p in everyone if p[2] == direction], 3 * pairs_per_direction)
        for direction in DIRECTIONS
    }
    names = list(dict.fromkeys(name for pairs in tried.values() for p in pairs for name in p[:2]))
    depth, *size = (int(n) for n in acquisition.tile_shape)
    planes = overview_planes(depth)
    bins = max(1, min(size) // BINNED_TO)
    z0 = (depth - planes) // 2

    def overview(name: str) -> _Overview:
        raw = source.read(name, z0, z0 + planes, slice(None), slice(None))
        # a part of the rows is enough to estimate the intensities
        return _Overview(bin_pixels(raw, (1, bins, bins)), levels_of(raw[:, ::bins]), raw.nbytes)

    views = dict(
        zip(names, map_items(overview, names, workers=workers, what="read overviews of tiles"))
    )
    search = np.array(settings.search_um) / np.array(acquisition.spacing_um)
    found: dict[str, tuple[float, float, float] | None] = {}
    used, agree, of, warnings, contradicted = {}, {}, {}, [], {}
    for direction, pairs in tried.items():

        def votes_for(side, pairs=pairs):
            return [
                vote
                for vote in map_items(
                    lambda pair: _vote(views[pair[0]], views[pair[1]], side, bins, settings.dark),
                    pairs,
                    workers=workers,
                    what=f"correlated pairs, {side.name}",
                )
                if vote is not None
            ]

        own = Neighbour.RIGHT if direction == "EAST" else Neighbour.BELOW

        def agreement(side, limit, votes_for=votes_for):
            return _agreement(votes_for(side), pairs_per_direction, bins, search, limit)

        agreed = agreement(own, 1 - settings.min_reliability)
        step, agree[direction], of[direction] = agreed.step, agreed.members, agreed.votes
        found[direction], used[direction] = None, False
        if step is None:
            others = (side for side in Neighbour if side is not own and agreed.votes > 1)
            elsewhere = {side: agreement(side, _DOUBTFUL) for side in others}
            for side, other in elsewhere.items():
                if other.step is not None and other.chance <= _ABSURD:
                    raise StitchingError(_contradiction(direction, side, other.step))
            for side, other in elsewhere.items():
                if other.step is not None and other.clear > _CLEARER * agreed.clear:
                    contradicted[direction] = side
                    warnings.append(
                        f"only {other.members} pairs tell, but it seems that "
                        + _contradiction(direction, side, other.step)
                    )
            logger.info(
                "%s step: %d of %d pairs agree; the nominal step is used",
                direction, agree[direction], of[direction],
            )  # fmt: skip
            agree[direction] = 0
            continue
        found[direction] = tuple(float(v) for v in step)
        nominal = _nominal_step(acquisition, [p for p in everyone if p[2] == direction])
        used[direction] = bool(np.any(np.abs(step - nominal)[1:] > 0.5 * search[1:]))
        if used[direction]:
            warnings.append(
                f"the {direction} step is {step[1]:.0f}, {step[2]:.0f} px (y, x) but the metadata "
                f"say {nominal[1]:.0f}, {nominal[2]:.0f}; the measured step is used"
            )
    for text in warnings:
        logger.warning("%s", text)
    read = sum(view.bytes for view in views.values())
    return Steps(found, used, agree, of, tuple(warnings), tuple(contradicted), read)


def _agreement(votes, number, bins, search, chance_limit) -> _Agreement:
    """What the pairs agree on; no step if they would agree by chance more often than the limit."""
    # the pairs with the clearest peaks vote; empty tiles have no clear peak
    votes = sorted(votes, key=lambda v: -v.clear)[:number]
    if not votes:
        return _Agreement()
    shifts, lags = np.array([v.displ for v in votes]), votes[0].lags
    bins = np.array([1, bins, bins])
    # the stage jitters; it is enough that every true displacement is within the search range
    tolerance = np.maximum(2 * bins, 0.75 * search)
    clear = np.array([v.clear for v in votes])
    members = largest_cluster(shifts, clear, tolerance)
    share = np.prod(np.minimum(2 * tolerance / bins + 1, lags) / lags)
    chance = float(math.comb(len(votes), len(members)) * share ** (len(members) - 1))
    agreed = len(members) > 1 and chance <= chance_limit
    step = np.median(shifts[members], axis=0) if agreed else None
    return _Agreement(step, len(members), len(votes), chance, float(clear[members].mean()))


def _vote(
    a: _Overview, b: _Overview, side: Neighbour, bins: int, dark: float | None
) -> _Vote | None:
    """Displacement of whole planes, searched over all plausible steps; None without structure."""
    levels = common_levels((a.levels, b.levels), dark)
    images, signal = zip(*(prepare(v.image, levels) for v in (a, b)))
    if not all(signal):
        return None
    planes = len(images[0])
    deep = 0 if planes < 4 else planes // 2
    low, high = [-deep, 0, 0], [deep, 0, 0]
    axis, sign = side.value
    for k in (1, 2):
        n = images[0].shape[k]
        low[k], high[k] = -round(0.12 * n) - 1, round(0.12 * n) + 1
        if k == axis:
            low[k], high[k] = sorted((sign * (round(0.4 * n) - 1), sign * (round(0.96 * n) + 1)))
    score, ncc = correlate(images[0], images[1], low, high)
    index, _, _ = best_peak(score, ncc)
    value = float(score[index])
    if value <= 0:
        return None
    displ = (subvoxel(ncc, index) + np.array(low)) * np.array([1, bins, bins])
    # height of the peak in standard deviations of the map
    return _Vote(displ, value / max(float(score.std()), 1e-12), np.array(score.shape, float))


def _contradiction(direction: str, side: Neighbour, step: np.ndarray) -> str:
    line, expected = ("column", "right") if direction == "EAST" else ("row", "below")
    if side is (Neighbour.LEFT if direction == "EAST" else Neighbour.ABOVE):
        cause = (
            "a stage axis runs opposite to its image axis; list the tiles in a table (input.kind: "
            "table) whose rows and columns follow the images, or, in such a table, correct "
            "input.grid.start and order or the signs of the positions"
        )
    else:
        cause = (
            "the two axes of the stage are exchanged; write the other input.first_level (V or H) "
            "for TeraStitcher's folders, or exchange rows and columns, or y and x, in a table "
            "(input.kind: table)"
        )
    return (
        f"the next {line} of the layout should be {expected} in the images but is "
        f"{side.name.lower()} (step {step[1]:.0f}, {step[2]:.0f} px in y, x): {cause}"
    )


def _nominal_step(acquisition, pairs) -> np.ndarray:
    origin = {t.name: np.array(t.origin_vox, float) for t in acquisition.tiles}
    return np.median([origin[b] - origin[a] for a, b, _ in pairs], axis=0)


def _spread(items: list, number: int) -> list:
    if len(items) <= number:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, number).round()]
