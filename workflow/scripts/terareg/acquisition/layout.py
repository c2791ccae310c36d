"""What a layout of raw tiles has to provide, whatever the microscope.

A layout says which tiles there are, where they lie, and which files hold their planes. Everything
else (headers, missing planes, types, signal) is the same for all and done by
:mod:`terareg.acquisition.indexing`. A new layout is a subclass of :class:`Layout` in a module of
its own, a line in :mod:`terareg.acquisition.layout_kinds`, its name in the schema, and, in
:mod:`terareg.execution.config`, how its channels are identified.

Standard library only, so that a workflow can survey its samples while it is being parsed.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from terareg.acquisition.image_files import PlaneLayout
from terareg.acquisition.metadata import (
    check_overlap,
    check_spacing,
    neighbour_pairs,
    scanned_cells,
)
from terareg.acquisition.tile_grid import TileGrid
from terareg.core.errors import AcquisitionError, ConfigError
from terareg.storage.store import Entry, Store


@dataclass(frozen=True)
class RawTile:
    """A tile and where it was taken.

    Attributes
    ----------
    name : str
    row, column : int
    yx_um : tuple of float, optional
        Stage position relative to cell (0, 0); without it the tile is put on the nominal grid.
    z_um : float
        Stage position of plane 0.
    """

    name: str
    row: int
    column: int
    yx_um: tuple[float, float] | None = None
    z_um: float = 0.0


@dataclass(frozen=True)
class Survey:
    """What is known about an acquisition before its planes are examined.

    Attributes
    ----------
    rows, columns : int
    tiles : tuple of RawTile
        Row by row.
    tile_pixels : tuple of int
        (y, x), as stated, or as found in one file.
    planes : int
        Planes per stack, as stated or as estimated from one stack.
    spacing_um : tuple of float
        (z, y, x)
    overlap : tuple of float
        Overlap of neighbours (y, x) as a fraction of the tile; 0 along an axis with a single tile.
    problems : tuple of str
        Statements that are readable but contradictory or unusual.
    """

    rows: int
    columns: int
    tiles: tuple[RawTile, ...]
    tile_pixels: tuple[int, int]
    planes: int
    spacing_um: tuple[float, float, float]
    overlap: tuple[float, float]
    problems: tuple[str, ...] = ()

    def pairs(self) -> int:
        """Number of pairs of neighbours."""
        return len(neighbour_pairs(scanned_cells(self.tiles, self.rows, self.columns)))


@dataclass(frozen=True)
class Series:
    """A stack in which every plane is a file.

    Attributes
    ----------
    files : dict of int to Entry
        By number of the plane, as the layout numbers it.
    spans : dict of int to (int, int)
        Where the number stands in the file's name.
    start, step : float
        The number in the name is ``start + plane * step``, rounded.
    """

    files: Mapping[int, Entry]
    spans: Mapping[int, tuple[int, int]]
    start: float = 0.0
    step: float = 1.0


@dataclass(frozen=True)
class Blocks:
    """A stack whose planes are pages of TIFF files.

    Attributes
    ----------
    files : dict of int to Entry
        By number of the first plane that the file holds.
    pages : (int, int), optional
        First and last page to use of every file; all by default.
    """

    files: Mapping[int, Entry]
    pages: tuple[int, int] | None = None


Stack = Series | Blocks


@dataclass(frozen=True)
class LayoutOptions:
    """Keys of ``input`` in the configuration that several layouts share.

    Attributes
    ----------
    channels : dict of str to int or str, optional
        Names of channels, and how the layout identifies them.
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x).
    overlap : sequence of 2 float, optional
        Fractions (y, x) of the tile, in place of those that follow from metadata or positions.
    """

    channels: Mapping[str, int | str] | None = None
    spacing_um: Sequence[float] | None = None
    overlap: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.spacing_um is not None:
            spacing = check_spacing(self.spacing_um, "input.spacing_um")
            object.__setattr__(self, "spacing_um", spacing)
        if self.overlap is not None:
            if len(self.overlap) != 2:
                raise ConfigError(f"input.overlap is {self.overlap!r}; give two fractions (y, x)")
            object.__setattr__(self, "overlap", tuple(float(v) for v in self.overlap))
        if self.channels is not None and not self.channels:
            raise ConfigError(
                "input.channels is empty; name a channel, or leave the key out to use all that "
                "are found"
            )


class Layout(ABC):
    """Raw tiles on disk or S3.

    Attributes
    ----------
    kind : str
        Value of ``input.kind``.
    metadata : tuple of str
        Keys of the metadata files, or whole paths of local files that lie elsewhere.
    leave_out : str
        How a user leaves a tile out, for messages.
    """

    kind: ClassVar[str]
    metadata: tuple[str, ...] = ()
    leave_out: str = "remove its files"

    def __init__(self, raw: Store, options: LayoutOptions) -> None:
        self.raw = raw
        self.options = options
        self._passed_over: set[str] = set()
        self._lock = threading.Lock()

    def note_passed_over(self, key: str) -> None:
        """Remember an image in a tile's folder that is not one of its planes."""
        if re.search(r"(?:^|/)[^/.][^/]*\.(?:tiff?|png)$", key, re.IGNORECASE):
            with self._lock:
                self._passed_over.add(key)

    def passed_over(self) -> list[str]:
        """Unused images in folders of tiles, sorted; known after the tiles were listed."""
        with self._lock:
            return sorted(self._passed_over)

    @cached_property
    def survey(self) -> Survey:
        """The cached result of :meth:`look`."""
        return self.look()

    @abstractmethod
    def look(self) -> Survey:
        """Look at metadata and file names; this is cheap, since every job does it.

        Raises
        ------
        AcquisitionError, ConfigError
            If metadata or file names do not form an acquisition.
        """

    def read_metadata(self, name: str) -> bytes:
        """Content of one of the metadata files."""
        return self.raw.read(name)

    def find_tiles(self, problems: list[str]) -> tuple[RawTile, ...]:
        """The tiles that are really there; adds to ``problems``."""
        return self.survey.tiles

    @abstractmethod
    def raw_keys(self) -> list[str]:
        """Files and folders that the raw data consist of: nothing in them may be removed."""

    @abstractmethod
    def entries(self, tile: RawTile) -> Iterator[tuple[int, Entry]]:
        """Channel number and listing entry of every file of a tile, unchecked, in a fixed order."""

    @abstractmethod
    def stacks(self, tile: RawTile) -> dict[int, Stack]:
        """Stacks of a tile by channel number; channels without files are left out."""

    def numbers(self) -> dict[str, int] | None:
        """Number of each channel that is to be used; None for all that are found."""
        names = self.options.channels
        return None if names is None else {name: k for k, name in enumerate(names)}

    def channel_mark(self, number: int) -> str:
        """How a channel is identified, for messages."""
        return str(list(self.options.channels.values())[number])

    def where(self, tile: str, channel: int) -> str:
        """The first words of messages about the files of a tile."""
        return ""

    def disagreements(
        self, found: Sequence[int], shape: tuple[int, int], depth: int
    ) -> Iterator[str]:
        """Sentences where metadata and files differ in channels, pixels or planes."""
        return iter(())


