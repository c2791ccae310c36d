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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue

import numpy as np
import tensorstore

from terareg.acquisition.chunking import CORRECTED_CHUNK
from terareg.acquisition.line_gains import load_line_gains
from terareg.acquisition.model import Acquisition, Tile
from terareg.acquisition.plane_files import read_box, read_rows
from terareg.acquisition.raw import PageFiles
from terareg.acquisition.tile_correction import Flatfield, load_flatfield
from terareg.core.errors import AcquisitionError, IntensityError, VolumeError
from terareg.core.numeric import Clipped, to_integer
from terareg.core.parallel import map_items, peak_memory_mb
from terareg.storage.arrays import array_spec, plain_array_json, shard_key
from terareg.storage.part_names import split_part
from terareg.storage.records import (
    ContentHash,
    is_done,
    read_record,
    remove_record,
    to_json,
    write_record,
)
from terareg.storage.shards import Shard
from terareg.storage.store import ARRAY_ERRORS, Store, outage

logger = logging.getLogger(__name__)
_RAW_PLANES = 8
_PROFILE_VOXELS = 1 << 17  # part of a flat-field that is applied to plane after plane


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
    acquisition : Acquisition
        With the tiles that the channel has.
    bytes_read : int
        Bytes read so far: raw files as stored; for corrected arrays, the uncompressed size of the
        chunks read.
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
            raise ValueError(
                "corrected tiles are already corrected; give them without a flat-field"
            )
        self.channel = acquisition.channel(channel)
        self.acquisition = acquisition.of_channel(channel)
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

    @property
    def planes_at_once(self) -> int:
        """Number of planes that are best read together: more than one where chunks hold several."""
        chunked = self.corrected is not None or self._in_parts
        return 4 * CORRECTED_CHUNK[0] if chunked else _RAW_PLANES

    @cached_property
    def _in_parts(self) -> bool:
        """Whether any tile is an array in a file of many, whose chunks hold several planes."""
        name = self.channel.name
        stacks = (self.acquisition.planes[tile.name][name] for tile in self.acquisition.tiles)
        return any(
            split_part(block.name) is not None
            for stack in stacks
            if isinstance(stack, PageFiles)
            for block in stack.blocks
        )

    def missing_planes(self, tile: str) -> tuple[int, ...]:
        """Planes of a tile without a file: what is read for them was not measured."""
        self.acquisition.tile(tile)
        return self.acquisition.planes[tile][self.channel.name].missing

    def read(
        self,
        tile: str,
        z0: int,
        z1: int,
        y: slice = slice(None),
        x: slice = slice(None),
        out: np.ndarray | None = None,
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
        out : numpy.ndarray, optional
            C-contiguous array of the result's shape and dtype to read into.

        Returns
        -------
        numpy.ndarray, shape (z1 - z0, rows, columns), of the acquisition's dtype
            Missing planes are zeros, or interpolated linearly between the nearest raw planes and
            then corrected, as ``acquisition.missing_planes`` says. ``out``, if given.

        Raises
        ------
        AcquisitionError
            A box outside the tile; a raw file that is absent or damaged.
        VolumeError
            A corrected array that is incomplete or damaged.
        """
        array, clipped, count = self.read_counted(tile, z0, z1, y, x, out)
        with self._lock:
            self.clipped += clipped
            self.bytes_read += count
        return array

    def read_counted(
        self,
        tile: str,
        z0: int,
        z1: int,
        y: slice = slice(None),
        x: slice = slice(None),
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Clipped, int]:
        """As :meth:`read`, but return what this call clipped and how many bytes it read."""
        item = self.acquisition.tile(tile)
        box = [_check_range(slice(z0, z1), self.acquisition.tile_shape[0], tile, "planes")]
        box.append(_check_range(y, self.acquisition.tile_shape[1], tile, "rows"))
        box.append(_check_range(x, self.acquisition.tile_shape[2], tile, "columns"))
        if out is None:
            out = np.empty([s.stop - s.start for s in box], self.acquisition.dtype)
        if self.corrected is not None:
            return out, Clipped(), self._read_corrected(tile, box, out)
        count = self._read_raw(item, box, out)
        return out, self.correct(tile, box, out), count

    def correct(self, tile: str, box: Sequence[slice], values: np.ndarray) -> Clipped:
        """Remove dark offset and shading from raw values of a box (z, y, x) of a tile, in place.

        Missing planes that are left blank stay zeros.
        """
        if self.flatfield is None:
            return Clipped()
        z, y, x = box
        missing = self.missing_planes(tile)
        blank = missing if self.acquisition.missing_planes == "blank" else ()
        clipped = Clipped()
        rows = max(1, _PROFILE_VOXELS // values.shape[2])
        for first in range(0, values.shape[1], rows):
            # all planes of some rows, so that this part of the profile stays in the cache
            part = values[:, first : first + rows]
            inside = slice(y.start + first, y.start + first + part.shape[1])
            for plane, row in zip(range(z.start, z.stop), part):
                if plane not in blank:
                    clipped += self.flatfield.correct(row, inside, x, (tile, plane), row)[1]
        return clipped

    def read_raw(self, tile: str, planes: slice, out: np.ndarray) -> int:
        """Raw pixels of whole planes, zeros or interpolated where missing; returns bytes read."""
        rows, columns = self.acquisition.tile_shape[1:]
        box = [planes, slice(0, rows), slice(0, columns)]
        return self._read_raw(self.acquisition.tile(tile), box, out)

    def _read_raw(self, tile: Tile, box: list[slice], out: np.ndarray) -> int:
        """Raw pixels of a box; returns the bytes that were read."""
        z, y, x = box
        missing = self.missing_planes(tile.name)
        if not any(plane in missing for plane in range(z.start, z.stop)):
            (key, first), (last_key, last) = (
                self.acquisition.plane_file(tile, self.channel.name, plane)
                for plane in (z.start, z.stop - 1)
            )
            if key == last_key and split_part(key) is not None:
                # chunks of several planes are decoded once
                expected = (self.acquisition.tile_shape[1:], self.acquisition.dtype)
                pages = slice(first, last + 1)
                return read_box(self._raw, key, expected, (pages, y, x), out)[1]
        whole_rows = out.shape[2] == self.acquisition.tile_shape[2]
        count = 0
        for plane, target in zip(range(z.start, z.stop), out):
            if plane in missing and self.acquisition.missing_planes == "blank":
                target[...] = 0
                continue
            if plane in missing:
                values, size = self._interpolate(tile, plane, y)
            else:
                values, size = self._read_rows(tile, plane, y, target if whole_rows else None)
            count += size
            if values is not target:
                target[...] = values[:, x]
        return count

    def _read_rows(
        self, tile: Tile, plane: int, rows: slice, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        key, page = self.acquisition.plane_file(tile, self.channel.name, plane)
        expected = (self.acquisition.tile_shape[1:], self.acquisition.dtype)
        return read_rows(self._raw, key, expected, rows, out, page)

    def _interpolate(self, tile: Tile, plane: int, rows: slice) -> tuple[np.ndarray, int]:
        """Raw rows between the nearest existing planes; those of the nearest one at an end."""
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

    def _read_corrected(self, tile: str, box: list[slice], out: np.ndarray) -> int:
        array = self._open(tile)
        try:
            tensorstore.array(out, copy=False).write(array[tuple(box)]).result()
        except ARRAY_ERRORS as error:
            address = self.corrected.address(corrected_key(self.channel.name, tile))
            damaged = self._incomplete(tile, f"is damaged ({error})")
            raise outage(address, error) or damaged from error
        count = out.itemsize
        for part, chunk in zip(box, _chunk_shape(self.acquisition.tile_shape)):
            count *= (-(-part.stop // chunk) - part.start // chunk) * chunk
        return count

    def _open(self, tile: str) -> tensorstore.TensorStore:
        with self._lock:
            if tile in self._arrays:
                return self._arrays[tile]
        key = corrected_key(self.channel.name, tile)
        record = read_record(self.corrected, f"{key}.json")
        if record is None:
            raise self._incomplete(tile, "does not exist")
        wanted = (list(self.acquisition.tile_shape), self.acquisition.dtype)
        if (record.get("shape"), record.get("dtype")) != wanted:
            raise self._incomplete(tile, "belongs to another acquisition")
        there = {entry.key: entry.size for entry in self.corrected.list(key)}
        for name, size in record["objects"].items():
            if there.get(name) != size:
                raise self._incomplete(tile, f"is damaged ({name} is missing or changed)")
        try:
            array = tensorstore.open(array_spec(self.corrected, key)).result()
        except ARRAY_ERRORS as error:
            raise self._incomplete(tile, f"is damaged ({error})") from error
        with self._lock:
            return self._arrays.setdefault(tile, array)

    def _incomplete(self, tile: str, state: str) -> VolumeError:
        return VolumeError(
            f"{self.acquisition.sample}: corrected tile {tile} of channel {self.channel.name} "
            f"{state}; run again with -R correct_tiles"
        )


def open_tiles(acquisition: Acquisition, channel: str, files: Mapping, store: Store) -> TileSource:
    """Tiles of a channel as the stages after the flat-field read them.

    Parameters
    ----------
    acquisition : Acquisition
    channel : str
    files : mapping
        If it has ``corrected`` (batches of corrected tiles), their arrays are read from ``store``
        (of the sample). Otherwise raw planes are corrected on the fly, see :func:`open_shading`.
        The pixels are the same either way.
    store : Store
    """
    if files.get("corrected"):
        return TileSource(acquisition, channel, corrected=store)
    return TileSource(acquisition, channel, flatfield=open_shading(files, store))


def open_shading(files: Mapping, store: Store) -> Flatfield:
    """The flat-field in ``profile`` and ``info``, with the gains of lines in ``stripes``.

    The array of these gains is in ``store`` (of the sample).
    """
    stripes = load_line_gains(files["stripes"], store) if files.get("stripes") else None
    return load_flatfield(files["profile"], files["info"], stripes)


def write_corrected(
    source: TileSource, store: Store, key: str, tile: str, fingerprint: str, workers: int = 1
) -> dict:
    """Write a tile as ``source`` reads it into a Zarr 3 array, unless that has been done.

    Parameters
    ----------
    source : TileSource
        Normally with a flat-field.
    store : Store
        Receives the array under ``key`` and, last, its record at ``key + ".json"``.
    key : str
        That of :func:`corrected_key`, so that a :class:`TileSource` finds the array.
    tile : str
        Name of the tile.
    fingerprint : str
        Hash of all that the array depends on: code, settings, flat-field, raw files.
    workers : int
        Threads; each holds 16 planes. The bytes do not depend on it.

    Returns
    -------
    dict
        The record: ``tile``, ``channel``, ``shape``, ``dtype``, ``chunk``, ``shard``, ``objects``
        (key to bytes), ``sha256`` (of the XXH3 of its slabs of ``chunk[0]`` planes, chunk by
        chunk), ``minimum``, ``maximum``, ``clipped``, ``bytes_read``, ``bytes_written``,
        ``fingerprint``, and ``run`` (seconds, peak_memory_mb).

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    record_key = f"{key}.json"
    done = is_done(store, record_key, fingerprint)
    if done is not None:
        logger.info("%s is already complete", store.address(key))
        return done
    start = time.monotonic()
    shape, dtype = source.acquisition.tile_shape, source.acquisition.dtype
    chunk, shard = _chunk_shape(shape), _shard_shape(shape)
    slab_grid = tuple(-(-n // c) for n, c in zip((chunk[0], *shape[1:]), chunk))
    remove_record(store, record_key)
    store.delete_folder(key)
    metadata = plain_array_json(shape, dtype, ("z", "y", "x"), chunk, shard)
    store.write(f"{key}/zarr.json", to_json(metadata))

    buffers: SimpleQueue[np.ndarray] = SimpleQueue()
    for _ in range(workers):
        buffers.put(np.empty((chunk[0], *shape[1:]), dtype))

    def write_slab(z0: int) -> _Slab:
        buffer = buffers.get()
        try:
            slab = buffer[: min(chunk[0], shape[0] - z0)]
            shard = Shard(store, shard_key(key, (z0 // chunk[0], 0, 0)), slab_grid)
            return _write_slab(source, tile, z0, slab, shard)
        finally:
            buffers.put(buffer)

    slabs = list(
        map_items(
            write_slab,
            range(0, shape[0], chunk[0]),
            workers=workers,
            what=f"{tile}: corrected slabs",
        )
    )
    clipped = sum((slab.clipped for slab in slabs), Clipped())
    objects = {entry.key: entry.size for entry in store.list(key)}
    record = {
        "tile": tile,
        "channel": source.channel.name,
        "shape": list(shape),
        "dtype": dtype,
        "chunk": list(chunk),
        "shard": list(shard),
        "objects": objects,
        "sha256": hashlib.sha256("".join(slab.xxh3 for slab in slabs).encode()).hexdigest(),
        "minimum": min(slab.low for slab in slabs),
        "maximum": max(slab.high for slab in slabs),
        "clipped": {"low": clipped.low, "high": clipped.high},
        "bytes_read": sum(slab.bytes_read for slab in slabs),
        "bytes_written": sum(objects.values()),
        "fingerprint": fingerprint,
        "run": {"seconds": time.monotonic() - start, "peak_memory_mb": peak_memory_mb()},
    }
    write_record(store, record_key, record)
    return record


@dataclass(frozen=True)
class _Slab:
    """What the record needs to know of the planes of one shard."""

    xxh3: str
    low: int
    high: int
    clipped: Clipped
    bytes_read: int


def _write_slab(source: TileSource, tile: str, z0: int, slab: np.ndarray, shard: Shard) -> _Slab:
    """Read planes of a tile from ``z0`` on into ``slab`` and write them as a shard."""
    chunk = _chunk_shape(source.acquisition.tile_shape)
    piece = np.zeros(chunk, slab.dtype)
    digest = ContentHash(slab.dtype, slab.shape)
    lows, highs, clipped = [], [], Clipped()
    z = slice(z0, z0 + slab.shape[0])
    columns = slice(0, slab.shape[2])
    try:
        count = source.read_raw(tile, z, slab)
        for y in range(0, slab.shape[1], chunk[1]):
            strip = slab[:, y : y + chunk[1]]
            clipped += source.correct(tile, (z, slice(y, y + strip.shape[1]), columns), strip)
            for x in range(0, slab.shape[2], chunk[2]):
                part = strip[:, :, x : x + chunk[2]]
                if part.shape != chunk:
                    piece[...] = 0
                inside = piece[tuple(map(slice, part.shape))]
                inside[...] = part
                digest.update(inside)
                lows.append(int(inside.min()))
                highs.append(int(inside.max()))
                position = (0, y // chunk[1], x // chunk[2])
                shard.add(position, piece.reshape(-1).view(np.uint8))
        shard.close()
    finally:
        shard.discard()
    return _Slab(digest.hexdigest(), min(lows), max(highs), clipped, count)


def _check_range(part: slice, size: int, tile: str, what: str) -> slice:
    start = 0 if part.start is None else int(part.start)
    stop = size if part.stop is None else int(part.stop)
    if part.step not in (None, 1) or not 0 <= start < stop <= size:
        raise AcquisitionError(
            f"{tile}: {what} {start} to {stop} were requested, but the tile has 0 to {size}; "
            "correct the request"
        )
    return slice(start, stop)


def _chunk_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(min(n, c) for n, c in zip(shape, CORRECTED_CHUNK))


def _shard_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    depth, rows, columns = _chunk_shape(shape)
    return (depth, -(-shape[1] // rows) * rows, -(-shape[2] // columns) * columns)
