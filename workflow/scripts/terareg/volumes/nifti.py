"""What the header of a NIfTI-1 file says (standard library only).

A header states the grid up to three times. The order is that of the standard: the sform matrix
where it has a code, else the qform where it has one, else ``pixdim`` (which says nothing of the
orientation). The other statements are compared with the one that wins; a contradiction is an error.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from dataclasses import dataclass
from itertools import combinations

_NIFTI_TYPES = {
    2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64", 256: "int8", 512: "uint16",
    768: "uint32", 1024: "int64", 1280: "uint64",
}  # fmt: skip
_COLOURS = {128: 3, 2304: 4}  # bytes per voxel
_HEADER_BYTES, _FIRST_VOXEL = 348, 352
_LABELS = 1002  # intent code of images whose voxels are labels
_UNITS = {1: "m", 2: "mm", 3: "um"}
_TO_LPS = (-1.0, -1.0, 1.0)  # from right, anterior, superior
_ROUNDING = 1e-3  # tolerance of lengths and of sines of angles


@dataclass(frozen=True)
class NiftiLayout:
    """How a NIfTI-1 file stores its voxels.

    Attributes
    ----------
    order : str
        Byte order, "<" or ">".
    dim : tuple of int
        Number of dimensions, and the size of each of seven (x first).
    code : int
        Type of the voxels.
    offset : int
        Byte (after decompression) of the first voxel.
    slope, intercept : float
        Value = slope * stored + intercept, if ``scaled``.
    is_labels : bool
        Whether the header states that the voxels are labels (intent code 1002).
    """

    order: str
    dim: tuple[int, ...]
    code: int
    offset: int
    slope: float
    intercept: float
    is_labels: bool = False

    @classmethod
    def of(cls, head: bytes) -> NiftiLayout | None:
        """Parse the first 348 bytes; None if they are not a NIfTI-1 header.

        :class:`ValueError` if they are one, but an invalid one.
        """
        for order in "<>":
            if struct.unpack_from(f"{order}i", head)[0] == _HEADER_BYTES:
                dim = struct.unpack_from(f"{order}8h", head, 40)
                intent, code = struct.unpack_from(f"{order}2h", head, 68)
                offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
                if not math.isfinite(offset) or not (
                    offset == 0 or _HEADER_BYTES <= offset < 2**31
                ):
                    raise ValueError(f"its header states that its voxels begin at byte {offset:g}")
                magic = head[344:348].rstrip(b"\0")
                if magic != b"n+1":
                    what = "that of Analyze" if not magic else f"of the kind {magic[:4]!r}"
                    raise ValueError(
                        f"its header is {what}, not of a NIfTI-1 file that contains its voxels "
                        "('n+1'); convert it to NIfTI-1 or NRRD"
                    )
                start = int(offset) or _FIRST_VOXEL
                layout = cls(order, dim, code, start, slope, intercept, intent == _LABELS)
                if layout.scaled and not math.isfinite(intercept):
                    raise ValueError(
                        f"its header states that its values are scaled by {slope:g} + {intercept:g}"
                    )
                return layout
        return None

    @property
    def samples(self) -> int:
        """Numbers per voxel."""
        return _COLOURS.get(self.code, 1)

    @property
    def dtype(self) -> str | None:
        """NumPy name of the type of the stored numbers; None if they are not real numbers."""
        return "uint8" if self.code in _COLOURS else _NIFTI_TYPES.get(self.code)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return self.dim[3], self.dim[2], self.dim[1]

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels, for a known type."""
        bits = int("".join(c for c in self.dtype or "" if c.isdigit()))
        return math.prod(self.shape) * self.samples * bits // 8

    @property
    def scaled(self) -> bool:
        """Whether slope and intercept change a value."""
        given = math.isfinite(self.slope) and self.slope != 0
        return given and (self.slope, self.intercept) != (1.0, 0.0)


@dataclass(frozen=True)
class NiftiGrid:
    """Grid of a header, from the statement that wins.

    Attributes
    ----------
    spacing : tuple of float
        Along (z, y, x), in the unit of the header.
    unit : str or None
        "m", "mm" or "um".
    orientation : str or None
        Code of (z, y, x), see :mod:`terareg.core.frames`.
    contradiction : str
        What the other statements say instead; empty if they agree.
    origin, direction : tuple of float or None
        Centre of the first voxel (left, posterior, superior, as in ITK), and unit vectors of the
        axes x, y and z, one after the other.
    """

    spacing: tuple[float, float, float]
    unit: str | None
    orientation: str | None
    contradiction: str = ""
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None


