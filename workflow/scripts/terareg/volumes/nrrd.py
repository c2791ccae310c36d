"""What the header of an NRRD file says, and where its voxels are (standard library only).

http://teem.sourceforge.net/nrrd/format.html. A detached header names its data files, which have to
lie in its own folder, or below it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from terareg.storage.foreign import DEFLATE_RATIO
from terareg.storage.store import check_key
from terareg.storage.tiff import ObjectFile
from terareg.volumes.nifti import shear_degrees

_TYPES = {
    "signed char": "int8", "int8": "int8", "int8_t": "int8",
    "unsigned char": "uint8", "uchar": "uint8", "uint8": "uint8", "uint8_t": "uint8",
    "short": "int16", "short int": "int16", "signed short": "int16", "signed short int": "int16",
    "int16": "int16", "int16_t": "int16", "unsigned short": "uint16", "ushort": "uint16",
    "uint16": "uint16", "unsigned short int": "uint16", "uint16_t": "uint16", "int": "int32",
    "signed int": "int32", "int32": "int32", "int32_t": "int32", "unsigned int": "uint32",
    "uint": "uint32", "uint32": "uint32", "uint32_t": "uint32", "long long": "int64",
    "int64": "int64", "int64_t": "int64", "longlong": "int64", "long long int": "int64",
    "signed long long": "int64", "signed long long int": "int64", "unsigned long long": "uint64",
    "unsigned long long int": "uint64", "uint64": "uint64", "uint64_t": "uint64",
    "ulonglong": "uint64", "float": "float32", "double": "float64",
}  # fmt: skip
_ENCODINGS = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
    "txt": "text", "text": "text", "ascii": "text",
}  # fmt: skip
_HEAD_BYTES = 1 << 16
_MOST_FILES = 100_000
_ROUNDING = 1e-3


@dataclass(frozen=True)
class NrrdHeader:
    """What a header says.

    Attributes
    ----------
    sizes : tuple of int
        Sizes of all axes, fastest first.
    spatial : tuple of int
        The three axes x, y and z among them.
    dtype : str
    encoding : str
        "raw", "gzip", "bzip2" or "text".
    big_endian : bool
    line_skip, byte_skip : int
    files : tuple of str
        Data files of a detached header, below its folder; empty if voxels follow the header.
    start : int
        First byte after the header.
    spacing : tuple of float or None
        Along (z, y, x), in ``unit``.
    unit : str or None
    orientation : str or None
        Code of (z, y, x) from directions and space; it is often wrong in headers.
    origin, direction : tuple of float or None
        Centre of the first voxel (left, posterior, superior, as in ITK), and unit vectors of the
        axes x, y and z, one after the other.
    contradiction : str
        What makes the grid unclear; empty if nothing does.
    """

    sizes: tuple[int, ...]
    spatial: tuple[int, int, int]
    dtype: str
    encoding: str
    big_endian: bool
    line_skip: int
    byte_skip: int
    files: tuple[str, ...]
    start: int
    spacing: tuple[float, float, float] | None
    unit: str | None
    orientation: str | None
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    contradiction: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return tuple(self.sizes[axis] for axis in reversed(self.spatial))

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels after decompression."""
        return math.prod(self.sizes) * int(re.sub(r"\D", "", self.dtype)) // 8


def read_nrrd_header(file: ObjectFile) -> NrrdHeader:
    """Read the header of an open NRRD file.

    Raises
    ------
    ValueError, LookupError
        See :func:`terareg.storage.foreign.boundary`.
    """
    raw = file.get(0, _HEAD_BYTES)
    if not raw.startswith(b"NRRD"):
        raise ValueError("it is not an NRRD file")
    end = re.search(rb"\r?\n\r?\n", raw)
    if end is None and file.size > _HEAD_BYTES:
        raise ValueError("its header has no end")
    head = raw[: end.start()] if end else raw
    lines = head.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")[1:]
    fields: dict[str, str] = {}
    names: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith("#") or ":=" in line or not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"line {number + 2} of its header is {line[:40]!r}")
        key = re.sub(r"\s", "", key.lower())
        if fields.setdefault(key, value.strip()) != value.strip():
            raise ValueError(
                f"its header has the field {key[:40]!r} twice, {fields[key][:40]!r} and "
                f"{value.strip()[:40]!r}; remove one of them"
            )
        if key == "datafile" and value.strip().upper().startswith("LIST"):
            names = [line.strip() for line in lines[number + 1 :] if line.strip()]
            break
    return _header(fields, names, end.end() if end else len(raw))


