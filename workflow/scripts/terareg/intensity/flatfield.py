"""Flat-field of a microscope, estimated from its own tiles.

A raw pixel of tile n is ``background + gain_n * profile(y, x) * tissue + noise``: a dark offset,
the illumination profile that all tiles share, and a brightness that may drift from tile to tile.
The mean tile of a brain is not flat, so no average of tiles is the profile. Two facts are used
instead, both as differences of log intensity in which most of the tissue cancels:

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
import itertools
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from terareg.acquisition.tiles import Flatfield
from terareg.errors import ConfigError, IntensityError
from terareg.intensity.shading import (
    BlockData,
    block_sums,
    find_overlaps,
    fit_shading,
    line_sections,
    seam_percent,
)
from terareg.storage.records import write_json
from terareg.storage.store import write_atomic

logger = logging.getLogger(__name__)

_LEAST_DARK = 1.0  # counts; an offset found below is the bound of the search
_METHODS = ("statistics", "image", "none")
_LINE_SLABS = 4  # depth ranges for which means of lines are kept
_LEAST_BLOCK = 4.0  # pixels; the noise of a block is found from its own pixels
_LEAST_PROFILE = 0.02  # of the mean; noise is multiplied by its inverse


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
        Blocks along each axis of a tile in which pixels are averaged; blocks have at least 4
        pixels a side.
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
    section_y, section_x = (line_sections(n) for n in (height, width))
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
        total[slab] += block_sums(plane, edges)
        square[slab] += block_sums(plane * plane, edges)
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


def _block_edges(size: int, step: int, blocks: int) -> np.ndarray:
    """Where blocks begin along an axis of ``size`` pixels, and the end of the last.

    The blocks of the strip that a tile shares with its next neighbour are those of the
    neighbour's opposite strip moved by ``step``, so that overlaps compare equal pixels.
    """
    wanted = max(_LEAST_BLOCK, size / blocks)
    cuts = {0, size}
    if 0 < step < size:
        strip = min(size - step, step)
        inner = (
            strip * np.arange(max(1, round(strip / wanted)) + 1) // max(1, round(strip / wanted))
        )
        cuts |= set(inner.tolist()) | set((inner + step).tolist())
    edges = []
    ordered = sorted(cuts)
    for a, b in itertools.pairwise(ordered):
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
    data = BlockData.of(stats, find_overlaps(stats) if settings.overlaps else ())
    info: dict[str, Any] = {
        "method": settings.method,
        "tiles": len(stats["tiles"]),
        "planes": int(stats["planes"].sum()),
        "warnings": [],
    }
    if settings.method == "statistics":
        shading = fit_shading(
            data, stats, settings.degree, background=settings.background, lines=settings.lines
        )
        profile, background = shading.profile, shading.background
        info["background_from"] = shading.background_from
        info["gains"] = dict(zip(stats["tiles"].tolist(), shading.gains.tolist()))
        info["line_percent"] = dict(zip(("rows", "columns"), shading.line_percent))
        info["seam_percent"] = shading.seam_percent
        if shading.background_from == "overlaps" and shading.background < _LEAST_DARK:
            info["warnings"].append(
                f"the search for the dark offset ended at its lower bound "
                f"({shading.background:.1f} counts), which cameras do not have; look at the "
                "flat-field and give intensity.flatfield.background"
            )
        if shading.background_from == "darkest blocks":
            info["warnings"].append(
                f"no overlaps with signal, so the background of {background:.4g} counts is the "
                "level of the darkest blocks; set background if the camera's offset is known"
            )
    else:
        profile, background, info["background_from"] = _given(data, settings)
        field = np.log(data.block_means(profile.astype(np.float64)))
        info["seam_percent"] = seam_percent(data, background, field)
    info["background"] = float(background)
    info["profile_range"] = [float(profile.min()), float(profile.max())]
    info["tissue_fraction"] = data.tissue_fraction(background)
    if not np.isfinite(profile).all() or profile.min() < _LEAST_PROFILE:
        raise IntensityError(
            f"flat-field profile falls to {float(profile.min()):.3g} of its mean; the tiles do "
            "not determine it, lower degree or give an image of the profile"
        )
    for text in info["warnings"]:
        logger.warning("flat-field: %s", text)
    return Flatfield(profile=profile, background=float(background)), info


def _given(data: BlockData, settings: FlatfieldSettings) -> tuple[np.ndarray, float, str]:
    """Profile and background that are the user's, and where the background comes from."""
    shape = int(data.edges[0][-1]), int(data.edges[1][-1])
    if settings.image is None:
        profile = np.ones(shape, np.float32)
    else:
        profile = read_profile(settings.image, shape)
    if settings.background is not None:
        return profile, settings.background, "given"
    if settings.image is None:
        return profile, 0.0, "none"
    return profile, data.lowest(), "darkest blocks"


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
