"""What a MetaImage header states, and which files it names (standard library only)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from terareg.storage.foreign import DEFLATE_RATIO
from terareg.storage.store import Store, open_regular
from terareg.storage.tiff import ObjectFile
from terareg.storage.tiff_planes import check_beside
from terareg.volumes.nifti import shear_degrees

META_IMAGE = (".mha", ".mhd")
_HEAD_BYTES = 1 << 16
# types of numbers; that of MET_LONG depends on the machine that wrote it
_TYPES = {
    "MET_CHAR": "int8", "MET_UCHAR": "uint8", "MET_SHORT": "int16", "MET_USHORT": "uint16",
    "MET_INT": "int32", "MET_UINT": "uint32", "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64", "MET_FLOAT": "float32", "MET_DOUBLE": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class MetaLayout:
    """How a MetaImage stores its voxels.

    Attributes
    ----------
    file : str
        Name of the file in the folder that holds them.
    start : int
        First byte of the voxels in it.
    shape : tuple of int
        (z, y, x).
    dtype : str
        NumPy name of the numbers.
    samples : int
        Numbers of a voxel.
    big_endian, compressed : bool
        Compressed voxels are one stream of zlib.
    spacing : tuple of float or None
        Of the voxels (x, y, z), in no stated unit.
    origin, direction : tuple of float or None
        Place of the first voxel, and the unit vectors of the axes x, y and z one after the other,
        as in ITK.
    """

    file: str
    start: int
    shape: tuple[int, int, int]
    dtype: str
    samples: int
    big_endian: bool
    compressed: bool
    spacing: tuple[float, ...] | None = None
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels, decompressed."""
        return math.prod(self.shape) * self.samples * (int(re.sub(r"\D", "", self.dtype)) // 8)


def meta_layout(store: Store, name: str) -> MetaLayout | None:
    """Where the voxels of a MetaImage lie; None for text and unusual types."""
    with ObjectFile(store, name, ranged=True) as stream:
        head = stream.get(0, min(_HEAD_BYTES, stream.size)).decode("latin-1")
    line = _data_line(head)
    if not name.lower().endswith(META_IMAGE) or line is None:
        return None
    fields = _fields(head, line)
    sizes = [int(n) for n in fields.get("dimsize", "").split()]
    dtype = _TYPES.get(fields.get("elementtype", "").upper())
    if len(sizes) != 3 or dtype is None or fields.get("binarydata", "true").lower() == "false":
        return None
    local = line[1].upper() == "LOCAL"
    if not local and (line[1].upper().startswith("LIST") or "%" in line[1]):
        raise ValueError(f"its voxels are in {line[1][:40]!r}; write them into one file")
    file = name if local else check_beside(line[1])
    msb = fields.get("elementbyteordermsb", fields.get("binarydatabyteordermsb", "false"))
    layout = MetaLayout(
        file, len(head[: line.end()].encode("latin-1")) + 1 if local else 0,
        (sizes[2], sizes[1], sizes[0]), dtype,
        int(fields.get("elementnumberofchannels", "1")), msb.lower() == "true",
        fields.get("compresseddata", "false").lower() == "true",
        _numbers(fields, ("elementspacing", "elementsize"), 3),
        _numbers(fields, ("offset", "position", "origin"), 3),
        _numbers(fields, ("transformmatrix", "orientation", "rotation"), 9),
    )  # fmt: skip
    skipped = int(fields.get("headersize", "0"))
    if skipped < 0 and layout.compressed:
        return None
    if skipped < 0:
        return replace(layout, start=(store.size(file) or 0) - layout.voxel_bytes)
    return replace(layout, start=layout.start + skipped)


def check_layout(layout: MetaLayout, size: int | None) -> None:
    """Raise :class:`ValueError` unless a data file of this size can hold the voxels."""
    if size is None:
        raise ValueError(f"its data file {layout.file!r} is not beside it; copy it there")
    if min(layout.shape) < 1 or layout.samples < 1 or layout.start < 0:
        raise ValueError(
            f"its sizes {layout.shape[::-1]}, {layout.samples} numbers for each voxel and first "
            f"byte {layout.start} are impossible; correct the header"
        )
    room, wanted = size - layout.start, layout.voxel_bytes
    if layout.compressed:
        short = room * DEFLATE_RATIO < wanted
    else:
        short = room < wanted or room >= wanted + wanted // layout.shape[0]
    if short:
        raise ValueError(
            f"its sizes {layout.shape[::-1]} need {wanted} bytes but it has {max(room, 0)}; copy "
            "it again or correct the header"
        )


def _numbers(
    fields: Mapping[str, str], keys: Sequence[str], count: int
) -> tuple[float, ...] | None:
    """Numbers of the first of these fields that a header has; None if there is none of them."""
    text = next((fields[key] for key in keys if key in fields), None)
    if text is None:
        return None
    found = tuple(float(word) for word in text.split())
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"its field {keys[0]} has {text[:40]!r}, not {count} numbers")
    return found


