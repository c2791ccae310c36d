"""The NRRD files of a prepared atlas, written atomically and read slab by slab."""

from __future__ import annotations

import os
import re
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from terareg.core.errors import AtlasError
from terareg.core.frames import Frame

RUN_AGAIN = "delete the folder and run prepare_atlas again"

_NRRD_TYPES = {
    "unsigned char": "u1", "signed char": "i1", "unsigned short": "u2", "short": "i2",
    "unsigned int": "u4", "int": "i4", "float": "f4",
}  # fmt: skip
_SLAB_BYTES = 2**23


def write_nrrd(path: Path, array: np.ndarray, frame: Frame) -> None:
    """Write an image (z, y, x) with the grid of ``frame``, compressed, whole or not at all."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in reversed(frame.spacing_um)])
    image.SetOrigin([o / 1000 for o in reversed(frame.origin_um)])
    part = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        sitk.WriteImage(image, str(part), True)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise AtlasError(
            f"cannot write {path} ({last_line(error)}); check space and permissions"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def nrrd_header(path: Path) -> tuple[str, int]:
    """Header text of a NRRD file and the position of its data."""
    with open(path, "rb") as stream:
        head = stream.read(2**16).replace(b"\r\n", b"\n")
    end = head.find(b"\n\n")
    end = len(head) if end < 0 else end
    return head[:end].decode("ascii", "replace") + "\n", end + 2


def nrrd_slabs(path: Path, frame: Frame) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first plane, planes) of a NRRD file that :func:`write_nrrd` wrote."""
    try:
        header, start = nrrd_header(path)
        fields = dict(re.findall(r"^([\w ]+): (.*)$", header, re.MULTILINE))
        shape = tuple(int(n) for n in reversed(fields["sizes"].split()))
        dtype = np.dtype(_NRRD_TYPES[fields["type"]]).newbyteorder("<")
        if shape != frame.shape or fields["encoding"] not in ("gzip", "gz"):
            raise ValueError("not the file that was written")
        plane = shape[1] * shape[2] * dtype.itemsize
        size = max(1, _SLAB_BYTES // plane) * plane
        inflate = zlib.decompressobj(wbits=31)
        done, buffer = 0, bytearray()
        with open(path, "rb") as stream:
            stream.seek(start)
            while done < shape[0]:
                while len(buffer) < min(size, (shape[0] - done) * plane):
                    chunk = inflate.unconsumed_tail or stream.read(2**20)
                    if not chunk:
                        raise ValueError("truncated")
                    buffer += inflate.decompress(chunk, size)
                whole = min(len(buffer), size) // plane * plane
                slab = np.frombuffer(bytes(buffer[:whole]), dtype).reshape(-1, *shape[1:])
                del buffer[:whole]
                yield done, slab
                done += len(slab)
    except (OSError, KeyError, ValueError, zlib.error) as error:
        raise AtlasError(f"{path} is damaged ({error}); {RUN_AGAIN}") from error


def read_nrrd(path: Path, frame: Frame) -> np.ndarray:
    """The whole image (z, y, x) of a file that :func:`write_nrrd` wrote."""
    planes = [slab for _, slab in nrrd_slabs(path, frame)]
    return np.concatenate(planes)


def last_line(error: Exception) -> str:
    """What a library's error says at the end of its message, which is the point of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
