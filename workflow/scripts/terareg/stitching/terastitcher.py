"""TeraStitcher's project files: read, written, and exchanged with this library's own types.

One schema serves all five files; each step fills in more of it: ``xml_import`` (nominal
positions), ``xml_displcomp`` (several displacements per pair), ``xml_displproj`` (one per pair),
``xml_displthres`` (unreliable ones replaced by the nominal step), ``xml_merging`` (positions).
Bria and Iannello, BMC Bioinformatics 13:316 (2012). TeraStitcher's axes are V (y), H (x), D (z);
its order is V, H, D.

TeraStitcher's rules that shape this module: tiles count in document order, row by row, whatever
their ROW and COL say; only EAST and SOUTH displacements count; all four elements must be there;
the reliability of a displacement is recomputed from its peak and width.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import quoteattr

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from terareg.acquisition.raw import PageFiles
from terareg.errors import StitchingError
from terareg.stitching.displacement import PairResult, WindowResult
from terareg.stitching.placement import PlacedTile, Placement
from terareg.storage.store import write_atomic

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition, Tile
    from terareg.acquisition.raw import StackFiles

_SIDES = ("NORTH", "EAST", "SOUTH", "WEST")
_FORMATS = ("TiledXY|2Dseries", "TiledXY|3Dseries")
_MAX_BYTES = 512 * 2**20
_MAX_CELLS = 1_000_000
_MAX_PIXELS = 10**9
# widths are integers: reliability r is stored as peak r and width 1000 (1 - r) of 1000, from which
# sqrt(((1 - width / 1000)^2 + peak^2) / 2) gives r again
_WIDTH_UNIT = 1000
_NO_FILE = "^$"  # matches no file name


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
        """Displacement whose reliability survives being recomputed from peak and width."""
        width = min(_WIDTH_UNIT, max(1, round((1 - reliability) * _WIDTH_UNIT)))
        stored = 1 - width / _WIDTH_UNIT
        return cls(displ, default, stored, stored, width, _WIDTH_UNIT - 1, _WIDTH_UNIT, delay)

    @property
    def recomputed(self) -> float:
        """Reliability as TeraStitcher computes it from peak and width."""
        narrow = 1 - self.width / self.inf_width if self.inf_width else 0.0
        return math.sqrt(0.5 * narrow**2 + 0.5 * self.peak**2)


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
        Place in the document, which is what counts.
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
        Where TeraStitcher keeps its binary index; None lets it write into the raw data.
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


# ---------------------------------------------------------------------- reading
def read_xml(path: str | os.PathLike) -> ProjectXml:
    """Read any of the five project files.

    Line ends, comments, the order of attributes, missing NORTH and WEST elements and ROW or COL
    that contradict the document's order do not matter.

    Raises
    ------
    StitchingError
        If the file cannot be read, is not such a file, or asks for what no project may ask for:
        entities, folders outside ``stacks_dir``, absurd sizes.
    """
    name = os.fspath(path)
    try:
        size = os.path.getsize(path)
        if size > _MAX_BYTES:
            raise StitchingError(
                f"{name} has {size / 2**20:.0f} MiB, too much for a TeraStitcher project; give "
                "the XML file itself"
            )
        with open(path, "rb") as stream:
            return parse_xml(stream.read(), name)
    except OSError as error:
        raise StitchingError(
            f"{name} cannot be read ({error.strerror}); correct the path of the XML file"
        ) from error


def parse_xml(data: bytes | str, name: str = "XML") -> ProjectXml:
    """Read a project from memory; ``name`` stands for it in messages."""
    try:
        # the DOCTYPE line belongs to the format; entities and anything it may refer to do not
        root = defusedxml.ElementTree.fromstring(
            data, forbid_dtd=False, forbid_entities=True, forbid_external=True
        )
    except DefusedXmlException as error:
        raise StitchingError(
            f"{name} declares entities ({type(error).__name__}), which no TeraStitcher project "
            "does; do not trust this file"
        ) from error
    except (ParseError, UnicodeError, ValueError) as error:
        raise StitchingError(f"{name} is not well-formed XML ({error}); export it again") from error
    return _Reader(name).project(root)


def read_channels(path: str | os.PathLike) -> list[str]:
    """Names of the project files that a ``MultiVolume`` file lists, one per channel, in order.

    Every attribute that ends in ``.xml`` counts, whatever the element around it is called.
    """
    name = os.fspath(path)
    try:
        root = defusedxml.ElementTree.parse(
            path, forbid_dtd=False, forbid_entities=True, forbid_external=True
        ).getroot()
    except (OSError, DefusedXmlException, ParseError, ValueError) as error:
        raise StitchingError(f"{name} cannot be read as XML ({error}); correct the path") from error
    if not root.get("volume_format", "").startswith("MultiVolume"):
        raise StitchingError(
            f"{name} is no MultiVolume file but {root.get('volume_format')!r}; give it as "
            "stitching.xml itself"
        )
    found = [
        value
        for element in root.iter()
        for value in element.attrib.values()
        if value.lower().endswith(".xml")
    ]
    if not found:
        raise StitchingError(f"{name} lists no project files; export it again")
    return found


class _Reader:
    """Turns elements into a project, with messages that name the file and the place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, what: str) -> StitchingError:
        return StitchingError(f"{self.name}: {what}")

    def project(self, root: Element) -> ProjectXml:
        if root.tag != "TeraStitcher":
            raise self.fail(f"the root is <{root.tag}>, not <TeraStitcher>; give a project file")
        kind = root.get("volume_format")
        if kind is None:
            raise self.fail("volume_format is missing (a file older than TeraStitcher 1.10?); add "
                            'volume_format="TiledXY|2Dseries"')  # fmt: skip
        if kind.startswith("MultiVolume"):
            raise self.fail("a MultiVolume file lists channels and has no tiles of its own; give "
                            "the project file of the alignment channel")  # fmt: skip
        if kind not in _FORMATS:
            raise self.fail(f"volume_format {kind!r} is not supported; use {' or '.join(_FORMATS)}")
        voxel = self.numbers(self.child(root, "voxel_dims"), ("V", "H", "D"))
        if any(v == 0 or not 1e-4 < abs(v) < 1e4 for v in voxel):
            raise self.fail(f"voxel size {voxel} um is impossible; correct voxel_dims")
        size = self.child(root, "dimensions")
        rows, columns, slices = (
            self.integer(size, key, low, high)
            for key, low, high in (
                ("stack_rows", 1, _MAX_CELLS),
                ("stack_columns", 1, _MAX_CELLS),
                ("stack_slices", -1, _MAX_PIXELS),
            )
        )
        if rows * columns > _MAX_CELLS:
            raise self.fail(f"{rows} x {columns} tiles are impossible; correct dimensions")
        stacks = [e for e in self.child(root, "STACKS") if e.tag == "Stack"]
        if len(stacks) != rows * columns:
            raise self.fail(
                f"{len(stacks)} Stack elements for a grid of {rows} x {columns}; empty cells need "
                "one each as well"
            )
        reference, sub = root.find("ref_sys"), root.find("subimage")
        mdata = root.find("mdata_bin")
        return ProjectXml(
            volume_format=kind,
            stacks_dir=self.text(self.child(root, "stacks_dir"), "value"),
            voxel_vhd_um=voxel,
            mechanical_vh_um=self.numbers(self.child(root, "mechanical_displacements"), "VH"),
            rows=rows,
            columns=columns,
            slices=slices,
            stacks=tuple(self.stack(e, k // columns, k % columns) for k, e in enumerate(stacks)),
            input_plugin=root.get("input_plugin"),
            mdata_bin=None if mdata is None else self.text(mdata, "value"),
            ref_sys=None
            if reference is None
            else tuple(self.integer(reference, f"ref{k}", -3, 3) for k in (1, 2, 3)),
            origin_vhd_mm=self.numbers(self.child(root, "origin"), ("V", "H", "D")),
            subimage=None
            if sub is None
            else tuple(
                self.integer(sub, key, -1, _MAX_PIXELS)
                for key in ("resolution", "timepoint", "series_no")
                if sub.get(key) is not None
            ),
        )

    def stack(self, element: Element, row: int, column: int) -> Stack:
        where = f"stack {row},{column}"
        folder = element.get("DIR_NAME", "")
        self.check_folder(folder, where)
        ranges = self.ranges(element.get("Z_RANGES"), where)
        sizes = starts = None
        if element.get("N_BLOCKS") is not None or element.get("BLOCK_SIZES") is not None:
            sizes = self.integers(element.get("BLOCK_SIZES", ""), "BLOCK_SIZES", where)
            starts = self.integers(element.get("BLOCKS_ABS_D", ""), "BLOCKS_ABS_D", where)
            number = self.integer(element, "N_BLOCKS", 0, 10**6) if element.get("N_BLOCKS") else -1
            if number not in (-1, len(sizes)) or len(starts) != len(sizes):
                raise self.fail(
                    f"{where}: N_BLOCKS {number}, {len(sizes)} BLOCK_SIZES and {len(starts)} "
                    "BLOCKS_ABS_D contradict each other; correct them"
                )
        series = element.get("SERIES_NO")
        return Stack(
            row,
            column,
            tuple(
                self.integer(element, key, -_MAX_PIXELS, _MAX_PIXELS)
                for key in ("ABS_V", "ABS_H", "ABS_D")
            ),
            folder,
            ranges,
            element.get("IMG_REGEX", ""),
            element.get("STITCHABLE", "no").lower() == "yes",
            self.integer(element, "N_CHANS", 0, 1000, default=1),
            self.integer(element, "N_BYTESxCHAN", 0, 8, default=2),
            sizes,
            starts,
            None if series is None else self.integer(element, "SERIES_NO", -1, _MAX_PIXELS),
            {
                side: found
                for side in _SIDES
                if (found := self.displacements(element.find(f"{side}_displacements"), where))
            },
        )

    def displacements(self, element: Element | None, where: str) -> tuple[Displacement, ...]:
        if element is None:
            return ()
        result = []
        for child in element:
            if child.tag != "Displacement" or child.get("TYPE") != "MIP_NCC":
                raise self.fail(
                    f"{where}: displacement of type {child.get('TYPE')!r}; only MIP_NCC is known"
                )
            axes = list(child)
            if len(axes) != 3:
                raise self.fail(f"{where}: a displacement has {len(axes)} axes, not V, H, D")
            result.append(Displacement(*(self.axis(axis) for axis in axes)))
        return tuple(result)

    def axis(self, element: Element) -> Axis:
        bound = _MAX_PIXELS
        return Axis(
            self.integer(element, "displ", -bound, bound),
            self.integer(element, "default_displ", -bound, bound),
            self.number(element, "reliability"),
            self.number(element, "nccPeak"),
            self.integer(element, "nccWidth", -1, bound),
            self.integer(element, "nccWRangeThr", -1, bound, default=29),
            self.integer(element, "nccInvWidth", 0, bound, default=30),
            self.integer(element, "delay", -1, bound, default=-1),
        )

    # -- attributes
    def child(self, element: Element, tag: str) -> Element:
        found = element.find(tag)
        if found is None:
            raise self.fail(f"<{tag}> is missing; export the project again")
        return found

    def text(self, element: Element, key: str) -> str:
        value = element.get(key)
        if value is None:
            raise self.fail(f"<{element.tag}> has no attribute {key}; export the project again")
        return value

    def number(self, element: Element, key: str) -> float:
        text = self.text(element, key)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e12:
            raise self.fail(f"<{element.tag}> {key}={text[:40]!r} is no number; correct it")
        return value

    def numbers(self, element: Element, keys: Iterable[str]) -> tuple[float, ...]:
        return tuple(self.number(element, key) for key in keys)

    def integer(self, element: Element, key: str, low: int, high: int, default=None) -> int:
        if default is not None and element.get(key) is None:
            return default
        value = self.number(element, key)
        if value != round(value) or not low <= value <= high:
            raise self.fail(
                f"<{element.tag}> {key}={element.get(key)!r} is no integer from {low} to {high}; "
                "correct it"
            )
        return int(value)

    def integers(self, text: str, key: str, where: str) -> tuple[int, ...]:
        parts = [p for p in text.replace(" ", "").split(",") if p]
        if not all(re.fullmatch(r"\d{1,9}", p) for p in parts):
            raise self.fail(f"{where}: {key}={text[:40]!r} is no list of integers; correct it")
        return tuple(int(p) for p in parts)

    def ranges(self, text: str | None, where: str) -> tuple[tuple[int, int], ...]:
        if not text:
            return ()
        result = []
        for part in text.split(";"):
            match = re.fullmatch(r"\s*\[(\d{1,9}),(\d{1,9})\)\s*", part)
            if match is None:
                raise self.fail(f"{where}: Z_RANGES={text[:60]!r} is not like [0,10);[12,20)")
            result.append((int(match[1]), int(match[2])))
        flat = [v for pair in result for v in pair]
        if any(b <= a for a, b in pairwise(flat)):
            raise self.fail(f"{where}: Z_RANGES={text[:60]!r} do not increase; correct them")
        return tuple(result)

    def check_folder(self, folder: str, where: str) -> None:
        parts = PurePosixPath(folder.replace("\\", "/")).parts
        if (
            "\0" in folder
            or folder.startswith(("/", "\\", "~"))
            or ".." in parts
            or re.match(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://", folder)
        ):
            raise self.fail(
                f"{where}: DIR_NAME={folder[:80]!r} leaves stacks_dir; folders must be relative "
                "to it, without '..'"
            )


# ---------------------------------------------------------------------- writing
def write_xml(path: str | os.PathLike, xml: ProjectXml, newline: str = "\n") -> None:
    """Write a project, atomically; equal projects give equal bytes."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomic(path, format_xml(xml, newline).encode())


def format_xml(xml: ProjectXml, newline: str = "\n") -> str:
    """The project as text; ``newline`` is the line end."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8" ?>',
        '<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">',
        _tag("TeraStitcher", 0, False, volume_format=xml.volume_format,
             input_plugin=xml.input_plugin),
        _tag("stacks_dir", 1, value=xml.stacks_dir),
    ]  # fmt: skip
    if xml.mdata_bin is not None:
        lines.append(_tag("mdata_bin", 1, value=xml.mdata_bin))
    if xml.ref_sys is not None:
        lines.append(_tag("ref_sys", 1, **{f"ref{k + 1}": v for k, v in enumerate(xml.ref_sys)}))
    lines += [
        _tag("voxel_dims", 1, **dict(zip("VHD", xml.voxel_vhd_um))),
        _tag("origin", 1, **dict(zip("VHD", xml.origin_vhd_mm))),
        _tag("mechanical_displacements", 1, **dict(zip("VH", xml.mechanical_vh_um))),
        _tag("dimensions", 1, stack_rows=xml.rows, stack_columns=xml.columns,
             stack_slices=xml.slices),
    ]  # fmt: skip
    if xml.subimage is not None:
        keys = ("resolution", "timepoint", "series_no")
        lines.append(_tag("subimage", 1, **dict(zip(keys, xml.subimage))))
    lines.append("    <STACKS>")
    for stack in xml.stacks:
        lines += _format_stack(stack)
    lines += ["    </STACKS>", "</TeraStitcher>", ""]
    return newline.join(lines)


def _format_stack(stack: Stack) -> list[str]:
    blocks = {}
    if stack.block_sizes is not None:
        blocks = {
            "N_BLOCKS": len(stack.block_sizes),
            "BLOCK_SIZES": ",".join(map(str, stack.block_sizes)),
            "BLOCKS_ABS_D": ",".join(map(str, stack.blocks_abs_d or ())),
        }
    lines = [
        _tag(
            "Stack", 2, False,
            **blocks,
            N_CHANS=stack.channels, N_BYTESxCHAN=stack.bytes_per_channel,
            ROW=stack.row, COL=stack.column,
            **dict(zip(("ABS_V", "ABS_H", "ABS_D"), stack.abs_vhd)),
            STITCHABLE="yes" if stack.stitchable else "no",
            DIR_NAME=stack.dir_name,
            Z_RANGES=";".join(f"[{a},{b})" for a, b in stack.z_ranges),
            IMG_REGEX=stack.img_regex,
            SERIES_NO=stack.series_no,
        )
    ]  # fmt: skip
    for side in _SIDES:
        found = stack.displacements.get(side, ())
        if not found:
            lines.append(_tag(f"{side}_displacements", 3))
            continue
        lines.append(_tag(f"{side}_displacements", 3, False))
        for displacement in found:
            lines.append(_tag("Displacement", 4, False, TYPE="MIP_NCC"))
            lines += [_format_axis(name, a) for name, a in zip("VHD", displacement.axes)]
            lines.append("                </Displacement>")
        lines.append(f"            </{side}_displacements>")
    return [*lines, "        </Stack>"]


def _format_axis(name: str, axis: Axis) -> str:
    return _tag(
        name, 5, displ=axis.displ, default_displ=axis.default, reliability=axis.reliability,
        nccPeak=axis.peak, nccWidth=axis.width, nccWRangeThr=axis.width_range,
        nccInvWidth=axis.inf_width, delay=axis.delay,
    )  # fmt: skip


def _tag(name: str, depth: int, closed: bool = True, /, **attributes) -> str:
    text = "".join(
        f" {key}={_quote(value)}" for key, value in attributes.items() if value is not None
    )
    return f"{'    ' * depth}<{name}{text}{' />' if closed else '>'}"


def _quote(value) -> str:
    if isinstance(value, float):
        # shortest text that reads back as the same number, integers without ".0"
        value = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return quoteattr(str(value), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;", '"': "&quot;"})


# ---------------------------------------------------------------------- from this library
def from_acquisition(
    acquisition: Acquisition, channel: str, mdata_bin: str | None = "mdata.bin"
) -> ProjectXml:
    """``xml_import``: nominal positions of all cells, no displacements.

    Parameters
    ----------
    acquisition : Acquisition
    channel : str
        Name of the channel whose files the project names.
    mdata_bin : str or None
        Where TeraStitcher keeps its index. A relative path counts from the folder in which it is
        started, so raw data stay untouched and the file does not depend on the machine.

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
                nominal = (_round(row * step[0]), _round(column * step[1]), 0)
                stacks.append(Stack(row, column, nominal, "", (), _NO_FILE, bytes_per_channel=size))
                continue
            files = stacks_of[tile.name]
            blocks = files.blocks if isinstance(files, PageFiles) else ()
            z, y, x = tile.origin_vox
            folder = folders[tile.name]
            stacks.append(
                Stack(
                    row,
                    column,
                    (_round(y), _round(x), _round(z)),
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

    Tiles have the names of the acquisition, or without one those of their folders.

    Pairs of the engine mip_ncc are written with the attributes that TeraStitcher gives them.
    Of others, windows that support the pair's displacement carry its reliability, the one nearest
    to it a little more, so that :func:`project` (and TeraStitcher's ``-3``) choose that one; the
    rest carry 0.
    """
    names = {name: cell for cell, name in _names(xml, acquisition).items()}
    sides: dict[tuple[int, int], dict[str, tuple]] = {}
    for pair in pairs:
        if pair.a not in names or pair.b not in names:
            raise StitchingError(
                f"pair {pair.a} - {pair.b} is not in the project; import the tiles again"
            )
        default = _default(xml, pair.direction)
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
        wanted = np.array(_vhd(pair.displ_vox))
        nearest = min(
            good,
            key=lambda k: float(np.abs(np.array(_vhd(windows[k].displ_vox)) - wanted).max()),
            default=None,
        )
        for k, window in enumerate(windows):
            reliability = 0.0
            displ = window.displ_vox
            if k in good:
                reliability = pair.reliability - (0 if k == nearest else 2 / _WIDTH_UNIT)
            if k == nearest:
                displ = pair.displ_vox
            axes = zip(_vhd(displ), default, _vhd(pair.search_vox))
            found.append(
                Displacement(
                    *(Axis.encoded(_round(v), d, max(0.0, reliability), int(s)) for v, d, s in axes)
                )
            )
        sides.setdefault(names[pair.a], {})[pair.direction] = tuple(found)
    return _with_sides(xml, sides)


def project(xml: ProjectXml) -> ProjectXml:
    """``xml_displproj``: one Displacement per pair, per axis the most reliable one.

    Pairs without any get the nominal displacement with reliability 0.
    """
    return _map_pairs(xml, _most_reliable)


def threshold(xml: ProjectXml, min_reliability: float) -> ProjectXml:
    """``xml_displthres``: axes below the threshold get the nominal displacement, reliability 0.

    A tile is stitchable if any axis of any of its pairs passes.
    """
    if not 0 <= min_reliability <= 1:
        raise StitchingError(f"threshold {min_reliability} is no reliability; give 0 to 1")
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

    Every displacement becomes the difference of the two positions, so that whatever path
    TeraStitcher's own placement walks through them, it arrives at these positions.
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
            displ = _vhd(position[other] - position[cell])
            own[direction] = (
                Displacement(
                    *(
                        # the nominal value too is the placed one: TeraStitcher falls back on it
                        Axis.encoded(int(v), int(v), reliability)
                        for v in displ
                    )
                ),
            )
        sides[cell] = own
        linked = stack.dir_name != ""
        z, y, x = (int(v) for v in position[cell])
        stacks.append(replace(stack, abs_vhd=(y, x, z), stitchable=linked))
    return _with_sides(replace(xml, stacks=tuple(stacks)), sides)


# ---------------------------------------------------------------------- to this library
def to_pairs(xml: ProjectXml, acquisition: Acquisition | None = None) -> list[PairResult]:
    """Measured pairs of a displcomp, displproj, displthres or merging file.

    Several displacements of a pair are reduced per axis to the most reliable one, as TeraStitcher
    does. A pair is "ok" if each of its axes has some reliability, which is the least of the three.

    Parameters
    ----------
    xml : ProjectXml
    acquisition : Acquisition, optional
        Gives the tiles the names they have there; without it they have their folders' names.
    """
    names = _names(xml, acquisition)
    pairs = []
    for stack in xml.stacks:
        for direction, step in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
            other = stack.row + step[0], stack.column + step[1]
            found = stack.displacements.get(direction, ())
            if (stack.row, stack.column) not in names or other not in names or not found:
                continue
            default = _default(xml, direction)
            best = _most_reliable(found, default)[0]
            displ = [float(a.displ) for a in best.axes]
            reliability = min(a.reliability for a in best.axes)
            peak = min(a.peak for a in best.axes)
            ok = reliability > 0
            agree = sum(all(abs(a.displ - b) <= 1 for a, b in zip(d.axes, displ)) for d in found)
            expected = _zyx([float(v) for v in default])
            pairs.append(
                PairResult(
                    names[stack.row, stack.column], names[other], direction,
                    "ok" if ok else "no_signal", _zyx(displ) if ok else expected,
                    (0.5, 0.5, 0.5), max(0.0, reliability), peak, agree if ok else 0, len(found),
                    expected, tuple(max(0, a.delay) for a in _zyx(best.axes)), engine="xml",
                )
            )  # fmt: skip
    return pairs


def to_placement(xml: ProjectXml, acquisition: Acquisition | None = None) -> Placement:
    """Positions of a merging file (or the nominal ones of an import file) as a placement."""
    names = _names(xml, acquisition)
    first = np.array(xml.stacks[0].abs_vhd)
    tiles, unscanned = {}, {}
    for stack in xml.stacks:
        cell = stack.row, stack.column
        integer = _zyx([int(v) for v in np.array(stack.abs_vhd) - first])
        if cell in names:
            tiles[names[cell]] = PlacedTile(
                *cell, tuple(float(v) for v in integer), integer, "file", 0
            )
        else:
            unscanned[f"{cell[0]},{cell[1]}"] = integer
    return Placement(tiles, unscanned, summary={"tiles": len(tiles)})


def with_nominal(acquisition: Acquisition, xml: ProjectXml) -> Acquisition:
    """The acquisition with the positions of an import file as its stage positions."""
    places = to_placement(xml, acquisition).tiles
    tiles = (replace(t, origin_vox=places[t.name].origin_vox) for t in acquisition.tiles)
    return replace(acquisition, tiles=tuple(tiles))


def has_positions(xml: ProjectXml) -> bool:
    """Whether the positions differ from the nominal grid, as in a merging file."""
    south, east = xml.default_displ
    return any(
        abs(s.abs_vhd[0] - s.row * south) > 1 + s.row
        or abs(s.abs_vhd[1] - s.column * east) > 1 + s.column
        or s.abs_vhd[2] != xml.stacks[0].abs_vhd[2]
        for s in xml.stacks
    )


def check_fits(xml: ProjectXml, acquisition: Acquisition, name: str = "XML") -> None:
    """Raise :class:`StitchingError` if the project is one of another acquisition."""
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
                f"{own:g}; give the XML of this acquisition or correct input.voxel_size_um"
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
                f"{name} says that cell {stack.row},{stack.column} was "
                f"{'acquired' if stack.dir_name else 'not acquired'} but the acquisition says "
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
        for axis, other in ((0, (row + 1, column)), (1, (row, column + 1))):
            if other not in at:
                continue
            step = int((by_cell[other] - by_cell[row, column])[axis])
            if not 0 < step <= 2 * limit[axis]:
                raise StitchingError(
                    f"{name} puts {at[other].name} {step} pixels from {tile.name}, which is "
                    f"{limit[axis]} pixels wide; give the XML of this acquisition"
                )


# ---------------------------------------------------------------------- helpers
def _names(xml: ProjectXml, acquisition: Acquisition | None) -> dict[tuple[int, int], str]:
    if acquisition is not None:
        check_fits(xml, acquisition)
        return {(tile.row, tile.column): tile.name for tile in acquisition.tiles}
    names = {(s.row, s.column): PurePosixPath(s.dir_name).name for s in xml.stacks if s.dir_name}
    if len(set(names.values())) != len(names):
        raise StitchingError("two stacks of the XML have the same DIR_NAME; correct one")
    return names


def _vhd(zyx) -> tuple:
    return (zyx[1], zyx[2], zyx[0])


def _zyx(vhd) -> tuple:
    return (vhd[2], vhd[0], vhd[1])


def _round(value: float) -> int:
    return int(np.rint(np.round(float(value), 6)))


def _default(xml: ProjectXml, direction: str) -> tuple[int, int, int]:
    south, east = xml.default_displ
    return (0, east, 0) if direction == "EAST" else (south, 0, 0)


def _as_measured(window: WindowResult, default) -> Displacement:
    """A sub-volume of mip_ncc with all its attributes."""
    return Displacement(
        *(
            Axis(
                a.displ_vox, d, a.reliability, a.peak, a.width, a.width_range, a.inf_width, a.delay
            )
            for a, d in zip(_vhd(window.axes), default)
        )
    )


def _most_reliable(found, default) -> tuple[Displacement]:
    if not found:
        return (Displacement(*(Axis.encoded(d, d, 0.0) for d in default)),)
    axes = []
    for k in range(3):
        best = max(found, key=lambda d: d.axes[k].reliability).axes[k]
        axes.append(best)
    return (Displacement(*axes),)


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
            own["EAST"] = function(found, _default(xml, "EAST"))
        if stack.row + 1 < xml.rows:
            found = stack.displacements.get("SOUTH", ())
            own["SOUTH"] = function(found, _default(xml, "SOUTH"))
        sides[stack.row, stack.column] = own
    return _with_sides(xml, sides)


def _with_sides(xml: ProjectXml, sides) -> ProjectXml:
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
                    for side in _SIDES
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
    """Folder of the files of a stack, whose names may begin with folders themselves."""
    name, _ = files.locate(next(z for z in count() if z not in files.missing))
    return PurePosixPath(tile.folder, name).parent


def _file_regex(files: StackFiles) -> str:
    """Regular expression that matches the files of one stack and nothing else in the folder.

    Characters that Perl-like expressions treat specially are put in brackets, which TeraStitcher's
    library reads as Python's does.
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
    """Stage step in micrometres that TeraStitcher's truncation turns into no less than ``step``."""
    value = step * voxel
    while int(value / voxel) < math.floor(step + 1e-9):
        value = math.nextafter(value, math.inf)
    return value
