"""The estimate behind :mod:`terareg.intensity.flatfield`: profile, gains and dark offset.

The smooth part (by :mod:`terareg.intensity.equations`) and fixed line patterns are fitted in turn.
The dark offset is the one at which bright and dark tissue in the overlaps give the same profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import dct, idct

from terareg.acquisition.tile_correction import smooth_image
from terareg.intensity.additive import Floor, find_floor
from terareg.intensity.blocks import Basis, BlockData, LinePatterns, block_means
from terareg.intensity.equations import RELATIVE_FLOOR, Fit, ShadingProblem, solve
from terareg.intensity.slope import Slope, find_slope, with_slope
from terareg.intensity.sums import line_sections

_LINE_LAGS = (1, 2, 4, 8)  # pixels
_LEAST_SHAPE = 2.0  # counts; smaller deviations of the level from the constant model are ignored
_NOTHING_LEFT = 0.15  # disagreement of overlaps up to which a constant explains them
_BETTER = 0.9  # largest disagreement with an additive image, relative to that with a constant
# factor on the error, since haze and dust change the level of many neighbouring blocks at once
_NEIGHBOURS = 4.0
_MARGIN = 3.0  # standard deviations of noise kept above 0 where there is no tissue
_LEAST_SPREAD = 10.0  # counts, by which the darkest blocks may lie above the dark offset


@dataclass(frozen=True)
class Shading:
    """Result of :func:`fit_shading`.

    Attributes
    ----------
    profile : numpy.ndarray of float32, shape (y, x)
        Mean 1.
    background : float
        Dark offset, counts; with an additive image its mean.
    background_from : str
        "given", "overlaps", "darkest blocks" or "tiles without tissue".
    background_error : float or None
        Standard error of the dark offset, counts, where it was found from overlaps.
    additive : numpy.ndarray of float64, shape (blocks y, blocks x), or None
        Additive image beside ``background`` at the centres of blocks, mean 0.
    gains : numpy.ndarray of float64, shape (tiles, slabs)
        Relative brightness of tiles at each depth; the tile's mean where overlaps do not tell.
    line_percent : tuple of float
        Standard deviation of the line patterns over rows and over columns.
    signal : float
        Median of what tissue adds to background and additive image in bright blocks, counts.
    rest : numpy.ndarray of float32, shape (y, x), or None
        Level without tissue minus a constant and a multiple of the profile, counts; None where
        these explain the overlaps.
    floor : Floor or None
        Level without tissue, where tiles show none.
    disagreement : dict of str to float
        Robust mean of the squared differences in overlaps after correction, relative to noise:
        "constant", and "image" where an additive image was tried.
    problem, fit : ShadingProblem, Fit
        The equations at the end, and their solution.
    slope : Slope or None
        Slope of the profile that gains of the tiles stand for, see :mod:`terareg.intensity.slope`.
    fading : tuple of float
        Change of the log gains that this makes from row to row and from column to column.
    hidden : tuple of float
        The largest such change that would not be found; infinite where too few tiles tell of it.
    """

    profile: np.ndarray
    background: float
    background_from: str
    background_error: float | None
    additive: np.ndarray | None
    gains: np.ndarray
    line_percent: tuple[float, float]
    signal: float
    rest: np.ndarray | None
    floor: Floor | None
    disagreement: dict[str, float]
    problem: ShadingProblem
    fit: Fit
    slope: Slope | None = None
    fading: tuple[float, float] = (0.0, 0.0)
    hidden: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class _Model:
    """Profile (y, x) of one model, lines, and the problem and fit behind them."""

    profile: np.ndarray
    patterns: LinePatterns
    problem: ShadingProblem
    fit: Fit


def fit_shading(
    data: BlockData,
    stats: Mapping[str, np.ndarray],
    degree: int,
    *,
    background: float | None = None,
    lines: bool = True,
    gains: bool = True,
) -> Shading:
    """Find profile, dark offset or additive image, and gains.

    Two models are compared where the level of tiles without tissue is not a constant plus a
    multiple of the profile: a constant dark offset, found from the overlaps, and an additive image,
    found from those tiles. In the second model the profile is that of the light that tissue adds to
    the image. The model with the smaller differences in overlaps is chosen.

    Parameters
    ----------
    data : BlockData
    stats : mapping
        Statistics behind ``data``, of which the means of lines are used.
    degree : int
        Highest total degree of the smooth part.
    background : float, optional
        Dark offset in counts, where it is known; then there is no additive image.
    lines : bool
        Whether fixed line patterns are looked for.
    gains : bool
        Whether the gains of tiles may stand for a slope of the profile.

    Raises
    ------
    IntensityError
        If no tile holds signal.
    """
    basis = Basis(data.edges, degree)
    source, spread = "given", 0.0
    expected, floor = background, find_floor(data)
    if background is None:
        expected = data.lowest()
        source = "overlaps" if data.overlaps else "darkest blocks"
        spread = max(_LEAST_SPREAD, 0.5 * expected) if data.overlaps else 0.0
    data.check_signal(expected)
    none = LinePatterns(*(np.zeros(int(edges[-1])) for edges in data.edges))
    problem = ShadingProblem(data, basis, none, expected, spread, expected + 1.0)
    model = _fit_model(problem, stats, lines)
    if source == "overlaps" and model.fit.background_error > 0.5 * spread:
        source = "darkest blocks"
    left = {"constant": _disagreement(data, model)}
    additive, level = None, model.fit.background
    shape = 0.0 if floor is None else _shape_counts(floor, model)
    tried = shape and background is None and left["constant"] > _NOTHING_LEFT
    if tried:
        places = block_centres(data.edges)
        image = smooth_image(floor.level, *places, model.profile.shape).astype(np.float64)
        added = data.less(image, _NEIGHBOURS * floor.spread)
        without = replace(problem, data=added, background=0.0, spread=0.0)
        other = _fit_model(without, stats, lines, image)
        left["image"] = _disagreement(data, other)
        if left["image"] < _BETTER * left["constant"]:
            model, source = other, "tiles without tissue"
            additive = _without_medium(floor, _at_blocks(other.profile, data.edges))
            level = float(additive.mean())
            additive = additive - level
    elif shape and background is not None:
        # blocks without tissue contradict the given dark offset and get less weight accordingly
        vague = replace(data, floor_error=_NEIGHBOURS * shape)
        model = _fit_model(replace(problem, data=vague), stats, lines)
    slope, fading = find_slope(model.problem, model.fit) if data.overlaps else None, (0.0, 0.0)
    hidden = (0.0, 0.0) if slope is None else _per_step(stats, _per_pixel(slope.hidden, data))
    if slope is not None and not slope.found:
        slope = None
    if slope is not None and gains:
        model, fading = _sloped(model, slope, stats)
    rest = None
    if floor is not None and (additive is not None or (shape and background is not None)):
        _, rest = _parts_of_level(floor, _at_blocks(model.profile, data.edges))
        rest = smooth_image(rest, *block_centres(data.edges), model.profile.shape)
    known = data.valid.sum(1, keepdims=True)
    of_tile = np.where(data.valid, model.fit.gains, 0).sum(1, keepdims=True)
    of_slab = np.where(data.valid, model.fit.gains, of_tile / np.maximum(known, 1))
    return Shading(
        profile=model.profile.astype(np.float32),
        background=float(level),
        background_from=source,
        background_error=model.fit.background_scatter if source == "overlaps" else None,
        additive=additive,
        gains=np.exp(of_slab),
        line_percent=(100 * float(model.patterns.y.std()), 100 * float(model.patterns.x.std())),
        signal=_signal(model.problem.data, model.fit.background),
        rest=rest,
        floor=floor,
        disagreement=left,
        problem=model.problem,
        fit=model.fit,
        slope=slope,
        fading=fading,
        hidden=hidden,
    )


def _per_pixel(over_tile: tuple[float, float], data: BlockData) -> tuple[float, float]:
    y, x = (value / int(edges[-1]) for value, edges in zip(over_tile, data.edges))
    return y, x


def _per_step(
    stats: Mapping[str, np.ndarray], per_pixel: tuple[float, float]
) -> tuple[float, float]:
    """A change per pixel along y and x as one from row to row and from column to column.

    0 along an axis with one row, or column, of tiles.
    """
    cells, positions = stats["grid"], _positions(stats)
    found = []
    for axis, change in enumerate(per_pixel):
        steps = int(np.ptp(cells[:, axis]))
        found.append(change * float(np.ptp(positions[:, axis])) / steps if steps else 0.0)
    return found[0], found[1]


def _positions(stats: Mapping[str, np.ndarray]) -> np.ndarray:
    """First pixels y and x of the tiles, (tiles, 2)."""
    places = {(row, column): place for row, column, _, *place in stats["places"].tolist()}
    return np.array([places[tuple(cell)] for cell in stats["grid"].tolist()], float)


def _sloped(
    model: _Model, slope: Slope, stats: Mapping[str, np.ndarray]
) -> tuple[_Model, tuple[float, float]]:
    """The model with a slope of its profile changed, and log gains per row and per column."""
    fit, per_pixel = with_slope(model.problem, model.fit, slope, _positions(stats))
    profile = np.exp(model.problem.basis.pixels(fit.coefficients) + model.patterns.pixels())
    found = replace(model, profile=profile / profile.mean(), fit=fit)
    return found, _per_step(stats, per_pixel)


def _signal(data: BlockData, background: float) -> float:
    """Median of the blocks brighter than a tenth of the brightest, counts."""
    signal = data.mean[data.valid] - background
    return float(np.median(signal[signal >= 0.1 * np.quantile(signal, 0.99)]))


def _fit_model(
    problem: ShadingProblem,
    stats: Mapping[str, np.ndarray],
    lines: bool,
    additive: np.ndarray | None = None,
) -> _Model:
    """Fit smooth part and line patterns in turn, each with the other held fixed."""
    fit = solve(problem)
    patterns = problem.lines
    for _ in range(2 if lines else 0):
        parts = [_line(stats, axis, problem.basis, fit, additive) for axis in (0, 1)]
        patterns = LinePatterns(*(line for line, _ in parts))
        problem = replace(problem, lines=patterns)
        power = [value for _, value in parts]
        if not any(power):
            break
        fit = solve(problem, fit, power)
    profile = np.exp(problem.basis.pixels(fit.coefficients) + patterns.pixels())
    return _Model(profile / profile.mean(), patterns, problem, fit)


def block_centres(edges: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates of the centres of blocks."""
    y, x = ((e[1:] + e[:-1] - 1) / 2 for e in edges)
    return y, x


