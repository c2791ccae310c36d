"""Placement as Render files: tile specifications, point matches and stack metadata.

Render works on 2-D tiles in sections: every plane of every tile is a separate tile, and its section
is the plane of the fused volume in which it lies. Only ``AffineModel2D`` is written, whose data
string lists M00 M10 M01 M11 B0 B1: it has everything by which fusion transforms a tile within its
planes, but for fields of distorted tiles. A file whose name ends in ``.gz`` is compressed; equal
input gives equal bytes.

Tile specifications of any program can be read as positions if their transforms are close to
translations: what they turn, scale or shear, and a lean, is measured again.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from terareg.core.errors import StitchingError, few
from terareg.stitching.leans import lean_of_pair
from terareg.stitching.pairs import PairResult
from terareg.stitching.placement import PlacedTile, Placement
from terareg.stitching.shapes import in_planes
from terareg.storage.foreign import boundary
from terareg.storage.store import atomic_file, open_regular

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

_AFFINE = "mpicbg.trakem2.transform.AffineModel2D"
_TRANSLATION = "mpicbg.trakem2.transform.TranslationModel2D"
_OWN_ID = re.compile(r"(.+)_z(\d{1,9})_.+")  # see tile_id
_STRAIGHT = 0.5  # pixels; tolerance between sections of a tile about one place or one line
_BENT = 0.05  # of a tile, by which its corners may lie elsewhere than a translation puts them
_MOST_COMPRESSED = 300  # characters to a byte; tile specifications have 20 to 40
_CHUNK = 2**16  # characters read at once
_MAX_ITEM = 2**20  # characters of one tile specification
_MAX_PIXELS = 1e9


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


@dataclass(frozen=True)
class TileSpec:
    """Position of one image in a section.

    Attributes
    ----------
    tile_id : str
    section : float
        Render's z.
    row, column : int or None
        Cell of the grid, from the layout; None if the layout does not give it.
    origin_yx_vox : tuple of float
        Position (y, x) of the first pixel; of an image that is turned, scaled or sheared where it
        would be if it were not, with the same middle.
    """

    tile_id: str
    section: float
    row: int | None
    column: int | None
    origin_yx_vox: tuple[float, float]


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


def read_tilespecs(path: str | os.PathLike) -> tuple[TileSpec, ...]:
    """Read tile specifications of any program, a JSON list, plain or compressed by gzip.

    Raises
    ------
    StitchingError
        If the file cannot be read, or for the first item that is not a tile specification or whose
        affine transform moves a corner by more than a twentieth of the tile beside the middle.
    """
    name = os.fspath(path)
    remedy = "give a JSON list of tile specifications, plain or gzipped"
    with boundary(name, StitchingError, remedy):
        with open(open_regular(path), "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            most = os.fstat(raw.fileno()).st_size * (_MOST_COMPRESSED if packed else 1) + _CHUNK
            with io.TextIOWrapper(stream, encoding="utf-8") as text:
                specs = tuple(
                    _tilespec(item, f"{name} item {number}")
                    for number, item in enumerate(_items(text, name, most), 1)
                )
    if not specs:
        raise StitchingError(f"{name} is an empty list; export the tile specifications again")
    return specs


def tile_origins(
    specs: Iterable[TileSpec], acquisition: Acquisition, name: str = "tile specifications"
) -> dict[str, tuple[float, float, float]]:
    """Position (z, y, x) of every tile of an acquisition in voxels.

    A specification belongs to the tile that its id names (:func:`tile_id`), or else to the tile at
    the row and column of its layout. In the first case the id tells the plane, so that planes may
    be missing; in the second the first section of a tile is taken as its first plane. z is in whole
    planes. Of a tile that leans, whose position changes evenly with the section, the position in
    the middle of the stack is taken.

    Raises
    ------
    StitchingError
        If a specification belongs to no tile, a tile has none, or the positions of a tile in its
        sections lie on no line; ``name`` is that of the file.
    """
    own = {tile.name for tile in acquisition.tiles}
    at: dict[tuple[int | None, int | None], str] = {
        (tile.row, tile.column): tile.name for tile in acquisition.tiles
    }
    places: dict[str, list[tuple[float, float, float]]] = {}
    starts: dict[str, float] = {}
    for spec in specs:
        match = _OWN_ID.fullmatch(spec.tile_id)
        if match and match[1] in own:
            tile, start = match[1], spec.section - int(match[2])
        elif (spec.row, spec.column) in at:
            tile, start = at[spec.row, spec.column], spec.section
        else:
            raise StitchingError(
                f"{name}: {spec.tile_id[:80]!r} (row {spec.row}, column {spec.column}) is not a "
                "tile of the acquisition; give the tile specifications of this acquisition"
            )
        places.setdefault(tile, []).append((spec.section, *spec.origin_yx_vox))
        starts[tile] = min(start, starts.get(tile, math.inf))
    absent = sorted(own - places.keys())
    if absent:
        raise StitchingError(
            f"{name} has no tile specification for {few(absent)}; give the tile specifications of "
            "this acquisition"
        )
    origins = {}
    for tile, found in places.items():
        sections, at_each = np.array(found)[:, 0], np.array(found)[:, 1:]
        y, x = np.median(at_each, axis=0)
        off = float(np.abs(at_each - (y, x)).max())
        if off > _STRAIGHT:
            middle = starts[tile] + (int(acquisition.tile_shape[0]) - 1) / 2
            design = np.column_stack([np.ones(len(sections)), sections - middle])
            line = np.linalg.lstsq(design, at_each, rcond=None)[0]
            y, x = line[0]
        if off > _STRAIGHT and float(np.abs(at_each - design @ line).max()) > _STRAIGHT:
            raise StitchingError(
                f"{name} moves {tile} by {off:.1f} pixels between sections; give tile "
                "specifications in which every tile has one position, or leans evenly"
            )
        origins[tile] = (float(starts[tile]), float(y), float(x))
    return origins


def write_point_matches(
    path: str | os.PathLike,
    acquisition: Acquisition,
    placement: Placement,
    channel: str,
    pairs: Sequence[PairResult],
    settings: RenderSettings = RenderSettings(),
) -> int:
    """Write the measured displacements as point matches, a JSON list; return their number.

    Points lie near the middle line of the overlap. p and q are pixels of the two tiles; the
    placement maps them to positions that differ by exactly the residual of the link (where a tile
    is turned, scaled or sheared, on average over the seam). A pair is
    written for every section that holds planes of both tiles; its weight is the reliability, 0 if
    the placement did not keep the link.
    """
    return _write_list(path, _matches(acquisition, placement, channel, pairs, settings))


def write_stack(
    path: str | os.PathLike, acquisition: Acquisition, placement: Placement, cycle: int = 1
) -> None:
    """Write the stack's metadata (resolution in nanometres) as Render's StackVersion.

    Its notes name how many tiles fusion transforms in ways that their transforms do not hold: by
    fields, and along z.
    """
    tiles = placement.tiles.values()
    more = sum(bool(np.any(tile.shape[0])) or tile.field_vox is not None for tile in tiles)
    notes = f"terareg, sample {acquisition.sample}"
    if more:
        notes += (
            f"; {more} of {len(tiles)} tiles are distorted or tilted along z in the fused volume, "
            "which is left out here, see placement.json"
        )
    z, y, x = (float(s) * 1000 for s in acquisition.spacing_um)
    data = {
        "cycleNumber": cycle,
        "cycleStepNumber": 1,
        "stackResolutionX": x,
        "stackResolutionY": y,
        "stackResolutionZ": z,
        "versionNotes": notes,
    }
    with _open(path) as write:
        write(json.dumps(data, indent=1, sort_keys=True) + "\n")


def tile_id(tile: str, plane: int, channel: str) -> str:
    """Id of a plane of a tile, e.g. ``LOC000_z0003_ch0``."""
    return f"{tile}_z{plane:04d}_{channel}"


def _tilespecs(acquisition, placement, channel, settings) -> Iterator[dict]:
    acquisition.channel(channel)
    depth, height, width = (int(n) for n in acquisition.tile_shape)
    spacing = acquisition.spacing_um
    poses = {name: _affines(tile, placement, (depth, height, width))
             for name, tile in placement.tiles.items()}  # fmt: skip
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    for section, tiles in _sections(acquisition, placement, settings):
        for tile, plane in tiles:
            files = acquisition.planes[tile.name][channel]
            if plane in files.missing:
                continue
            linear, moved = (part[plane] for part in poses[tile.name])
            there = corners @ linear.T + moved
            (x0, y0), (x1, y1) = there.min(axis=0).tolist(), there.max(axis=0).tolist()
            key, page = acquisition.plane_file(tile, channel, plane)
            yield {
                "tileId": tile_id(tile.name, plane, channel),
                "z": float(section),
                "width": int(width),
                "height": int(height),
                "minX": x0,
                "minY": y0,
                "maxX": x1,
                "maxY": y1,
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
                "mipmapLevels": {"0": {"imageUrl": _url(acquisition.raw, key, page)}},
                "transforms": {
                    "type": "list",
                    "specList": [
                        {
                            "type": "leaf",
                            "className": _AFFINE,
                            "dataString": " ".join(
                                repr(float(v)) for v in (*linear.T.ravel(), *moved)
                            ),
                        }
                    ],
                },
            }


def _affines(tile: PlacedTile, placement: Placement, shape) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels (x, y) of every plane of a tile lie: matrices (n, 2, 2) and origins (n, 2)."""
    planes = np.arange(shape[0])
    linear, moved = in_planes(tile.shape, shape, planes)
    moved = moved + tile.origin_vox[1:]
    matrices = np.repeat(linear[None], len(planes), axis=0)
    for growth in placement.growths({"": tile.origin_vox}, shape).values():
        factors = growth.factors(tile.origin_vox[0] + planes)
        matrices = matrices * factors[:, None, None]
        centre = np.array(growth.centre[1:])
        moved = (moved - centre) * factors[:, None] + centre
    return matrices[:, ::-1, ::-1], moved[:, ::-1]


