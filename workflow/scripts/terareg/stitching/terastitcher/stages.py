"""The five project files: each step of TeraStitcher fills in more."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from terareg.acquisition.raw import PageFiles
from terareg.core.errors import StitchingError
from terareg.stitching.pairs import PairResult, WindowResult
from terareg.stitching.terastitcher.exchange import names_of
from terareg.stitching.terastitcher.model import (
    WIDTH_UNIT,
    Axis,
    Displacement,
    ProjectXml,
    Stack,
    default_of,
    most_reliable,
    rounded,
    vhd,
    with_sides,
)

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition, Tile
    from terareg.acquisition.raw import StackFiles
    from terareg.stitching.placement import Placement

NO_FILE = "^$"  # matches no file name


def from_acquisition(
    acquisition: Acquisition, channel: str, mdata_bin: str | None = "./mdata.bin"
) -> ProjectXml:
    """``xml_import``: nominal positions of all cells, no displacements.

    Parameters
    ----------
    acquisition : Acquisition
    channel : str
        Name of the channel whose files the project names.
    mdata_bin : str or None
        Where TeraStitcher keeps its index. A relative path starts at the folder in which
        TeraStitcher is run, so raw data stay untouched and the file does not depend on the machine.

    Returns
    -------
    ProjectXml
    """
    acquisition.channel(channel)
    stacks_of = {tile.name: acquisition.planes[tile.name][channel] for tile in acquisition.tiles}
    folders = {t.name: _folder_of(t, stacks_of[t.name]) for t in acquisition.tiles}
    in_blocks = any(isinstance(files, PageFiles) for files in stacks_of.values())
    parents = {folder.parent.as_posix() for folder in folders.values()}
    common = os.path.commonpath(sorted(parents)) if len(parents) > 1 else parents.pop()
    common = "" if common == "." else common
    at = {(tile.row, tile.column): tile for tile in acquisition.tiles}
    spacing = acquisition.spacing_um
    voxel = (float(spacing[1]), float(spacing[2]), float(spacing[0]))
    step = acquisition.nominal_step_vox
    size = np.dtype(acquisition.dtype).itemsize
    stacks = []
    for row in range(acquisition.rows):
        for column in range(acquisition.columns):
            tile = at.get((row, column))
            if tile is None:
                nominal = (rounded(row * step[0]), rounded(column * step[1]), 0)
                stacks.append(Stack(row, column, nominal, "", (), NO_FILE, bytes_per_channel=size))
                continue
            files = stacks_of[tile.name]
            blocks = files.blocks if isinstance(files, PageFiles) else ()
            z, y, x = tile.origin_vox
            folder = folders[tile.name]
            stacks.append(
                Stack(
                    row,
                    column,
                    (rounded(y), rounded(x), rounded(z)),
                    folder.relative_to(common).as_posix() if common else folder.as_posix(),
                    _present(acquisition.tile_shape[0], files.missing),
                    _file_regex(files),
                    bytes_per_channel=size,
                    block_sizes=tuple(b.planes for b in blocks) if in_blocks else None,
                    blocks_abs_d=tuple(b.plane for b in blocks) if in_blocks else None,
                )
            )
    return ProjectXml(
        "TiledXY|3Dseries" if in_blocks else "TiledXY|2Dseries",
        f"{acquisition.raw.rstrip('/')}/{common}" if common else acquisition.raw,
        voxel,
        (_mechanical(step[0], voxel[0]), _mechanical(step[1], voxel[1])),
        acquisition.rows,
        acquisition.columns,
        acquisition.tile_shape[0],
        tuple(stacks),
        input_plugin="tiff3D" if in_blocks else "tiff2D",
        mdata_bin=mdata_bin,
    )


def with_displacements(
    xml: ProjectXml, pairs: Sequence[PairResult], acquisition: Acquisition | None = None
) -> ProjectXml:
    """``xml_displcomp``: one Displacement per window of every measured pair.

    Tiles are named as in the acquisition, or without one by their folders.

    Pairs of the engine mip_ncc are written with the attributes that TeraStitcher gives them. For
    other pairs, windows that support the displacement of the pair have its reliability, and the
    window nearest to it a slightly higher one, so that :func:`project` (and TeraStitcher's ``-3``)
    choose that window; all others have 0.
    """
    names = {name: cell for cell, name in names_of(xml, acquisition).items()}
    sides: dict[tuple[int, int], dict[str, tuple]] = {}
    for pair in pairs:
        if pair.a not in names or pair.b not in names:
            raise StitchingError(
                f"pair {pair.a} - {pair.b} is not in the project; import the tiles again"
            )
        default = default_of(xml, pair.direction)
        if pair.engine == "mip_ncc":
            sides.setdefault(names[pair.a], {})[pair.direction] = tuple(
                _as_measured(window, default) for window in pair.windows
            )
            continue
        found = []
        windows = pair.windows or (
            WindowResult((0, 0), (0, 0), pair.displ_vox, pair.peak, 0.0, True, pair.status == "ok"),
        )
        good = [k for k, w in enumerate(windows) if w.agrees and pair.status == "ok"]
        wanted = np.array(vhd(pair.displ_vox))
        nearest = min(
            good,
            key=lambda k: float(np.abs(np.array(vhd(windows[k].displ_vox)) - wanted).max()),
            default=None,
        )
        for k, window in enumerate(windows):
            reliability = 0.0
            displ = window.displ_vox
            if k in good:
                reliability = pair.reliability - (0 if k == nearest else 2 / WIDTH_UNIT)
            if k == nearest:
                displ = pair.displ_vox
            axes = zip(vhd(displ), default, vhd(pair.search_vox))
            found.append(
                Displacement(
                    *(
                        Axis.encoded(rounded(v), d, max(0.0, reliability), int(s))
                        for v, d, s in axes
                    )
                )
            )
        sides.setdefault(names[pair.a], {})[pair.direction] = tuple(found)
    return with_sides(xml, sides)


def project(xml: ProjectXml) -> ProjectXml:
    """``xml_displproj``: one Displacement per pair, per axis the most reliable one.

    Pairs without any get the nominal displacement with reliability 0.
    """
    return _map_pairs(xml, most_reliable)


def threshold(xml: ProjectXml, min_reliability: float) -> ProjectXml:
    """``xml_displthres``: axes below the threshold get the nominal displacement, reliability 0.

    A tile is stitchable if any axis of any of its pairs passes.
    """
    if not 0 <= min_reliability <= 1:
        raise StitchingError(f"threshold {min_reliability} is not a reliability; give 0 to 1")
    result = _map_pairs(
        project(xml),
        lambda found, default: (
            Displacement(*(_below(axis, min_reliability) for axis in found[0].axes)),
        ),
    )
    good: set[tuple[int, int]] = set()
    for stack in result.stacks:
        for direction, (row, column) in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
            for displacement in stack.displacements.get(direction, ()):
                if any(axis.reliability > 0 for axis in displacement.axes):
                    good |= {(stack.row, stack.column), (stack.row + row, stack.column + column)}
    return replace(
        result,
        stacks=tuple(
            replace(s, stitchable=(s.row, s.column) in good and bool(s.dir_name))
            for s in result.stacks
        ),
    )


def with_placement(xml: ProjectXml, placement: Placement) -> ProjectXml:
    """``xml_merging``: solved integer positions, cell (0, 0) at 0.

    Every displacement becomes the difference of the two positions, so that TeraStitcher's own
    placement gives these positions, whichever links it uses.
    """
    at = {(t.row, t.column): t.integer for t in placement.tiles.values()}
    for key, integer in placement.unscanned.items():
        row, column = key.split(",")
        at[int(row), int(column)] = tuple(integer)
    missing = [(s.row, s.column) for s in xml.stacks if (s.row, s.column) not in at]
    if missing:
        raise StitchingError(
            f"the placement has no position for cell {missing[0]}; place the tiles again"
        )
    first = np.array(at[0, 0])
    position = {cell: np.array(v) - first for cell, v in at.items()}
    kept = {
        (placement.tiles[link.a].row, placement.tiles[link.a].column, link.direction): link
        for link in placement.links
        if link.state == "kept" and link.a in placement.tiles
    }
    sides, stacks = {}, []
    for stack in xml.stacks:
        own = {}
        cell = stack.row, stack.column
        for direction, step in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
            other = cell[0] + step[0], cell[1] + step[1]
            if other[0] >= xml.rows or other[1] >= xml.columns:
                continue
            link = kept.get((*cell, direction))
            reliability = link.reliability if link else 0.0
            displ = vhd(position[other] - position[cell])
            own[direction] = (
                Displacement(
                    *(
                        # the nominal value is also the placed one, since TeraStitcher may use it
                        Axis.encoded(int(v), int(v), reliability)
                        for v in displ
                    )
                ),
            )
        sides[cell] = own
        linked = stack.dir_name != ""
        z, y, x = (int(v) for v in position[cell])
        stacks.append(replace(stack, abs_vhd=(y, x, z), stitchable=linked))
    return with_sides(replace(xml, stacks=tuple(stacks)), sides)


def _as_measured(window: WindowResult, default) -> Displacement:
    """A sub-volume of mip_ncc with all its attributes."""
    return Displacement(
        *(
            Axis(
                a.displ_vox, d, a.reliability, a.peak, a.width, a.width_range, a.inf_width, a.delay
            )
            for a, d in zip(vhd(window.axes), default)
        )
    )


def _below(axis: Axis, least: float) -> Axis:
    if axis.reliability >= least:
        return axis
    return replace(Axis.encoded(axis.default, axis.default, 0.0), delay=axis.delay)


def _map_pairs(xml: ProjectXml, function) -> ProjectXml:
    """Replace the displacements of every neighbouring cell by ``function(found, default)``."""
    sides = {}
    for stack in xml.stacks:
        own = {}
        if stack.column + 1 < xml.columns:
            found = stack.displacements.get("EAST", ())
            own["EAST"] = function(found, default_of(xml, "EAST"))
        if stack.row + 1 < xml.rows:
            found = stack.displacements.get("SOUTH", ())
            own["SOUTH"] = function(found, default_of(xml, "SOUTH"))
        sides[stack.row, stack.column] = own
    return with_sides(xml, sides)


def _present(planes: int, missing: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ranges [first, last) of the planes that are not missing."""
    gone, ranges, start = set(missing), [], None
    for z in range(planes + 1):
        here = z < planes and z not in gone
        if here and start is None:
            start = z
        elif not here and start is not None:
            ranges.append((start, z))
            start = None
    return tuple(ranges)


def _folder_of(tile: Tile, files: StackFiles) -> PurePosixPath:
    """Folder of the files of a stack, whose names may begin with folders."""
    name, _ = files.locate(next(z for z in count() if z not in files.missing))
    return PurePosixPath(tile.folder, name).parent


def _file_regex(files: StackFiles) -> str:
    """Regular expression that matches the files of one stack and nothing else in the folder.

    Special characters of Perl-like expressions are put in brackets, which TeraStitcher's library
    and Python read alike.
    """

    def literal(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_ -]", _literal, text.rsplit("/", 1)[-1])

    if isinstance(files, PageFiles):
        patterns = [literal(block.name) for block in files.blocks]
    else:
        patterns = [f"{literal(files.prefix)}[0-9]+{literal(files.suffix)}"]
        patterns += [literal(name) for _, name in sorted(files.odd.items())]
    return patterns[0] if len(patterns) == 1 else "(" + "|".join(patterns) + ")"


def _literal(match: re.Match) -> str:
    return "\\" + match[0] if match[0] in "^\\]" else f"[{match[0]}]"


def _mechanical(step: float, voxel: float) -> float:
    """Stage step in micrometres that is not less than ``step`` after TeraStitcher truncates it."""
    value = step * voxel
    while int(value / voxel) < math.floor(step + 1e-9):
        value = math.nextafter(value, math.inf)
    return value