def _gaps(tiles: Sequence[RawTile], grid: TileGrid) -> list[str]:
    """Messages on irregularities of a grid that can nevertheless be stitched."""
    if len(tiles) == 1:
        return ["there is only one tile, so nothing is stitched"]
    problems = []
    for what, number, there in (
        ("row", grid.rows, {tile.row for tile in tiles}),
        ("column", grid.columns, {tile.column for tile in tiles}),
    ):
        empty = [k for k in range(number) if k not in there]
        if empty:
            problems.append(
                f"{what}{'s' if len(empty) > 1 else ''} {', '.join(map(str, empty))} of the grid "
                "(counted from 0) without any tile: the parts on either side are placed by the "
                "nominal steps of the stage alone"
            )
    return problems


def _if_exchanged(grid: TileGrid, shape: tuple[int, int], options: LayoutOptions) -> str:
    """Words for positions whose x and y are exchanged: the only ones with which they overlap."""
    steps = zip((grid.down[0], grid.right[1]), shape[::-1], options.spacing_um[:0:-1])
    across = [1 - step / (size * spacing) for step, size, spacing in steps]
    if not all(0 < value < 0.6 for value in across) or 1 in (grid.rows, grid.columns):
        return ""
    return f"; with x and y exchanged they would overlap by {across[0]:.0%} and {across[1]:.0%}"


def survey_grid(
    tiles: Sequence[RawTile],
    grid: TileGrid,
    first: tuple[PlaneLayout, int],
    options: LayoutOptions,
    source: str,
) -> Survey:
    """Survey of tiles on a grid of stage positions in micrometres.

    Parameters
    ----------
    tiles : sequence of RawTile
    grid : TileGrid
        Grid through their positions; without positions its steps are 0 and the overlap must be
        given.
    first : (PlaneLayout, int)
        What one file holds, and the number of planes of its stack.
    options : LayoutOptions
        They must give a voxel size. An overlap, if given, is used instead of that of the positions.
    source : str
        Where the positions come from, in the plural, for messages.

    Raises
    ------
    AcquisitionError
        If neighbours do not overlap, or almost entirely.
    """
    layout, planes = first
    problems = _gaps(tiles, grid)
    overlap = []
    for axis, count, step in zip((0, 1), (grid.rows, grid.columns), (grid.down, grid.right)):
        name, size = "yx"[axis], layout.shape[axis]
        if count == 1:
            overlap.append(0.0)
            continue
        apart = step[axis] / options.spacing_um[1 + axis]
        if apart < 0:
            raise AcquisitionError(
                f"{source} fall in {name} from one {('row', 'column')[axis]} to the next; reverse "
                "the sign of the positions, or the order of rows and columns"
            )
        value, words = 1 - apart / size, f"{source}: overlap in {name}"
        if options.overlap is not None:
            own = options.overlap[axis]
            if apart and abs(own - value) > 0.005:
                problems.append(
                    f"input.overlap ({name}) is {own:.1%} but {source} give {value:.1%}; "
                    "input.overlap was used"
                )
            value, words = own, f"input.overlap ({name})"
        elif value <= 0:
            raise AcquisitionError(
                f"{source} are {apart:.0f} pixels apart in {name} but tiles have {size}, so "
                "neighbours do not overlap; correct the positions or input.spacing_um, or set "
                f"input.overlap{_if_exchanged(grid, layout.shape, options)}"
            )
        overlap.append(check_overlap(value, words, problems))
    if options.overlap is not None:
        tiles = [replace(tile, yx_um=None) for tile in tiles]
    return Survey(
        grid.rows,
        grid.columns,
        tuple(sorted(tiles, key=lambda t: (t.row, t.column))),
        layout.shape,
        planes,
        tuple(options.spacing_um),
        (overlap[0], overlap[1]),
        tuple(problems),
    )