def _header(fields: dict[str, str], names: list[str], start: int) -> NrrdHeader:
    sizes = tuple(int(n) for n in fields["sizes"].split())
    if not 1 <= len(sizes) <= 16 or min(sizes) < 1:
        raise ValueError(f"its sizes are {fields['sizes'][:60]!r}")
    if "dimension" in fields and int(fields["dimension"]) != len(sizes):
        raise ValueError(
            f"it states {fields['dimension'][:20]} dimensions but has {len(sizes)} sizes"
        )
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""))
    spatial = _spatial(sizes, directions, fields.get("kinds", "").lower().split())
    word = " ".join(fields["type"].lower().split())
    if word not in _TYPES:
        raise ValueError(f"voxel type {word[:40]!r}; give integers or floating-point numbers")
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise ValueError(f"encoding {fields['encoding'][:40]!r}; write it with raw or gzip")
    given, orientation, origin, direction, shear = None, None, None, None, 0.0
    if len(directions) == len(sizes):
        vectors = [[float(v) for v in directions[i][1:-1].split(",")] for i in reversed(spatial)]
        given = [math.hypot(*v) for v in vectors]
        shear = shear_degrees(vectors)
        orientation = _orientation(vectors, fields.get("space", ""))
        signs = _signs_of(fields.get("space", ""))
        direction = tuple(
            s * c / (math.hypot(*v) or 1.0)
            for v in reversed(vectors)
            for s, c in zip(signs, v, strict=True)
        )
        if match := re.fullmatch(r"\(([^)]*)\)", fields.get("spaceorigin", "")):
            origin = tuple(s * float(v) for s, v in zip(signs, match[1].split(",")))
    stated = _spacings(fields, sizes, spatial)
    given, contradiction = given or stated, ""
    if (
        given
        and stated
        and any(
            abs(abs(a) - abs(b)) > _ROUNDING * max(abs(a), abs(b)) for a, b in zip(given, stated)
        )
    ):  # NaN stands for an axis without a spacing
        contradiction = (
            f"its space directions give voxels of {_list(given)} but its spacings {_list(stated)}"
        )
    elif shear:
        contradiction = f"its axes are sheared by {shear:.1f} degrees"
    if given is not None and not all(math.isfinite(s) for s in given):
        given = None
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", fields.get("units", "")))
    unit = next((u.strip().lower() for u in units if u.strip()), None)
    known = {u.strip().lower() for u in units if u.strip() and u.strip() != "???"}
    if len(known) > 1 and len(units) == 3:
        contradiction = f"its axes have different units, {', '.join(sorted(known))[:60]}"
    return NrrdHeader(
        sizes,
        spatial,
        _TYPES[word],
        encoding,
        _is_big(fields.get("endian"), _TYPES[word], encoding),
        int(fields.get("lineskip", "0")),
        int(fields.get("byteskip", "0")),
        _data_files(fields.get("datafile"), names),
        start,
        None if given is None else tuple(given),
        unit,
        orientation,
        origin,
        direction,
        contradiction,
    )


def _is_big(endian: str | None, dtype: str, encoding: str) -> bool:
    """Byte order of the voxels, which a header has to state where it matters."""
    order = (endian or "").strip().lower()
    if order not in ("little", "big") and encoding != "text" and dtype not in ("int8", "uint8"):
        raise ValueError(
            f"its header states the byte order {endian[:20]!r} for {dtype}; write endian: little "
            "or endian: big"
            if endian
            else f"its header states no byte order for {dtype}; add endian: little or endian: big"
        )
    return order == "big"


def _spacings(
    fields: dict[str, str], sizes: tuple[int, ...], spatial: tuple[int, int, int]
) -> list[float] | None:
    """What the field spacings states along (z, y, x)."""
    if "spacings" not in fields:
        return None
    parts = fields["spacings"].split()
    if len(parts) != len(sizes):
        raise ValueError(f"it has {len(sizes)} sizes but {len(parts)} spacings")
    return [float(parts[i]) for i in reversed(spatial)]