def detached_files(path: str | os.PathLike) -> list[Path]:
    """Data files beside a MetaImage header.

    Raises
    ------
    ValueError
        If one is not in the header's folder.
    """
    path = Path(path)
    if path.suffix.lower() not in META_IMAGE:
        os.close(open_regular(path))
        return []
    match = _data_line(_head(path))
    if match is None:
        raise ValueError("it names no ElementDataFile")
    words = match[1].split()
    if not words or words[0].upper() in ("LOCAL", "LIST") or "%" in match[1]:
        if words and words[0].upper() == "LOCAL":
            return []
        raise ValueError(f"its voxels are in {match[1][:40]!r}; write them into one file")
    return [path.parent / check_beside(match[1])]


def check_meta_image(path: str | os.PathLike) -> None:
    """Raise :class:`ValueError` where a header contradicts itself, or the size of its data.

    ITK takes no notice: it drops planes that a size leaves out, and sheared axes.
    """
    path = Path(path)
    if path.suffix.lower() not in META_IMAGE:
        return
    head = _head(path)
    line = _data_line(head)
    if line is None:
        return
    fields = _fields(head, line)
    sizes = [int(n) for n in fields.get("dimsize", "").split()]
    if len(sizes) == 3:
        _check_size(path, fields, sizes, line)


def shear_of(direction: Sequence[float]) -> float:
    """Largest deviation from right angles of ITK's direction matrix, degrees; 0 within rounding."""
    return shear_degrees([list(direction[axis::3]) for axis in range(3)])


def _fields(head: str, line: re.Match[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in re.findall(
        r"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*\r?$", head[: line.end()], re.M
    ):
        before = fields.setdefault(key.lower(), value)
        if before != value:
            raise ValueError(
                f"its header has the field {key[:40]!r} twice, {before[:40]!r} and {value[:40]!r}; "
                "remove one of them"
            )
    return fields


def _check_size(path: Path, fields: dict[str, str], sizes: list[int], line: re.Match[str]) -> None:
    dtype = _TYPES.get(fields.get("elementtype", "").upper())
    packed = fields.get("compresseddata", "").lower() == "true"
    if dtype is None or packed or fields.get("binarydata", "true").lower() == "false":
        return
    wanted = math.prod(sizes) * int(fields.get("elementnumberofchannels", "1"))
    wanted *= int(re.sub(r"\D", "", dtype)) // 8
    skipped = max(0, int(fields.get("headersize", "0")))
    if line[1].split()[0].upper() == "LOCAL":
        skipped = len(line.string[: line.end()].encode("latin-1")) + 1
        there = path.stat().st_size
    else:
        there = (path.parent / check_beside(line[1])).stat().st_size
    room = there - skipped
    if room < wanted or room >= wanted + wanted // sizes[2]:
        raise ValueError(
            f"its sizes {tuple(sizes)} need {wanted} bytes but it has {max(room, 0)}; copy it "
            "again or correct the header"
        )


def _head(path: Path) -> str:
    with open(open_regular(path), "rb") as stream:
        return stream.read(_HEAD_BYTES).decode("latin-1")


def _data_line(head: str) -> re.Match[str] | None:
    return re.search(r"^[ \t]*ElementDataFile[ \t]*=[ \t]*(.*?)[ \t]*\r?$", head, re.M | re.I)
