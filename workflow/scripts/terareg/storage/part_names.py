"""Names of arrays inside of files and folders that hold many: ``FILE#PART``.

HDF5 (also Imaris and BigDataViewer), CZI and LIF files, and folders of N5 and Zarr, hold the tiles
and channels of a whole acquisition. One of them is named by the path of the file, ``#``, and where
it lies in the file, with ``:`` between its words, so that the name stays the last word of a path:

=======================================  ===========================================================
ending                                   part
=======================================  ===========================================================
``.h5``, ``.hdf5``                       data set, such as ``t00000:s00:0:cells``
``.ims``                                 the same, such as
                                         ``DataSet:ResolutionLevel 0:TimePoint 0:Channel 0:Data``
``.n5``, ``.zarr``                       array, such as ``setup0:timepoint0:s0``
``.czi``                                 dimensions and their indices, such as ``S0:M3:C1``
``.lif``                                 number of the image and indices, such as ``0:M3:C1``
=======================================  ===========================================================

Standard library only.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from terareg.storage.store import Entry, Store

_PART = re.compile(r"(.*?[^/.]\.(?:h5|hdf5|ims|czi|lif|n5|zarr))#([^/]+)", re.IGNORECASE)
_FOLDERS = (".n5", ".zarr")
#: files that describe an array in a folder, and the drivers of tensorstore that read it
DRIVERS = {"attributes.json": "n5", "zarr.json": "zarr3", ".zarray": "zarr"}


def split_part(key: str) -> tuple[str, str] | None:
    """File and part (with ``/`` between its words) of a key; None if it names a whole file."""
    match = _PART.fullmatch(key)
    return None if match is None else (match[1], match[2].replace(":", "/"))


def join_part(file: str, part: str) -> str:
    """Inverse of :func:`split_part`."""
    return f"{file}#{part.strip('/').replace('/', ':')}"


def is_folder(file: str) -> bool:
    """Whether arrays of this name lie in a folder of their own."""
    return file.lower().endswith(_FOLDERS)


def without_indices(part: str) -> tuple[str, dict[str, int]]:
    """Path of an array in a part, and the indices (``T0``, ``C1``) that follow it."""
    words = part.split("/")
    indices = {}
    while words and (match := re.fullmatch(r"([A-Z])(\d{1,6})", words[-1])):
        indices[match[1]] = int(match[2])
        words.pop()
    return "/".join(words), indices


def part_entry(store: Store, key: str) -> Entry | None:
    """Listing entry of a file, or of the file that holds a part, under the whole key.

    Of an array in a folder it is the entry of its metadata: its chunks are not counted.
    """
    split = split_part(key)
    if split is None:
        return store.entry(key)
    file, part = split
    names = [file]
    if is_folder(file):
        array, _ = without_indices(part)
        names = [(PurePosixPath(file) / array / name).as_posix() for name in DRIVERS]
    found = next((e for name in names if (e := store.entry(name)) is not None), None)
    return None if found is None else Entry(key, found.size, found.stamp)