def _list(values: list[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _spatial(
    sizes: tuple[int, ...], directions: list[str], kinds: list[str]
) -> tuple[int, int, int]:
    times = [n for n, kind in zip(sizes, kinds) if kind == "time" and n > 1]
    if times:
        raise ValueError(f"it contains {times[0]} time points; give one time point")
    spatial = list(range(len(sizes)))
    if len(directions) == len(sizes):
        spatial = [i for i in spatial if directions[i] != "none"]
    elif len(kinds) == len(sizes):
        spatial = [i for i in spatial if kinds[i] in ("domain", "space", "???")]
    if len(spatial) > 3:
        spatial = [i for i in spatial if sizes[i] > 1]
    if len(spatial) != 3:
        raise ValueError(f"{len(spatial)} dimensions {sizes}; give one volume with three")
    return tuple(spatial)


def _letters_of(space: str) -> list[str]:
    """Letters of the axes of a space, "L" for left and so on."""
    names = space.strip().lower()
    words = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S",
             "inferior": "I"}  # fmt: skip
    if len(names) in (3, 4) and "-" not in names:
        return list(names[:3].upper())
    return [words.get(w, "") for w in names.split("-")[:3]]


def _signs_of(space: str) -> tuple[float, float, float]:
    """Factors from the axes of a space to left, posterior, superior; ones for one without name."""
    letters = _letters_of(space)
    if [letter in pair for letter, pair in zip(letters, ("LR", "PA", "SI"))] != [True] * 3:
        return 1.0, 1.0, 1.0
    x, y, z = (1.0 if letter in "LPS" else -1.0 for letter in letters)
    return x, y, z


def _orientation(vectors: list[list[float]], space: str) -> str | None:
    """Code of (z, y, x) from the directions of the axes."""
    axes = _letters_of(space)
    opposite = dict(zip("RLAPSI", "LRPAIS"))
    if len(axes) != 3 or not set(axes) <= set(opposite):
        return None
    letters = ""
    for vector in vectors:
        if len(vector) != 3:
            return None
        main = max(range(3), key=lambda i: abs(vector[i]))
        letters += axes[main] if vector[main] > 0 else opposite[axes[main]]
    pairs = {frozenset((letter, opposite[letter])) for letter in letters}
    return letters if len(pairs) == 3 else None


# ---------------------------------------------------------------------- detached data
def _data_files(field: str | None, names: list[str]) -> tuple[str, ...]:
    if field is None:
        return ()
    if field.upper().startswith("LIST"):
        found = names
    elif match := re.fullmatch(
        r"(\S*%0?\d{0,2}[di]\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+\d+)?", field
    ):
        form, (first, last, step) = match[1], (int(match[k]) for k in (2, 3, 4))
        if step == 0 or (last - first) / step >= _MOST_FILES:
            raise ValueError(f"its data files are {field[:60]!r}")
        stop = last + (1 if step > 0 else -1)
        found = [form % n for n in range(first, stop, step)] if form.count("%") == 1 else []
    else:
        found = [field]
    if not 1 <= len(found) <= _MOST_FILES:
        raise ValueError(f"its data files are {field[:60]!r}")
    return tuple(map(_beside, found))


def _beside(name: str) -> str:
    if (
        name.startswith(("/", "~"))
        or re.match(r"[A-Za-z]:", name)
        or ".." in PurePosixPath(name.replace("\\", "/")).parts
    ):
        raise ValueError(
            f"it refers to {name[:80]!r}, which is not in its folder; put the data beside the "
            "header and correct the name"
        )
    return check_key(name)


def check_data(header: NrrdHeader, size_of: Callable[[str], int | None], own_size: int) -> None:
    """Raise :class:`ValueError` unless the data files are there and can hold the voxels.

    ``size_of`` returns the bytes of a file in the folder, None if it is not there.
    """
    sizes = []
    for name in header.files:
        size = size_of(name)
        if size is None:
            raise ValueError(f"its data file {name!r} is not beside it; copy it there")
        sizes.append(size)
    there = sum(sizes) if header.files else own_size - header.start
    count = max(1, len(header.files))
    wanted = header.voxel_bytes
    if header.encoding == "raw":
        skipped = 0 if header.byte_skip < 0 else header.byte_skip * count
        room = there - skipped
        plane = wanted // header.shape[0]
        if room < wanted or (
            room >= wanted + plane and header.byte_skip >= 0 and not header.line_skip
        ):
            raise ValueError(
                f"its sizes {header.sizes} need {wanted} bytes but it has {max(room, 0)}; copy it "
                "again or correct the header"
            )
    elif header.encoding == "gzip" and there * DEFLATE_RATIO < wanted:
        raise ValueError(
            f"its sizes {header.sizes} need {wanted} bytes, too many for its {there} compressed "
            "bytes; copy it again or correct the header"
        )
    elif header.encoding == "text" and there * 2 * 8 < wanted:
        raise ValueError(f"its sizes {header.sizes} need more numbers than its text has")