def _items(text, name: str, most: int) -> Iterator:
    """Items of a JSON list, one by one: the list of a brain does not fit in memory.

    A compressed file that gives more than ``most`` characters is refused.
    """
    decoder = json.JSONDecoder()
    buffer = text.read(_CHUNK).lstrip()
    listed = buffer.startswith("[")
    buffer = buffer[1:]
    while listed:
        buffer = buffer.lstrip(", \t\r\n")
        if buffer.startswith("]"):
            return
        try:
            item, end = decoder.raw_decode(buffer)
        except ValueError:
            chunk = text.read(_CHUNK) if len(buffer) < _MAX_ITEM and most > 0 else ""
            most -= len(chunk)
            listed = bool(chunk)
            buffer += chunk
            continue
        yield item
        buffer = buffer[end:]
    raise StitchingError(
        f"{name} is not a complete JSON list of tile specifications (at {buffer[:40]!r}); export "
        "it again"
    )


def _tilespec(item: dict, where: str) -> TileSpec:
    try:
        key, section = str(item["tileId"]), float(item["z"])
        where = f"{where} ({key[:80]!r})"
        width, height = float(item["width"]), float(item["height"])
        layout = item.get("layout") or {}
        row, column = (
            None if layout.get(k) is None else int(layout[k]) for k in ("imageRow", "imageCol")
        )
        matrix = np.eye(3)
        for leaf in _leaves(item["transforms"], where):
            matrix = leaf @ matrix
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise StitchingError(
            f"{where} is not a tile specification ({type(error).__name__}: {error}); export it "
            "again"
        ) from error
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1]]).T
    moved = (matrix @ corners)[:2]
    if not (np.abs(moved) <= _MAX_PIXELS).all() or not abs(section) <= _MAX_PIXELS:
        raise StitchingError(
            f"{where} has a position that is not a finite number of pixels; correct its transform"
        )
    off = float(np.abs(moved - moved[:, :1] - (corners - corners[:, :1])[:2]).max())
    if off > max(_STRAIGHT, _BENT * max(width, height)):
        raise StitchingError(
            f"{where} is not only translated: its transform rotates or deforms it by {off:.1f} "
            f"pixels at a corner (at most {100 * _BENT:g} % of the tile); give tile specifications "
            "with translations and small deformations only"
        )
    x, y = moved[:, 0]
    if not np.array_equal(matrix[:2, :2], np.eye(2)):
        middle = np.array([(width - 1) / 2, (height - 1) / 2, 1])
        x, y = (matrix @ middle)[:2] - middle[:2]
    return TileSpec(key, section, row, column, (float(y), float(x)))


