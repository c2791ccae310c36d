"""TeraStitcher's project files: read, written, and exchanged with this library's own types.

One schema serves all five files; each step fills in more of it: ``xml_import`` (nominal
positions), ``xml_displcomp`` (several displacements per pair), ``xml_displproj`` (one per pair),
``xml_displthres`` (unreliable ones replaced by the nominal step), ``xml_merging`` (positions).
Bria and Iannello, BMC Bioinformatics 13:316 (2012). TeraStitcher's axes are V (y), H (x), D (z);
its order is V, H, D.

TeraStitcher's rules that this module follows: tiles are taken in document order, row by row,
whatever their ROW and COL are; only EAST and SOUTH displacements are used, but all four elements
must exist; the reliability of a displacement is recomputed from its peak and width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

SIDES = ("NORTH", "EAST", "SOUTH", "WEST")
FORMATS = ("TiledXY|2Dseries", "TiledXY|3Dseries")
# widths are integers: reliability r is stored as peak r and width 1000 (1 - r) of 1000, from which
# sqrt(((1 - width / 1000)^2 + peak^2) / 2) gives r again
WIDTH_UNIT = 1000


@dataclass(frozen=True)
class Axis:
    """Displacement along one axis: a ``V``, ``H`` or ``D`` element.

    Attributes
    ----------
    displ, default : int
        Measured and nominal displacement, pixels.
    reliability : float
        0 to 1; -1 means not yet computed.
    peak : float
        Correlation.
    width : int
        Half-width of the peak at 80 % of its height, pixels.
    width_range, inf_width, delay : int
        Range searched for the width, the width that stands for infinite, and the search range.
    """

    displ: int
    default: int
    reliability: float
    peak: float
    width: int
    width_range: int = 29
    inf_width: int = 30
    delay: int = -1

    @classmethod
    def encoded(cls, displ: int, default: int, reliability: float, delay: int = -1) -> Axis:
        """Displacement whose peak and width give back its reliability."""
        width = min(WIDTH_UNIT, max(1, round((1 - reliability) * WIDTH_UNIT)))
        stored = 1 - width / WIDTH_UNIT
        return cls(displ, default, stored, stored, width, WIDTH_UNIT - 1, WIDTH_UNIT, delay)


@dataclass(frozen=True)
class Displacement:
    """A ``Displacement`` element of type MIP_NCC: origin(second tile) - origin(first tile)."""

    v: Axis
    h: Axis
    d: Axis

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The axes in TeraStitcher's order V, H, D."""
        return (self.v, self.h, self.d)


@dataclass(frozen=True)
class Stack:
    """A ``Stack`` element: one cell of the grid.

    Attributes
    ----------
    row, column : int
        From the order in the document, which is decisive.
    abs_vhd : tuple of int
        Position (V, H, D), pixels.
    dir_name : str
        Folder relative to ``stacks_dir``; empty where nothing was acquired.
    z_ranges : tuple of tuple of int
        Existing slices [first, last); empty where nothing was acquired.
    img_regex : str
        Regular expression of the file names.
    stitchable : bool
    channels, bytes_per_channel : int
    block_sizes, blocks_abs_d : tuple of int or None
        Depths and first slices of the blocks of a 3Dseries.
    series_no : int or None
    displacements : dict of str to tuple of Displacement
        For "NORTH", "EAST", "SOUTH", "WEST"; sides without any are left out.
    """

    row: int
    column: int
    abs_vhd: tuple[int, int, int]
    dir_name: str
    z_ranges: tuple[tuple[int, int], ...]
    img_regex: str = ""
    stitchable: bool = False
    channels: int = 1
    bytes_per_channel: int = 2
    block_sizes: tuple[int, ...] | None = None
    blocks_abs_d: tuple[int, ...] | None = None
    series_no: int | None = None
    displacements: dict[str, tuple[Displacement, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectXml:
    """A TeraStitcher project.

    Attributes
    ----------
    volume_format : str
        "TiledXY|2Dseries" or "TiledXY|3Dseries".
    stacks_dir : str
        Root of the tiles' folders.
    voxel_vhd_um : tuple of float
        Voxel size (V, H, D).
    mechanical_vh_um : tuple of float
        Nominal stage step (V, H).
    rows, columns, slices : int
    stacks : tuple of Stack
        Row by row.
    input_plugin : str or None
    mdata_bin : str or None
        Where TeraStitcher keeps its binary index; with None it writes into the raw data.
    ref_sys : tuple of int or None
    origin_vhd_mm : tuple of float
    subimage : tuple of int or None
        Resolution, time point (and series) of 3Dseries from other formats.
    """

    volume_format: str
    stacks_dir: str
    voxel_vhd_um: tuple[float, float, float]
    mechanical_vh_um: tuple[float, float]
    rows: int
    columns: int
    slices: int
    stacks: tuple[Stack, ...]
    input_plugin: str | None = None
    mdata_bin: str | None = None
    ref_sys: tuple[int, int, int] | None = (1, 2, 3)
    origin_vhd_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    subimage: tuple[int, ...] | None = None

    def stack(self, row: int, column: int) -> Stack:
        """The stack at a cell of the grid."""
        return self.stacks[row * self.columns + column]

    @property
    def default_displ(self) -> tuple[int, int]:
        """Nominal displacement (V of SOUTH, H of EAST), truncated to pixels like TeraStitcher."""
        return tuple(int(abs(m / v)) for m, v in zip(self.mechanical_vh_um, self.voxel_vhd_um[:2]))


def with_sides(xml: ProjectXml, sides) -> ProjectXml:
    """Set EAST and SOUTH displacements, and WEST and NORTH as their mirror images."""
    mirrored: dict[tuple[int, int], dict[str, tuple]] = {}
    for (row, column), own in sides.items():
        for side, found in own.items():
            opposite, other = (
                ("WEST", (row, column + 1)) if side == "EAST" else ("NORTH", (row + 1, column))
            )
            mirrored.setdefault(other, {})[opposite] = tuple(
                Displacement(*(replace(a, displ=-a.displ, default=-a.default) for a in d.axes))
                for d in found
            )
    return replace(
        xml,
        stacks=tuple(
            replace(
                stack,
                displacements={
                    side: found
                    for side in SIDES
                    if (
                        found := (
                            sides.get((stack.row, stack.column), {})
                            | mirrored.get((stack.row, stack.column), {})
                        ).get(side)
                    )
                },
            )
            for stack in xml.stacks
        ),
    )


def default_of(xml: ProjectXml, direction: str) -> tuple[int, int, int]:
    """Nominal step (V, H, D) of a project in a direction."""
    south, east = xml.default_displ
    return (0, east, 0) if direction == "EAST" else (south, 0, 0)


def most_reliable(found, default) -> tuple[Displacement]:
    """One displacement, each axis from the most reliable of those found; the default if none."""
    if not found:
        return (Displacement(*(Axis.encoded(d, d, 0.0) for d in default)),)
    axes = []
    for k in range(3):
        best = max(found, key=lambda d: d.axes[k].reliability).axes[k]
        axes.append(best)
    return (Displacement(*axes),)


def vhd(zyx) -> tuple:
    """Values in TeraStitcher's order of axes (y, x, z)."""
    return (zyx[1], zyx[2], zyx[0])


def zyx(vhd) -> tuple:
    """Values in this project's order of axes; inverse of :func:`vhd`."""
    return (vhd[2], vhd[0], vhd[1])


def rounded(value: float) -> int:
    """Nearest integer, half to even, insensitive to rounding errors."""
    return int(np.rint(np.round(float(value), 6)))
