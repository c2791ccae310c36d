"""Tables of tiles: one line per tile and channel, strictly read.

===========  =====================================================================================
column       what
===========  =====================================================================================
path         folder of planes, pattern such as ``t1/img_*.tif``, TIFF of several pages, or an array
             in a file or folder of many, ``scan.h5#t00000:s00:0:cells``
             (:mod:`terareg.storage.part_names`)
channel      as in ``input.channels``; may be left out with one channel
side         side of the channel; ``input.channels`` then says CHANNEL/SIDE, or SIDE alone
tile         a name; by default made from row and column
row, column  cell of the grid
x_um, y_um   stage position
z_um         stage position of the first plane
z_first,     first and last plane to use: numbers in file names, or pages from 0
z_last
===========  =====================================================================================

Standard library only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from terareg.acquisition.image_files import TIFF_SUFFIXES
from terareg.core.errors import AcquisitionError, ConfigError, StoreError, few
from terareg.storage.foreign import Table, boundary, parse_table, short
from terareg.storage.part_names import split_part
from terareg.storage.store import check_key

#: names that the columns of a table may have
COLUMNS = (
    "path", "channel", "side", "tile", "row", "column", "x_um", "y_um", "z_um", "z_first", "z_last",
)  # fmt: skip
_TOGETHER = (("row", "column"), ("x_um", "y_um"), ("z_first", "z_last"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_ENDINGS = (".tsv", ".csv")
_SIGNS = "*?["
_FAR_UM = 1e9
Exists = Callable[[str], bool]


@dataclass(frozen=True)
class TileLine:
    """A line of the table: the files of a tile in one channel.

    Attributes
    ----------
    number : int
        Of the line, from 1.
    path : str
    channel : int
        Index of the channel among those that are used.
    tile : str or None
    cell : (row, column) or None
    yx_um : (y, x) or None
    z_um : float
    planes : (first, last) or None
    is_pattern : bool
        Whether the path is a pattern for file names.
    """

    number: int
    path: str
    channel: int
    tile: str | None = None
    cell: tuple[int, int] | None = None
    yx_um: tuple[float, float] | None = None
    z_um: float = 0.0
    planes: tuple[int, int] | None = None
    is_pattern: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the path is one file of several planes."""
        if split_part(self.path) is not None:
            return True
        return self.path.lower().endswith(TIFF_SUFFIXES) and not self.is_pattern

    @property
    def label(self) -> str:
        """What messages call the tile."""
        return f"line {self.number}" if self.tile is None else f"{self.tile} (line {self.number})"


def read_table(
    data: bytes, name: str, channels: Sequence[str], exists: Exists = lambda key: False
) -> list[TileLine]:
    """Lines of a table that belong to the channels in use.

    Parameters
    ----------
    data : bytes
        Content of the file.
    name : str
        Its name, which ends in ``.tsv`` or ``.csv``; see
        :func:`terareg.storage.foreign.parse_table` for what separates columns.
    channels : sequence of str
        The entry of each channel in use in the column channel; with one channel the column may be
        left out.
    exists : callable
        Whether a file or folder of this name exists; if so, brackets in the name are not a pattern.

    Raises
    ------
    AcquisitionError, ConfigError
        For the first mistake, with the number of its line.
    """
    return _Reader(name, channels, exists).read(data)


def stack_name(row: Mapping[str, str]) -> str | None:
    """Channel of a line, with its side if there are sides; None where no column says either."""
    parts = [row[name] for name in ("channel", "side") if name in row]
    return "/".join(parts) if parts else None


