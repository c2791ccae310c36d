"""Pixels of tiles: raw, flat-field corrected on the fly, or from corrected arrays.

:class:`TileSource` is the one way in which later stages read tiles. Correction on the fly
("stream") and reading what :func:`write_corrected` wrote ("keep") give the same bytes, because
both go through :meth:`terareg.acquisition.tile_correction.Flatfield.correct` plane by plane.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping

import numpy as np
import tensorstore

from terareg.acquisition.chunking import CORRECTED_CHUNK
from terareg.acquisition.line_gains import load_line_gains
from terareg.acquisition.model import Acquisition, Tile
from terareg.acquisition.plane_files import read_rows
from terareg.acquisition.tile_correction import Flatfield, load_flatfield
from terareg.core.errors import AcquisitionError, IntensityError, VolumeError
from terareg.core.numeric import Clipped, to_integer
from terareg.core.parallel import map_items, peak_memory_mb
from terareg.storage.arrays import array_spec, new_array_spec, write_error
from terareg.storage.records import (
    content_hash,
    is_done,
    read_record,
    write_record,
)
from terareg.storage.store import ARRAY_ERRORS, Store, outage

logger = logging.getLogger(__name__)


def corrected_key(channel: str, tile: str) -> str:
    """Key of a tile's corrected array; its record has ``.json`` appended."""
    return f"corrected/{channel}/{tile}"


