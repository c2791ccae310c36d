"""The NRRD files of the workflow: volumes, vector fields, images of an atlas.

Inside the library arrays are (z, y, x), vectors have components (z, y, x), and lengths are in
micrometres. In a file the axes and components are listed x, y, z and lengths are millimetres, with
identity direction. ITK calls the space left-posterior-superior; here its three axes are simply the
array's axes, whatever anatomy they follow. The frame, or its orientation code, is a key of the
header that other programs ignore; images that :func:`write_image` writes lack it, and their frame
is in a JSON file beside them.

Reference: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import json
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from terareg.core.errors import ConfigError, StoreError, last_line
from terareg.core.frames import Frame
from terareg.storage.durable import settle_file
from terareg.storage.store import gzipped, write_atomic

_TYPES = {
    "unsigned char": "uint8", "signed char": "int8", "unsigned short": "uint16", "short": "int16",
    "unsigned int": "uint32", "int": "int32", "float": "float32", "double": "float64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32",
}  # fmt: skip
# of several names for a type, the last (short) one is written
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_UM_PER_MM = 1000.0
_ORIENTATION_KEY = "terareg orientation zyx"
_FRAME_KEY = "terareg_frame"
_HEAD_BYTES = 2**16
_SLAB_BYTES = 2**23


@dataclass(frozen=True)
class Dialect:
    """How the header of one kind of file is written; a change would change the bytes of its files.

    Attributes
    ----------
    version : str
        First line.
    content : str
        Description of the array for people who open the file; empty for none.
    number : str
        Number format of spacing and origin; empty for the shortest text that reads back exactly.
    states_unit : bool
        Whether the header states the unit, millimetres.
    whole_frame : bool
        Whether the header keeps the whole frame, as JSON, or only its orientation.
    level : int
        Level of gzip compression, 1 to 9.
    """

    version: str = "NRRD0004"
    content: str = ""
    number: str = ".17g"
    states_unit: bool = True
    whole_frame: bool = False
    level: int = 4


FIELD = Dialect()


@dataclass(frozen=True)
class _Header:
    """What a header says: shape in the order of NumPy, and where the data start."""

    keys: dict[str, str]
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def kinds(self) -> list[str]:
        """Kind of every axis, in the order of the shape."""
        return self.keys["kinds"].split()[::-1]

    def frame(self, shape: Sequence[int]) -> Frame:
        """Frame of the three spatial axes."""
        if _FRAME_KEY in self.keys:
            return Frame.from_json(json.loads(self.keys[_FRAME_KEY]))
        directions = [p for p in self.keys["space directions"].split() if p != "none"]
        spacing = [float(part.strip("()").split(",")[i]) for i, part in enumerate(directions)]
        origin = [float(o) for o in self.keys["space origin"].strip("()").split(",")]
        return Frame(
            tuple(shape),
            tuple(round(s * _UM_PER_MM, 9) for s in spacing[::-1]),
            tuple(round(o * _UM_PER_MM, 9) for o in origin[::-1]),
            self.keys[_ORIENTATION_KEY],
        )


# ---------------------------------------------------------------------- writing
def write_scalar(
    path: str | os.PathLike[str], array: np.ndarray, frame: Frame, dialect: Dialect = FIELD
) -> None:
    """Write a volume.

    Parameters
    ----------
    path : path
        A ``.nrrd`` file; written atomically, the same bytes for the same array.
    array : numpy.ndarray, shape (z, y, x) or (n, z, y, x)
        With four axes, the first is written as the fastest axis of a list (ITK: multi-component).
    frame : Frame
        Grid of the volume, micrometres.
    dialect : Dialect, optional
    """
    if array.ndim == 3:
        _write(path, array, frame, ["domain"] * 3, dialect)
    else:
        _write(path, np.moveaxis(array, 0, -1), frame, ["list", *["domain"] * 3], dialect)


def write_field(path: str | os.PathLike[str], field_um: np.ndarray, frame: Frame) -> None:
    """Write vectors, shape (3, z, y, x) or (t, 3, z, y, x), components z, y, x in micrometres.

    The file holds millimetres with components x, y, z; a time axis becomes the slowest one.
    """
    flipped = np.flip(np.asarray(field_um, np.float32), axis=-4) / np.float32(_UM_PER_MM)
    kinds = ["vector", *["domain"] * 3, *["list"] * (flipped.ndim == 5)]
    _write(path, np.moveaxis(flipped, -4, -1), frame, kinds, FIELD)


def write_image(path: str | os.PathLike[str], array: np.ndarray, frame: Frame) -> None:
    """Write an image (z, y, x) as ITK does, with the grid of ``frame``, whole or not at all."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / _UM_PER_MM for s in reversed(frame.spacing_um)])
    image.SetOrigin([o / _UM_PER_MM for o in reversed(frame.origin_um)])
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        sitk.WriteImage(image, str(part), True)
        settle_file(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"cannot write {path} ({last_line(error)}); check free space and permissions"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _write(
    path: str | os.PathLike[str], data: np.ndarray, frame: Frame, kinds: list[str], dialect: Dialect
) -> None:
    """Write an array as it is; ``kinds`` lists the kinds of its axes, fastest first."""
    spacing, origin = (
        [format(length / _UM_PER_MM, dialect.number) for length in reversed(lengths)]
        for lengths in (frame.spacing_um, frame.origin_um)
    )
    along = iter(
        "(" + ",".join(s if i == j else "0" for j in range(3)) + ")" for i, s in enumerate(spacing)
    )
    keys = {
        "content": dialect.content,
        "type": _NAMES[data.dtype.name],
        "dimension": str(data.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, data.shape[::-1])),
        "space directions": " ".join(next(along) if k == "domain" else "none" for k in kinds),
        "kinds": " ".join(kinds),
        "endian": "little",
        "encoding": "gzip",
        "space origin": "(" + ",".join(origin) + ")",
        "space units": '"mm" "mm" "mm"' if dialect.states_unit else "",
    }
    lines = [dialect.version, *(f"{key}: {value}" for key, value in keys.items() if value)]
    if dialect.whole_frame:
        lines.append(f"{_FRAME_KEY}:={json.dumps(frame.to_json(), sort_keys=True)}")
    else:
        lines.append(f"{_ORIENTATION_KEY}:={frame.orientation}")
    raw = np.ascontiguousarray(data.astype(data.dtype.newbyteorder("<"), copy=False))
    body = gzipped(raw.data.cast("B"), dialect.level)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, ("\n".join(lines) + "\n\n").encode() + body)