def _at_blocks(image: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return block_means(image, *(e[None] for e in edges))[0]


def _parts_of_level(floor: Floor, profile: np.ndarray) -> tuple[float, np.ndarray]:
    """The level as ``offset + medium * profile + rest``: the medium, not below 0, and the rest."""
    seen = np.isfinite(floor.error)
    design = np.stack([np.ones(seen.sum()), profile[seen]], axis=1)
    medium = float(np.linalg.lstsq(design, floor.level[seen], rcond=None)[0][1])
    medium = max(0.0, medium)
    rest = floor.level - medium * profile
    return medium, rest - rest[seen].mean()


def _shape_counts(floor: Floor, model: _Model) -> float:
    """Level beyond a constant and a multiple of the profile, rms counts; 0 if within its error."""
    _, rest = _parts_of_level(floor, _at_blocks(model.profile, model.problem.data.edges))
    seen = np.isfinite(floor.error)
    size = float(np.sqrt(np.mean(rest[seen] ** 2)))
    error = float(np.sqrt(np.mean(floor.error[seen] ** 2)))
    return size if size > max(_LEAST_SHAPE, 3 * error) else 0.0


def _without_medium(floor: Floor, profile: np.ndarray) -> np.ndarray:
    """Level without the light of the medium, or lower, so that noise is not cut off at 0."""
    medium, _ = _parts_of_level(floor, profile)
    margin = _MARGIN * float(np.hypot(floor.noise, floor.spread)) / float(np.median(profile))
    return floor.level - max(medium, margin) * profile


def _disagreement(data: BlockData, model: _Model) -> float:
    """Mean over overlaps of log(1 + squared difference / variance), in counts.

    Empty blocks count as well. The variance does not depend on the model.
    """
    total, count = 0.0, 0
    for index, overlap in enumerate(data.overlaps):
        mine = model.problem.data.overlaps[index]
        scale = np.exp(0.5 * model.problem.ratio(model.fit, index)).astype(np.float32)
        dark = np.float32(model.fit.background)
        difference = (mine.mean[0] - dark) / scale - (mine.mean[1] - dark) * scale
        variance = overlap.error[0] ** 2 + overlap.error[1] ** 2 + np.float32(1)
        variance += (0.5 * RELATIVE_FLOOR * (overlap.mean[0] + overlap.mean[1])) ** 2
        cost = np.log1p(difference**2 / variance)[overlap.valid]
        total, count = total + float(cost.sum(dtype=np.float64)), count + cost.size
    return total / max(count, 1)


def _line(
    stats: Mapping[str, np.ndarray],
    axis: int,
    basis: Basis,
    fit: Fit,
    additive: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """Log line profile along one axis, without the part that the smooth part can represent.

    It is estimated from each half of the tiles. In each octave, what the halves do not share is
    noise: lines that both show are kept with the weight of a Wiener filter, others are dropped.
    """
    values = stats["rows" if axis == 0 else "columns"].astype(np.float64) - fit.background
    smooth = basis.pixels(fit.coefficients)
    cuts = line_sections(smooth.shape[1 - axis])
    if additive is not None:
        means = np.add.reduceat(additive, cuts[:-1], axis=1 - axis)
        values -= (means if axis == 1 else means.T) / np.diff(cuts)[:, None]
    seen = (stats["line_planes"] > 0)[..., None, None] & (values > 0)
    means = np.add.reduceat(np.exp(smooth), cuts[:-1], axis=1 - axis)
    model = np.log(means if axis == 1 else means.T)
    tissue = 0.1 * np.quantile(values, 0.99)
    log = np.where(seen & (values > tissue), np.log(np.maximum(values, 1e-3)) - model, np.nan)
    # neighbouring tiles share tissue, so each half is one part of the grid
    middle = len(log) // 2 if len(log) > 1 else None
    halves = (log[:middle], log[middle:]) if middle else (log[:, ::2], log[:, 1::2])
    one, two, both = (
        dct(_robust_line(part.reshape(-1, part.shape[-1]), basis.axes[axis]), norm="ortho")
        for part in (*halves, log)
    )
    start = basis.degree + 1
    while start < len(both):
        band = slice(start, min(2 * start, len(both)))
        power = 0.5 * float(np.sum(one[band] ** 2) + np.sum(two[band] ** 2))
        shared = float(np.sum(one[band] * two[band])) / power if power > 0 else 0.0
        # few coefficients agree by chance more easily than many do
        certain = shared > max(0.5, 2.4 / np.sqrt(band.stop - band.start))
        both[band] *= 2 * shared / (1 + shared) if certain else 0.0
        start *= 2
    both[: basis.degree + 1] = 0.0
    lowest = both[basis.degree + 1 : 4 * (basis.degree + 1)]
    return idct(both, norm="ortho"), float(np.mean(lowest**2)) / len(both)


def _robust_line(log: np.ndarray, polynomials: np.ndarray) -> np.ndarray:
    """Line whose differences are, in least squares, the medians of the differences of all lines."""
    size = log.shape[1]
    matrix, right = 1e-6 * np.eye(size), np.zeros(size)
    for lag in _LINE_LAGS:
        if lag >= size:
            continue
        difference = log[:, lag:] - log[:, :-lag]
        count = np.isfinite(difference).sum(0)
        index = np.flatnonzero(count >= 4)
        ranked = np.sort(difference.T[index], axis=1)  # NaN come last
        places = np.stack([(count[index] - 1) // 2, count[index] // 2], axis=1)
        median = np.zeros(size - lag)
        median[index] = np.take_along_axis(ranked, places, axis=1).mean(1)
        np.add.at(right, index + lag, median[index])
        np.add.at(right, index, -median[index])
        for i, j, sign in ((0, 0, 1), (lag, lag, 1), (0, lag, -1), (lag, 0, -1)):
            np.add.at(matrix, (index + i, index + j), sign)
    line = np.linalg.solve(matrix, right)
    # Legendre polynomials up to the basis' degree belong to the smooth part
    orthogonal = np.linalg.qr(polynomials.T)[0]
    return line - orthogonal @ (orthogonal.T @ line)
