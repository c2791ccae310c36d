"""Flat-field of a microscope, estimated from its own tiles.

A raw pixel of tile n is ``background + gain_n * profile(y, x) * tissue + noise``: a dark offset, the
illumination profile that all tiles share, and a brightness that may drift from tile to tile. The
mean tile of a brain is not flat, so no average of tiles is the profile. Two facts are used instead,
both as differences of log intensity in which most of the tissue cancels:

* within a tile, pixels a few blocks apart: tissue changes them by heavy-tailed amounts of either
  sign, the profile by the same amount in every tile and plane (a robust location recovers it;
  after Weiss, "Deriving intrinsic images from image sequences", ICCV 2001);
* in the overlap of two tiles: the tissue is the same, so the difference is the profile's alone, and
  it agrees for bright and for dark tissue only if the dark offset is right.

The smooth profile is exp(Legendre series) with a roughness prior whose strength is found from the
data; fixed lines of the sheet or the camera are a second factor along each axis.

:func:`sum_tiles` streams tiles into small statistics, kept per tile so that batches of tiles merge
to identical results whatever the batches; :func:`estimate_flatfield` needs nothing else.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.polynomial import legendre
from scipy.fft import dct, idct
from scipy.optimize import minimize_scalar

from terareg.acquisition.tiles import Flatfield
from terareg.errors import ConfigError, IntensityError
from terareg.storage.records import write_json
from terareg.storage.store import write_atomic

logger = logging.getLogger(__name__)

_METHODS = ("statistics", "image", "none")
_LAGS = (1, 2, 4)  # blocks between the two pixels of a difference within a tile
_LINE_LAGS = (1, 2, 4, 8)  # pixels
# differences within a tile are not independent of each other: this is what one of them counts
_TISSUE_WEIGHT = 0.02
_FLOOR = 0.004  # relative error that no block mean falls below
_DARK_ERROR = 1.0  # counts; how well the dark offset can be known
_SECTIONS = 8  # parts of a line, so that a bright spot spoils one of them only
_LINE_SLABS = 4


@dataclass(frozen=True)
class FlatfieldSettings:
    """How the flat-field of a channel is found.

    Attributes
    ----------
    method : str
        "statistics" (from the tiles), "image" (``image`` is the profile), or "none" (flat).
    tiles : str or int
        "all", or n for every n-th tile of the acquisition, see :func:`sample_tiles`.
    planes : int
        Planes read per tile, evenly spaced; 0 reads all.
    slabs : int
        Depth ranges whose planes are averaged before tiles are compared.
    blocks : int
        Blocks along each axis of a tile in which pixels are averaged.
    degree : int
        Highest total degree of the smooth part.
    lines : bool
        Whether fixed line patterns along the axes are estimated.
    overlaps : bool
        Whether overlaps of neighbours at their nominal positions are used.
    background : float or None
        Dark offset in counts; None estimates it.
    image : str or None
        TIFF of a user's own profile, any positive scale, for ``method="image"``.
    """

    method: str = "statistics"
    tiles: str | int = "all"
    planes: int = 64
    slabs: int = 16
    blocks: int = 32
    degree: int = 8
    lines: bool = True
    overlaps: bool = True
    background: float | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError(
                f"flat-field method {self.method!r} is unknown; use one of {', '.join(_METHODS)}"
            )
        if self.tiles != "all" and (not isinstance(self.tiles, int) or self.tiles < 1):
            raise ConfigError(
                f"flat-field tiles {self.tiles!r} is not a choice; write all, or n >= 1 for "
                "every n-th tile"
            )
        for name, low in (("planes", 0), ("slabs", 1), ("blocks", 4), ("degree", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"flat-field {name} {value!r} is below {low}; raise it")
        if self.background is not None and not 0 <= self.background < np.inf:
            raise ConfigError(
                f"flat-field background {self.background} counts is impossible; give a number "
                "from 0, or leave it out to have it estimated"
            )
        if (self.method == "image") != (self.image is not None):
            raise ConfigError(
                f"flat-field method {self.method!r} and image {self.image!r} contradict each "
                "other; method image, and no other, needs the path of a TIFF"
            )


def sample_tiles(acquisition: Any, settings: FlatfieldSettings) -> list[str]:
    """Names of the tiles whose statistics are wanted, in the acquisition's order."""
    step = 1 if settings.tiles == "all" else settings.tiles
    return [tile.name for tile in acquisition.tiles][::step]


