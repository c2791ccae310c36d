"""Displacement of neighbouring tiles, measured on their overlap.

The default engine correlates several windows of planes (or, in thin stacks, several stretches of
the seam) independently of each other and believes a displacement only if windows agree. How many
agree, out of how many, over how large a search range, gives the probability that they agree by
chance; the reliability of a pair is 1 minus that and needs no threshold of the user's.

Conventions: ``displ_vox`` is origin(b) - origin(a) in voxels (z, y, x), TeraStitcher's ``displ``.
"EAST" means that b lies to the right of a (larger x), "SOUTH" that b lies below (larger y).

The other engine, ``mip_ncc``, is TeraStitcher's measure, see :mod:`~terareg.stitching.mip_ncc`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

from terareg.errors import StitchingError
from terareg.parallel import map_items
from terareg.stitching import mip_ncc
from terareg.stitching.mip_ncc import AxisMeasure
from terareg.storage.records import read_json, write_json

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tiles import TileSource

logger = logging.getLogger(__name__)

DIRECTIONS = ("EAST", "SOUTH")
ENGINES = ("ncc", "mip_ncc")
_SEAM_AXIS = {"EAST": 2, "SOUTH": 1}  # the axis along which the two tiles follow each other
_MIN_OVERLAP = 4  # coarse pixels that must overlap, per axis, for a correlation to count
_MIN_SEGMENT = 24  # shortest stretch of a seam that is a window of its own, pixels
_CLEAR_PEAK = 2.0  # how many times higher than the next one a peak is that noise does not make
_MEDIAN_OF = 600  # pixels, at least, of which the median of a row or column is taken
_MIN_PLANES = 10  # fewest planes of a window where the stack has more
_HIGH_PASS = (9, 15, 15)  # edges of the box whose mean is subtracted, voxels
_BRIGHT_PERCENT = 90  # of a strip, taken for bright tissue
_SOFTENING = 2.0  # times its level
_LOW_PASS = (1.2, 1.2, 1.2)  # standard deviations of the Gaussian, voxels
_SLAB_PLANES = 16  # read at once for projections
_CHANCE_SIGNAL = 6.0  # autocorrelation that counts as signal, in standard deviations of noise


@dataclass(frozen=True)
class DisplacementSettings:
    """Options of :func:`measure_pair`.

    Attributes
    ----------
    engine : str
        "ncc": normalised cross-correlation of band-passed windows, whose agreement is counted;
        "mip_ncc": TeraStitcher's measure, correlation of maximum intensity projections.
    search_um : tuple of float
        Largest deviation from the expected displacement, micrometres (z, y, x).
    widen : float
        A pair with signal whose windows disagree is searched once more over a range this many
        times larger; 1 switches that off.
    windows : int
        Windows per pair whose agreement is counted.
    window_planes : int
        Planes per window.
    binning : int
        Pixels of y and x that the coarse search averages; 0 chooses 1, 2 or 4 by the overlap.
    patches, patch_px : int
        Number of patches of the sub-voxel refinement and their length along the seam, pixels.
    tolerance_vox : float
        Largest difference of two windows that agree, voxels (at least one coarse pixel).
    min_reliability : float
        Reliability, 0 to 1, from which a pair has status "ok".
    dark : float or None
        Counts of a pixel without light; None estimates it (0 for corrected tiles).
    subvolume_planes : int
        Most planes of a sub-volume that mip_ncc measures by itself; ncc does not use it, and
        mip_ncc uses nothing else of these options but ``search_um``.
    step_east_vox, step_south_vox : tuple of float or None
        Measured stage steps (z, y, x) that replace the acquisition's nominal ones,
        see :func:`estimate_steps`.
    """

    engine: str = "ncc"
    search_um: tuple[float, float, float] = (40.0, 60.0, 60.0)
    widen: float = 2.0
    windows: int = 6
    window_planes: int = 32
    binning: int = 0
    patches: int = 8
    patch_px: int = 192
    tolerance_vox: float = 1.5
    min_reliability: float = 0.99
    dark: float | None = None
    subvolume_planes: int = 200
    step_east_vox: tuple[float, float, float] | None = None
    step_south_vox: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise StitchingError(
                f"stitching engine {self.engine!r} is unknown; choose one of {', '.join(ENGINES)}"
            )
        if len(self.search_um) != 3 or min(self.search_um) < 0 or max(self.search_um) == 0:
            raise StitchingError(
                f"search_um {list(self.search_um)} is no search range; give three distances "
                "(z, y, x) in micrometres, for example [40, 60, 60]"
            )
        if self.windows < 2 or self.window_planes < 1 or self.patches < 1 or self.widen < 1:
            raise StitchingError(
                f"windows {self.windows}, window_planes {self.window_planes}, patches "
                f"{self.patches}, widen {self.widen}: need at least 2, 1, 1, 1"
            )
        if self.subvolume_planes <= mip_ncc.MIN_OVERLAP:
            raise StitchingError(
                f"subvolume_planes {self.subvolume_planes} leaves no search along z; give more "
                f"than {mip_ncc.MIN_OVERLAP}, for example 200"
            )


@dataclass(frozen=True)
class WindowResult:
    """What one window says.

    Attributes
    ----------
    z : tuple of int
        Planes [first, last) of tile a.
    seam : tuple of int
        Pixels [first, last) of tile a along the seam.
    displ_vox : tuple of float
        Displacement (z, y, x) of the highest peak; of the refined one where the window agrees.
    peak, second : float
        Correlation there, and at the next best place.
    signal : bool
        Whether both tiles hold structure above the noise here.
    agrees : bool
        Whether the window supports the pair's displacement.
    axes : tuple of AxisMeasure
        With engine mip_ncc: TeraStitcher's attributes of the axes z, y, x; otherwise empty.
    """

    z: tuple[int, int]
    seam: tuple[int, int]
    displ_vox: tuple[float, float, float]
    peak: float
    second: float
    signal: bool
    agrees: bool
    axes: tuple[AxisMeasure, ...] = ()

    @classmethod
    def from_json(cls, data: dict) -> WindowResult:
        """Inverse of :func:`dataclasses.asdict`, also after a way through JSON."""
        axes = tuple(AxisMeasure(**axis) for axis in data.get("axes", ()))
        return cls(**{k: _tuple(v) for k, v in data.items() if k != "axes"}, axes=axes)


@dataclass(frozen=True)
class PairResult:
    """Measured displacement of two neighbouring tiles.

    Attributes
    ----------
    a, b, direction : str
        Tile names, and "EAST" or "SOUTH".
    status : str
        "ok"; "no_signal": fewer than two windows with structure in both tiles (mip_ncc: an axis
        without a peak); "disagree": windows with structure that do not agree.
    displ_vox : tuple of float
        origin(b) - origin(a), voxels (z, y, x); the expected value unless status is "ok".
    sigma_vox : tuple of float
        Standard error of ``displ_vox`` from the scatter of the patches.
    reliability : float
        1 - P(the windows agree by chance), 0 to 1; with mip_ncc TeraStitcher's measure of peak
        and width, the least of the three axes, which is no probability.
    peak : float
        Correlation at the refined displacement; with mip_ncc the least of the three axes.
    agree, of : int
        Windows that agree, and windows with signal.
    expected_vox, search_vox : tuple
        Centre and half-width of the search.
    windows : tuple of WindowResult
    bytes : int
        Bytes of pixels asked from the source.
    engine : str
        "ncc", "mip_ncc", or "xml" for values read from a TeraStitcher file.
    """

    a: str
    b: str
    direction: str
    status: str
    displ_vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]
    reliability: float
    peak: float
    agree: int
    of: int
    expected_vox: tuple[float, float, float]
    search_vox: tuple[int, int, int]
    windows: tuple[WindowResult, ...] = ()
    bytes: int = 0
    engine: str = "ncc"

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> PairResult:
        """Inverse of :meth:`to_json`."""
        data = dict(data)
        data["windows"] = tuple(WindowResult.from_json(w) for w in data["windows"])
        return cls(**{k: _tuple(v) for k, v in data.items()})


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
        measured = {k: _tuple(v) for k, v in data["measured_vox"].items()}
        return cls(
            measured, data["used"], data["agree"], data["of"], tuple(data.get("warnings", ()))
        )


# ---------------------------------------------------------------------- entry points
def neighbours(acquisition: Acquisition) -> list[tuple[str, str, str]]:
    """Pairs (a, b, direction) of acquired tiles side by side, row-major, EAST before SOUTH."""
    names = _cells(acquisition)
    pairs = []
    for (row, column), name in sorted(names.items()):
        for direction, cell in (("EAST", (row, column + 1)), ("SOUTH", (row + 1, column))):
            if cell in names:
                pairs.append((name, names[cell], direction))
    return pairs


def measure_pair(
    source: TileSource,
    acquisition: Acquisition,
    tile_a: str,
    tile_b: str,
    direction: str,
    settings: DisplacementSettings = DisplacementSettings(),
) -> PairResult:
    """Measure the displacement of two neighbouring tiles.

    Strips of both tiles, wide enough for every displacement in the search range, are read for a
    few windows only. In the logarithm of the intensity the median of every row and column is
    removed, because patterns fixed in the tile (shading, stripes) correlate at the nominal
    displacement of zero; a band-pass follows, and an exact normalised correlation by FFT on pixels
    binned in y and x. Patches at full resolution around the place where the windows agree give
    the fraction of a voxel.

    With ``settings.engine`` "mip_ncc" the nominal overlap is measured as TeraStitcher does it, in
    whole voxels, and the most reliable sub-volume of each axis counts.

    Parameters
    ----------
    source : TileSource
        Anything with ``read(tile, z0, z1, y, x)`` that returns (z, y, x) pixels.
    acquisition : Acquisition
        For tile size, voxel size and nominal positions.
    tile_a, tile_b : str
        Names of the tiles, b to the EAST or SOUTH of a.
    direction : str
        "EAST" or "SOUTH".
    settings : DisplacementSettings

    Returns
    -------
    PairResult

    Raises
    ------
    StitchingError
        If the tiles do not overlap even at the limit of the search range, or for mip_ncc not by
        more than 25 voxels on every axis.
    """
    expected = _expected(acquisition, tile_a, tile_b, direction, settings)
    if settings.engine == "mip_ncc":
        return _measure_projections(
            source, acquisition, (tile_a, tile_b, direction), expected, settings
        )
    spacing = acquisition.spacing_um
    shape = tuple(int(n) for n in acquisition.tile_shape)
    result = None
    for factor in (1.0, settings.widen):
        search = [math.ceil(factor * s / p - 1e-9) for s, p in zip(settings.search_um, spacing)]
        if shape[0] < 4:  # too thin to say anything about z
            search[0] = 0
        axis = _SEAM_AXIS[direction]
        search = [min(s, n // 2) for s, n in zip(search, shape)]
        if expected[axis] - search[axis] > shape[axis] - _MIN_OVERLAP:
            raise StitchingError(
                f"{tile_a} and {tile_b} ({direction}) do not overlap: expected step "
                f"{expected[axis]:.0f} of {shape[axis]} pixels; correct input.overlap or enlarge "
                "stitching.search_um"
            )
        pair = _Pair(source, shape, (tile_a, tile_b), direction, expected, tuple(search))
        attempt = _measure(pair, settings)
        if result is None:
            result = attempt
        elif attempt.status == "ok":
            result = replace(attempt, bytes=attempt.bytes + result.bytes)
        else:
            result = replace(result, bytes=attempt.bytes + result.bytes)
        if result.status != "disagree" or settings.widen == 1:
            break
    return result


def measure_batch(
    source: TileSource,
    acquisition: Acquisition,
    pairs: Sequence[tuple[str, str, str]],
    settings: DisplacementSettings = DisplacementSettings(),
    workers: int = 1,
) -> list[PairResult]:
    """Run :func:`measure_pair` over (a, b, direction) tuples; results in the same order."""
    return list(
        map_items(
            lambda pair: measure_pair(source, acquisition, *pair, settings),
            pairs,
            workers=workers,
            what="measured pairs",
        )
    )


def save_pairs(path, pairs: Iterable[PairResult]) -> None:
    """Write pairs as JSON: ``{"pairs": [PairResult.to_json(), ...]}``."""
    write_json(path, {"pairs": [pair.to_json() for pair in pairs]})


def load_pairs(paths) -> list[PairResult]:
    """Read pairs from one JSON file or several, in order."""
    if isinstance(paths, (str, bytes)) or not isinstance(paths, Iterable):
        paths = [paths]
    pairs = []
    for path in paths:
        data = read_json(path)
        try:
            pairs += [PairResult.from_json(item) for item in data["pairs"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise StitchingError(
                f"{path} is no file of measured pairs ({error}); delete it and run again"
            ) from error
    return pairs


def estimate_steps(
    source: TileSource,
    acquisition: Acquisition,
    settings: DisplacementSettings = DisplacementSettings(),
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
        members = _largest_cluster(shifts, np.array([v[1] for v in votes]), tolerance)
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


# ---------------------------------------------------------------------- TeraStitcher's measure
def _measure_projections(source, acquisition, pair, expected, settings) -> PairResult:
    """Measure a pair (a, b, direction) by projections of sub-volumes of the nominal overlap."""
    name_a, name_b, direction = pair
    shape = tuple(int(n) for n in acquisition.tile_shape)
    # TeraStitcher truncates the nominal displacement
    nominal = [math.trunc(e + math.copysign(1e-6, e)) for e in expected]
    search = tuple(
        math.ceil(s / p - 1e-9) for s, p in zip(settings.search_um, acquisition.spacing_um)
    )
    box_a = [(max(0, d), min(n, n + d)) for d, n in zip(nominal, shape)]
    overlap = tuple(max(0, high - low) for low, high in box_a)
    number = max(1, -(-overlap[0] // settings.subvolume_planes))
    sizes = [overlap[0] // number + (k < overlap[0] % number) for k in range(number)]
    thinnest = (sizes[-1], *overlap[1:])
    if min(mip_ncc.search_ranges(thinnest, search)) < 1:
        raise StitchingError(
            f"{name_a} and {name_b} ({direction}) overlap in sub-volumes of {list(thinnest)} "
            f"voxels (z, y, x) and search_um is {list(settings.search_um)}: mip_ncc must leave "
            f"{mip_ncc.MIN_OVERLAP} voxels and so has nothing to search on one axis; set "
            'stitching.displacement.engine: "ncc", or more subvolume_planes'
        )
    starts = [box_a[0][0] + sum(sizes[:k]) for k in range(number)]
    windows, size = [], 0
    for z0, planes in zip(starts, sizes):
        box = [(z0, z0 + planes), *box_a[1:]]
        mips = []
        for name, shift in ((name_a, (0, 0, 0)), (name_b, nominal)):
            own = [(low - d, high - d) for (low, high), d in zip(box, shift)]
            mips.append(mip_ncc.project(_slabs(source, name, own)))
            size += planes * overlap[1] * overlap[2] * np.dtype(acquisition.dtype).itemsize
        axes = tuple(
            replace(axis, displ_vox=axis.displ_vox + d)
            for axis, d in zip(mip_ncc.measure_axes(*mips, search), nominal)
        )
        seam = box[3 - _SEAM_AXIS[direction]]
        displ = tuple(float(axis.displ_vox) for axis in axes)
        peak = min(axis.peak for axis in axes)
        windows.append(WindowResult(box[0], seam, displ, peak, 0.0, peak > 0, False, axes))
    best = mip_ncc.most_reliable([window.axes for window in windows])
    ok = all(axis.reliability > 0 for axis in best)
    displ = tuple(float(axis.displ_vox) for axis in best) if ok else expected
    windows = tuple(
        replace(w, agrees=ok and all(abs(p - q) <= 1 for p, q in zip(w.displ_vox, displ)))
        for w in windows
    )
    return PairResult(
        name_a, name_b, direction, "ok" if ok else "no_signal", displ, (0.5, 0.5, 0.5),
        min(axis.reliability for axis in best), min(axis.peak for axis in best),
        sum(w.agrees for w in windows), len(windows), expected, search, windows, size, "mip_ncc",
    )  # fmt: skip


def _slabs(source, name, box) -> Iterable[np.ndarray]:
    """Pixels of a box ((z0, z1), (y0, y1), (x0, x1)) of a tile, a few planes at a time."""
    (first, last), y, x = box
    for z in range(first, last, _SLAB_PLANES):
        yield source.read(name, z, min(last, z + _SLAB_PLANES), slice(*y), slice(*x))


# ---------------------------------------------------------------------- one pair
class _Pair:
    """Geometry of two tiles and the search range, and the reads."""

    def __init__(self, source, shape, names, direction, expected, search):
        self.source = source
        self.shape = shape
        self.names = names
        self.direction = direction
        self.expected = expected
        self.search = search
        self.centre = tuple(round(e) for e in expected)
        self.axis = _SEAM_AXIS[direction]
        self.along = 3 - self.axis  # the axis along the seam
        self.bytes = 0
        self.dense = False  # whether the windows cover the whole stack

    def read(self, which: int, box) -> np.ndarray:
        """Pixels of a box ((z0, z1), (y0, y1), (x0, x1)) of tile a (0) or b (1)."""
        (z0, z1), y, x = box
        pixels = self.source.read(self.names[which], z0, z1, slice(*y), slice(*x))
        self.bytes += pixels.nbytes
        return pixels

    def boxes(self, z, seam) -> tuple[list, list]:
        """Boxes of both tiles that hold all that can overlap with a window of tile a."""
        box_a, box_b = [], []
        for axis, (n, d, s) in enumerate(zip(self.shape, self.centre, self.search)):
            if axis == self.axis:
                box_a.append((max(0, d - s), n))
                box_b.append((0, min(n, n - d + s)))
            else:
                low, high = z if axis == 0 else seam
                # planes cost reading time: only where windows lie side by side are more of them
                # taken, since they are read for the next window anyway
                margin = s if axis > 0 or self.dense else 0
                box_a.append((low, high))
                box_b.append((max(0, low - d - margin), min(n, high - d + margin)))
        return box_a, box_b


def _measure(pair: _Pair, settings: DisplacementSettings) -> PairResult:
    bins = _binning(pair, settings)
    tolerance = np.maximum(settings.tolerance_vox, bins)
    windows, patches, lags = [], [], [1, 1, 1]
    for z, seam in _windows(pair, settings):
        box_a, box_b = pair.boxes(z, seam)
        if any(b[1] - b[0] < 1 for b in box_b):
            continue
        raw = pair.read(0, box_a), pair.read(1, box_b)
        levels = _levels(raw, settings.dark)
        coarse = [_bin(r, bins) for r in raw]
        coarse, signal = zip(*(_prepare(c, levels) for c in coarse))
        start = [a[0] - b[0] for a, b in zip(box_a, box_b)]
        low = [math.floor((c - s - o) / k) - 1 for c, s, o, k in _search(pair, start, bins)]
        high = [math.ceil((c + s - o) / k) + 1 for c, s, o, k in _search(pair, start, bins)]
        for axis in range(3):
            if pair.search[axis] == 0:
                low[axis] = high[axis] = round((pair.centre[axis] - start[axis]) / bins[axis])
        score, ncc = _correlation(*coarse, low, high)
        lag, peak, second = _best_peak(score, ncc)
        lags = [max(1, n - 2) for n in score.shape]
        displ = [o + (i + first) * k for o, i, first, k in zip(start, lag, low, bins)]
        windows.append(
            WindowResult(z, seam, tuple(map(float, displ)), peak, second, all(signal), False)
        )
        patches.append(_keep_patches(pair, raw, (box_a, box_b), coarse, bins, levels, settings))
    return _consensus(pair, windows, patches, lags, bins, tolerance, settings)


def _search(pair: _Pair, start, bins):
    return zip(pair.centre, pair.search, start, bins)


def _consensus(pair, windows, patches, lags, bins, tolerance, settings) -> PairResult:
    usable = [i for i, w in enumerate(windows) if w.peak > 0]
    seen = [i for i in usable if windows[i].signal]
    nothing = PairResult(
        pair.names[0], pair.names[1], pair.direction, "disagree" if len(seen) > 1 else "no_signal",
        tuple(float(e) for e in pair.expected), (0.0, 0.0, 0.0), 0.0, 0.0, 0, len(seen),
        tuple(float(e) for e in pair.expected), pair.search, tuple(windows), pair.bytes,
    )  # fmt: skip
    # empty windows only dilute, but sparse tissue agrees although windows look like noise; which
    # windows vote is decided without looking at where their peaks lie, so chance stays computable
    clear = [i for i in usable if windows[i].peak > _CLEAR_PEAK * windows[i].second]
    electorates = []
    for voters in (seen, clear, usable):
        if len(voters) > 1 and voters not in electorates:
            electorates.append(voters)
    box = np.prod([min(2 * t // k + 1, n) for t, k, n in zip(tolerance, bins, lags)])
    best, members, of = 1.0, [], 0
    for voters in electorates:
        shifts = np.array([windows[i].displ_vox for i in voters])
        weights = np.array([windows[i].peak for i in voters])
        cluster = [voters[i] for i in _largest_cluster(shifts, weights, tolerance)]
        chance = math.comb(len(voters), len(cluster)) * (box / np.prod(lags)) ** (len(cluster) - 1)
        chance *= len(electorates)
        if chance < best:
            best, members, of = float(chance), cluster, len(voters)
    if len(members) < 2 or 1 - best < settings.min_reliability:
        return replace(nothing, reliability=1 - best, agree=len(members), of=of or len(seen))
    nothing = replace(nothing, of=of)
    coarse = np.average(
        [windows[i].displ_vox for i in members], axis=0, weights=[windows[i].peak for i in members]
    )
    radius = [0 if s == 0 else k + 2 for s, k in zip(pair.search, bins)]
    chosen = _choose_patches([(i, p) for i in members for p in patches[i]], settings.patches)
    fine = _refine([p for _, p in chosen], np.rint(coarse).astype(int), radius, pair)
    if fine is None:
        return replace(nothing, status="disagree", reliability=0.0, agree=len(members))
    displ, sigma, peak, per_patch = fine
    result = list(windows)
    for i in members:
        own = [d for (j, _), d in zip(chosen, per_patch) if j == i and d is not None]
        shift = np.mean(own, axis=0) if own else displ
        result[i] = replace(windows[i], agrees=True, displ_vox=tuple(float(v) for v in shift))
    return replace(
        nothing,
        status="ok",
        displ_vox=tuple(float(v) for v in displ),
        sigma_vox=tuple(float(v) for v in sigma),
        reliability=1 - best,
        peak=peak,
        agree=len(members),
        windows=tuple(result),
    )


def _windows(pair: _Pair, settings: DisplacementSettings):
    """Windows ((z0, z1), (first, last) along the seam) of tile a."""
    planes, length = pair.shape[0], pair.shape[pair.along]
    # planes of a that b can have as well
    first = max(0, pair.centre[0])
    last = planes + min(0, pair.centre[0])
    depth = min(settings.window_planes, max(1, last - first))
    # thin stacks get thinner windows, the thinnest get windows side by side along the seam
    depth = max(min(depth, _MIN_PLANES), min(depth, (last - first) // settings.windows))
    number = max(1, min(settings.windows, (last - first) // depth))
    pair.dense = last - first < (number + 1) * depth
    if last - first > 2 * number * depth:
        starts = _signal_starts(pair, first, last, depth, settings)
    else:
        starts = [int(v) for v in np.linspace(first, last - depth, number).round()]
    segments = max(1, min(-(-settings.windows // len(starts)), length // _MIN_SEGMENT))
    edges = [int(v) for v in np.linspace(0, length, segments + 1).round()]
    for z0 in starts:
        for seam in pairwise(edges):
            yield (z0, z0 + depth), seam


def _signal_starts(pair, first, last, depth, settings) -> list[int]:
    """First planes of the windows, spread over the planes where both tiles hold structure."""
    candidates = [int(v) for v in np.linspace(first, last - depth, 3 * settings.windows).round()]
    good = []
    for z0 in candidates:
        middle = z0 + depth // 2
        box_a, box_b = pair.boxes((middle, middle + 1), (0, pair.shape[pair.along]))
        box_b[0] = (middle - pair.centre[0], middle - pair.centre[0] + 1)
        raw = pair.read(0, box_a), pair.read(1, box_b)
        levels = _levels(raw, settings.dark)
        bins = _binning(pair, settings)
        if all(_prepare(_bin(r, bins), levels)[1] for r in raw):
            good.append(z0)
    pool = good if len(good) >= 2 else candidates
    number = min(settings.windows, len(pool))
    return [pool[int(i)] for i in np.linspace(0, len(pool) - 1, number).round()]


def _binning(pair: _Pair, settings: DisplacementSettings) -> np.ndarray:
    overlap = pair.shape[pair.axis] - pair.centre[pair.axis]
    bins = settings.binning
    if not bins:
        bins = max(k for k in (1, 2, 4) if k == 1 or overlap // k >= 40)
    return np.array([1, bins, bins])


# ---------------------------------------------------------------------- filters
def _levels(raw, dark: float | None) -> tuple[float, float]:
    """Dark level and softening constant of the logarithm, common to both tiles.

    The constant is a multiple of the bright tissue's level, so that the logarithm makes texture of
    bright and dim tissue alike but the step from tissue to dark medium, which is smooth along the
    surface and says little about the displacement, does not outweigh it.
    """
    sample = [r[:: max(1, r.shape[0] // 8), ::2, ::2].astype(np.float32) for r in raw]
    if dark is None:
        dark = min(float(np.percentile(s, 0.1)) for s in sample)
    bright = max(float(np.percentile(s, _BRIGHT_PERCENT)) for s in sample) - dark
    noise = []
    for s, r in zip(sample, raw):
        step = r[:: max(1, r.shape[0] // 8), :, :].astype(np.float32)
        if step.shape[2] >= 3:
            second = step[..., 2:] - 2 * step[..., 1:-1] + step[..., :-2]
            noise.append(1.4826 * float(np.median(np.abs(second))) / math.sqrt(6))
        else:
            noise.append(float(s.std()))
    return float(dark), 3 * max(noise) + _SOFTENING * max(0.0, bright) + 1


def _bin(raw: np.ndarray, bins) -> np.ndarray:
    """Mean over bins of y and x, float32; what does not fill a bin is left out."""
    k = int(bins[1])
    if k == 1:
        return raw.astype(np.float32)
    z, y, x = raw.shape
    if y < k or x < k:
        return raw.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    raw = raw[:, : y // k * k, : x // k * k]
    rows = np.add.reduce(raw.reshape(z, y // k, k, -1), axis=2, dtype=np.uint32)
    both = np.add.reduce(rows.reshape(z, y // k, x // k, k), axis=3, dtype=np.uint32)
    return both.astype(np.float32) / (k * k)


def _prepare(image: np.ndarray, levels: tuple[float, float]) -> tuple[np.ndarray, bool]:
    """Band-passed logarithm without patterns fixed in rows and columns, and if it has signal."""
    dark, soft = levels
    log = np.log(np.maximum(image - dark, 0) + soft)
    for axis in (1, 2):
        others = log.shape[0] * log.shape[3 - axis]
        some = log[:: max(1, min(log.shape[0], others // _MEDIAN_OF))]
        log -= np.median(some, axis=(0, 3 - axis), keepdims=True)
    size = [min(h, n) if n > 1 else 1 for h, n in zip(_HIGH_PASS, log.shape)]
    log -= ndimage.uniform_filter(log, size, mode="nearest")
    signal = _has_signal(log)
    sigma = [g if n > 1 else 0 for g, n in zip(_LOW_PASS, log.shape)]
    return ndimage.gaussian_filter(log, sigma, mode="nearest", truncate=3.0), signal


def _has_signal(image: np.ndarray) -> bool:
    """Whether neighbouring pixels are correlated, which noise of the camera is not."""
    energy = float(np.einsum("ijk,ijk->", image, image, dtype=np.float64))
    if energy <= 0 or image.size < 64:
        return False
    best = -1.0
    for axis in (1, 2):
        a = np.moveaxis(image, axis, 0)
        if len(a) > 2:
            product_ = float(np.einsum("ijk,ijk->", a[1:], a[:-1], dtype=np.float64))
            best = max(best, product_ / energy)
    # the high-pass alone makes noise anticorrelated by 1/225; the floor of 1 % is for patterns
    return best > max(0.01, _CHANCE_SIGNAL / math.sqrt(image.size))


# ---------------------------------------------------------------------- correlation
def _correlation(a, b, low, high) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation of the overlap of ``a`` and ``b`` for every lag.

    With lag l, ``a[i]`` meets ``b[i - l]``; low <= l <= high per axis, both inclusive. Returns
    (score, ncc), shape high - low + 1: the score is the correlation times the square root of the
    share of voxels that overlap, so that small overlaps do not win by chance.
    """
    lags = [np.arange(lo, hi + 1) for lo, hi in zip(low, high)]
    size = [
        fft.next_fast_len(int(max(na - lo, nb + hi, na, nb)), real=(k == 2))
        for k, (na, nb, lo, hi) in enumerate(zip(a.shape, b.shape, low, high))
    ]
    spectrum = fft.rfftn(a, size)
    spectrum *= np.conj(fft.rfftn(b, size))
    cross = fft.irfftn(spectrum, size)
    cross = cross[np.ix_(*(lag % n for lag, n in zip(lags, size)))].astype(np.float64)
    spans_a = [
        (np.maximum(0, lag), np.minimum(na, nb + lag))
        for lag, na, nb in zip(lags, a.shape, b.shape)
    ]
    spans_b = [(lo - lag, hi - lag) for (lo, hi), lag in zip(spans_a, lags)]
    counts = [np.maximum(hi - lo, 0) for lo, hi in spans_a]
    count = counts[0][:, None, None] * counts[1][:, None] * counts[2].astype(np.float64)
    sum_a, sum_b = _box_sums(a, spans_a), _box_sums(b, spans_b)
    square_a, square_b = _box_sums(a * a, spans_a), _box_sums(b * b, spans_b)
    enough = np.ones(count.shape, bool)
    for axis, (c, na, nb) in enumerate(zip(counts, a.shape, b.shape)):
        need = min(_MIN_OVERLAP, na, nb)
        enough &= np.expand_dims(c >= need, [k for k in range(3) if k != axis])
    n = np.maximum(count, 1)
    cov = cross - sum_a * sum_b / n
    var = (square_a - sum_a**2 / n) * (square_b - sum_b**2 / n)
    floor = 1e-6 * square_a.max() * square_b.max() + 1e-30
    enough &= var > floor
    ncc = np.where(enough, cov / np.sqrt(np.where(enough, var, 1)), 0)
    ncc = np.clip(ncc, -1, 1)
    return ncc * np.sqrt(count / max(count.max(), 1)), ncc