def nifti_stream(
    file: io.RawIOBase | io.BufferedIOBase, name: str
) -> io.RawIOBase | io.BufferedIOBase:
    """The bytes of a NIfTI file of this name, decompressed."""
    return gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file


def nifti_grid(data: bytes, order: str) -> NiftiGrid:
    """Grid that a header of 348 bytes states."""
    pixdim = struct.unpack_from(f"{order}8f", data, 76)
    codes = dict(zip(("qform", "sform"), struct.unpack_from(f"{order}2h", data, 252)))
    unit = _UNITS.get(data[123] & 7)
    sizes = [abs(p) for p in pixdim[3:0:-1]]
    forms = {}
    if codes["sform"] > 0:
        rows = [struct.unpack_from(f"{order}3f", data, 280 + 16 * i) for i in range(3)]
        forms["sform"] = [[row[axis] for row in rows] for axis in (2, 1, 0)]
    if codes["qform"] > 0:
        forms["qform"] = _qform_columns(data, order, pixdim)
    if not forms:
        return NiftiGrid(tuple(sizes), unit, None)
    name, columns = next(iter(forms.items()))
    spacing = [math.hypot(*c) for c in columns] if name == "sform" else sizes
    found = {form: _letters(own) for form, own in forms.items()}
    problem = ""
    if name == "sform" and not _alike(spacing, sizes):
        problem = f"its sform gives voxels of {_list(spacing)} but its pixdim {_list(sizes)}"
    elif len(set(found.values())) > 1:
        problem = (
            f"its sform gives the axes z, y, x as {found['sform'] or 'oblique'} but its qform as "
            f"{found['qform'] or 'oblique'}"
        )
    elif shear := shear_degrees(columns):
        problem = f"its axes are sheared by {shear:.1f} degrees"
    if name == "sform":
        origin = tuple(struct.unpack_from(f"{order}f", data, 292 + 16 * i)[0] for i in range(3))
    else:
        origin = struct.unpack_from(f"{order}3f", data, 268)
    direction = tuple(
        s * v / (math.hypot(*c) or 1.0) for c in reversed(columns) for s, v in zip(_TO_LPS, c)
    )
    origin = tuple(s * v for s, v in zip(_TO_LPS, origin))
    return NiftiGrid(tuple(spacing), unit, found[name], problem, origin, direction)


def _alike(one: list[float], other: list[float]) -> bool:
    return all(abs(a - b) <= _ROUNDING * max(abs(a), abs(b)) for a, b in zip(one, other))


def shear_degrees(columns: list[list[float]]) -> float:
    """Largest deviation of an angle between two axes from 90 degrees; 0 within rounding."""
    worst = 0.0
    for one, other in combinations(columns, 2):
        length = math.hypot(*one) * math.hypot(*other)
        sine = sum(a * b for a, b in zip(one, other)) / length if length > 0 else 0.0
        if math.isfinite(sine):
            worst = max(worst, abs(sine))
    return math.degrees(math.asin(min(1.0, worst))) if worst > 10 * _ROUNDING else 0.0


def _qform_columns(data: bytes, order: str, pixdim: tuple[float, ...]) -> list[list[float]]:
    """Directions of the axes z, y and x in RAS coordinates (right, anterior, superior)."""
    b, c, d = struct.unpack_from(f"{order}3f", data, 256)
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    flip = -1.0 if pixdim[0] < 0 else 1.0
    rows = [
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), flip * 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, flip * 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), flip * (a * a + d * d - b * b - c * c)),
    ]
    return [[row[axis] for row in rows] for axis in (2, 1, 0)]


def _letters(columns: list[list[float]]) -> str | None:
    """Code of the axes from their main directions in RAS coordinates."""
    letters = ""
    for column in columns:
        if not all(map(math.isfinite, column)):
            return None
        main = max(range(3), key=lambda i: abs(column[i]))
        letters += ("RAS" if column[main] > 0 else "LPI")[main]
    # a matrix of zeros, or one rotated by 45 degrees, names an axis twice and is not usable
    axes = {letter.translate(str.maketrans("LPI", "RAS")) for letter in letters}
    return letters if len(axes) == 3 else None


def _list(values: list[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
