"""Positions given by the user, used instead of the nominal ones of the stage.

They come as TeraStitcher's ``xml_import``, as Fiji's tile configuration, or as Render's tile
specifications (by the file's name: ``.json`` or ``.json.gz``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from terareg.acquisition.model import Acquisition
from terareg.core.errors import StitchingError
from terareg.stitching.render import read_tilespecs, tile_origins
from terareg.stitching.terastitcher.exchange import with_nominal
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.tile_configuration import match_tiles, read_tile_configuration


def own_positions(acquisition: Acquisition, files: Mapping) -> Acquisition:
    """The acquisition with the positions from the user's file, if there is one.

    Parameters
    ----------
    acquisition : Acquisition
    files : mapping of str to list of path
        ``nominal``: none or one ``xml_import``; ``configuration``: none or one file for
        :func:`read_positions`.
    """
    if files.get("nominal"):
        xml = read_xml(files["nominal"][0])
        return with_nominal(acquisition, xml)
    if files.get("configuration"):
        path = files["configuration"][0]
        return with_positions(acquisition, read_positions(path, acquisition), path)
    return acquisition


def read_positions(
    path: str | os.PathLike, acquisition: Acquisition, name: str | None = None
) -> dict[str, tuple[float, float, float]]:
    """Positions (z, y, x) in voxels by tile, from a tile configuration or tile specifications.

    ``name`` stands for the path in messages.

    Raises
    ------
    StitchingError
        If the file cannot be read or its tiles are not exactly those of the acquisition.
    """
    name = name or os.fspath(path)
    if name.endswith((".json", ".json.gz")):
        return tile_origins(read_tilespecs(path), acquisition, name)
    return match_tiles(read_tile_configuration(path), acquisition, name)


def with_positions(
    acquisition: Acquisition, origins: Mapping[str, tuple[float, float, float]], name: str
) -> Acquisition:
    """The acquisition with other nominal positions, and the overlap that follows from them.

    The first tile keeps its position and the others are placed relative to it, because files of
    other programs may have any origin.

    Raises
    ------
    StitchingError
        If neighbours are out of order or further apart than two tiles; ``name`` is that of the
        file.
    """
    _, height, width = acquisition.tile_shape
    first = acquisition.tiles[0]
    offset = np.subtract(first.origin_vox, origins[first.name])
    steps: dict[str, list[float]] = {"EAST": [], "SOUTH": []}
    for a, b, direction in acquisition.pairs():
        axis, size = (2, width) if direction == "EAST" else (1, height)
        step = origins[b.name][axis] - origins[a.name][axis]
        if not 0 < step <= 2 * size:
            raise StitchingError(
                f"{name} puts {b.name} {step:g} pixels from {a.name} ({direction}), which is "
                f"{size} pixels wide; give positions of this acquisition, in pixels"
            )
        steps[direction].append(step)
    overlap: tuple[float, float] = tuple(
        1 - float(np.median(steps[direction])) / size if steps[direction] else nominal
        for direction, size, nominal in zip(("SOUTH", "EAST"), (height, width), acquisition.overlap)
    )
    tiles = (
        replace(tile, origin_vox=tuple(float(v) for v in np.add(origins[tile.name], offset)))
        for tile in acquisition.tiles
    )
    return replace(acquisition, tiles=tuple(tiles), overlap=overlap)
