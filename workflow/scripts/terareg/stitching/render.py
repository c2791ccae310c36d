"""Placement as Render files: tile specifications, point matches and stack metadata.

Render works on 2-D tiles in sections: every plane of every tile is a tile of its own, its section
is the plane of the fused volume in which it lies. Only ``AffineModel2D`` is written, whose data
string lists M00 M10 M01 M11 B0 B1. A file whose name ends in ``.gz`` is compressed; equal input
gives equal bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from terareg.errors import StitchingError
from terareg.stitching.displacement import PairResult
from terareg.stitching.placement import Placement

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

_AFFINE = "mpicbg.trakem2.transform.AffineModel2D"


@dataclass(frozen=True)
class RenderSettings:
    """Options of the Render files.

    Attributes
    ----------
    z_step : int
        Every ``z_step``-th section of the fused volume is written.
    min_intensity, max_intensity : float
        Display range, counts.
    matches_per_pair : int
        Points along the seam per point match.
    """

    z_step: int = 1
    min_intensity: float = 0.0
    max_intensity: float = 65535.0
    matches_per_pair: int = 4

    def __post_init__(self) -> None:
        if self.z_step < 1 or self.matches_per_pair < 3:
            raise StitchingError(
                f"z_step {self.z_step} and matches_per_pair {self.matches_per_pair} are too "
                "small; give at least 1 and 3"
            )


def write_tilespecs(
    path: str | os.PathLike,
    acquisition: Acquisition,
    placement: Placement,
    channel: str,
    settings: RenderSettings = RenderSettings(),
) -> int:
    """Write the tile specifications of one channel as a JSON list; return their number.

    Sections are numbered from the first plane of the fused volume (union of the tiles in z), and
    positions are those of the global solution before rounding, in pixels.
    """
    return _write_list(path, _tilespecs(acquisition, placement, channel, settings))


def write_point_matches(
    path: str | os.PathLike,
    acquisition: Acquisition,
    placement: Placement,
    channel: str,
    pairs: Sequence[PairResult],
    settings: RenderSettings = RenderSettings(),
) -> int:
    """Write the measured displacements as point matches, a JSON list; return their number.

    Points lie on the line in the middle of the overlap; p and q are pixels of the two tiles, so
    that the placed tiles map them apart by exactly the residual of the link. A pair is written for
    every section that holds planes of both tiles; its weight is the reliability, 0 if the placement
    did not keep the link.
    """
    return _write_list(path, _matches(acquisition, placement, channel, pairs, settings))


def write_stack(path: str | os.PathLike, acquisition: Acquisition, cycle: int = 1) -> None:
    """Write the stack's metadata (resolution in nanometres) as Render's StackVersion."""
    z, y, x = (float(s) * 1000 for s in acquisition.spacing_um)
    data = {
        "cycleNumber": cycle,
        "cycleStepNumber": 1,
        "stackResolutionX": x,
        "stackResolutionY": y,
        "stackResolutionZ": z,
        "versionNotes": f"terareg, sample {acquisition.sample}",
    }
    with _open(path) as write:
        write(json.dumps(data, indent=1, sort_keys=True) + "\n")


def tile_id(tile: str, plane: int, channel: str) -> str:
    """Identity of a plane of a tile, e.g. ``LOC000_z0003_ch0``."""
    return f"{tile}_z{plane:04d}_{channel}"


def _tilespecs(acquisition, placement, channel, settings) -> Iterator[dict]:
    acquisition.channel(channel)
    _, height, width = acquisition.tile_shape
    spacing = acquisition.spacing_um
    for section, tiles in _sections(acquisition, placement, settings):
        for tile, plane in tiles:
            files = acquisition.planes[tile.name][channel]
            if plane in files.missing:
                continue
            _, y, x = (float(v) for v in placement.tiles[tile.name].origin_vox)
            key = f"{tile.folder}/{files.name(plane)}"
            yield {
                "tileId": tile_id(tile.name, plane, channel),
                "z": float(section),
                "width": int(width),
                "height": int(height),
                "minX": x,
                "minY": y,
                "maxX": x + width - 1,
                "maxY": y + height - 1,
                "minIntensity": float(settings.min_intensity),
                "maxIntensity": float(settings.max_intensity),
                "groupId": _group(section),
                "layout": {
                    "sectionId": _group(section),
                    "temca": acquisition.layout.upper(),
                    "camera": "0",
                    "imageRow": int(tile.row),
                    "imageCol": int(tile.column),
                    "stageX": float(tile.origin_vox[2]),
                    "stageY": float(tile.origin_vox[1]),
                    "rotation": 0.0,
                    "pixelsize": float(spacing[2]),
                    "distanceZ": float(spacing[0]),
                },
                "mipmapLevels": {"0": {"imageUrl": _url(acquisition.raw, key)}},
                "transforms": {
                    "type": "list",
                    "specList": [
                        {
                            "type": "leaf",
                            "className": _AFFINE,
                            "dataString": f"1.0 0.0 0.0 1.0 {x!r} {y!r}",
                        }
                    ],
                },
            }


def _matches(acquisition, placement, channel, pairs, settings) -> Iterator[dict]:
    kept = {(link.a, link.b) for link in placement.links if link.state == "kept"}
    usable = [pair for pair in pairs if pair.status == "ok"]
    acquisition.channel(channel)
    by_first: dict[str, list[PairResult]] = {}
    for pair in usable:
        by_first.setdefault(pair.a, []).append(pair)
    for section, tiles in _sections(acquisition, placement, settings):
        here = {tile.name: plane for tile, plane in tiles}
        for tile, plane in tiles:
            for pair in by_first.get(tile.name, ()):
                if pair.b not in here:
                    continue
                p, q = _points(acquisition.tile_shape, pair, settings.matches_per_pair)
                weight = float(pair.reliability) if (pair.a, pair.b) in kept else 0.0
                first = tile_id(pair.a, plane, channel)
                second = tile_id(pair.b, here[pair.b], channel)
                if second < first:  # Render wants the smaller identity first
                    first, second, p, q = second, first, q, p
                yield {
                    "pGroupId": _group(section),
                    "pId": first,
                    "qGroupId": _group(section),
                    "qId": second,
                    "matches": {"p": p, "q": q, "w": [weight] * len(p[0])},
                }


def _points(shape, pair: PairResult, number: int) -> tuple[list, list]:
    """[[x...], [y...]] in tile a and in tile b, along the middle of their overlap."""
    _, dy, dx = pair.displ_vox
    _, height, width = shape
    low = np.array([max(0.0, dx), max(0.0, dy)])
    high = np.array([min(width, width + dx), min(height, height + dy)]) - 1
    share = (np.arange(number) + 0.5) / number
    along = 1 if pair.direction == "EAST" else 0
    # two columns of points, so that the match determines more than a line
    points = np.empty((2, number))
    points[along] = low[along] + share * (high[along] - low[along])
    across = 1 - along
    points[across] = low[across] + np.where(np.arange(number) % 2, 0.6, 0.4) * (
        high[across] - low[across]
    )
    moved = points - np.array([[dx], [dy]])
    return points.tolist(), moved.tolist()


def _sections(acquisition, placement, settings) -> Iterator[tuple[int, list]]:
    """Sections of the fused volume with the (tile, plane) that lie in each."""
    planes = acquisition.tile_shape[0]
    first = {tile.name: placement.tiles[tile.name].integer[0] for tile in acquisition.tiles}
    start = min(first.values())
    stop = max(first.values()) + planes
    for z in range(start, stop, settings.z_step):
        yield (
            z - start,
            [
                (tile, z - first[tile.name])
                for tile in acquisition.tiles
                if 0 <= z - first[tile.name] < planes
            ],
        )


def _group(section: int) -> str:
    return f"{float(section)}"


def _url(raw: str, key: str) -> str:
    if "://" in raw:
        return f"{raw.rstrip('/')}/{quote(key)}"
    return "file:" + quote(f"{raw.rstrip('/')}/{key}")


def _write_list(path, items: Iterable[dict]) -> int:
    """Write a JSON list item by item: a brain has more planes than fit in memory as text."""
    count = 0
    with _open(path) as write:
        write("[")
        for count, item in enumerate(items, 1):
            write("\n" if count == 1 else ",\n")
            write(json.dumps(item, sort_keys=True, allow_nan=False))
        write("\n]\n")
    return count


@contextlib.contextmanager
def _open(path: str | os.PathLike):
    """Text writer to a file that appears when it is complete; gzip for names ending in .gz."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    yield lambda text: packed.write(text.encode())
            else:
                yield lambda text: raw.write(text.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