def sum_tiles(
    source: Any, tiles: Sequence[str], settings: FlatfieldSettings | None = None
) -> dict[str, np.ndarray]:
    """Stream the planes of some tiles into statistics; memory of a few planes.

    Parameters
    ----------
    source : terareg.acquisition.tiles.TileSource
        Raw pixels (no flat-field applied).
    tiles : sequence of str
        Names of tiles. The statistics of a tile do not depend on the others.
    settings : FlatfieldSettings, optional

    Returns
    -------
    dict of str to numpy.ndarray
        What :func:`estimate_flatfield` merges. n tiles, s slabs, (b, c) blocks, (y, x) pixels:

        =================== ============================ ==========================================
        tiles               str (n,)                     names
        grid                int64 (n, 2)                 row, column
        steps               int64 (2,)                   nominal distance of neighbours, y and x,
                                                         pixels; -1 where there are none
        edges_y, edges_x    int64 (b + 1,), (c + 1,)     where the blocks begin and end, pixels
        planes              int64 (n, s)                 planes averaged; blank ones do not count
        mean                float32 (n, s, b, c)         mean of the block, counts
        error               float32 (n, s, b, c)         standard error of that mean, counts
        rows, columns       float32 (n, 4, 8, y or x)    means of eighths of each pixel row and
                                                         column, counts
        line_planes         int64 (n, 4)                 planes averaged in these
        =================== ============================ ==========================================
    """
    settings = settings or FlatfieldSettings()
    acquisition = source.acquisition
    depth, height, width = acquisition.tile_shape
    steps = _nominal_steps(acquisition)
    edges = [_block_edges(n, s, settings.blocks) for n, s in zip((height, width), steps)]
    number = min(settings.planes, depth) if settings.planes else depth
    chosen = ((np.arange(number) + 0.5) * depth / number).astype(int)
    slabs = min(settings.slabs, number)
    parts = [_tile_sums(source, name, chosen, slabs, edges) for name in tiles]
    grid = [(acquisition.tile(name).row, acquisition.tile(name).column) for name in tiles]
    sums = {
        "tiles": np.array(list(tiles), dtype=np.str_),
        "grid": np.array(grid, np.int64).reshape(-1, 2),
        "steps": np.array(steps, np.int64),
        "edges_y": edges[0],
        "edges_x": edges[1],
    }
    for key in _PER_TILE[2:]:
        sums[key] = np.stack([part[key] for part in parts]) if parts else np.zeros((0,))
    return sums


_PER_TILE = (
    "tiles", "grid", "planes", "mean", "error", "rows", "columns", "line_planes",
)  # fmt: skip
_SHARED = ("steps", "edges_y", "edges_x")


def _tile_sums(
    source: Any, name: str, chosen: np.ndarray, slabs: int, edges: list[np.ndarray]
) -> dict[str, np.ndarray]:
    rows, columns = edges
    height, width = int(rows[-1]), int(columns[-1])
    area = np.outer(np.diff(rows), np.diff(columns)).astype(np.float64)
    groups = min(_LINE_SLABS, slabs)
    section_y, section_x = (_sections(n) for n in (height, width))
    total, square = np.zeros((2, slabs, *area.shape))
    in_rows = np.zeros((groups, len(section_x) - 1, height))
    in_columns = np.zeros((groups, len(section_y) - 1, width))
    planes, line_planes = np.zeros(slabs, np.int64), np.zeros(groups, np.int64)
    for k, z in enumerate(chosen.tolist()):
        plane = source.read(name, z, z + 1)[0].astype(np.float64)
        if plane.shape != (height, width):
            raise IntensityError(
                f"{name}: plane {z} has shape {plane.shape}, other planes ({height}, {width}); "
                "replace the plane"
            )
        if plane.min() == plane.max():  # a missing plane that was filled in
            continue
        slab = k * slabs // len(chosen)
        group = slab * groups // slabs
        total[slab] += _block_sums(plane, edges)
        square[slab] += _block_sums(plane * plane, edges)
        in_rows[group] += np.add.reduceat(plane, section_x[:-1], axis=1).T
        in_columns[group] += np.add.reduceat(plane, section_y[:-1], axis=0)
        planes[slab] += 1
        line_planes[group] += 1
    pixels = np.maximum(planes, 1)[:, None, None] * area
    mean = total / pixels
    # rounding to integers alone has variance 1/12
    variance = np.maximum(square / pixels - mean * mean, 1 / 12)
    lines = np.maximum(line_planes, 1)[:, None, None]
    return {
        "planes": planes,
        "mean": mean.astype(np.float32),
        "error": np.sqrt(variance / pixels).astype(np.float32),
        "rows": (in_rows / (lines * np.diff(section_x)[:, None])).astype(np.float32),
        "columns": (in_columns / (lines * np.diff(section_y)[:, None])).astype(np.float32),
        "line_planes": line_planes,
    }


