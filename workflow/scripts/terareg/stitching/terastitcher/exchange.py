"""Conversion of TeraStitcher projects to this library's pairs, placements and acquisitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.errors import StitchingError
from terareg.stitching.pairs import PairResult
from terareg.stitching.placement import PlacedTile, Placement
from terareg.stitching.terastitcher.model import ProjectXml, default_of, most_reliable, zyx

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition


def to_pairs(xml: ProjectXml, acquisition: Acquisition | None = None) -> list[PairResult]:
    """Measured pairs of a displcomp, displproj, displthres or merging file.

    Several displacements of a pair are reduced per axis to the most reliable one, as TeraStitcher
    does. A pair is "ok" if all its axes have a reliability above 0; its own is the least of them.

    Parameters
    ----------
    xml : ProjectXml
    acquisition : Acquisition, optional
        Gives the names of the tiles; without it tiles are named by their folders.
    """
    names = names_of(xml, acquisition)
    pairs = []
    for stack in xml.stacks:
        for direction, step in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
            other = stack.row + step[0], stack.column + step[1]
            found = stack.displacements.get(direction, ())
            if (stack.row, stack.column) not in names or other not in names or not found:
                continue
            default = default_of(xml, direction)
            best = most_reliable(found, default)[0]
            displ = [float(a.displ) for a in best.axes]
            reliability = min(a.reliability for a in best.axes)
            peak = min(a.peak for a in best.axes)
            ok = reliability > 0
            agree = sum(all(abs(a.displ - b) <= 1 for a, b in zip(d.axes, displ)) for d in found)
            expected = zyx([float(v) for v in default])
            pairs.append(
                PairResult(
                    names[stack.row, stack.column], names[other], direction,
                    "ok" if ok else "no_signal", zyx(displ) if ok else expected,
                    (0.5, 0.5, 0.5), max(0.0, reliability), peak, agree if ok else 0, len(found),
                    expected, tuple(max(0, a.delay) for a in zyx(best.axes)), engine="xml",
                )
            )  # fmt: skip
    return pairs


def to_placement(xml: ProjectXml, acquisition: Acquisition | None = None) -> Placement:
    """Positions of a merging file (or the nominal ones of an import file) as a placement."""
    names = names_of(xml, acquisition)
    first = np.array(xml.stacks[0].abs_vhd)
    tiles, unscanned = {}, {}
    for stack in xml.stacks:
        cell = stack.row, stack.column
        integer = zyx([int(v) for v in np.array(stack.abs_vhd) - first])
        if cell in names:
            tiles[names[cell]] = PlacedTile(
                *cell, tuple(float(v) for v in integer), integer, "file", 0
            )
        else:
            unscanned[f"{cell[0]},{cell[1]}"] = integer
    return Placement(tiles, unscanned, summary={"tiles": len(tiles)})


def with_nominal(acquisition: Acquisition, xml: ProjectXml) -> Acquisition:
    """The acquisition with the positions of an import file as its nominal positions."""
    places = to_placement(xml, acquisition).tiles
    tiles = (replace(t, origin_vox=places[t.name].origin_vox) for t in acquisition.tiles)
    return replace(acquisition, tiles=tuple(tiles))


def check_fits(xml: ProjectXml, acquisition: Acquisition, name: str = "XML") -> None:
    """Raise :class:`StitchingError` if the project belongs to another acquisition."""
    if (xml.rows, xml.columns) != (acquisition.rows, acquisition.columns):
        raise StitchingError(
            f"{name} has {xml.rows} x {xml.columns} tiles but the acquisition has "
            f"{acquisition.rows} x {acquisition.columns}; give the XML of this acquisition"
        )
    spacing = acquisition.spacing_um
    for axis, own, theirs in zip("VHD", (spacing[1], spacing[2], spacing[0]), xml.voxel_vhd_um):
        if abs(abs(theirs) - own) > 0.01 * own:
            raise StitchingError(
                f"{name} has voxel size {theirs:g} um along {axis} but the acquisition has "
                f"{own:g}; give the XML of this acquisition or correct input.spacing_um"
            )
    planes = acquisition.tile_shape[0]
    if xml.slices > 0 and xml.slices != planes:
        raise StitchingError(
            f"{name} has {xml.slices} slices per tile but the files have {planes}; give the "
            "XML of this acquisition"
        )
    at = {(tile.row, tile.column): tile for tile in acquisition.tiles}
    size = np.dtype(acquisition.dtype).itemsize
    for stack in xml.stacks:
        tile = at.get((stack.row, stack.column))
        if bool(stack.dir_name) != (tile is not None):
            raise StitchingError(
                f"{name} states that cell {stack.row},{stack.column} was "
                f"{'acquired' if stack.dir_name else 'not acquired'} but the acquisition states "
                "otherwise; give the XML of this acquisition"
            )
        if tile is not None and stack.bytes_per_channel not in (0, size):
            raise StitchingError(
                f"{name}: stack {stack.row},{stack.column} has {stack.bytes_per_channel} bytes "
                f"per pixel but the files have {size}; give the XML of this acquisition"
            )
        if stack.z_ranges and stack.z_ranges[-1][1] > planes:
            raise StitchingError(
                f"{name}: stack {stack.row},{stack.column} has slices up to "
                f"{stack.z_ranges[-1][1]} but the files have {planes}; give the XML of this "
                "acquisition"
            )
    limit = (acquisition.tile_shape[1], acquisition.tile_shape[2])
    by_cell = {(s.row, s.column): np.array(s.abs_vhd) for s in xml.stacks}
    for (row, column), tile in sorted(at.items()):
        for k, other in ((0, (row + 1, column)), (1, (row, column + 1))):
            if other not in at:
                continue
            step = int((by_cell[other] - by_cell[row, column])[k])
            if not 0 < step <= 2 * limit[k]:
                raise StitchingError(
                    f"{name} puts {at[other].name} {step} pixels from {tile.name}, which is "
                    f"{limit[k]} pixels wide; give the XML of this acquisition"
                )


def names_of(xml: ProjectXml, acquisition: Acquisition | None) -> dict[tuple[int, int], str]:
    """Names of the tiles by row and column: those of the acquisition, or else of the folders."""
    if acquisition is not None:
        check_fits(xml, acquisition)
        return {(tile.row, tile.column): tile.name for tile in acquisition.tiles}
    names = {(s.row, s.column): PurePosixPath(s.dir_name).name for s in xml.stacks if s.dir_name}
    if len(set(names.values())) != len(names):
        raise StitchingError("two stacks of the XML have the same DIR_NAME; correct one")
    return names