def _box_sums(image: np.ndarray, spans) -> np.ndarray:
    """Sums over boxes, the product of the spans [low, high) of each axis."""
    order = sorted(range(3), key=lambda k: len(spans[k][0]) / image.shape[k])
    total = image
    for axis in order:
        low, high = spans[axis]
        high = np.maximum(high, low)
        sums = np.cumsum(total, axis=axis, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        n = sums.shape[axis] - 1
        total = sums.take(np.clip(high, 0, n), axis) - sums.take(np.clip(low, 0, n), axis)
    return total


def _best_peak(score: np.ndarray, ncc: np.ndarray):
    """Index of the highest local maximum inside the map, its correlation and the next one's."""
    local = score == ndimage.maximum_filter(score, size=[min(3, n) for n in score.shape])
    for axis, n in enumerate(score.shape):
        if n > 2:  # a maximum on the border belongs to a peak outside the search range
            edge = [slice(None)] * 3
            for end in (0, -1):
                edge[axis] = end
                local[tuple(edge)] = False
    places = np.argwhere(local & (score > 0))
    if not len(places):
        return tuple(n // 2 for n in score.shape), 0.0, 0.0
    values = score[tuple(places.T)]
    order = np.argsort(-values, kind="stable")
    best = places[order[0]]
    far = [p for p in places[order[1:64]] if np.abs(p - best).max() > 2]
    second = float(ncc[tuple(far[0])]) if far else 0.0
    return tuple(int(v) for v in best), float(ncc[tuple(best)]), second


def _largest_cluster(shifts: np.ndarray, weights: np.ndarray, tolerance) -> list[int]:
    """Indices of the shifts within ``tolerance`` of the one that most others are near to."""
    near = np.all(np.abs(shifts[:, None] - shifts[None]) <= np.asarray(tolerance) + 1e-9, axis=2)
    support = near.sum(1) + 1e-3 * (near @ weights) / max(float(weights.sum()), 1e-12)
    return [int(i) for i in np.flatnonzero(near[int(np.argmax(support))])]


# ---------------------------------------------------------------------- refinement
@dataclass(frozen=True)
class _Patch:
    """Raw pixels of a stretch of the seam in both tiles, where they start, and their contrast."""

    pixels: tuple[np.ndarray, np.ndarray]
    start: tuple[tuple[int, ...], tuple[int, ...]]
    levels: tuple[float, float]
    contrast: float
    z: tuple[int, int]


def _keep_patches(pair, raw, boxes, coarse, bins, levels, settings) -> list[_Patch]:
    """Copy the two stretches of a window with most structure in both tiles."""
    box_a, box_b = boxes
    first, last = box_a[pair.along]
    number = max(1, round((last - first) / settings.patch_px))
    edges = [int(v) for v in np.linspace(first, last, number + 1).round()]
    margin = pair.search[pair.along] + 8
    patches = []
    for low, high in pairwise(edges):
        span_a = (low, high)
        span_b = (
            max(box_b[pair.along][0], low - pair.centre[pair.along] - margin),
            min(box_b[pair.along][1], high - pair.centre[pair.along] + margin),
        )
        if span_b[1] - span_b[0] < 8:
            continue
        contrast = math.inf
        for image, box, span in zip(coarse, boxes, (span_a, span_b)):
            k = bins[pair.along]
            part = slice(
                (span[0] - box[pair.along][0]) // k,
                max(1, (span[1] - box[pair.along][0]) // k),
            )
            cut = [slice(None)] * 3
            cut[pair.along] = part
            contrast = min(contrast, float(np.var(image[tuple(cut)])))
        patches.append((contrast, span_a, span_b))
    patches.sort(key=lambda p: (-p[0], p[1]))
    kept = []
    for contrast, span_a, span_b in patches[:2]:
        pixels, start = [], []
        for image, box, span in zip(raw, boxes, (span_a, span_b)):
            cut = [slice(None)] * 3
            offset = box[pair.along][0]
            cut[pair.along] = slice(span[0] - offset, span[1] - offset)
            origin = [b[0] for b in box]
            origin[pair.along] = span[0]
            pixels.append(image[tuple(cut)].copy())
            start.append(tuple(origin))
        kept.append(_Patch(tuple(pixels), tuple(start), levels, contrast, box_a[0]))
    return kept


def _choose_patches(patches, number: int):
    """The best patch of every window, then the best of the rest, up to ``number``."""
    best, rest, seen = [], [], set()
    for item in sorted(patches, key=lambda p: -p[1].contrast):
        (rest if item[0] in seen else best).append(item)
        seen.add(item[0])
    return sorted((best + rest)[:number], key=lambda p: (p[0], p[1].start))


def _refine(patches, coarse: np.ndarray, radius, pair: _Pair):
    """Sub-voxel displacement from the sum of the patches' correlation maps.

    Returns (displ, sigma, peak, displacement of each patch or None), or None if the sum has no
    maximum inside the radius.
    """
    total, maps = 0.0, []
    for patch in patches:
        prepared = [_prepare(p.astype(np.float32), patch.levels)[0] for p in patch.pixels]
        start = np.array(patch.start[0]) - np.array(patch.start[1])
        low = [int(c - s - r) for c, s, r in zip(coarse, start, radius)]
        high = [int(c - s + r) for c, s, r in zip(coarse, start, radius)]
        # only what overlaps at the coarse displacement and its surroundings need be correlated
        cut_a, cut_b, shift = [], [], []
        for na, nb, lo, hi in zip(prepared[0].shape, prepared[1].shape, low, high):
            a0, a1 = max(0, lo), min(na, nb + hi)
            b0, b1 = max(0, -hi), min(nb, na - lo)
            cut_a.append(slice(a0, a1))
            cut_b.append(slice(b0, b1))
            shift.append(a0 - b0)
        a, b = prepared[0][tuple(cut_a)], prepared[1][tuple(cut_b)]
        if min(a.shape) < 1 or min(b.shape) < 1:
            maps.append(None)
            continue
        low = [lo - s for lo, s in zip(low, shift)]
        high = [hi - s for hi, s in zip(high, shift)]
        # not the score: its slope would pull the maximum towards the larger overlap
        _, ncc = _correlation(a, b, low, high)
        total = total + math.sqrt(a.size) * ncc
        maps.append(ncc)
    if not isinstance(total, np.ndarray):
        return None
    index, _, _ = _best_peak(total, total)
    if total[index] <= 0 or any(n > 2 and i in (0, n - 1) for i, n in zip(index, total.shape)):
        return None
    place = _subvoxel(total, index)
    origin = coarse - np.array(radius)
    displ = origin + place
    own = []
    for ncc in maps:
        own.append(None)
        if ncc is None:
            continue
        near = tuple(slice(max(0, i - 2), i + 3) for i in index)
        local = np.unravel_index(int(np.argmax(ncc[near])), ncc[near].shape)
        at = tuple(int(k + s.start) for k, s in zip(local, near))
        if all(n < 3 or 0 < i < n - 1 for i, n in zip(at, ncc.shape)):
            own[-1] = origin + _subvoxel(ncc, at)
    good = np.array([o for o in own if o is not None])
    sigma = np.full(3, 0.25)
    if len(good) >= 2:
        spread = 1.4826 * np.median(np.abs(good - displ), axis=0)
        sigma = np.maximum(spread / math.sqrt(len(good)), 0.02)
    sigma[np.array(radius) == 0] = 0.0
    peaks = [m[index] for m in maps if m is not None]
    return displ, sigma, float(np.mean(peaks)), own


def _subvoxel(values: np.ndarray, index) -> np.ndarray:
    """Position of the maximum near ``index`` of the cubic spline through ``values``."""
    place = np.array(index, float)
    axes = [k for k, n in enumerate(values.shape) if n >= 3]
    spline = ndimage.spline_filter(values, order=3, mode="mirror")
    step = 0.5
    for _ in range(8):
        points = [place]
        for k in axes:
            for sign in (-1, 1):
                point = place.copy()
                point[k] += sign * step
                points.append(point)
        f = ndimage.map_coordinates(
            spline, np.array(points).T, order=3, mode="mirror", prefilter=False
        )
        for j, k in enumerate(axes):
            before, after = f[1 + 2 * j], f[2 + 2 * j]
            curve = before - 2 * f[0] + after
            if curve < 0:
                place[k] += float(np.clip(0.5 * step * (before - after) / curve, -step, step))
        step = max(0.05, step / 1.6)
    return np.clip(place, np.array(index) - 1.0, np.array(index) + 1.0)


# ---------------------------------------------------------------------- nominal positions
def _cells(acquisition: Acquisition) -> dict[tuple[int, int], str]:
    cells: dict[tuple[int, int], str] = {}
    for tile in acquisition.tiles:
        if (tile.row, tile.column) in cells:
            raise StitchingError(
                f"tiles {cells[tile.row, tile.column]} and {tile.name} are both at row {tile.row}, "
                f"column {tile.column}; remove one of them"
            )
        cells[tile.row, tile.column] = tile.name
    return cells


def _expected(acquisition, a, b, direction, settings) -> tuple[float, float, float]:
    if direction not in DIRECTIONS:
        raise StitchingError(f"direction {direction!r} is not one of EAST, SOUTH")
    own = settings.step_east_vox if direction == "EAST" else settings.step_south_vox
    if own is not None:
        return tuple(float(v) for v in own)
    origin = {t.name: t.origin_vox for t in acquisition.tiles}
    for name in (a, b):
        if name not in origin:
            raise StitchingError(f"tile {name} is not in the acquisition; run index_acquisition")
    return tuple(float(q - p) for p, q in zip(origin[a], origin[b]))


def _nominal_step(acquisition, pairs) -> np.ndarray:
    origin = {t.name: np.array(t.origin_vox, float) for t in acquisition.tiles}
    return np.median([origin[b] - origin[a] for a, b, _ in pairs], axis=0)


def _spread(items: list, number: int) -> list:
    if len(items) <= number:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, number).round()]


def _whole_tile_vote(source, shape, pair, settings):
    """(displacement, score, bin, lags) of whole planes at every plausible step, or None."""
    a, b, direction = pair
    axis = _SEAM_AXIS[direction]
    planes = min(shape[0], 16)
    z0 = (shape[0] - planes) // 2
    k = max(1, min(shape[1:]) // 192)
    bins = (1, k, k)
    raw = [source.read(name, z0, z0 + planes, slice(None), slice(None)) for name in (a, b)]
    levels = _levels(raw, settings.dark)
    images, signal = zip(*(_prepare(_bin(r, bins), levels) for r in raw))
    if not all(signal):
        return None
    deep = 0 if shape[0] < 4 else planes // 2
    low, high = [-deep, 0, 0], [deep, 0, 0]
    for n_axis in (1, 2):
        n = images[0].shape[n_axis]
        low[n_axis], high[n_axis] = -round(0.12 * n) - 1, round(0.12 * n) + 1
        if n_axis == axis:
            low[n_axis], high[n_axis] = round(0.4 * n) - 1, round(0.96 * n) + 1
    score, ncc = _correlation(*images, low, high)
    index, _, _ = _best_peak(score, ncc)
    value = float(score[index])
    if value <= 0:
        return None
    displ = (_subvoxel(ncc, index) + np.array(low)) * np.array(bins)
    # how far the peak stands out of the map, in standard deviations
    clear = value / max(float(score.std()), 1e-12)
    return displ, clear, np.array(bins, float), np.array(score.shape, float)


def _tuple(value):
    if isinstance(value, list):
        return tuple(_tuple(v) for v in value)
    return value
