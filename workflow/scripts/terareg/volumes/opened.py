"""The user's door to volumes: :func:`open_volume`, for notebooks and scripts.

    >>> import terareg
    >>> volume = terareg.open_volume("results/brain/fused/signal")
    >>> volume.spacing_um(level=2)
    >>> middle = volume.numpy(np.s_[200:201], level=2)
    >>> volume.dask(level=1).mean().compute()

dask and zarr are imported when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.storage.store import Store
from terareg.storage.web import is_web, plain_address, store_at
from terareg.volumes import ngff
from terareg.volumes.headers import image_form
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.objects import PLAN_FILE
from terareg.volumes.ome_metadata import read_json_object
from terareg.volumes.reader import Levels, Volume

if TYPE_CHECKING:
    import dask.array
    import zarr

_FOLDERS = (ngff.FOLDER, "precomputed")
_DASK_BYTES = 2**26  # of a chunk, unless one of the store is larger
_UNKNOWN = "SAR"

Box = Sequence[slice] | slice | None


def open_volume(
    address: str,
    *,
    spacing_um: Sequence[float] | None = None,
    orientation: str | None = None,
    channel: int = 0,
    fill_missing: bool = False,
) -> OpenVolume:
    """Open a volume for reading.

    Parameters
    ----------
    address : str
        A volume of terareg (``results/brain/fused/signal``, also its ``ome.zarr`` or
        ``precomputed``), an OME-Zarr image (0.4 or 0.5), or a Neuroglancer precomputed volume: a
        folder, ``s3://bucket/prefix``, or ``https://``. Or an image file at such a place: NIfTI,
        NRRD, MetaImage, TIFF.
    spacing_um : (z, y, x), optional
        Voxel size in micrometres, where the image does not state it.
    orientation : str, optional
        Three letters for the axes z, y, x, where the image does not state it; needed for
        :attr:`OpenVolume.frame` alone.
    channel : int
        Channel to read of an image with several.
    fill_missing : bool
        Whether chunks that a precomputed volume lacks are zeros; an error by default.

    Returns
    -------
    OpenVolume

    Raises
    ------
    VolumeError, StoreError
        If there is no volume that can be read at the address.
    ConfigError
        If the voxel size is not known.
    """
    plain = plain_address(str(address))
    is_file = image_form(plain) is not None
    if not is_file:
        own = _own_volume(plain)
        if own is not None:
            return OpenVolume(own, f"{own.store.address(own.key)}/{ngff.FOLDER}", True)
    size: tuple[float, float, float] | None = None
    if spacing_um is not None:
        size = tuple(float(s) for s in spacing_um)
    try:
        image: Levels = open_image(plain, ImageSettings(size, orientation, channel, fill_missing))
        return OpenVolume(image, None if is_file else plain, True)
    except ConfigError:
        if orientation is not None:
            raise
    # only frames need an orientation; what else is missing is an error again
    image = open_image(plain, ImageSettings(size, _UNKNOWN, channel, fill_missing))
    return OpenVolume(image, None if is_file else plain, False)


def _own_volume(address: str) -> Volume | None:
    """The volume of terareg at an address, None if there is none."""
    parent, _, name = address.rpartition("/")
    for folder in ([parent] if name in _FOLDERS else []) + [address]:
        above, slash, key = folder.rpartition("/")
        if not key or key == ".." or (is_web(folder) and not _has_host(above)):
            continue
        store = store_at(above or ("/" if slash else "."))
        try:
            # looked at before it is opened: foreign folders have no such file
            content = read_json_object(store, f"{key}/{PLAN_FILE}")
        except (FileNotFoundError, IsADirectoryError):
            continue
        if isinstance(content, dict) and "plan" in content:
            return Volume(store, key)
    return None


def _has_host(address: str) -> bool:
    return not address.endswith((":", "/"))


class OpenVolume:
    """A volume that can be read, level by level; axes are (z, y, x).

    Made by :func:`open_volume`. Nothing is read before it is asked for, and what is missing in a
    volume of terareg is an error, never zeros.

    Attributes
    ----------
    name : str
    levels : int
        Number of resolutions; level 0 is the finest.
    dtype : numpy.dtype
    is_segmentation : bool
        Whether voxels are labels.
    """

    def __init__(self, source: Levels, address: str | None, oriented: bool) -> None:
        self._source, self._address, self._oriented = source, address, oriented
        self.name, self.levels = source.name, source.levels
        self.dtype, self.is_segmentation = source.dtype, source.is_segmentation

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {self.dtype}, {self.levels} levels, {self.shape(0)} voxels of "
            f"{self.spacing_um(0)} um>"
        )

    def shape(self, level: int = 0) -> tuple[int, int, int]:
        """Voxels of a level along (z, y, x)."""
        return self._source.level_frame(level).shape

    def spacing_um(self, level: int = 0) -> tuple[float, float, float]:
        """Voxel size of a level, micrometres (z, y, x)."""
        return self._source.level_frame(level).spacing_um

    @property
    def frame(self) -> Frame:
        """Grid of level 0: shape, spacing, origin, orientation."""
        return self.level_frame(0)

    def level_frame(self, level: int) -> Frame:
        """Grid of a level; all levels share their outer faces."""
        if not self._oriented:
            raise ConfigError(
                f"{self.name} states no orientation; open it with orientation= and three "
                'letters for its axes z, y, x, for example "RIP"'
            )
        return self._source.level_frame(level)

    def level_for(self, resolution_um: float | Sequence[float]) -> int:
        """The coarsest level that is at least as fine as a voxel size."""
        return self._source.level_for(resolution_um)

    def numpy(self, box: Box = None, level: int = 0) -> np.ndarray:
        """Voxels of a level as an array.

        Parameters
        ----------
        box : slices (z, y, x), optional
            For example ``np.s_[10:20, :, 30:]``; axes that are left out are read whole.
        level : int

        Raises
        ------
        VolumeError
            If the box is not one of the level, or objects are missing or damaged.
        """
        start, stop = self._limits(box, level)
        return self._source.read(level, start, stop)

    def resampled(self, resolution_um: float | Sequence[float]) -> tuple[np.ndarray, Frame]:
        """The whole image averaged to a voxel size, float32, and its grid.

        See :meth:`terareg.volumes.reader.Levels.resampled`.
        """
        array, frame = self._source.resampled(resolution_um)
        self.level_frame(0)
        return array, frame

    def dask(self, level: int = 0) -> dask.array.Array:
        """A level as a lazy dask array, in chunks of whole chunks of the store."""
        import dask.array

        source = _Lazy(self._source, level)
        chunk = _grown(self._chunk(level), source.shape, self.dtype.itemsize)
        meta = np.empty((0, 0, 0), self.dtype)
        return dask.array.from_array(source, chunk, name=False, asarray=False, meta=meta)

    def zarr(self, level: int = 0) -> zarr.Array:
        """A level as the zarr array that it is stored as, read only.

        Its axes are those of the file, which in foreign OME-Zarr may include channels and time.

        Raises
        ------
        VolumeError
            If the volume is not stored as Zarr.
        """
        from terareg.volumes.zarr_arrays import open_array

        self._source.level_frame(level)
        if self._address is None or self._is_precomputed():
            raise VolumeError(
                f"{self.name} is not stored as Zarr; use .numpy() or .dask(), or convert it"
            )
        return open_array(store_at(self._address), level)

    def _is_precomputed(self) -> bool:
        if isinstance(self._source, Volume):
            return "ome-zarr" not in self._source.plan.settings.formats
        store: Store = store_at(str(self._address))
        return not any(store.exists(name) for name in ("zarr.json", ".zattrs"))

    def _chunk(self, level: int) -> tuple[int, int, int]:
        shape = self.shape(level)
        if isinstance(self._source, Volume):
            return tuple(min(c, n) for c, n in zip(self._source.plan.chunk, shape))
        array = self._source.array(level) if hasattr(self._source, "array") else None
        layout = getattr(array, "chunk_layout", None)
        wanted = shape if layout is None else layout.read_chunk.shape
        return tuple(min(c, n) for c, n in zip(wanted, shape))

    def _limits(self, box: Box, level: int) -> tuple[list[int], list[int]]:
        shape = self._source.level_frame(level).shape
        given = () if box is None else tuple(box) if isinstance(box, Sequence) else (box,)
        if len(given) > 3 or not all(isinstance(s, slice) for s in given):
            raise VolumeError(
                f"box {box!r} does not select a part of a volume; give up to three slices, for "
                "example np.s_[10:20, :, 30:]"
            )
        start, stop = [], []
        for part, size in zip((*given, *[slice(None)] * (3 - len(given))), shape):
            if part.step not in (None, 1):
                raise VolumeError(
                    f"box {box!r} has a step; read every voxel, or another of the {self.levels} "
                    "levels"
                )
            first = 0 if part.start is None else int(part.start)
            last = size if part.stop is None else int(part.stop)
            if not 0 <= first <= last <= size:
                raise VolumeError(
                    f"box {box!r} reaches beyond level {level} of {self.name}, whose shape is "
                    f"{shape}; count from 0 (negative numbers are not supported)"
                )
            start.append(first)
            stop.append(last)
        return start, stop


def _grown(
    chunk: tuple[int, int, int], shape: tuple[int, int, int], voxel_bytes: int
) -> tuple[int, int, int]:
    """A chunk doubled along the axis with most chunks until it reaches what dask works on well."""
    grown = list(chunk)
    while 2 * math.prod(grown) * voxel_bytes <= _DASK_BYTES:
        counts = [-(-n // c) for n, c in zip(shape, grown)]
        if max(counts) == 1:
            break
        grown[counts.index(max(counts))] *= 2
    return grown[0], grown[1], grown[2]


@dataclass(frozen=True)
class _Lazy:
    """A level as dask wants it: an object with a shape that is read by slices."""

    source: Levels
    level: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.level_frame(self.level).shape

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        limits = [part.indices(size) for part, size in zip(box, self.shape)]
        first, last = [a for a, _, _ in limits], [b for _, b, _ in limits]
        steps: tuple[Any, ...] = tuple(slice(None, None, s) for _, _, s in limits)
        return self.source.read(self.level, first, last)[steps]
