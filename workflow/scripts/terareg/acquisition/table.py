"""Raw tiles that a table lists, see :mod:`terareg.acquisition.table_lines` for its columns.

Standard library only, see :mod:`terareg.acquisition.layout`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from terareg.acquisition.folder_signs import other_kind
from terareg.acquisition.image_files import (
    PlaneLayout,
    estimate_pages,
    read_layout,
)
from terareg.acquisition.layout import (
    Blocks,
    Layout,
    LayoutOptions,
    RawTile,
    Series,
    Stack,
    Survey,
    survey_grid,
)
from terareg.acquisition.table_lines import TileLine, read_table
from terareg.acquisition.tile_grid import (
    TileGrid,
    cells_in_order,
    find_grid,
    find_order,
    fit_grid,
    guess_shape,
)
from terareg.core.errors import AcquisitionError, ConfigError
from terareg.storage.foreign import TEXT_BYTES, boundary, read_bytes, read_object
from terareg.storage.part_arrays import part_facts
from terareg.storage.part_names import part_entry, split_part
from terareg.storage.store import Entry, Store, check_key

logger = logging.getLogger(__name__)
_IMAGE = re.compile(r"[^.].*\.(?:tiff?|png)", re.IGNORECASE)
_MAX_CELLS = 100_000


@dataclass(frozen=True)
class GridOrder:
    """The grid of a table without positions or cells; see :func:`~.tile_grid.cells_in_order`."""

    rows: int | None = None
    columns: int | None = None
    order: str = "horizontal"
    start: str = "top_left"

    def cells(self, tiles: int) -> list[tuple[int, int]]:
        """Cells of this number of tiles, in the order of the table."""
        rows, columns = self.rows, self.columns
        if rows is None and columns is None:
            rows, columns = guess_shape(tiles)
        rows = rows or math.ceil(tiles / columns)
        columns = columns or math.ceil(tiles / rows)
        if rows * columns != tiles:
            raise AcquisitionError(
                f"{tiles} tiles do not fill a grid of {rows} x {columns}; correct input.grid, or "
                "add columns row and column"
            )
        return cells_in_order(rows, columns, self.order, self.start)


class TableLayout(Layout):
    """Raw tiles that a table lists.

    Parameters
    ----------
    raw : Store
    options : LayoutOptions
        Channels are identified by the column channel. The voxel size must be given.
    table : str
        Key of the table, or the whole path of a local file; paths in it are relative to ``raw``.
    grid : GridOrder, optional
        For a table without positions or cells.
    """

    kind = "table"

    def __init__(
        self, raw: Store, options: LayoutOptions, table: str, grid: GridOrder | None = None
    ) -> None:
        super().__init__(raw, options)
        self.table = table if table.startswith("/") else check_key(table)
        self.metadata = (self.table,)
        self.leave_out = f"remove the tile's lines from {self.table}"
        self.grid = grid

    def _fail(self, number: int, what: str) -> AcquisitionError:
        return AcquisitionError(f"{self.table} line {number}: {what}")

    # ------------------------------------------------------------------ tiles
    def _read(self) -> list[TileLine]:
        with boundary(self.table, AcquisitionError, "give a table in plain text"):
            try:
                data = self.read_metadata(self.table)
            except FileNotFoundError as error:
                where = "" if self.table.startswith("/") else f" in {self.raw.url}"
                raise AcquisitionError(
                    f"there is no {self.table}{where}; correct input.path or input.table, or let "
                    f"terareg init write one{other_kind(self.raw, self.kind)}"
                ) from error
        names = list(map(str, self.options.channels.values()))
        lines = read_table(data, self.table, names, self._exists)
        placed = lines[0].cell is not None or lines[0].yx_um is not None
        if not placed and self.grid is None:
            raise AcquisitionError(
                f"{self.table} has neither columns row and column nor x_um and y_um; add them, or "
                "set input.grid"
            )
        if placed and self.grid is not None:
            raise ConfigError(
                f"{self.table} and input.grid both say where tiles are; remove one of them"
            )
        return lines

    def read_metadata(self, name: str) -> bytes:
        if name.startswith("/"):
            return read_bytes(name)
        return read_object(self.raw, name, TEXT_BYTES)

    def _exists(self, key: str) -> bool:
        """Whether a file or folder of this name exists."""
        if self.raw.entry(key) is not None:
            return True
        return next(iter(self.raw.walk(key)), None) is not None

    @cached_property
    def _found(self) -> tuple[TileGrid, dict[str, dict[int, TileLine]]]:
        """The grid, with cells by names of tiles, and the lines of each tile by channel."""
        groups = self._group(self._read())
        labels = {key: next(iter(own.values())).label for key, own in groups.items()}
        firsts = {key: next(iter(own.values())) for key, own in groups.items()}
        try:
            grid = self._grid(firsts, labels)
        except AcquisitionError as error:
            raise AcquisitionError(f"{self.table}: {error}") from error
        if grid.rows * grid.columns > _MAX_CELLS:
            raise AcquisitionError(
                f"{self.table}: a grid of {grid.rows} x {grid.columns} cells is too large; correct "
                "row and column, or the positions"
            )
        at: dict[tuple[int, int], TileLine] = {}
        named: dict[str, dict[int, TileLine]] = {}
        cells = {}
        for key, own in groups.items():
            line, cell = firsts[key], grid.cells[labels[key]]
            before = at.setdefault(cell, line)
            if before is not line:
                raise self._fail(
                    line.number,
                    f"the tile is in row {cell[0]}, column {cell[1]} of the grid, like that of "
                    f"line {before.number}; remove one of them",
                )
            name = line.tile or f"R{cell[0]:02d}C{cell[1]:02d}"
            named[name], cells[name] = own, cell
        return TileGrid(grid.rows, grid.columns, cells, grid.origin, grid.down, grid.right), named

    def _group(self, lines: list[TileLine]) -> dict[object, dict[int, TileLine]]:
        """Lines of each tile by channel; lines are matched by name, cell, position or order."""
        groups: dict[object, dict[int, TileLine]] = {}
        counts: dict[int, int] = {}
        for line in lines:
            count = counts[line.channel] = counts.get(line.channel, -1) + 1
            places = (line.tile, line.cell, line.yx_um, count)
            key = next(place for place in places if place is not None)
            own = groups.setdefault(key, {})
            if line.channel in own:
                raise self._fail(
                    line.number,
                    f"the tile of line {own[line.channel].number} is listed again in the same "
                    "channel; remove one of them",
                )
            first = next(iter(own.values()), line)
            if (line.cell, line.yx_um, line.z_um) != (first.cell, first.yx_um, first.z_um):
                raise self._fail(
                    line.number,
                    f"the tile has another position than on line {first.number}; give all "
                    "channels of a tile the same position",
                )
            own[line.channel] = line
        return groups

    def _grid(self, firsts: dict[object, TileLine], labels: dict[object, str]) -> TileGrid:
        lines = {labels[key]: line for key, line in firsts.items()}
        sample = next(iter(lines.values()))
        if sample.cell is None and sample.yx_um is not None:
            return find_grid({label: line.yx_um for label, line in lines.items()})
        if sample.cell is None:
            cells = dict(zip(lines, self.grid.cells(len(lines))))
        else:
            cells = {label: line.cell for label, line in lines.items()}
        if sample.yx_um is not None:
            return fit_grid({label: line.yx_um for label, line in lines.items()}, cells)
        # all positions equal, so that the steps are 0
        grid = fit_grid(dict.fromkeys(cells, (0.0, 0.0)), cells)
        if self.options.overlap is None and grid.rows * grid.columns > 1:
            raise ConfigError(
                f"input: key overlap is missing; {self.table} has no positions to compute the "
                "overlap from; give fractions [y, x]"
            )
        return grid

    def look(self) -> Survey:
        grid, named = self._found
        z0 = min(line.z_um for own in named.values() for line in own.values())
        tiles = []
        for name, own in named.items():
            line = next(iter(own.values()))
            yx = line.yx_um
            if yx is not None:
                yx = (yx[0] - grid.origin[0], yx[1] - grid.origin[1])
            tiles.append(RawTile(name, *grid.cells[name], yx, line.z_um - z0))
        line = next(iter(named[min(tiles, key=lambda t: (t.row, t.column)).name].values()))
        first = self._look_at(line)
        return survey_grid(tiles, grid, first, self.options, f"positions in {self.table}")

    def _look_at(self, line: TileLine) -> tuple[PlaneLayout, int]:
        """What one file of a line holds, and about how many planes the line has."""
        files = self._files(line)
        try:
            if line.is_file:
                layout, pages = estimate_pages(self.raw, files[0].key, line.planes)
            else:
                layout, pages = read_layout(self.raw, files[len(files) // 2].key), len(files)
        except AcquisitionError as error:
            raise AcquisitionError(f"{self.table} line {line.number}: {error}") from error
        return layout, pages if line.planes is None else line.planes[1] - line.planes[0] + 1

    def find_tiles(self, problems: list[str]) -> tuple[RawTile, ...]:
        grid, named = self._found
        if self.grid is not None and self.grid.rows is None and self.grid.columns is None:
            problems.append(
                f"the grid was guessed: {len(named)} tiles as {grid.rows} rows of {grid.columns}; "
                "if that is wrong, set input.grid.rows"
            )
        order = find_order([grid.cells[name] for name in named])
        if order is not None:
            logger.info("%s: tiles are listed in order %s from %s", self.table, *order)
        return self.survey.tiles

    def disagreements(
        self, found: Sequence[int], shape: tuple[int, int], depth: int
    ) -> Iterator[str]:
        """Where parts of a tile were never written."""
        for own in self._found[1].values():
            for line in own.values():
                if split_part(line.path) is None:
                    continue
                absent, chunks = part_facts(self.raw, line.path, AcquisitionError).absent
                if absent:
                    yield (
                        f"{self.table} line {line.number}: {absent} of {chunks} chunks of "
                        f"{line.path} were never written and are read as zeros"
                    )

    def where(self, tile: str, channel: int) -> str:
        return f"{self.table} line {self._found[1][tile][channel].number}: "

    def raw_keys(self) -> list[str]:
        keys = set() if self.table.startswith("/") else {self.table}
        for own in self._found[1].values():
            for line in own.values():
                folder = str(self._folder(line))
                keys |= {folder} if folder != "." else {e.key for e in self._list(line)}
        return sorted(keys)

    def _folder(self, line: TileLine) -> PurePosixPath:
        """The folder of the images, or the file that holds all of them."""
        split = split_part(line.path)
        path = PurePosixPath(line.path if split is None else split[0])
        return path.parent if line.is_pattern else path

    # ------------------------------------------------------------------ planes
    def entries(self, tile: RawTile) -> Iterator[tuple[int, Entry]]:
        own = self._found[1][tile.name]
        for channel in sorted(own):
            for entry in self._list(own[channel]):
                yield channel, entry

    def _list(self, line: TileLine) -> Iterable[Entry]:
        if line.is_file:
            entry = part_entry(self.raw, line.path)
            return [] if entry is None else [entry]
        folder = self._folder(line)
        key = "" if folder == PurePosixPath(".") else folder.as_posix()
        pattern = PurePosixPath(line.path).name if line.is_pattern else "*"
        found = []
        for entry in self.raw.list(key):
            name = PurePosixPath(entry.key)
            if name.parent == folder and fnmatchcase(name.name, pattern):
                if _IMAGE.fullmatch(name.name):
                    found.append(entry)
        return found

    def _files(self, line: TileLine) -> list[Entry]:
        files = list(self._list(line))
        if not files:
            what = "does not exist" if line.is_file else "contains no TIFF or PNG file"
            raise self._fail(
                line.number,
                f"{line.path} {what} in {self.raw.url}; correct path, or copy it there",
            )
        return files

    def stacks(self, tile: RawTile) -> dict[int, Stack]:
        return {channel: self._stack(line) for channel, line in self._found[1][tile.name].items()}

    def _stack(self, line: TileLine) -> Stack:
        files = self._files(line)
        if line.is_file:
            return Blocks({0: files[0]}, line.planes)
        try:
            spans = number_spans([PurePosixPath(entry.key).name for entry in files])
        except AcquisitionError as error:
            raise self._fail(line.number, f"{line.path}: {error}") from error
        found: dict[int, Entry] = {}
        places: dict[int, tuple[int, int]] = {}
        first, last = line.planes or (0, 1_000_000_000)
        # with a single file, the number may be that of the tile
        alone = len(files) == self.survey.planes == 1 and line.planes is None
        for entry, (begin, end) in zip(files, spans):
            text = PurePosixPath(entry.key).name[begin:end]
            number = int(text) if text and not alone else first
            if not first <= number <= last:
                continue
            if number - first in found:
                raise self._fail(
                    line.number,
                    f"{found[number - first].key} and {entry.key} are both plane {number}; remove "
                    "one of them",
                )
            found[number - first], places[number - first] = entry, (begin, end)
        if not found:
            raise self._fail(
                line.number, f"{line.path} has no plane from z_first to z_last; correct them"
            )
        return Series(found, places, float(first))


def number_spans(names: list[str]) -> list[tuple[int, int]]:
    """Span of the plane's number in each of the file names of a stack.

    It is the only number in which the names differ; an empty span at the end if there is none.

    Raises
    ------
    AcquisitionError
        If the names differ in text, or in several numbers.
    """
    stems = [name[: -len(PurePosixPath(name).suffix)] for name in names]
    groups = [list(re.finditer(r"\d+", stem)) for stem in stems]
    kinds: dict[tuple[str, ...], str] = {}
    for name, stem in zip(names, stems):
        kinds.setdefault(tuple(re.split(r"\d+", stem)), name)
    if len(kinds) > 1:
        one, other, *_ = sorted(kinds.values())
        raise AcquisitionError(
            f"{one} and {other} are files of different kinds; give a pattern that matches only "
            "one kind"
        )
    number = len(groups[0])
    differ = [k for k in range(number) if len({own[k][0] for own in groups}) > 1]
    if len(differ) > 1:
        raise AcquisitionError(
            f"names such as {names[0]} differ in {len(differ)} numbers; give a pattern in which "
            "only the plane number differs"
        )
    if not number:
        return [(len(stem), len(stem)) for stem in stems]
    return [own[differ[0] if differ else -1].span() for own in groups]
