"""What the header of a NIfTI-1 file says (standard library only)."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from typing import Any

_NIFTI_TYPES = {
    2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64", 256: "int8", 512: "uint16",
    768: "uint32", 1024: "int64", 1280: "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class NiftiLayout:
    """How a NIfTI-1 file keeps its voxels.

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
    """

    order: str
    dim: tuple[int, ...]
    code: int
    offset: int
    slope: float
    intercept: float

    @classmethod
    def of(cls, head: bytes) -> NiftiLayout | None:
        """From the first 348 bytes; None if they are no NIfTI-1 header."""
        for order in "<>":
            if struct.unpack_from(f"{order}i", head)[0] == 348:
                dim = struct.unpack_from(f"{order}8h", head, 40)
                code = struct.unpack_from(f"{order}h", head, 70)[0]
                offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
                return cls(order, dim, code, int(offset), slope, intercept)
        return None

    @property
    def dtype(self) -> str | None:
        """NumPy name of the stored type; None if it is not one number to a voxel."""
        return _NIFTI_TYPES.get(self.code)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return self.dim[3], self.dim[2], self.dim[1]

    @property
    def scaled(self) -> bool:
        """Whether slope and intercept change a value."""
        given = math.isfinite(self.slope) and self.slope != 0
        return given and (self.slope, self.intercept) != (1.0, 0.0)


def nifti_stream(file: Any, name: str) -> Any:
    """The bytes of a NIfTI file of this name, decompressed."""
    return gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file


def nifti_orientation(data: bytes, order: str) -> str | None:
    """Code of (z, y, x) from the form matrices, whose rows are right, anterior, superior."""
    qform, sform = struct.unpack_from(f"{order}2h", data, 252)
    if sform > 0:
        rows = [struct.unpack_from(f"{order}3f", data, 280 + 16 * i) for i in range(3)]
    elif qform > 0:
        b, c, d = struct.unpack_from(f"{order}3f", data, 256)
        a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        flip = -1.0 if struct.unpack_from(f"{order}f", data, 76)[0] < 0 else 1.0
        rows = [
            (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), flip * 2 * (b * d + a * c)),
            (2 * (b * c + a * d), a * a + c * c - b * b - d * d, flip * 2 * (c * d - a * b)),
            (2 * (b * d - a * c), 2 * (c * d + a * b), flip * (a * a + d * d - b * b - c * c)),
        ]
    else:
        return None
    letters = ""
    for axis in (2, 1, 0):
        column = [row[axis] for row in rows]
        main = max(range(3), key=lambda i: abs(column[i]))
        letters += ("RAS" if column[main] > 0 else "LPI")[main]
    # a matrix of zeros, or turned by 45 degrees, names an axis twice and says nothing
    axes = {letter.translate(str.maketrans("LPI", "RAS")) for letter in letters}
    return letters if len(axes) == 3 else None
