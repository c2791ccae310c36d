"""The estimate behind :mod:`terareg.intensity.flatfield`: profile, gains and dark offset.

The smooth part is solved by :mod:`terareg.intensity.equations` beside fixed line patterns, in turn;
the dark offset is the one at which bright and dark tissue agree on the profile in the overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, idct
from scipy.optimize import minimize_scalar

from terareg.intensity.blocks import Basis, BlockData, LinePatterns
from terareg.intensity.equations import RELATIVE_FLOOR, Fit, make_equations, solve
from terareg.intensity.sums import line_sections

_LINE_LAGS = (1, 2, 4, 8)  # pixels


@dataclass(frozen=True)
class Shading:
    """What :func:`fit_shading` finds.

    Attributes
    ----------
    profile : numpy.ndarray of float32, shape (y, x)
        Mean 1.
    background : float
        Dark offset, counts.
    background_from : str
        "given", "overlaps" or "darkest blocks".
    gains : numpy.ndarray of float64, shape (tiles,)
        Relative brightness of the tiles, 1 where overlaps do not tell.
    slab_gains : numpy.ndarray of float64, shape (tiles, slabs)
        The same for each depth of a tile; that of the tile where overlaps do not tell.
    line_percent : tuple of float
        Standard deviation of the line patterns over rows and over columns.
    """

    profile: np.ndarray
    background: float
    background_from: str
    gains: np.ndarray
    slab_gains: np.ndarray
    line_percent: tuple[float, float]


def fit_shading(
    data: BlockData,
    stats: Mapping[str, np.ndarray],
    degree: int,
    *,
    background: float | None = None,
    lines: bool = True,
) -> Shading:
    """Find profile, dark offset and gains.

    Parameters
    ----------
    data : BlockData
    stats : mapping
        The same statistics, of which the means of lines are used.
    degree : int
        Highest total degree of the smooth part.
    background : float, optional
        Dark offset in counts, where it is known.
    lines : bool
        Whether fixed line patterns are looked for.

    Raises
    ------
    IntensityError
        If no tile holds signal.
    """
    basis = Basis(data.edges, degree)
    source = "given"
    if background is None:
        background, source = data.lowest(), "darkest blocks"
        data.check_signal(background)
        searched = _search_background(data, basis, background)
        if searched is not None:
            background, source = searched, "overlaps"
    data.check_signal(background)
    patterns = LinePatterns(*(np.zeros(int(edges[-1])) for edges in data.edges))
    power = [0.0, 0.0]
    # lines need the smooth part and the smooth part is fitted beside the lines: in turn
    for _ in range(3 if lines else 1):
        equations = make_equations(data, basis, background, patterns)
        fit = solve(data, basis, equations, line_power=power)
        if lines:
            found = [_line(stats, axis, background, basis, fit.coefficients) for axis in (0, 1)]
            patterns, power = (
                LinePatterns(*(line for line, _ in found)),
                [value for _, value in found],
            )
    profile = np.exp(basis.pixels(fit.coefficients) + patterns.pixels())
    profile = (profile / profile.mean()).astype(np.float32)
    known = data.valid.sum(1)
    gains = np.exp(np.where(data.valid, fit.gains, 0).sum(1) / np.maximum(known, 1))
    return Shading(
        profile=profile,
        background=float(background),
        background_from=source,
        gains=gains,
        slab_gains=np.exp(fit.gains),
        line_percent=(100 * float(patterns.y.std()), 100 * float(patterns.x.std())),
    )


def _search_background(data: BlockData, basis: Basis, highest: float) -> float | None:
    """Dark offset at which bright and dark tissue agree on the profile in the overlaps.

    None where the overlaps do not tell.
    """
    none = LinePatterns(*(np.zeros(int(edges[-1])) for edges in data.edges))
    start: list[Fit | None] = [None]

    def cost(background: float) -> float:
        equations = make_equations(data, basis, background, none)
        fit = solve(data, basis, equations, start[0])
        start[0] = start[0] or fit
        return _disagreement(data, background, fit, basis)

    highest += 1.0
    coarse = np.linspace(0.0, highest, 9)[::-1]
    costs = [cost(float(value)) for value in coarse]
    if max(costs) - min(costs) < 1e-3 * max(costs) or max(costs) == 0:
        return None
    best = int(np.argmin(costs))
    low, high = coarse[min(best + 1, 8)], coarse[max(best - 1, 0)]
    found = minimize_scalar(
        cost, bounds=(low, high), method="bounded", options={"xatol": 0.1, "maxiter": 25}
    )
    return float(found.x)


def _disagreement(data: BlockData, background: float, fit: Fit, basis: Basis) -> float:
    """Robust sum of squares over overlaps, in counts, so that empty blocks count as well."""
    gains = np.exp(fit.gains)[..., None, None]
    total = 0.0
    for index, overlap in enumerate(data.overlaps):
        tiles = overlap.first, overlap.second
        # each side is brought to the geometric mean of both sensitivities
        scales = [
            (gains[t] * np.exp(np.tensordot(fit.coefficients, basis.over(e), 1))[:, None])
            for t, e in zip(tiles, overlap.edges)
        ]
        ratio = np.sqrt(scales[1] / scales[0])
        if fit.stripes:
            ratio = ratio * np.exp(-0.5 * fit.stripes[index].of_blocks())
        ratio = ratio.astype(np.float32)
        x = (overlap.mean[0] - np.float32(background)) * ratio
        y = (overlap.mean[1] - np.float32(background)) / ratio
        variance = (overlap.error[0] * ratio) ** 2 + (overlap.error[1] / ratio) ** 2
        variance += (0.5 * RELATIVE_FLOOR * (x + y)) ** 2
        valid = overlap.valid[..., None, None]
        total += float(np.where(valid, np.log1p((x - y) ** 2 / variance), 0).sum(dtype=np.float64))
    return total


def _line(
    stats: Mapping[str, np.ndarray],
    axis: int,
    background: float,
    basis: Basis,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Log line profile along one axis, free of what the smooth part can hold.

    Estimated from each half of the tiles. Octave by octave, what the halves do not share is
    noise: a line that both show is kept with the weight of a Wiener filter, any other dropped.
    """
    values = stats["rows" if axis == 0 else "columns"].astype(np.float64) - background
    seen = (stats["line_planes"] > 0)[..., None, None] & (values > 0)
    smooth = basis.pixels(coefficients)
    cuts = line_sections(smooth.shape[1 - axis])
    means = np.add.reduceat(np.exp(smooth), cuts[:-1], axis=1 - axis)
    model = np.log(means if axis == 1 else means.T)
    tissue = 0.1 * np.quantile(values, 0.99)
    log = np.where(seen & (values > tissue), np.log(np.maximum(values, 1e-3)) - model, np.nan)
    # tiles that are neighbours share tissue, so the halves are two parts of the grid
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
        # few coefficients agree by chance more easily than many
        certain = shared > max(0.5, 2.4 / np.sqrt(band.stop - band.start))
        both[band] *= 2 * shared / (1 + shared) if certain else 0.0
        start *= 2
    both[: basis.degree + 1] = 0.0
    lowest = both[basis.degree + 1 : 4 * (basis.degree + 1)]
    return idct(both, norm="ortho"), float(np.mean(lowest**2)) / len(both)


def _robust_line(log: np.ndarray, polynomials: np.ndarray) -> np.ndarray:
    """Line whose differences are the medians of the lines' differences, least squares."""
    size = log.shape[1]
    matrix, right = 1e-6 * np.eye(size), np.zeros(size)
    for lag in _LINE_LAGS:
        if lag >= size:
            continue
        difference = log[:, lag:] - log[:, :-lag]
        enough = np.isfinite(difference).sum(0) >= 4
        median = np.zeros(size - lag)
        if enough.any():
            median[enough] = np.nanmedian(difference[:, enough], axis=0)
        index = np.flatnonzero(enough)
        np.add.at(right, index + lag, median[index])
        np.add.at(right, index, -median[index])
        for i, j, sign in ((0, 0, 1), (lag, lag, 1), (0, lag, -1), (lag, 0, -1)):
            np.add.at(matrix, (index + i, index + j), sign)
    line = np.linalg.solve(matrix, right)
    # Legendre polynomials up to the basis' degree belong to the smooth part
    orthogonal = np.linalg.qr(polynomials.T)[0]
    return line - orthogonal @ (orthogonal.T @ line)
