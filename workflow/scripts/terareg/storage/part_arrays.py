"""Arrays inside of files that hold many (:mod:`terareg.storage.part_names`), read box by box.

The packages that read them are imported when the first such file is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from terareg.core.errors import TeraregError
from terareg.storage.foreign import boundary, check_memory, short
from terareg.storage.part_names import is_folder, split_part
from terareg.storage.store import Store

if TYPE_CHECKING:
    import numpy as np

_MOST_VOXELS = 1 << 44
_REMEDY = "check that the file is complete"


class PartReader(Protocol):
    """An open array.

    Attributes
    ----------
    shape : (z, y, x)
    dtype : str
        NumPy name of the type.
    chunk : (z, y, x)
        What is decoded at once.
    absent : (int, int)
        Chunks that were never written and read as zeros, and all chunks. In folders they are
        counted when they are asked for.
    is_empty : bool
        Whether no chunk was ever written.
    """

    shape: tuple[int, int, int]
    dtype: str
    chunk: tuple[int, int, int]

    @property
    def absent(self) -> tuple[int, int]: ...

    @property
    def is_empty(self) -> bool: ...

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        """Values of a box inside of the array."""

    def close(self) -> None:
        """Release the file."""


@dataclass(frozen=True)
class PartFacts:
    """What an array is; attributes as those of :class:`PartReader`."""

    shape: tuple[int, int, int]
    dtype: str
    absent: tuple[int, int]
    is_empty: bool


@contextmanager
def open_part(store: Store, key: str, error: type[TeraregError]) -> Iterator[PartReader]:
    """Open the array that a key such as ``brain.h5#t00000:s00:0:cells`` names.

    Parameters
    ----------
    store : Store
    key : str
    error : type
        Class of the errors to raise.

    Raises
    ------
    TeraregError
        If there is no such array, it cannot be read, or it is none of three dimensions.
    """
    split = split_part(key)
    assert split is not None, "only its parts can be opened"
    file, part = split
    with boundary(key, error, _REMEDY):
        opened = _open(store, file, part)
        try:
            _check(opened, key, error)
            yield opened
        finally:
            opened.close()


def part_facts(
    store: Store, key: str, error: type[TeraregError], *, counted: bool = True
) -> PartFacts:
    """Shape, type and absent chunks of an array; see :func:`open_part`.

    With ``counted`` false, the objects of a folder are not listed, and ``absent`` is (0, 0).
    """
    with open_part(store, key, error) as array:
        absent = array.absent if counted else (0, 0)
        return PartFacts(array.shape, array.dtype, absent, array.is_empty)


def _open(store: Store, file: str, part: str) -> PartReader:
    ending = file[file.rindex(".") + 1 :].lower()
    try:
        if ending == "czi":
            from terareg.storage import czi

            return czi.open_array(store, file, part)
        if ending == "lif":
            from terareg.storage import lif

            return lif.open_array(store, file, part)
        if is_folder(file):
            from terareg.storage import array_folders

            return array_folders.open_array(store, file, part)
        from terareg.storage import hdf5

        return hdf5.open_array(store, file, part)
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def missing_package(error: ModuleNotFoundError) -> TeraregError:
    """What to do where a package for a microscope's own format is not installed."""
    return TeraregError(
        f"reading this format needs the package {error.name}, which is not installed; install it "
        "(pip install 'terareg[microscopes]')"
    )


def _check(array: PartReader, key: str, error: type[TeraregError]) -> None:
    shape = array.shape
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > _MOST_VOXELS:
        raise ValueError(f"it has shape {short(list(shape))}; give an array with three dimensions")
    # one chunk is decoded as a whole
    check_memory(8 * math.prod(array.chunk), key, error)