# ---------------------------------------------------------------------- reading
def read_scalar(path: str | os.PathLike[str]) -> tuple[np.ndarray, Frame]:
    """Read what :func:`write_scalar` wrote: array and frame.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or of another program.
    """
    with _trouble_named(path):
        header = _read_header(path)
        data = _read_data(path, header)
        array = np.moveaxis(data, -1, 0) if header.kinds[-1] == "list" else data
        return array, header.frame(array.shape[-3:])


def read_field(path: str | os.PathLike[str]) -> tuple[np.ndarray, Frame]:
    """Read what :func:`write_field` wrote: float32 micrometres, components z, y, x, and frame.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or of another program.
    """
    with _trouble_named(path):
        header = _read_header(path)
        if header.kinds[-1] != "vector":
            raise ValueError("no vectors")
        data = np.moveaxis(_read_data(path, header), -1, -4)
        field_um = np.ascontiguousarray(np.flip(data, axis=-4) * np.float32(_UM_PER_MM))
        return field_um, header.frame(field_um.shape[-3:])


def read_image(path: str | os.PathLike[str], frame: Frame) -> np.ndarray:
    """The image (z, y, x) that :func:`write_image` wrote with this frame.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or has another shape.
    """
    with _trouble_named(path):
        return _read_data(path, _image_header(path, frame))


def read_frame(path: str | os.PathLike[str]) -> Frame:
    """Grid of the volume (z, y, x) that :func:`write_scalar` wrote.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or of another program.
    """
    with _trouble_named(path):
        header = _read_header(path)
        return header.frame(header.shape)


def image_slabs(path: str | os.PathLike[str], frame: Frame) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first plane, planes) of a volume that was written with this frame.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or has another shape.
    """
    with _trouble_named(path):
        header = _image_header(path, frame)
        plane = header.dtype.itemsize * header.shape[1] * header.shape[2]
        size = max(1, _SLAB_BYTES // plane) * plane
        done, buffer = 0, bytearray()
        for piece in _inflated(path, header.start):
            buffer += piece
            whole = len(buffer) // plane * plane
            if whole >= size or (whole and done + whole // plane == header.shape[0]):
                slab = np.frombuffer(buffer, header.dtype, whole // header.dtype.itemsize)
                buffer = buffer[whole:]
                yield done, slab.reshape(-1, *header.shape[1:])
                done += len(slab) // (header.shape[1] * header.shape[2])
        if done != header.shape[0] or buffer:
            raise ValueError(f"it ends after {done} of {header.shape[0]} planes")


def header_keys(path: str | os.PathLike[str]) -> dict[str, str]:
    """Keys of any NRRD file's header."""
    return _parsed(path)[0]


@contextmanager
def _trouble_named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, ConfigError, zlib.error) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else last_line(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise StoreError(
            f"{path} is damaged, or not a file that terareg wrote ({reason}); delete it and run "
            "the workflow again"
        ) from error


def _parsed(path: str | os.PathLike[str]) -> tuple[dict[str, str], int]:
    """Keys of a header, and where the data start."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    keys = {}
    for line in text.decode("utf-8", "replace").splitlines()[1:]:
        if not line.startswith("#"):
            key, _, value = line.partition(":=" if ":=" in line else ":")
            keys[key.strip()] = value.strip()
    return keys, end.end() if end else len(head)


def _read_header(path: str | os.PathLike[str]) -> _Header:
    keys, start = _parsed(path)
    if keys["encoding"] not in ("gzip", "gz") or keys.get("endian", "little") != "little":
        raise ValueError("another encoding")
    shape = tuple(int(n) for n in reversed(keys["sizes"].split()))
    return _Header(keys, shape, np.dtype(_TYPES[keys["type"]]).newbyteorder("<"), start)


def _image_header(path: str | os.PathLike[str], frame: Frame) -> _Header:
    header = _read_header(path)
    if header.shape != frame.shape:
        raise ValueError(f"shape {header.shape} instead of {frame.shape}")
    return header


def _read_data(path: str | os.PathLike[str], header: _Header) -> np.ndarray:
    data = np.empty(header.shape, header.dtype)
    room = data.data.cast("B")
    done = 0
    for piece in _inflated(path, header.start):
        room[done : done + len(piece)] = piece
        done += len(piece)
    if done != len(room):
        raise ValueError(f"{done} bytes of {len(room)}")
    return data.astype(header.dtype.newbyteorder("="), copy=False)


def _inflated(path: str | os.PathLike[str], start: int) -> Iterator[bytes]:
    """Pieces of the data, none larger than a slab; their checksum is compared at the end."""
    inflate = zlib.decompressobj(wbits=31)
    with open(path, "rb") as stream:
        stream.seek(start)
        while not inflate.eof:
            packed = inflate.unconsumed_tail or stream.read(2**20)
            piece = inflate.decompress(packed, _SLAB_BYTES)
            if not packed and not piece:
                raise ValueError("truncated")
            yield piece
