"""NRRD files of volumes and vector fields that ITK, 3D Slicer and this package read alike.

Inside the library arrays are (z, y, x), vectors have components (z, y, x), and lengths are in
micrometres. In the file the axes and components are listed x, y, z and lengths are millimetres,
with identity direction. ITK calls the space left-posterior-superior; here its three axes are
simply the array's axes, whatever anatomy they follow (the frame's orientation code is kept as a
key of the header).
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.storage.store import write_atomic

_TYPES = {
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "float": "float32",
    "double": "float64",
}
_NAMES = {value: key for key, value in _TYPES.items()}
_UM_PER_MM = 1000.0


def write_scalar(path: str | Path, array: np.ndarray, frame: Frame) -> None:
    """Write a volume.

    Parameters
    ----------
    path : path
        A ``.nrrd`` file; written atomically, the same bytes for the same array.
    array : numpy.ndarray, shape (z, y, x) or (n, z, y, x)
        With four axes, the first is written as the fastest axis of a list (ITK: multi-component).
    frame : Frame
        Grid of the volume, micrometres.
    """
    listed = array[None] if array.ndim == 3 else array
    kinds = None if array.ndim == 3 else "list"
    _write(path, listed, frame, kinds)


def write_field(path: str | Path, field_um: np.ndarray, frame: Frame) -> None:
    """Write vectors, shape (3, z, y, x) or (t, 3, z, y, x), components z, y, x in micrometres.

    The file holds millimetres with components x, y, z; a time axis becomes the slowest one.
    """
    flipped = np.flip(np.asarray(field_um, np.float32), axis=-4) / np.float32(_UM_PER_MM)
    _write(path, flipped, frame, "vector")


def read_scalar(path: str | Path) -> tuple[np.ndarray, Frame]:
    """Read what :func:`write_scalar` wrote: array and frame."""
    array, frame, listed = _read(path)
    return (array if listed else array[0]), frame


def read_field(path: str | Path) -> tuple[np.ndarray, Frame]:
    """Read what :func:`write_field` wrote: float32 micrometres, components z, y, x, and frame."""
    array, frame, _ = _read(path)
    return np.ascontiguousarray(np.flip(array, axis=-4) * np.float32(_UM_PER_MM)), frame


def _write(path: str | Path, array: np.ndarray, frame: Frame, kind: str | None) -> None:
    """Write (n, z, y, x) or (t, n, z, y, x); the component axis becomes the fastest."""
    timed = array.ndim == 5
    data = np.moveaxis(array, -4, -1)
    sizes = list(data.shape[::-1])
    if kind is None:
        sizes = sizes[1:]
    spacing = [s / _UM_PER_MM for s in frame.spacing_um[::-1]]
    origin = [o / _UM_PER_MM for o in frame.origin_um[::-1]]
    directions = [
        "(" + ",".join(f"{s:.17g}" if i == j else "0" for j in range(3)) + ")"
        for i, s in enumerate(spacing)
    ]
    kinds = [kind] * (kind is not None) + ["domain"] * 3 + ["list"] * timed
    none = ["none"]
    header = {
        "type": _NAMES[data.dtype.name],
        "dimension": str(len(sizes)),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, sizes)),
        "space directions": " ".join(none * (kind is not None) + directions + none * timed),
        "kinds": " ".join(kinds),
        "endian": "little",
        "encoding": "gzip",
        "space origin": "(" + ",".join(f"{o:.17g}" for o in origin) + ")",
        "space units": '"mm" "mm" "mm"',
    }
    lines = ["NRRD0004", *(f"{key}: {value}" for key, value in header.items())]
    lines.append(f"terareg orientation zyx:={frame.orientation}")
    raw = np.ascontiguousarray(data.astype(data.dtype.newbyteorder("<"), copy=False))
    body = gzip.compress(memoryview(raw).cast("B"), compresslevel=4, mtime=0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, ("\n".join(lines) + "\n\n").encode() + body)


def _read(path: str | Path) -> tuple[np.ndarray, Frame, bool]:
    """Return (n, z, y, x) or (t, n, z, y, x), its frame, and whether n is an axis of the file."""
    try:
        content = Path(path).read_bytes()
        head, body = content.split(b"\n\n", 1)
        header = _header(head.decode())
        sizes = [int(n) for n in header["sizes"].split()]
        listed = header["kinds"].split()[0] != "domain"
        timed = header["kinds"].split()[-1] != "domain"
        spacing = [
            float(part.strip("()").split(",")[axis])
            for axis, part in enumerate(
                p for p in header["space directions"].split() if p != "none"
            )
        ]
        origin = [float(o) for o in header["space origin"].strip("()").split(",")]
        dtype = np.dtype(_TYPES[header["type"]]).newbyteorder("<")
        data = np.frombuffer(gzip.decompress(body), dtype).reshape(sizes[::-1])
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise RegistrationError(
            f"{path} is not a field that terareg wrote ({error}); run the registration again"
        ) from error
    array = np.moveaxis(data, -1, -4) if listed else data[None]
    frame = Frame(
        tuple(array.shape[-3:]),
        tuple(round(s * _UM_PER_MM, 9) for s in spacing[::-1]),
        tuple(round(o * _UM_PER_MM, 9) for o in origin[::-1]),
        header.get("terareg orientation zyx", "SAR"),
    )
    assert not timed or array.ndim == 5
    return array.astype(dtype.newbyteorder("=")), frame, listed


def _header(text: str) -> Mapping[str, str]:
    fields = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        key, _, value = line.partition(":=" if ":=" in line else ":")
        fields[key.strip()] = value.strip()
    return fields