class TileSource:
    """Read tiles of one channel; safe to share between threads.

    Parameters
    ----------
    acquisition : Acquisition
    channel : str
        Name of the channel.
    flatfield : Flatfield, optional
        Correct raw planes while reading.
    corrected : Store, optional
        Read the arrays that :func:`write_corrected` wrote under :func:`corrected_key` instead.
        With neither, pixels are raw.

    Attributes
    ----------
    bytes_read : int
        Bytes read so far: of raw files as stored; of corrected arrays, the chunks touched, before
        compression.
    clipped : Clipped
        Pixels that corrections on the fly have clipped so far, counted at each reading.
    """

    def __init__(
        self,
        acquisition: Acquisition,
        channel: str,
        *,
        flatfield: Flatfield | None = None,
        corrected: Store | None = None,
    ) -> None:
        if flatfield is not None and corrected is not None:
            raise ValueError("corrected arrays are corrected already: give no flatfield with them")
        self.acquisition = acquisition
        self.channel = acquisition.channel(channel)
        self.flatfield = flatfield
        self.corrected = corrected
        self.bytes_read = 0
        self.clipped = Clipped()
        self._raw = Store(acquisition.raw)
        self._arrays: dict[str, tensorstore.TensorStore] = {}
        self._lock = threading.Lock()
        if flatfield is not None and flatfield.profile.shape != acquisition.tile_shape[1:]:
            raise IntensityError(
                f"{acquisition.sample} channel {channel}: flat-field has "
                f"{flatfield.profile.shape} pixels but tiles have {acquisition.tile_shape[1:]}; "
                "estimate it from tiles of this acquisition"
            )

    def missing_planes(self, tile: str) -> tuple[int, ...]:
        """Planes of a tile without a file: what is read there was not measured."""
        self.acquisition.tile(tile)
        return self.acquisition.planes[tile][self.channel.name].missing

    def read(
        self, tile: str, z0: int, z1: int, y: slice = slice(None), x: slice = slice(None)
    ) -> np.ndarray:
        """Read a box of a tile.

        Parameters
        ----------
        tile : str
            Name of the tile.
        z0, z1 : int
            First plane and the one after the last.
        y, x : slice
            Rows and columns, without step and inside the tile.

        Returns
        -------
        numpy.ndarray, shape (z1 - z0, rows, columns), of the acquisition's dtype
            Missing planes are zeros, or interpolated linearly between the nearest raw planes and
            then corrected, as ``acquisition.missing_planes`` says.

        Raises
        ------
        AcquisitionError
            A box outside the tile; a raw file that is absent or damaged.
        VolumeError
            A corrected array that is incomplete or damaged.
        """
        array, clipped, count = self.read_counted(tile, z0, z1, y, x)
        with self._lock:
            self.clipped += clipped
            self.bytes_read += count
        return array

    def read_counted(
        self, tile: str, z0: int, z1: int, y: slice = slice(None), x: slice = slice(None)
    ) -> tuple[np.ndarray, Clipped, int]:
        """As :meth:`read`, but return what this reading clipped and how many bytes it took."""
        item = self.acquisition.tile(tile)
        box = [_check_range(slice(z0, z1), self.acquisition.tile_shape[0], tile, "planes")]
        box.append(_check_range(y, self.acquisition.tile_shape[1], tile, "rows"))
        box.append(_check_range(x, self.acquisition.tile_shape[2], tile, "columns"))
        if self.corrected is not None:
            return self._read_corrected(tile, box)
        return self._read_raw(item, box)

    def _read_raw(self, tile: Tile, box: list[slice]) -> tuple[np.ndarray, Clipped, int]:
        z, y, x = box
        out = np.empty([s.stop - s.start for s in box], self.acquisition.dtype)
        missing = self.missing_planes(tile.name)
        whole_rows = out.shape[2] == self.acquisition.tile_shape[2]
        clipped, count = Clipped(), 0
        for plane, target in zip(range(z.start, z.stop), out):
            if plane in missing and self.acquisition.missing_planes == "blank":
                target[...] = 0
                continue
            if plane in missing:
                values, size = self._interpolate(tile, plane, y)
            else:
                direct = target if whole_rows and self.flatfield is None else None
                values, size = self._read_rows(tile, plane, y, direct)
            count += size
            if values is target:
                continue
            values = values[:, x]
            if self.flatfield is not None:
                values, part = self.flatfield.correct(values, y, x, (tile.name, plane))
                clipped += part
            target[...] = values
        return out, clipped, count

    def _read_rows(
        self, tile: Tile, plane: int, rows: slice, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        key, page = self.acquisition.plane_file(tile, self.channel.name, plane)
        expected = (self.acquisition.tile_shape[1:], self.acquisition.dtype)
        return read_rows(self._raw, key, expected, rows, out, page)

    def _interpolate(self, tile: Tile, plane: int, rows: slice) -> tuple[np.ndarray, int]:
        """Raw rows between the nearest planes that are there; a copy of the only one at an end."""
        missing = self.missing_planes(tile.name)
        depth = self.acquisition.tile_shape[0]
        below = next((z for z in range(plane - 1, -1, -1) if z not in missing), None)
        above = next((z for z in range(plane + 1, depth) if z not in missing), None)
        if below is None or above is None:
            return self._read_rows(tile, above if below is None else below, rows)
        low, low_count = self._read_rows(tile, below, rows)
        high, high_count = self._read_rows(tile, above, rows)
        weight = np.float32((plane - below) / (above - below))
        values = low.astype(np.float32)
        values += weight * (high.astype(np.float32) - values)
        return to_integer(values, low.dtype)[0], low_count + high_count

    def _read_corrected(self, tile: str, box: list[slice]) -> tuple[np.ndarray, Clipped, int]:
        array = self._open(tile)
        try:
            values = array[tuple(box)].read().result()
        except ARRAY_ERRORS as error:
            address = self.corrected.address(corrected_key(self.channel.name, tile))
            damaged = self._incomplete(tile, f"is damaged ({error})")
            raise outage(address, error) or damaged from error
        count = values.itemsize
        for part, chunk in zip(box, _chunk_shape(self.acquisition.tile_shape)):
            count *= (-(-part.stop // chunk) - part.start // chunk) * chunk
        return values, Clipped(), count

    def _open(self, tile: str) -> tensorstore.TensorStore:
        with self._lock:
            if tile in self._arrays:
                return self._arrays[tile]
        key = corrected_key(self.channel.name, tile)
        record = read_record(self.corrected, f"{key}.json")
        if record is None:
            raise self._incomplete(tile, "is not there")
        wanted = (list(self.acquisition.tile_shape), self.acquisition.dtype)
        if (record.get("shape"), record.get("dtype")) != wanted:
            raise self._incomplete(tile, "belongs to another acquisition")
        there = {entry.key: entry.size for entry in self.corrected.list(key)}
        for name, size in record["objects"].items():
            if there.get(name) != size:
                raise self._incomplete(tile, f"is damaged ({name} is absent or changed)")
        try:
            array = tensorstore.open(array_spec(self.corrected, key)).result()
        except ARRAY_ERRORS as error:
            raise self._incomplete(tile, f"is damaged ({error})") from error
        with self._lock:
            return self._arrays.setdefault(tile, array)

    def _incomplete(self, tile: str, state: str) -> VolumeError:
        return VolumeError(
            f"{self.acquisition.sample}: corrected tile {tile} of channel {self.channel.name} "
            f"{state}; run again with -R correct_tile"
        )


def open_tiles(acquisition: Acquisition, channel: str, files: Mapping, store: Store) -> TileSource:
    """Tiles of a channel as the stages after the flat-field read them.

    Parameters
    ----------
    acquisition : Acquisition
    channel : str
    files : mapping
        ``corrected`` names batches of corrected tiles: then their arrays are read from ``store``
        (of the sample). Otherwise raw planes are corrected on the fly, see :func:`open_shading`.
        The pixels are the same.
    store : Store
    """
    if files.get("corrected"):
        return TileSource(acquisition, channel, corrected=store)
    return TileSource(acquisition, channel, flatfield=open_shading(files, store))


def open_shading(files: Mapping, store: Store) -> Flatfield:
    """The flat-field in ``profile`` and ``info``, with the gains of lines that ``stripes`` names.

    The array of these gains is in ``store`` (of the sample).
    """
    stripes = load_line_gains(files["stripes"], store) if files.get("stripes") else None
    return load_flatfield(files["profile"], files["info"], stripes)


def write_corrected(
    source: TileSource, store: Store, key: str, tile: str, fingerprint: str, workers: int = 1
) -> dict:
    """Write a tile as ``source`` reads it into a zarr 3 array, unless that has been done.

    Parameters
    ----------
    source : TileSource
        Normally with a flat-field.
    store : Store
        Receives the array under ``key`` and, last, its record at ``key + ".json"``.
    key : str
        :func:`corrected_key`, for the array to be found by a :class:`TileSource` again.
    tile : str
        Name of the tile.
    fingerprint : str
        Hash of all that the array depends on: code, settings, flat-field, raw files.
    workers : int
        Threads; each holds about three times 16 planes. The bytes do not depend on it.

    Returns
    -------
    dict
        The record: ``tile``, ``channel``, ``shape``, ``dtype``, ``chunk``, ``shard``, ``objects``
        (key to bytes), ``sha256`` (of the content hashes of its slabs of ``chunk[0]`` planes),
        ``minimum``, ``maximum``, ``clipped``, ``bytes_read``, ``bytes_written``, ``fingerprint``,
        and ``run`` (seconds, peak_memory_mb).

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    record_key = f"{key}.json"
    done = is_done(store, record_key, fingerprint)
    if done is not None:
        logger.info("%s is complete already", store.address(key))
        return done
    start = time.monotonic()
    shape, dtype = source.acquisition.tile_shape, source.acquisition.dtype
    store.delete(record_key)
    store.delete_folder(key)
    try:
        shards = _chunk_shape(shape), _shard_shape(shape)
        spec = new_array_spec(store, key, shape, dtype, ("z", "y", "x"), *shards)
        array = tensorstore.open(spec, create=True).result()
    except ARRAY_ERRORS as error:
        raise write_error(store, key, error) from error
    depth = _chunk_shape(shape)[0]

    def write_slab(z0: int) -> tuple[str, int, int, Clipped, int]:
        z1 = min(z0 + depth, shape[0])
        slab, clipped, count = source.read_counted(tile, z0, z1)
        try:
            array[z0:z1].write(slab, can_reference_source_data_indefinitely=True).result()
        except ARRAY_ERRORS as error:
            raise write_error(store, key, error) from error
        return content_hash(slab), int(slab.min()), int(slab.max()), clipped, count

    slabs = list(
        map_items(
            write_slab, range(0, shape[0], depth), workers=workers, what=f"{tile} corrected slabs"
        )
    )
    clipped = sum((slab[3] for slab in slabs), Clipped())
    objects = {entry.key: entry.size for entry in store.list(key)}
    record = {
        "tile": tile,
        "channel": source.channel.name,
        "shape": list(shape),
        "dtype": dtype,
        "chunk": list(_chunk_shape(shape)),
        "shard": list(_shard_shape(shape)),
        "objects": objects,
        "sha256": hashlib.sha256("".join(slab[0] for slab in slabs).encode()).hexdigest(),
        "minimum": min(slab[1] for slab in slabs),
        "maximum": max(slab[2] for slab in slabs),
        "clipped": {"low": clipped.low, "high": clipped.high},
        "bytes_read": sum(slab[4] for slab in slabs),
        "bytes_written": sum(objects.values()),
        "fingerprint": fingerprint,
        "run": {"seconds": time.monotonic() - start, "peak_memory_mb": peak_memory_mb()},
    }
    write_record(store, record_key, record)
    return record


def _check_range(part: slice, size: int, tile: str, what: str) -> slice:
    start = 0 if part.start is None else int(part.start)
    stop = size if part.stop is None else int(part.stop)
    if part.step not in (None, 1) or not 0 <= start < stop <= size:
        raise AcquisitionError(
            f"{tile}: {what} {start} to {stop} were asked for, but the tile has 0 to {size}; "
            "correct the request"
        )
    return slice(start, stop)


def _chunk_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(min(n, c) for n, c in zip(shape, CORRECTED_CHUNK))


def _shard_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    depth, rows, columns = _chunk_shape(shape)
    return (depth, -(-shape[1] // rows) * rows, -(-shape[2] // columns) * columns)
