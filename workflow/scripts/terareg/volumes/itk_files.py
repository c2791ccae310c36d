"""Image files that only ITK reads: MetaImage and other formats of atlases.

A header is checked before ITK acts on it: which files it names, and how much memory it asks for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from terareg.core.errors import TeraregError, VolumeError
from terareg.storage.foreign import DEFLATE_RATIO, boundary, check_memory
from terareg.storage.store import open_regular
from terareg.volumes.meta_image import check_meta_image, detached_files
from terareg.volumes.nifti import NiftiLayout, nifti_stream

_PART = 1 << 24


_REMEDY = "convert it to NRRD, NIfTI or TIFF"


def read_itk(
    path: str | os.PathLike, error: type[TeraregError] = VolumeError, name: str | None = None
) -> tuple[sitk.ImageFileReader, np.ndarray]:
    """Header and voxels (z, y, x), with components last, of one image of three dimensions.

    Raises
    ------
    TeraregError
        Of the class ``error``, naming ``name``, which is the path by default.
    """
    name = name or os.fspath(path)
    reader = open_itk(path, error, name)
    check_memory(16 * math.prod(reader.GetSize()) * reader.GetNumberOfComponents(), name, error)
    with boundary(name, error, _REMEDY), _plain_errors():
        return reader, sitk.GetArrayFromImage(reader.Execute())


def open_itk(
    path: str | os.PathLike, error: type[TeraregError] = VolumeError, name: str | None = None
) -> sitk.ImageFileReader:
    """Checked header of one image of three dimensions; arguments and errors of :func:`read_itk`."""
    name = name or os.fspath(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    with boundary(name, error, _REMEDY), _plain_errors():
        for file in detached_files(path):
            if not file.is_file():
                raise ValueError(f"its data file {file.name!r} is not beside it; copy it there")
        check_meta_image(path)
        reader.ReadImageInformation()
        if reader.GetDimension() != 3:
            raise error(
                f"{name} has {reader.GetDimension()} dimensions; give one volume with three"
            )
        voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        there = sum(f.stat().st_size for f in (Path(path), *detached_files(path)))
        if voxels > there * DEFLATE_RATIO:
            raise ValueError(
                f"its sizes {reader.GetSize()} need more than the {there} bytes there are"
            )
    return reader


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn an error of ITK into a :class:`ValueError` with its last line."""
    try:
        yield
    except RuntimeError as problem:
        lines = str(problem).strip().splitlines() or ["unknown"]
        raise ValueError(lines[-1].strip().rstrip(".")) from problem


def nan_in_nifti(path: str | os.PathLike) -> bool:
    """Whether a NIfTI file has voxels that are not finite, which ITK reads as 0."""
    name = os.fspath(path)
    if not name.lower().endswith((".nii", ".nii.gz")):
        return False
    with open(open_regular(name), "rb") as file:
        stream = nifti_stream(file, name)
        head = stream.read(348)
        layout = NiftiLayout.of(head)
        if layout is None or layout.dtype not in ("float32", "float64"):
            return False
        dtype = np.dtype(layout.dtype).newbyteorder("<" if layout.order == "<" else ">")
        stream.read(layout.offset - len(head))
        left = math.prod(max(1, n) for n in layout.dim[1 : layout.dim[0] + 1]) * dtype.itemsize
        while part := stream.read(min(_PART, left)):
            left -= len(part)
            whole = len(part) // dtype.itemsize * dtype.itemsize
            if not np.isfinite(np.frombuffer(part[:whole], dtype)).all():
                return True
    return False


def orientation_of(direction: np.ndarray) -> str | None:
    """Code of the axes (z, y, x) from ITK's direction matrix; columns are image axes in LPS."""
    letters = ""
    for axis in (2, 1, 0):
        vector = direction[:, axis]
        main = int(np.argmax(np.abs(vector)))
        letters += ("LPS" if vector[main] > 0 else "RAI")[main]
    pairs = {letter.translate(str.maketrans("LPI", "RAS")) for letter in letters}
    return letters if len(pairs) == 3 else None