class _Reader:
    """Turns text into lines, with messages that name the file and the line."""

    def __init__(self, name: str, channels: Sequence[str], exists: Exists) -> None:
        self.name = name
        self.channels = list(channels)
        self.exists = exists
        self.table = Table((), ",", ())

    def fail(self, number: int, what: str) -> AcquisitionError:
        return AcquisitionError(f"{self.name} line {number}: {what}")

    def read(self, data: bytes) -> list[TileLine]:
        if PurePosixPath(self.name).suffix.lower() not in _ENDINGS:
            raise ConfigError(f"input.table: {self.name!r} must be a .tsv or .csv file")
        with boundary(self.name, AcquisitionError, "list a tile on each line, in plain columns"):
            self.table = parse_table(data)
        columns = self.header(1, list(self.table.columns))
        lines = []
        for number, row in self.table.rows:
            if len(row) != len(columns):
                raise self.fail(
                    number, f"{len(row)} values for {len(columns)} columns; correct the line"
                )
            values = dict(zip(columns, row))
            if self.stack(values) in self.channels:
                lines.append(self.line(number, values))
        if not lines:
            raise AcquisitionError(
                f"{self.name} lists no tile of channels {few(self.channels)}; correct "
                "input.channels"
            )
        self.check_paths(lines)
        return lines

    def header(self, number: int, columns: list[str]) -> list[str]:
        for name in columns:
            if name not in COLUMNS:
                near = difflib.get_close_matches(name[:40], COLUMNS, 1, 0.6)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COLUMNS)}"
                raise self.fail(number, f"{short(name)} is not a known column; {hint}")
            if columns.count(name) > 1:
                raise self.fail(number, f"column {name} appears twice; remove one")
        needed = ["path", *(b for a, b in _TOGETHER if a in columns)]
        needed += [a for a, b in _TOGETHER if b in columns]
        for name in needed:
            if name not in columns:
                raise self.fail(number, f"column {name} is missing; add it")
        if not {"channel", "side"} & set(columns) and len(self.channels) > 1:
            raise self.fail(number, "column channel is missing but input.channels names several")
        return columns

    def stack(self, row: dict[str, str]) -> str:
        """What ``input.channels`` calls the images of a line."""
        found = stack_name(row)
        return self.channels[0] if found is None else found

    def line(self, number: int, row: dict[str, str]) -> TileLine:
        empty = [name for name, value in row.items() if not value]
        if empty:
            raise self.fail(number, f"{empty[0]} is empty; fill it in or remove the column")
        try:
            path = check_key(row["path"])
        except StoreError as error:
            raise self.fail(
                number, f"path {row['path']!r} is outside input.path; use a path below it"
            ) from error
        line = TileLine(
            number, path, self.channels.index(self.stack(row)),
            row.get("tile"),
            self.pair(number, row, "row", "column"), self.pair(number, row, "y_um", "x_um"),
            self.value(number, row, "z_um") if "z_um" in row else 0.0,
            self.pair(number, row, "z_first", "z_last"),
            split_part(path) is None
            and any(sign in path for sign in _SIGNS)
            and not self.exists(path),
        )  # fmt: skip
        if line.tile is not None and not _NAME.fullmatch(line.tile):
            raise self.fail(number, f"tile {short(line.tile)}: use letters, digits, _ and -")
        if line.planes is not None and line.planes[0] > line.planes[1]:
            raise self.fail(number, "z_first is above z_last; swap them")
        folder = str(PurePosixPath(path).parent)
        if line.is_pattern and any(sign in folder for sign in _SIGNS) and not self.exists(folder):
            raise self.fail(
                number,
                f"path {path!r}: only the file name may be a pattern, not a folder",
            )
        if path.lower().endswith(".png") and not line.is_pattern:
            raise self.fail(number, f"path {path!r} is one plane; give its folder or a pattern")
        return line

    def pair(self, number: int, row: dict[str, str], first: str, second: str):
        if first not in row:
            return None
        return tuple(self.value(number, row, name) for name in (first, second))

    def value(self, number: int, row: dict[str, str], name: str) -> float:
        text, whole = row[name], not name.endswith("_um")
        try:
            value = self.table.number(text)
        except ValueError as error:
            raise self.fail(number, f"{name}: {error}") from error
        # spreadsheets write integers with a decimal separator where a column has gaps
        right = 0 <= value <= 1_000_000 and value == int(value) if whole else abs(value) <= _FAR_UM
        if not right:
            what = "a whole number from 0 to 1000000" if whole else "a number of micrometres"
            raise self.fail(number, f"{name} is {short(text)}; write {what}")
        return int(value) if whole else value

    def check_paths(self, lines: list[TileLine]) -> None:
        seen: dict[tuple, int] = {}
        for line in lines:
            if line.is_file != lines[0].is_file:
                raise self.fail(
                    line.number,
                    f"{line.path} and {lines[0].path} (line {lines[0].number}) are a file of "
                    "several planes and files of one plane each; convert all tiles to one form",
                )
            before = seen.setdefault((line.path, line.planes), line.number)
            if before != line.number:
                raise self.fail(
                    line.number, f"{line.path} is also on line {before}; remove one of them"
                )