def _block_sums(plane: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    return np.add.reduceat(np.add.reduceat(plane, edges[0][:-1], axis=0), edges[1][:-1], axis=1)


def _sections(size: int) -> np.ndarray:
    return np.unique(np.arange(_SECTIONS + 1) * size // _SECTIONS)


def _block_edges(size: int, step: int, blocks: int) -> np.ndarray:
    """Where blocks begin along an axis of ``size`` pixels, and the end of the last.

    The blocks of the strip that a tile shares with its next neighbour are those of the
    neighbour's opposite strip moved by ``step``, so that overlaps compare equal pixels.
    """
    wanted = max(1.0, size / blocks)
    cuts = {0, size}
    if 0 < step < size:
        strip = min(size - step, step)
        inner = strip * np.arange(max(1, round(strip / wanted)) + 1) // max(1, round(strip / wanted))
        cuts |= set(inner.tolist()) | set((inner + step).tolist())
    edges = []
    ordered = sorted(cuts)
    for a, b in zip(ordered, ordered[1:]):
        number = max(1, round((b - a) / wanted))
        edges += (a + (b - a) * np.arange(number) // number).tolist()
    return np.array([*edges, size], np.int64)


def _nominal_steps(acquisition: Any) -> tuple[int, int]:
    """Median distance of row and column neighbours at their stage positions, in pixels."""
    steps = []
    for axis, move in ((1, (1, 0)), (2, (0, 1))):
        place = {(t.row, t.column): t.origin_vox[axis] for t in acquisition.tiles}
        apart = [
            place[row + move[0], column + move[1]] - origin
            for (row, column), origin in place.items()
            if (row + move[0], column + move[1]) in place
        ]
        steps.append(round(float(np.median(apart))) if apart else -1)
    return steps[0], steps[1]


def save_sums(path: str | os.PathLike, sums: Mapping[str, np.ndarray]) -> None:
    """Write statistics as ``.npz`` without pickle; equal statistics give equal bytes."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{key: sums[key] for key in sorted(sums)})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())


def load_sums(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what :func:`save_sums` wrote; anything else is an :class:`IntensityError`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            sums = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise IntensityError(
            f"{path}: tile statistics cannot be read ({error}); delete the file and run again"
        ) from error
    missing = sorted({*_PER_TILE, *_SHARED} - set(sums))
    if missing:
        raise IntensityError(
            f"{path}: {missing[0]} is missing from the tile statistics; delete the file and run "
            "again"
        )
    return sums


def merge_sums(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the statistics of batches, tiles in the order of the grid.

    Raises
    ------
    IntensityError
        No tile at all, a tile twice, or batches of different acquisitions or settings.
    """
    parts = [part for part in parts if len(part["tiles"])]
    if not parts:
        raise IntensityError("no tile statistics were given; the flat-field needs at least a tile")
    first = parts[0]
    for part in parts[1:]:
        same = all(np.array_equal(part[key], first[key]) for key in _SHARED)
        same &= all(part[key].shape[1:] == first[key].shape[1:] for key in _PER_TILE[2:])
        if not same:
            raise IntensityError(
                f"tile statistics of {part['tiles'][0]} and {first['tiles'][0]} come from "
                "different acquisitions or settings; delete the statistics and run again"
            )
    merged = {key: np.concatenate([part[key] for part in parts]) for key in _PER_TILE}
    order = np.lexsort((merged["tiles"], merged["grid"][:, 1], merged["grid"][:, 0]))
    merged = {key: value[order] for key, value in merged.items()}
    names, times = np.unique(merged["tiles"], return_counts=True)
    if times.max() > 1:
        raise IntensityError(
            f"tile {names[times > 1][0]} occurs twice in the tile statistics; give each tile once"
        )
    for key in ("mean", "error", "rows", "columns"):
        if not np.isfinite(merged[key]).all():
            bad = merged["tiles"][~np.isfinite(merged[key]).reshape(len(order), -1).all(1)][0]
            raise IntensityError(
                f"tile {bad}: its statistics hold values that are not finite; delete them and "
                "run again"
            )
    return merged | {key: first[key] for key in _SHARED}


def estimate_flatfield(
    sums: Sequence[Mapping[str, np.ndarray]], settings: FlatfieldSettings | None = None
) -> tuple[Flatfield, dict[str, Any]]:
    """Estimate profile and dark offset of one channel.

    Parameters
    ----------
    sums : sequence of dict
        Results of :func:`sum_tiles`; their order and how tiles were shared among them do not
        matter.
    settings : FlatfieldSettings, optional

    Returns
    -------
    flatfield : Flatfield
        ``corrected = (raw - background) / profile``; the profile has mean 1.
    info : dict
        JSON-able: what was used, how the background was found, and how well overlaps agree
        before and after (``seam_percent``, None without overlaps that hold tissue).

    Raises
    ------
    IntensityError
        No tile holds signal, statistics that do not fit together, or an unusable image.
    """
    settings = settings or FlatfieldSettings()
    stats = merge_sums(sums)
    shape = int(stats["edges_y"][-1]), int(stats["edges_x"][-1])
    data = _Data.of(stats, settings.overlaps)
    info: dict[str, Any] = {
        "method": settings.method,
        "tiles": len(stats["tiles"]),
        "planes": int(stats["planes"].sum()),
        "warnings": [],
    }
    if settings.method == "statistics":
        profile, background = _from_statistics(data, stats, settings, info)
    else:
        profile = (
            read_profile(settings.image, shape) if settings.image else np.ones(shape, np.float32)
        )
        background = settings.background
        source = "given"
        if background is None:
            background, source = (
                (data.lowest(), "darkest blocks") if settings.method == "image" else (0.0, "none")
            )
        info["background_from"] = source
        field = np.log(data.block_means(profile.astype(np.float64)))
        info["seam_percent"] = _seams(data, background, field)
    info["background"] = float(background)
    info["profile_range"] = [float(profile.min()), float(profile.max())]
    info["tissue_fraction"] = data.tissue_fraction(background)
    if not np.isfinite(profile).all() or profile.min() < 0.02:
        raise IntensityError(
            f"flat-field profile falls to {float(profile.min()):.3g} of its mean; the tiles do "
            "not determine it, lower degree or give an image of the profile"
        )
    for text in info["warnings"]:
        logger.warning("%s", text)
    return Flatfield(profile=profile, background=float(background)), info


def read_profile(path: str | os.PathLike, shape: tuple[int, int]) -> np.ndarray:
    """Read a user's profile from a TIFF and scale it to mean 1, float32 of ``shape`` (y, x)."""
    try:
        image = np.squeeze(tifffile.imread(path))
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise IntensityError(
            f"flat-field image {path} cannot be read ({error}); give a TIFF"
        ) from error
    if image.shape != tuple(shape):
        raise IntensityError(
            f"flat-field image {path} has shape {image.shape}, the tiles {tuple(shape)}; give "
            "one of the tiles' shape"
        )
    image = image.astype(np.float64)
    if not np.isfinite(image).all() or image.min() <= 0:
        raise IntensityError(
            f"flat-field image {path} has values that are zero, negative or not finite; give a "
            "profile that is positive everywhere"
        )
    return (image / image.mean()).astype(np.float32)


def save_flatfield(
    tif_path: str | os.PathLike,
    json_path: str | os.PathLike,
    flatfield: Flatfield,
    info: Mapping[str, Any],
) -> None:
    """Write the profile as a float32 TIFF and the rest as JSON, deterministic bytes."""
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        np.ascontiguousarray(flatfield.profile, dtype="<f4"),
        byteorder="<",
        photometric="minisblack",
        software=False,
        metadata=None,
    )
    Path(tif_path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(tif_path, stream.getvalue())
    write_json(json_path, {**info, "background": float(flatfield.background)})


# ------------------------------------------------------------------ the estimate
@dataclass(frozen=True)
class _Overlap:
    """Pairs of neighbours along one axis, and the blocks of the first and second that coincide."""

    first: np.ndarray  # tile indices (pairs,)
    second: np.ndarray
    blocks_first: tuple[slice, slice]
    blocks_second: tuple[slice, slice]


@dataclass(frozen=True)
class _Data:
    """Block statistics as the solver wants them: float32 (tiles, slabs, blocks y, blocks x)."""

    mean: np.ndarray
    error: np.ndarray
    valid: np.ndarray  # bool (tiles, slabs)
    edges: tuple[np.ndarray, np.ndarray]
    overlaps: tuple[_Overlap, ...]

    @classmethod
    def of(cls, stats: Mapping[str, np.ndarray], use_overlaps: bool) -> _Data:
        valid = stats["planes"] > 0
        if not valid.any():
            raise IntensityError(
                f"none of {len(valid)} tiles holds signal (every plane is constant); check the "
                "channel and its exposure"
            )
        edges = stats["edges_y"], stats["edges_x"]
        overlaps = _find_overlaps(stats) if use_overlaps else ()
        return cls(stats["mean"], stats["error"], valid, edges, overlaps)

    def block_means(self, image: np.ndarray) -> np.ndarray:
        area = np.outer(np.diff(self.edges[0]), np.diff(self.edges[1]))
        return _block_sums(image, list(self.edges)) / area

    def lowest(self) -> float:
        """Level of the darkest blocks, the fallback for the dark offset."""
        return float(max(0.0, np.quantile(self.mean[self.valid], 0.002)))

    def tissue_fraction(self, background: float) -> float:
        """Part of the blocks brighter than a tenth of the brightest."""
        signal = self.mean[self.valid] - background
        return float(np.mean(signal > 0.1 * np.quantile(signal, 0.99)))


def _find_overlaps(stats: Mapping[str, np.ndarray]) -> tuple[_Overlap, ...]:
    index = {tuple(place): i for i, place in enumerate(stats["grid"].tolist())}
    everything = slice(None)
    found = []
    for axis, move in enumerate(((1, 0), (0, 1))):
        edges, step = stats["edges_y" if axis == 0 else "edges_x"], int(stats["steps"][axis])
        size = int(edges[-1])
        pairs = [
            (i, index[row + move[0], column + move[1]])
            for (row, column), i in index.items()
            if (row + move[0], column + move[1]) in index
        ]
        if not pairs or not 0 < step < size:
            continue
        number = int(np.searchsorted(edges, min(size - step, step)))
        start = int(np.searchsorted(edges, step))
        ahead, behind = slice(start, start + number), slice(0, number)
        first, second = np.array(sorted(pairs)).T
        if axis == 0:
            blocks = (ahead, everything), (behind, everything)
        else:
            blocks = (everything, ahead), (everything, behind)
        found.append(_Overlap(first, second, *blocks))
    return tuple(found)


@dataclass(frozen=True)
class _Basis:
    """Legendre products of total degree 1 to ``degree`` on the tile, without the constant."""

    edges: tuple[np.ndarray, np.ndarray]
    degree: int

    @cached_property
    def orders(self) -> list[tuple[int, int]]:
        top = self.degree + 1
        return [(a, b) for a in range(top) for b in range(top - a) if a + b]

    @cached_property
    def axes(self) -> list[np.ndarray]:
        """Polynomials at the pixels, one (degree + 1, pixels) per axis."""
        sizes = [int(edges[-1]) for edges in self.edges]
        grids = [(2 * np.arange(n) + 1) / n - 1 for n in sizes]
        return [legendre.legvander(grid, self.degree).T for grid in grids]

    @cached_property
    def blocks(self) -> np.ndarray:
        """Block means, float64 (terms, blocks y, blocks x)."""
        y, x = (
            np.add.reduceat(values, edges[:-1], axis=1) / np.diff(edges)
            for values, edges in zip(self.axes, self.edges)
        )
        return np.stack([np.outer(y[a], x[b]) for a, b in self.orders])

    def line_variance(self, power: Sequence[float]) -> np.ndarray:
        """Variance that lines of white spectrum add to each coefficient.

        ``power`` is the mean square of a line, y and x, per cosine coefficient.
        """
        return np.array(
            [
                power[0] * (2 * a + 1) if b == 0 and a > 2 else
                power[1] * (2 * b + 1) if a == 0 and b > 2 else 0.0
                for a, b in self.orders
            ]
        )  # fmt: skip

    def pixels(self, coefficients: np.ndarray) -> np.ndarray:
        """The series at every pixel, float64 (y, x)."""
        matrix = np.zeros((self.degree + 1, self.degree + 1))
        for value, (a, b) in zip(coefficients.tolist(), self.orders):
            matrix[a, b] = value
        y, x = self.axes
        return np.einsum("ay,ax->yx", y, np.einsum("ab,bx->ax", matrix, x))


@dataclass(frozen=True)
class _Fit:
    """Log profile as coefficients, log gains (tiles, slabs), and the variances found for both."""

    coefficients: np.ndarray
    gains: np.ndarray
    roughness: float = 1.0  # prior precision of a coefficient is roughness * degree ** 6
    tile_spread: float = 0.02  # standard deviation of log gains: of tiles,
    slab_spread: float = 0.02  # and of the slabs of a tile around it


@dataclass(frozen=True)
class _Equations:
    """Differences of log intensity: ``value = basis @ coefficients (+ gain first - gain second)``.

    ``value`` and ``variance`` are float32 (..., blocks); with ``overlap`` the leading axes are
    pairs and slabs.
    """

    value: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    overlap: _Overlap | None


def _equations(
    data: _Data, basis: _Basis, background: float, log_lines: np.ndarray
) -> list[_Equations]:
    signal = data.mean - np.float32(background)
    usable = (signal > 3 * data.error) & data.valid[..., None, None]
    if not usable.any():
        raise IntensityError(
            f"none of {len(signal)} tiles holds signal above the background of "
            f"{background:.4g} counts; check the channel, or give a smaller background"
        )
    signal = np.where(usable, signal, np.float32(1))
    log = np.log(signal) - log_lines.astype(np.float32)
    error = (data.error**2 + np.float32(_DARK_ERROR**2)) / signal**2
    error = np.where(usable, error, np.float32(np.inf))
    found = []
    everything = slice(None)
    for lag in _LAGS:
        for axis in (0, 1):
            if lag >= log.shape[axis + 2]:
                continue
            a, b = [everything, everything], [everything, everything]
            a[axis], b[axis] = slice(lag, None), slice(None, -lag)
            found.append(_difference(log, error, basis, (log, error), (tuple(a), tuple(b)), None))
    for overlap in data.overlaps:
        found.append(
            _difference(
                log[overlap.first], error[overlap.first], basis,
                (log[overlap.second], error[overlap.second]),
                (overlap.blocks_first, overlap.blocks_second), overlap,
            )
        )  # fmt: skip
    return found


def _difference(log, error, basis, other, blocks, overlap) -> _Equations:
    a, b = ((Ellipsis, *part) for part in blocks)
    value = log[a] - other[0][b]
    variance = error[a] + other[1][b] + np.float32(_FLOOR**2)
    change = basis.blocks[a] - basis.blocks[b]
    lead = value.shape[:2]
    return _Equations(
        value.reshape(*lead, -1), variance.reshape(*lead, -1),
        change.reshape(len(change), -1), overlap,
    )  # fmt: skip


def _solve(
    data: _Data,
    basis: _Basis,
    equations: list[_Equations],
    start: _Fit | None = None,
    line_power: Sequence[float] = (0.0, 0.0),
) -> _Fit:
    """Iteratively reweighted least squares, from wide to narrow weights unless ``start`` is given.

    Coefficients and tile gains are solved together; the gains of slabs, which couple tiles within
    one slab only, are eliminated slab by slab.
    """
    tiles, slabs = data.valid.shape
    terms = len(basis.orders)
    size = terms + tiles
    fit = start or _Fit(np.zeros(terms), np.zeros((tiles, slabs)))
    penalty = np.array([float(a + b) ** 6 for a, b in basis.orders])
    lined = basis.line_variance(line_power)
    smooth = lined == 0
    diagonal = np.arange(terms), np.arange(terms, size)
    for step in range(6 if start else 30):
        blur = 0.0 if start else 0.3 * 0.5**step
        matrix, right = np.zeros((size, size)), np.zeros(size)
        links = np.zeros((slabs, tiles, size))  # slab gains against coefficients and tile gains
        link_right = np.zeros((slabs, tiles))
        for part in equations:
            weight = _weights(part, fit, blur)
            weighted = weight * part.value
            total = weight.sum((0, 1), dtype=np.float64)
            matrix[:terms, :terms] += np.einsum("ik,jk->ij", part.basis * total, part.basis)
            right[:terms] += np.einsum(
                "ik,k->i", part.basis, weighted.sum((0, 1), dtype=np.float64)
            )
            if part.overlap is not None:
                _couple(part, weight, weighted, links, link_right, terms)
        matrix[:terms, terms:] = links[:, :, :terms].sum(0).T
        matrix[terms:, :terms] = links[:, :, :terms].sum(0)
        matrix[terms:, terms:] = links[:, :, terms:].sum(0)
        right[terms:] = link_right.sum(0)
        matrix[diagonal[0], diagonal[0]] += 1 / (1 / (fit.roughness * penalty) + lined)
        matrix[diagonal[1], diagonal[1]] += fit.tile_spread**-2
        inner = links[:, :, terms:] + np.eye(tiles) * fit.slab_spread**-2
        inverse = np.linalg.inv(inner)
        solved = np.einsum("sij,sjk->sik", inverse, links)
        matrix -= np.einsum("sij,sik->jk", links, solved)
        right -= np.einsum("sij,si->j", solved, link_right)
        covariance = np.linalg.inv(matrix)
        answer = np.einsum("ij,j->i", covariance, right)
        slab_gains = np.einsum("sij,sj->si", inverse, link_right) - np.einsum(
            "sij,j->si", solved, answer
        )
        old, fit = fit, _Fit(answer[:terms], (answer[terms:] + slab_gains).T)
        fit = replace(
            fit, roughness=old.roughness, tile_spread=old.tile_spread, slab_spread=old.slab_spread
        )
        if step >= 2 and not start:
            variance = np.diag(covariance)
            slab_variance = np.einsum("sii->si", inverse)
            rough = penalty * (answer[:terms] ** 2 + variance[:terms])
            fit = replace(
                fit,
                roughness=float(np.clip(1 / np.mean(rough[smooth]), 1e-2, 10)),
                tile_spread=_spread(answer[terms:] ** 2 + variance[terms:]),
                slab_spread=_spread(slab_gains**2 + slab_variance),
            )
        change = np.abs(np.tensordot(fit.coefficients - old.coefficients, basis.blocks, 1)).max()
        if change < 2e-4 and (start or step >= 10):
            break
    return fit


def _spread(squares: np.ndarray) -> float:
    return float(np.clip(np.sqrt(np.mean(squares)), 0.002, 0.5))


def _residual(part: _Equations, fit: _Fit) -> np.ndarray:
    residual = part.value - np.einsum("i,ik->k", fit.coefficients, part.basis).astype(np.float32)
    if part.overlap is not None:
        gains = fit.gains[part.overlap.first] - fit.gains[part.overlap.second]
        residual -= gains[..., None].astype(np.float32)
    return residual


def _weights(part: _Equations, fit: _Fit, blur: float) -> np.ndarray:
    """Robust weights, float32.

    Within tiles the loss is log(variance + residual^2), a location estimate that needs no scale
    of the tissue. In overlaps it is a Cauchy loss whose scale, set by misplaced tiles and by
    shadows, is the median of what is found.
    """
    square = _residual(part, fit) ** 2
    variance = part.variance + np.float32(blur**2)
    if part.overlap is None:
        return np.float32(_TISSUE_WEIGHT / len(_LAGS)) / (variance + square)
    ratio = square / variance
    seen = ratio[part.variance < 0.01]
    scale = np.float32(max(1.0, float(np.median(seen)) / 0.455) if seen.size else 1.0)
    return 1 / (variance * scale * (1 + ratio / (9 * scale)))


def _couple(part, weight, weighted, links, link_right, terms) -> None:
    total = weight.astype(np.float64)
    against = np.einsum("psk,ik->psi", total, part.basis)
    sums, values = total.sum(2), weighted.sum(2, dtype=np.float64)
    for pair, (i, j) in enumerate(zip(part.overlap.first.tolist(), part.overlap.second.tolist())):
        links[:, i, :terms] += against[pair]
        links[:, j, :terms] -= against[pair]
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            links[:, a, terms + b] += sign * sums[pair]
        link_right[:, i] += values[pair]
        link_right[:, j] -= values[pair]


def _from_statistics(
    data: _Data, stats: Mapping[str, np.ndarray], settings: FlatfieldSettings, info: dict[str, Any]
) -> tuple[np.ndarray, float]:
    basis = _Basis(data.edges, settings.degree)
    lines = [np.zeros(int(edges[-1])) for edges in data.edges]
    background, source = settings.background, "given"
    if background is None:
        background, source = data.lowest(), "darkest blocks"
        if data.overlaps:
            background, source = _search_background(data, basis, background), "overlaps"
    power = [0.0, 0.0]
    for _ in range(3 if settings.lines else 1):
        log_lines = data.block_means(lines[0][:, None] + lines[1][None, :])
        equations = _equations(data, basis, background, log_lines)
        fit = _solve(data, basis, equations, line_power=power)
        if settings.lines:
            found = [_line(stats, axis, background, basis, fit.coefficients) for axis in (0, 1)]
            lines, power = [line for line, _ in found], [value for _, value in found]
    log_profile = basis.pixels(fit.coefficients) + lines[0][:, None] + lines[1][None, :]
    profile = np.exp(log_profile)
    profile /= profile.mean()
    field = np.tensordot(fit.coefficients, basis.blocks, 1) + log_lines
    info["background_from"] = source
    info["line_percent"] = {
        name: 100 * float(line.std()) for name, line in zip(("rows", "columns"), lines)
    }
    info["seam_percent"] = _seams(data, background, field, fit.gains)
    info["gains"] = {
        str(name): float(np.exp(np.mean(gain[valid]))) if valid.any() else 1.0
        for name, gain, valid in zip(stats["tiles"], fit.gains, data.valid)
    }
    if not data.overlaps and settings.background is None:
        info["warnings"].append(
            f"flat-field: no overlapping tiles, so the background of {background:.4g} counts is "
            "the level of the darkest blocks; set background if the camera's offset is known"
        )
    return profile.astype(np.float32), background


def _search_background(data: _Data, basis: _Basis, highest: float) -> float:
    """Dark offset at which bright and dark tissue agree on the profile in the overlaps."""
    zero = np.zeros(data.mean.shape[2:])
    start: list[_Fit | None] = [None]

    def cost(background: float) -> float:
        equations = _equations(data, basis, background, zero)
        fit = _solve(data, basis, equations, start[0])
        start[0] = start[0] or fit
        return _disagreement(data, background, fit, basis)

    highest += 1.0
    coarse = np.linspace(0.0, highest, 9)[::-1]
    costs = [cost(float(value)) for value in coarse]
    best = int(np.argmin(costs))
    low, high = coarse[min(best + 1, 8)], coarse[max(best - 1, 0)]
    found = minimize_scalar(
        cost, bounds=(low, high), method="bounded", options={"xatol": 0.1, "maxiter": 25}
    )
    return float(found.x)


def _disagreement(data: _Data, background: float, fit: _Fit, basis: _Basis) -> float:
    """Robust sum of squares over overlaps, in counts, so that empty blocks count as well."""
    field = np.exp(np.tensordot(fit.coefficients, basis.blocks, 1))
    gains = np.exp(fit.gains)[..., None, None]
    total = 0.0
    for overlap in data.overlaps:
        a, b = overlap.first, overlap.second
        one, two = ((Ellipsis, *part) for part in (overlap.blocks_first, overlap.blocks_second))
        scale_one = (gains[a] * field[one]).astype(np.float32)
        scale_two = (gains[b] * field[two]).astype(np.float32)
        size = np.sqrt(scale_one * scale_two)
        ratio_one, ratio_two = scale_two / size, scale_one / size
        x = (data.mean[a][one] - np.float32(background)) * ratio_one
        y = (data.mean[b][two] - np.float32(background)) * ratio_two
        variance = (data.error[a][one] * ratio_one) ** 2 + (data.error[b][two] * ratio_two) ** 2
        variance += (0.5 * _FLOOR * (x + y)) ** 2
        valid = (data.valid[a] & data.valid[b])[..., None, None]
        total += float(np.where(valid, np.log1p((x - y) ** 2 / variance), 0).sum(dtype=np.float64))
    return total


def _seams(
    data: _Data, background: float, field: np.ndarray, gains: np.ndarray | None = None
) -> dict[str, float] | None:
    """Median contrast of tissue in overlaps, percent of one tile, before and after correction."""
    raw, corrected = [], []
    tissue = 0.1 * float(np.quantile(data.mean[data.valid] - background, 0.99))
    for overlap in data.overlaps:
        a, b = overlap.first, overlap.second
        one, two = ((Ellipsis, *part) for part in (overlap.blocks_first, overlap.blocks_second))
        x, y = data.mean[a][one] - background, data.mean[b][two] - background
        seen = (np.minimum(x, y) > max(tissue, 0)) & (data.valid[a] & data.valid[b])[..., None, None]
        ratio = np.log(np.where(seen, x, 1)) - np.log(np.where(seen, y, 1))
        raw.append(ratio[seen])
        ratio = ratio - (field[one] - field[two])
        if gains is not None:
            ratio = ratio - (gains[a] - gains[b])[..., None, None]
        corrected.append(ratio[seen])
    if not raw or not sum(part.size for part in raw):
        return None
    values = [np.median(np.abs(np.concatenate(part))) / np.sqrt(2) for part in (raw, corrected)]
    return {"before": 100 * float(values[0]), "after": 100 * float(values[1])}


def _line(
    stats: Mapping[str, np.ndarray],
    axis: int,
    background: float,
    basis: _Basis,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Log line profile along one axis, free of what the smooth part can hold.

    Estimated from each half of the tiles. Octave by octave, what the halves do not share is
    noise: a line that both show is kept with the weight of a Wiener filter, any other dropped.
    """
    values = stats["rows" if axis == 0 else "columns"].astype(np.float64) - background
    seen = (stats["line_planes"] > 0)[..., None, None] & (values > 0)
    smooth = basis.pixels(coefficients)
    cuts = _sections(smooth.shape[1 - axis])
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
        band = slice(start, 2 * start)
        power = 0.5 * float(np.sum(one[band] ** 2) + np.sum(two[band] ** 2))
        shared = float(np.sum(one[band] * two[band])) / power if power > 0 else 0.0
        both[band] *= 2 * shared / (1 + shared) if shared > 0.5 else 0.0
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