def _leaves(transform: dict, where: str) -> Iterator[np.ndarray]:
    """Matrices (x, y, 1) of a transform and of nested lists, in the order of application."""
    if transform.get("type") == "list" or "specList" in transform:
        for part in transform["specList"]:
            yield from _leaves(part, where)
        return
    kind = transform.get("className", transform.get("type"))
    if kind not in (_AFFINE, _TRANSLATION):
        raise StitchingError(
            f"{where} has a transform of class {str(kind)[:80]!r}; give tile specifications that "
            "use only AffineModel2D or TranslationModel2D"
        )
    numbers = [float(v) for v in transform["dataString"].split()]
    if kind == _TRANSLATION:
        numbers = [1.0, 0.0, 0.0, 1.0, *numbers]
    m00, m10, m01, m11, x, y = numbers
    yield np.array([[m00, m01, x], [m10, m11, y], [0.0, 0.0, 1.0]])


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
                p, q = _points(acquisition.tile_shape, pair, settings.matches_per_pair, plane)
                weight = float(pair.reliability) if (pair.a, pair.b) in kept else 0.0
                first = tile_id(pair.a, plane, channel)
                second = tile_id(pair.b, here[pair.b], channel)
                if second < first:  # Render expects the smaller id first
                    first, second, p, q = second, first, q, p
                yield {
                    "pGroupId": _group(section),
                    "pId": first,
                    "qGroupId": _group(section),
                    "qId": second,
                    "matches": {"p": p, "q": q, "w": [weight] * len(p[0])},
                }


