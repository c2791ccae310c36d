"""Reads TeraStitcher's project files, and trusts nothing in them.

Line ends, comments, the order of attributes, missing NORTH and WEST elements and ROW or COL that
contradict the document's order do not matter. Entities, folders outside ``stacks_dir`` and absurd
sizes are errors.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from terareg.core.errors import StitchingError
from terareg.stitching.terastitcher.model import (
    FORMATS,
    SIDES,
    Axis,
    Displacement,
    ProjectXml,
    Stack,
)
from terareg.storage.foreign import boundary, check_xml, read_bytes, short

_MAX_BYTES = 256 * 2**20
_MAX_CELLS = 1_000_000
_MAX_PIXELS = 10**9


def read_xml(path: str | os.PathLike) -> ProjectXml:
    """Read any of the five project files.

    Line ends, comments, the order of attributes, missing NORTH and WEST elements and ROW or COL
    that contradict the document's order do not matter.

    Raises
    ------
    StitchingError
        If the file cannot be read, is not a project file, or contains what no project may contain:
        entities, folders outside ``stacks_dir``, absurd sizes.
    """
    name = os.fspath(path)
    with boundary(name, StitchingError, "correct the path of the XML file"):
        data = read_bytes(path, _MAX_BYTES)
        check_xml(data)
        return parse_xml(data, name)


def parse_xml(data: bytes | str, name: str = "XML") -> ProjectXml:
    """Read a project from memory; ``name`` stands for it in messages."""
    try:
        # the DOCTYPE line is part of the format; entities and external references are not
        root = defusedxml.ElementTree.fromstring(
            data, forbid_dtd=False, forbid_entities=True, forbid_external=True
        )
    except DefusedXmlException as error:
        raise StitchingError(
            f"{name} declares entities ({type(error).__name__}), which no TeraStitcher project "
            "needs; do not trust this file"
        ) from error
    except (ParseError, UnicodeError, ValueError, LookupError) as error:
        raise StitchingError(f"{name} is not well-formed XML ({error}); export it again") from error
    with boundary(name, StitchingError, "export the project again"):
        return _ProjectReader(name).project(root)


class _ProjectReader:
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
        if kind not in FORMATS:
            raise self.fail(
                f"volume_format {short(kind)} is not supported; use {' or '.join(FORMATS)}"
            )
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
            voxel_vhd_um=tuple(voxel),
            mechanical_vh_um=tuple(
                self.numbers(self.child(root, "mechanical_displacements"), "VH")
            ),
            rows=rows,
            columns=columns,
            slices=slices,
            stacks=tuple(self.stack(e, k // columns, k % columns) for k, e in enumerate(stacks)),
            input_plugin=root.get("input_plugin"),
            mdata_bin=None if mdata is None else self.text(mdata, "value"),
            ref_sys=None
            if reference is None
            else tuple(self.integer(reference, f"ref{k}", -3, 3) for k in (1, 2, 3)),
            origin_vhd_mm=tuple(self.numbers(self.child(root, "origin"), ("V", "H", "D"))),
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
                for side in SIDES
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
                    f"{where}: displacement of type {short(child.get('TYPE'))}; only MIP_NCC is "
                    "supported, so measure the displacements with it"
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
            raise self.fail(f"<{element.tag}> {key}={text[:40]!r} is not a number; correct it")
        return value

    def numbers(self, element: Element, keys: Iterable[str]) -> tuple[float, ...]:
        return tuple(self.number(element, key) for key in keys)

    def integer(self, element: Element, key: str, low: int, high: int, default=None) -> int:
        if default is not None and element.get(key) is None:
            return default
        value = self.number(element, key)
        if value != round(value) or not low <= value <= high:
            raise self.fail(
                f"<{element.tag}> {key}={short(element.get(key))} is not an integer from {low} to "
                f"{high}; correct it"
            )
        return int(value)

    def integers(self, text: str, key: str, where: str) -> tuple[int, ...]:
        parts = [p for p in text.replace(" ", "").split(",") if p]
        if not all(re.fullmatch(r"\d{1,9}", p) for p in parts):
            raise self.fail(f"{where}: {key}={text[:40]!r} is not a list of integers; correct it")
        return tuple(int(p) for p in parts)

    def ranges(self, text: str | None, where: str) -> tuple[tuple[int, int], ...]:
        if not text:
            return ()
        result = []
        for part in text.split(";"):
            match = re.fullmatch(r"\s*\[(\d{1,9}),(\d{1,9})\)\s*", part)
            if match is None:
                raise self.fail(
                    f"{where}: Z_RANGES={text[:60]!r} is not a list of ranges; write it like "
                    "[0,10);[12,20)"
                )
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
                f"{where}: DIR_NAME={folder[:80]!r} leads out of stacks_dir; give a folder "
                "relative to it, without '..'"
            )
