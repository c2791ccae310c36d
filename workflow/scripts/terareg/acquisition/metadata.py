"""What a COLM microscope says about an acquisition: ``Experiment.ini`` and ``Scanned Cells.txt``.

Standard library only, so that a workflow can read the grid while it is being parsed. Nothing here
looks at an image; :mod:`terareg.acquisition.indexing` compares these statements with the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from terareg.acquisition.folder_signs import other_kind
from terareg.core.errors import AcquisitionError
from terareg.storage.foreign import TEXT_BYTES, boundary, decode_text, read_object
from terareg.storage.store import Store

SPACING_RANGE_UM = (0.05, 200.0)
_INI = "Experiment.ini"
_CELLS = "Scanned Cells.txt"
_PIXEL_UM = {4: 1.46, 10: 0.585, 25: 0.234}
_PIXEL_UM_WIDTH = 2048
_MAX_CELLS = 100_000
_MAX_OVERLAP = 0.9
_USUAL_OVERLAP = (0.02, 0.5)

_REGION = "North Scan Region"
_STATISTICS = "North Scan Region Stats"
_EXPERIMENT = "Experiment Settings"
_OBJECTIVES = "Objectives"


@dataclass(frozen=True)
class ColmMetadata:
    """Statements of ``Experiment.ini`` and ``Scanned Cells.txt``.

    Attributes
    ----------
    rows, columns : int
        Grid of tile positions; row grows with y, column with x.
    scanned : tuple of tuple of bool
        ``scanned[row][column]`` says whether that position was imaged.
    tile_pixels : tuple of int
        Camera pixels (y, x); square where the file has no "Y Resolution".
    planes : int
        Planes of a stack.
    spacing_um : tuple of float
        Voxel size (z, y, x).
    overlap : tuple of float
        Overlap of neighbouring tiles (y, x) as a fraction of the tile; 0 along an axis with a
        single tile.
    channels_stated : int or None
        "Num Enabled Channels", if stated.
    problems : tuple of str
        Statements that are readable but contradict the configuration or look unusual.
    """

    rows: int
    columns: int
    scanned: tuple[tuple[bool, ...], ...]
    tile_pixels: tuple[int, int]
    planes: int
    spacing_um: tuple[float, float, float]
    overlap: tuple[float, float]
    channels_stated: int | None
    problems: tuple[str, ...] = ()


def load_colm_metadata(
    raw: Store,
    spacing_um: Sequence[float] | None = None,
    overlap: Sequence[float] | None = None,
) -> ColmMetadata:
    """Read the metadata files below ``raw``; see :func:`read_colm_metadata`."""
    texts = []
    for name in (_INI, _CELLS):
        remedy = "check its permissions, or copy it from the microscope again"
        with boundary(raw.address(name), AcquisitionError, remedy):
            try:
                texts.append(decode_text(read_object(raw, name, TEXT_BYTES)))
            except FileNotFoundError as error:
                raise AcquisitionError(
                    f"there is no {name} in {raw.url}; point input.path at the folder that "
                    f"contains {_INI}, {_CELLS} and the view folder (VW0), or set input.kind to "
                    "terastitcher, table or volume for other kinds of "
                    f"input{other_kind(raw, 'colm')}"
                ) from error
    return read_colm_metadata(texts[0], texts[1], spacing_um=spacing_um, overlap=overlap)


def read_colm_metadata(
    ini_text: str,
    cells_text: str,
    *,
    name: str = _INI,
    spacing_um: Sequence[float] | None = None,
    overlap: Sequence[float] | None = None,
) -> ColmMetadata:
    """Read the two metadata files of a COLM acquisition.

    Parameters
    ----------
    ini_text, cells_text : str
        Text of ``Experiment.ini`` (sections and keys in any case, values with or without quotes)
        and of ``Scanned Cells.txt`` (one line per row, cells 1 or 0 with commas between).
    name : str
        What messages call the ini file.
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x) that replaces the stated one; a difference of more than 1 % is
        reported in ``problems``. Without it, y and x follow from the objective:
        1.46 um (4x), 0.585 um (10x) or 0.234 um (25x) times 2048 / "X Resolution".
    overlap : sequence of 2 float, optional
        Fractions (y, x) that replace the stated overlaps; differences are reported likewise.

    Raises
    ------
    AcquisitionError
        If a key is missing or out of range, or the table of cells has another shape.
    """
    ini = _Ini(ini_text, name)
    problems: list[str] = []
    rows = ini.integer(_REGION, "Num Vertical", 1, _MAX_CELLS)
    columns = ini.integer(_REGION, "Num Horizontal", 1, _MAX_CELLS // rows)
    planes = ini.integer(_EXPERIMENT, "Num in stack (Top Left Corner)", 1, 1_000_000)
    width = ini.integer(_EXPERIMENT, "X Resolution", 1, 100_000)
    height = width
    if ini.has(_EXPERIMENT, "Y Resolution"):
        height = ini.integer(_EXPERIMENT, "Y Resolution", 1, 100_000)
    channels = None
    if ini.has(_EXPERIMENT, "Num Enabled Channels"):
        channels = ini.integer(_EXPERIMENT, "Num Enabled Channels", 1, 1000)
    return ColmMetadata(
        rows=rows,
        columns=columns,
        scanned=_read_cells(cells_text, rows, columns, name),
        tile_pixels=(height, width),
        planes=planes,
        spacing_um=_spacing(ini, (height, width), spacing_um, problems),
        overlap=_overlap(ini, (rows, columns), overlap, problems),
        channels_stated=channels,
        problems=tuple(problems),
    )


def tile_names(meta: ColmMetadata) -> list[str]:
    """Names of the imaged tiles, row by row: ``LOC`` and column + row * columns."""
    return [
        f"LOC{column + row * meta.columns:03d}"
        for row in range(meta.rows)
        for column in range(meta.columns)
        if meta.scanned[row][column]
    ]


def scanned_cells(tiles: Iterable, rows: int, columns: int) -> tuple[tuple[bool, ...], ...]:
    """``[row][column]``: whether the cell holds one of the tiles, which have row and column."""
    places = {(tile.row, tile.column) for tile in tiles}
    return tuple(tuple((r, c) in places for c in range(columns)) for r in range(rows))


def neighbour_pairs(
    scanned: Sequence[Sequence[bool]],
) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
    """Pairs of imaged positions that share an edge.

    Returns
    -------
    list of ((row, column), (row, column), direction)
        The second position lies "EAST" (column + 1) or "SOUTH" (row + 1) of the first. Row by
        row in order of the first position, EAST before SOUTH.
    """
    pairs = []
    for row, cells in enumerate(scanned):
        for column, here in enumerate(cells):
            if not here:
                continue
            if column + 1 < len(cells) and cells[column + 1]:
                pairs.append(((row, column), (row, column + 1), "EAST"))
            if row + 1 < len(scanned) and scanned[row + 1][column]:
                pairs.append(((row, column), (row + 1, column), "SOUTH"))
    return pairs


def check_spacing(spacing_um: Sequence[float], source: str) -> tuple[float, float, float]:
    """Return a voxel size (z, y, x) as floats, or raise :class:`AcquisitionError`.

    Sizes outside 0.05 to 200 um are taken for a wrong unit; ``source`` says where the value is
    from.
    """
    try:
        values = tuple(float(value) for value in spacing_um)
    except (TypeError, ValueError):
        values = ()
    low, high = SPACING_RANGE_UM
    if len(values) != 3 or not all(low <= value <= high for value in values):
        raise AcquisitionError(
            f"voxel size {_list(spacing_um)} um (z, y, x) from {source} is implausible; set "
            f"input.spacing_um to three numbers between {low:g} and {high:g} micrometres"
        )
    return values


def check_overlap(value: float, source: str, problems: list[str]) -> float:
    """Return an overlap, a fraction of the tile, or raise :class:`AcquisitionError`.

    An unusual one is added to ``problems``; ``source`` says where the value is from.
    """
    if not 0.0 < value <= _MAX_OVERLAP:
        raise AcquisitionError(
            f"{source} is {value:.3g} of a tile, but neighbours can only be aligned with an "
            f"overlap above 0 and at most {_MAX_OVERLAP:g}; correct it or set input.overlap"
        )
    if not _USUAL_OVERLAP[0] <= value <= _USUAL_OVERLAP[1]:
        problems.append(f"{source} of {value:.1%} is unusual; 5 to 30 % is common")
    return value


class _Ini:
    """Keys and values of an ini file, found regardless of case, spaces and quotes."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.values: dict[tuple[str, str], str] = {}
        self._twice: set[tuple[str, str]] = set()
        section = ""
        for line in text.lstrip("\ufeff").splitlines():
            line = line.strip()
            if line.startswith("[") and "]" in line:
                section = _fold(line[1 : line.index("]")])
            elif "=" in line and not line.startswith((";", "#")):
                key, value = line.split("=", 1)
                place, given = (section, _fold(key)), _unquote(value)
                if self.values.setdefault(place, given) != given:
                    self._twice.add(place)
        if not self.values:
            raise AcquisitionError(
                f"{name} has no line 'key = value'; copy it from the microscope again"
            )

    def has(self, section: str, key: str) -> bool:
        return bool(self.values.get((_fold(section), _fold(key))))

    def text(self, section: str, key: str) -> str:
        if not self.has(section, key):
            state = "is empty" if (_fold(section), _fold(key)) in self.values else "is missing"
            raise AcquisitionError(
                f"{_key_name(self.name, section, key)} {state}; add it, or copy the file from the "
                "microscope again"
            )
        if (_fold(section), _fold(key)) in self._twice:
            raise AcquisitionError(
                f"{_key_name(self.name, section, key)} appears twice with different values; keep "
                "the right one"
            )
        return self.values[_fold(section), _fold(key)]

    def number(self, section: str, key: str) -> float:
        text = self.text(section, key)
        try:
            # LabVIEW writes the decimal separator of the computer's locale
            value = float(text.replace(",", ".") if "." not in text else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise AcquisitionError(
                f"{_key_name(self.name, section, key)} is {text!r}, not a number; correct it"
            )
        return value

    def integer(self, section: str, key: str, low: int, high: int) -> int:
        value = self.number(section, key)
        if value != int(value) or not low <= value <= high:
            raise AcquisitionError(
                f"{_key_name(self.name, section, key)} is {value:g}, but must be a whole number "
                f"from {low} to {high}; correct it"
            )
        return int(value)


def _key_name(file: str, section: str, key: str) -> str:
    """How messages write a key: ``Experiment.ini [Section] Key``."""
    return f"{file} [{section}] {key}"


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return text.strip()


def _list(values: Any) -> str:
    try:
        return ", ".join(f"{float(v):g}" for v in values)
    except (TypeError, ValueError):
        return repr(values)


def _read_cells(text: str, rows: int, columns: int, ini_name: str) -> tuple[tuple[bool, ...], ...]:
    name = _CELLS
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    lines = [line for line in lines if line]
    table = []
    for number, line in enumerate(lines, 1):
        cells = [_unquote(cell) for cell in re.split(r"[,;\t]", line.rstrip(",;\t"))]
        if len(cells) != columns:
            raise AcquisitionError(
                f"{name} line {number} has {len(cells)} cells, but {ini_name} states {columns} "
                "columns (Num Horizontal); correct whichever is wrong"
            )
        table.append(tuple(_cell(cell, name, number) for cell in cells))
    if len(table) != rows:
        raise AcquisitionError(
            f"{name} has {len(table)} lines, but {ini_name} states {rows} rows (Num Vertical); "
            "correct whichever is wrong"
        )
    if not any(any(row) for row in table):
        raise AcquisitionError(f"{name} marks no cell as scanned; write 1 for each imaged position")
    return tuple(table)


def _cell(text: str, name: str, line: int) -> bool:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in (0.0, 1.0):
        raise AcquisitionError(
            f"{name} line {line} has a cell {text!r}; write 1 (imaged) or 0 (not imaged)"
        )
    return value == 1.0


def _magnification(ini: _Ini) -> int:
    text = ini.text(_OBJECTIVES, "North")
    match = re.search(r"(\d+(?:[.,]\d+)?)\s*x", text, re.IGNORECASE)
    value = float(match.group(1).replace(",", ".")) if match else math.nan
    if value not in _PIXEL_UM:
        raise AcquisitionError(
            f"{_key_name(ini.name, _OBJECTIVES, 'North')} is {text!r}, but only the pixel sizes of "
            f"{', '.join(f'{m}x' for m in _PIXEL_UM)} are known; set input.spacing_um"
        )
    return int(value)


def _stated_spacing(ini: _Ini, width: int) -> tuple[float, float, float]:
    step_um = round(ini.number(_REGION, "Stack Step (mm)") * 1000.0, 6)
    if not SPACING_RANGE_UM[0] <= step_um <= SPACING_RANGE_UM[1]:
        where = _key_name(ini.name, _REGION, "Stack Step (mm)")
        raise AcquisitionError(
            f"{where} is {step_um / 1000:g}, an implausible voxel size of {step_um:g} um in z; "
            "correct it or set input.spacing_um"
        )
    pixel_um = _PIXEL_UM[_magnification(ini)] * _PIXEL_UM_WIDTH / width
    return (step_um, pixel_um, pixel_um)


def _spacing(
    ini: _Ini,
    tile_pixels: tuple[int, int],
    wanted: Sequence[float] | None,
    problems: list[str],
) -> tuple[float, float, float]:
    height, width = tile_pixels
    if wanted is None:
        if height != width:
            problems.append(
                f"tiles of {height} x {width} pixels (y, x) are not square: the pixel size was "
                "taken from the width; if the camera was cropped in x, set input.spacing_um"
            )
        return check_spacing(_stated_spacing(ini, width), ini.name)
    wanted = check_spacing(wanted, "input.spacing_um")
    try:
        stated = _stated_spacing(ini, width)
    except AcquisitionError as error:
        problems.append(f"{error} (input.spacing_um is set and was used)")
        return wanted
    if any(abs(w - s) > 0.01 * s for w, s in zip(wanted, stated)):
        problems.append(
            f"input.spacing_um is {_list(wanted)} um (z, y, x) but {ini.name} gives "
            f"{_list(stated)} um; input.spacing_um was used"
        )
    return wanted


def _overlap(
    ini: _Ini,
    grid: tuple[int, int],
    wanted: Sequence[float] | None,
    problems: list[str],
) -> tuple[float, float]:
    result = []
    for axis, (word, count) in enumerate(zip(("Vertical", "Horizontal"), grid)):
        key = f"Actual {word} Overlap (%)"
        where = _key_name(ini.name, _STATISTICS, key)
        if count == 1:
            result.append(0.0)
            continue
        if wanted is None:
            value, source = ini.number(_STATISTICS, key) / 100.0, where
        else:
            value, source = float(wanted[axis]), f"input.overlap ({word.lower()})"
            if ini.has(_STATISTICS, key):
                stated = ini.number(_STATISTICS, key) / 100.0
                if abs(stated - value) > 0.005:
                    problems.append(
                        f"{source} is {value:.1%} but {where} is {stated:.1%}; input.overlap was "
                        "used"
                    )
        result.append(check_overlap(value, source, problems))
    return (result[0], result[1])