def _points(shape, pair: PairResult, number: int, plane: int) -> tuple[list, list]:
    """[[x...], [y...]] in a plane of tile a and in tile b, along the middle of their overlap."""
    depth, height, width = shape
    _, dy, dx = pair.displ_vox
    lean = lean_of_pair(pair)
    if lean is not None and any(lean.told().vox):
        part = plane / max(1, depth - 1) - 0.5
        dy, dx = (d + part * v for d, v in zip((dy, dx), lean.vox[1:]))
    low = np.array([max(0.0, dx), max(0.0, dy)])
    high = np.array([min(width, width + dx), min(height, height + dy)]) - 1
    share = (np.arange(number) + 0.5) / number
    along = 1 if pair.direction == "EAST" else 0
    # two columns of points, because points on one line would not determine an affine
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


def _url(raw: str, key: str, page: int | None) -> str:
    fragment = "" if page is None else f"#page={page}"
    if "://" in raw:
        return f"{raw.rstrip('/')}/{quote(key)}{fragment}"
    return "file:" + quote(f"{raw.rstrip('/')}/{key}") + fragment


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
    """Text writer to a file that appears once it is complete; gzip for names ending in .gz."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                yield lambda text: packed.write(text.encode())
        else:
            yield lambda text: raw.write(text.encode())
