"""Arrays in HDF5 files: Imaris, BigDataViewer and BigStitcher, and others, with h5py.

Imaris fills the last chunks of its data sets up; the sizes of the image are attributes of the
channel. BigDataViewer stores the bits of unsigned integers as signed ones (``t00000/s00/0/cells``).

References
----------
Imaris 5.5 file format description, Oxford Instruments. BigDataViewer, Pietzsch et al. (2015),
"About the BigDataViewer data format".
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from typing import Any

import h5py
import numpy as np

from terareg.storage import traffic
from terareg.storage.foreign import short
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile

_BDV = re.compile(r"t\d+/s\d+/\d+/cells")
_IMAGE_SIZES = ("ImageSizeZ", "ImageSizeY", "ImageSizeX")
_WORDS = 8
_MOST_LINKS = 16


def open_file(store: Store, key: str) -> tuple[h5py.File, ObjectFile]:
    """An HDF5 file, and what it is read through; close both."""
    # filters of newer writers, where their package is installed
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")
    # opening it refuses what is no regular file
    source = ObjectFile(store, key, ranged=True)
    try:
        where = store.path(key) if store.is_local else source
        # file locks fail on network disks, and nothing is written
        return h5py.File(where, "r", locking=False), source
    except BaseException:
        source.close()
        raise


def open_array(store: Store, file: str, part: str) -> Hdf5Array:
    """Open a data set; see :func:`terareg.storage.part_arrays.open_part`."""
    opened, source = open_file(store, file)
    try:
        return Hdf5Array(opened, source, part)
    except BaseException:
        opened.close()
        source.close()
        raise


def find_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """A data set that lies in the file itself, as a whole.

    Raises
    ------
    ValueError
        If there is none, or it lies in another file.
    """
    where, _ = _follow(file, path)
    if isinstance(where, h5py.ExternalLink):
        raise ValueError(
            f"{short(path)} is a link to another file, {short(where.filename)}; name that file "
            "itself"
        )
    if not isinstance(where, h5py.Dataset):
        raise ValueError(f"{short(path)} is a group of {few_names(where)}; name a dataset")
    if where.is_virtual or where.external:
        raise ValueError(f"{short(path)} stores its values in other files; save it as one file")
    return where


def linked_file(store: Store, key: str, path: str) -> tuple[str, str] | None:
    """File and path in it to which a path of an HDF5 file links; None if it lies in the file."""
    file, source = open_file(store, key)
    try:
        try:
            where, left = _follow(file, path)
        except ValueError as problem:
            raise ValueError(
                f"{key} has no {path}, which the XML lists; save it again"
            ) from problem
        if isinstance(where, h5py.ExternalLink):
            return str(where.filename), "/".join([where.path, *left])
        return None
    finally:
        file.close()
        source.close()


def _follow(file: h5py.File, path: str) -> tuple[Any, list[str]]:
    """What a path leads to: an object of the file, or a link out of it and the words after that.

    Soft links are followed here, since h5py follows those to a link out of the file as well.
    """
    where: Any = file
    words, links = path.split("/"), 0
    while words:
        word = words.pop(0)
        link = where.get(word, getlink=True) if isinstance(where, h5py.Group) else None
        if link is None:
            raise ValueError(f"it has no {short(path)} (no {short(word)}, but {few_names(where)})")
        if isinstance(link, h5py.ExternalLink):
            return link, words
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                raise ValueError(f"the links of {short(path)} form a circle")
            where = file if link.path.startswith("/") else where
            words = [part for part in link.path.split("/") if part not in ("", ".")] + words
            continue
        where = where[word]
    return where, []


def few_names(group: Any) -> str:
    """The first names in a group, in words."""
    names = [short(name) for name, _ in zip(group, range(_WORDS))] if len(group) else ["nothing"]
    return ", ".join(names)


def attribute(where: Any, name: str) -> str | None:
    """An attribute as text: Imaris writes arrays of single letters, others strings or numbers."""
    if name not in where.attrs:
        return None
    value = np.asarray(where.attrs[name])
    if value.dtype.kind == "S" and value.size:
        return b"".join(value.ravel().tolist()).split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(str(v.decode() if isinstance(v, bytes) else v) for v in value.ravel()[:1000])


def image_shape(data: h5py.Dataset) -> tuple[int, ...]:
    """Shape of an image: that of the array, or that which Imaris states beside it."""
    shape = [int(n) for n in data.shape]
    sizes = [attribute(data.parent, name) for name in _IMAGE_SIZES]
    if len(shape) != 3 or not all(sizes):
        return tuple(shape)
    return tuple(_size(text, n, name) for text, n, name in zip(sizes, shape, _IMAGE_SIZES))


class Hdf5Array:
    """A data set; attributes are those of :class:`terareg.storage.part_arrays.PartReader`."""

    def __init__(self, file: h5py.File, source: ObjectFile, part: str) -> None:
        self._file, self._source = file, source
        # what is fetched from S3 is counted there
        self._told = file.driver == "fileobj"
        self._data = data = find_dataset(file, part)
        self.chunk: Any = tuple(data.chunks or (1, *data.shape[1:]))
        self.shape: Any = image_shape(data)
        kind = data.dtype.newbyteorder("=")
        self._as = np.dtype("uint16") if kind == "int16" and _BDV.fullmatch(part) else kind
        self.dtype = self._as.name
        self.absent = (0, 0)
        if data.chunks:
            all_chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks))
            self.absent = (max(0, all_chunks - data.id.get_num_chunks()), all_chunks)
        elif data.nbytes and not data.id.get_storage_size():
            self.absent = (1, 1)
        self.is_empty = 0 < self.absent[0] == self.absent[1]

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        values = self._data[z, y, x]
        if not self._told:
            traffic.tell(read=values.nbytes)
        if values.dtype.kind == "i" and self._as.kind == "u":
            values = values.astype(values.dtype.newbyteorder("=")).view(self._as)
        return np.ascontiguousarray(values, self._as)

    def close(self) -> None:
        self._file.close()
        self._source.close()


def _size(text: str | None, stored: int, name: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text or "") or not 1 <= int(text or "") <= stored:
        raise ValueError(f"{name} is {short(text)} but {stored} are stored")
    return int(text or "")
