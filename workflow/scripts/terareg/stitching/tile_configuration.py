"""Fiji's TileConfiguration.txt: positions of tiles as the Stitching plugin reads and writes them.

One line per tile, ``name; series; (x, y, z)`` in pixels, after a line ``dim = 3`` (or 2, without
z); lines that begin with # are comments. Preibisch et al., Bioinformatics 25:1463 (2009).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from terareg.core.errors import StitchingError, few
from terareg.storage.foreign import boundary, decode_text, read_bytes
from terareg.storage.store import write_atomic

_MAX_PIXELS = 1e9
_DECIMALS = 6  # the solver is accurate to a few nanovoxels
_DIM = re.compile(r"dim\s*=\s*(\S+)", re.IGNORECASE)
_SERIES = re.compile(r"multiseries\s*=\s*(true|false)", re.IGNORECASE)
_TILE = re.compile(r"([^;]+);([^;]*);\s*\(([^()]*)\)\s*")


@dataclass(frozen=True)
class TileEntry:
    """One tile of a configuration.

    Attributes
    ----------
    name : str
        File or folder, as written.
    series : str
        Text between the semicolons; empty unless one file holds several tiles.
    origin_vox : tuple of float
        Position (z, y, x) of its first pixel; z is 0 in two dimensions.
    line : int
        Line number in the file, from 1.
    """

    name: str
    series: str
    origin_vox: tuple[float, float, float]
    line: int


@dataclass(frozen=True)
class TileConfiguration:
    """A tile configuration.

    Attributes
    ----------
    dimensions : int
        2 or 3.
    tiles : tuple of TileEntry
        In the order of the file.
    """

    dimensions: int
    tiles: tuple[TileEntry, ...]


def read_tile_configuration(path: str | os.PathLike) -> TileConfiguration:
    """Read a tile configuration of two or three dimensions.

    Line ends, comments, empty lines and spaces do not matter.

    Raises
    ------
    StitchingError
        If the file cannot be read, or for the first line that is not understood.
    """
    name = os.fspath(path)
    remedy = "correct the path of the tile configuration, the text file that Fiji writes"
    with boundary(name, StitchingError, remedy):
        lines = decode_text(read_bytes(path)).splitlines()
    dimensions, tiles = 0, []
    seen: dict[tuple[str, str], int] = {}
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#") or _SERIES.fullmatch(text):
            continue
        where = f"{name} line {number}: {text[:80]!r}"
        if match := _DIM.fullmatch(text):
            if match[1] not in ("2", "3"):
                raise StitchingError(f"{where} is not a number of dimensions; write dim = 2 or 3")
            dimensions = int(match[1])
            continue
        if not dimensions:
            raise StitchingError(f"{where} comes before the dimensions; write dim = 3 above it")
        entry = _entry(text, dimensions, number, where)
        key = entry.name, entry.series
        if key in seen:
            raise StitchingError(
                f"{where} names the tile of line {seen[key]} again; remove one of the two lines"
            )
        seen[key] = number
        tiles.append(entry)
    if not tiles:
        raise StitchingError(
            f"{name} lists no tiles; give a file with lines such as LOC000; ; (0.0, 0.0, 0.0)"
        )
    return TileConfiguration(dimensions, tuple(tiles))


def write_tile_configuration(
    path: str | os.PathLike, origins: Mapping[str, tuple[float, float, float]]
) -> None:
    """Write positions (z, y, x) in voxels by name, in three dimensions, atomically.

    They are rounded to a millionth of a voxel.
    """
    lines = [
        "# Define the number of dimensions we are working on",
        "dim = 3",
        "",
        "# Define the image coordinates (x, y, z) in pixels",
    ]
    for name, (z, y, x) in origins.items():
        x, y, z = (round(float(v), _DECIMALS) + 0.0 for v in (x, y, z))
        lines.append(f"{name}; ; ({x!r}, {y!r}, {z!r})")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def match_tiles(
    configuration: TileConfiguration, acquisition, name: str
) -> dict[str, tuple[float, float, float]]:
    """Positions (z, y, x), keyed by the names of the tiles in the acquisition.

    A line belongs to the tile that has the name of its last folder or file without extension:
    ``LOC007``, ``VW0/LOC007`` and ``D:\\brain\\LOC007.ome.tif`` are one tile.

    Raises
    ------
    StitchingError
        If a line belongs to no tile, or a tile has no line or several; ``name`` is that of the
        file.
    """
    own = {tile.name for tile in acquisition.tiles}
    origins: dict[str, tuple[float, float, float]] = {}
    for entry in configuration.tiles:
        stem = PurePosixPath(entry.name.replace("\\", "/")).name
        while stem not in own and PurePosixPath(stem).suffix:
            stem = PurePosixPath(stem).stem
        where = f"{name} line {entry.line}: {entry.name[:80]!r}"
        if stem not in own:
            raise StitchingError(
                f"{where} is not a tile of the acquisition, whose tiles are "
                f"{few(sorted(own))}; give the configuration of this acquisition"
            )
        if stem in origins:
            raise StitchingError(f"{where} is the second line of tile {stem}; remove one of them")
        origins[stem] = entry.origin_vox
    absent = sorted(own - origins.keys())
    if absent:
        raise StitchingError(
            f"{name} has no line for {few(absent)}; give the configuration of this acquisition"
        )
    return origins


def _entry(text: str, dimensions: int, number: int, where: str) -> TileEntry:
    match = _TILE.fullmatch(text)
    if match is None or not match[1].strip():
        shape = "(x, y, z)" if dimensions == 3 else "(x, y)"
        raise StitchingError(f"{where} is not a line for a tile; write it as name; ; {shape}")
    numbers = [_number(part) for part in match[3].split(",")]
    if len(numbers) != dimensions:
        raise StitchingError(
            f"{where} has {len(numbers)} coordinates but dim = {dimensions}; correct one of them"
        )
    if not all(abs(value) <= _MAX_PIXELS for value in numbers):
        raise StitchingError(f"{where} has a coordinate that is not a number of pixels; correct it")
    x, y, z = (*numbers, 0.0)[:3]
    return TileEntry(match[1].strip(), match[2].strip(), (z, y, x), number)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
