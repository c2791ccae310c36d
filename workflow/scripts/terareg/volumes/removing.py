"""Removal of a volume, of levels of it, or of its chunks in a region: listed first, then removed.

These are volumes in folders and buckets that no run has made. Those of a run have records, which
promise every object: they are removed as a whole, by ``remove_derived``.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.storage.durable import make_durable
from terareg.storage.foreign import boundary
from terareg.storage.records import write_record
from terareg.storage.removal import Removal, remove
from terareg.storage.store import Entry, Store
from terareg.storage.web import plain_address
from terareg.volumes.chunks import ChunkGrid, find_naming, precomputed_grid, zarr_grid
from terareg.volumes.headers import read_metadata
from terareg.volumes.objects import PLAN_FILE
from terareg.volumes.ome_metadata import ome_axes, ome_scale, read_json_object

_ALMOST = 1e-6  # of a voxel
_COPY = ".zmetadata"
# says which levels are being removed, since the metadata of the volume do not
_NOTE = "removing.json"


@dataclass(frozen=True)
class _Level:
    """A level: its chunks, their axes, and voxels of the finest level for one of it, by axis.

    ``grid`` is None where an interrupted removal has come to its metadata, after its chunks.
    """

    grid: ChunkGrid | None
    axes: str
    factor: Mapping[str, float]
    files: tuple[str, ...]  # metadata of the level alone; what makes it an array is the first


@dataclass(frozen=True)
class _Volume:
    store: Store
    file: str  # its metadata
    metadata: dict[str, Any]
    levels: list[_Level]
    going: list[int]  # levels whose removal was interrupted

    @property
    def files(self) -> tuple[str, ...]:
        """Metadata of the whole volume; what names the levels is the first."""
        return (self.file,) if self.file != ".zattrs" else (".zattrs", ".zgroup", _COPY)

    def without(self, levels: Sequence[int]) -> dict[str, Any]:
        """Metadata that no longer name some levels."""
        changed = copy.deepcopy(self.metadata)
        ome = changed.get("attributes", changed)
        image = ome.get("ome", ome)
        parent, key = (
            (changed, "scales") if self.file == "info" else (image["multiscales"][0], "datasets")
        )
        parent[key] = [part for n, part in enumerate(parent[key]) if n not in levels]
        # a second copy of the metadata of all levels
        changed.pop("consolidated_metadata", None)
        return changed


def find_parts(
    address: str, levels: Sequence[int] = (), box_vox: tuple[Box, Box] | None = None
) -> Removal:
    """What :func:`remove_parts` with the same arguments removes.

    Parameters
    ----------
    address : str
        Folder or ``s3://`` address of an OME-Zarr or precomputed volume.
    levels : sequence of int
        Levels, 0 is the finest; all, if there are none.
    box_vox : tuple, optional
        First voxel (z, y, x) of a region, and the one beyond the last, counted from the first voxel
        of the finest level. Chunks (shards of OME-Zarr) go that lie in it as a whole; those that it
        cuts stay.

    Returns
    -------
    Removal
        Of a whole volume its chunks and metadata, without what else lies in its folder. Where the
        removal of levels was interrupted, the rest of these levels and nothing else: the others
        may have other numbers now than the caller thinks.

    Raises
    ------
    VolumeError
        If there is no volume, no such level, nothing in the region, if a region is asked for of
        precomputed shards, or if a run has made the volume.
    """
    return _parts(_open(address), levels, box_vox).whole


def remove_parts(
    address: str, levels: Sequence[int] = (), box_vox: tuple[Box, Box] | None = None
) -> Removal:
    """Remove what :func:`find_parts` finds; it may be interrupted, and asked for again.

    Chunks go before the metadata that name them, but for single levels, which the metadata of the
    volume name no longer before their chunks go. A note in the volume says until the end which
    levels are going.
    """
    volume = _open(address)
    found = _parts(volume, levels, box_vox)
    if found.levels:
        note = {"file": volume.file, "metadata": volume.metadata, "levels": found.levels}
        write_record(volume.store, _NOTE, note)
        if len(found.levels) < len(volume.levels):
            write_record(volume.store, volume.file, volume.without(found.levels))
        make_durable()
    remove([found.chunks])
    remove([found.files])
    if found.levels:
        volume.store.delete(_NOTE)
    return found.whole


@dataclass(frozen=True)
class _Parts:
    """What goes: chunks, then files of metadata; and the levels that the volume will not have."""

    chunks: Removal
    files: Removal
    levels: list[int]

    @property
    def whole(self) -> Removal:
        one, two = self.chunks, self.files
        return replace(one, keys=one.keys + two.keys, size=one.size + two.size)


def _parts(
    volume: _Volume, levels: Sequence[int] = (), box_vox: tuple[Box, Box] | None = None
) -> _Parts:
    address, what = volume.store.url, ""
    if volume.going:
        all_of_them = len(volume.going) == len(volume.levels)
        levels, box_vox, what = () if all_of_them else volume.going, None, "the rest of "
    chosen = sorted(set(levels)) or range(len(volume.levels))
    for level in chosen:
        if not 0 <= level < len(volume.levels):
            raise VolumeError(
                f"{address} has no level {level}; it has levels 0 to {len(volume.levels) - 1}"
            )
    if box_vox is not None:
        found = [e for n in chosen for e in _inside(volume, volume.levels[n], box_vox)]
        if not found:
            raise VolumeError(
                f"{address}: no chunk of level {', '.join(map(str, chosen))} is completely inside "
                f"{box_vox}; give a larger region, or a finer level"
            )
        what = f"chunks of {address} in {box_vox}"
        return _Parts(_removal(volume.store, found, what), _removal(volume.store, [], what), [])
    own = [name for n in chosen for name in volume.levels[n].files]
    if not levels:
        own += reversed(volume.files)
        what = what + address if what else f"all of {address}"
    elif len(chosen) == len(volume.levels):
        raise VolumeError(
            f"{address} has no other level; to remove the whole volume, give no level"
        )
    else:
        # a second copy of all metadata would still name the levels
        own += [_COPY] if volume.file == ".zattrs" else []
        what += f"level {', '.join(map(str, chosen))} of {address}"
    there = (volume.store.entry(name) for name in own)
    files = [entry for entry in there if entry is not None]
    chunks = [entry for n in chosen for entry in _chunks(volume.store, volume.levels[n].grid)]
    return _Parts(
        _removal(volume.store, chunks, what),
        _removal(volume.store, files, what),
        list(chosen),
    )


def _open(address: str) -> _Volume:
    address = plain_address(address)
    store = Store(address)
    folder, _, _ = address.rpartition("/")
    for place in (address, folder or "."):
        if Store(place).exists(PLAN_FILE):
            raise VolumeError(
                f"{address} was made by a run, whose records list every object; take its entry "
                "out of derived and ask for remove_derived, or make what is to be kept an entry "
                "of its own (level, levels, box_vox)"
            )
    going: list[int] = []
    if store.exists(_NOTE):
        note = read_json_object(store, _NOTE)
        with boundary(store.address(_NOTE), VolumeError, "remove it, and the level by hand"):
            name, metadata, going = note["file"], note["metadata"], list(map(int, note["levels"]))
    else:
        name, metadata = read_metadata(address, store)
    with boundary(f"{address}: its metadata", VolumeError, "check that the volume is complete"):
        reader = _scales if name == "info" else _datasets
        return _Volume(store, name, metadata, list(reader(store, metadata, going)), going)


def _scales(store: Store, info: Mapping[str, Any], going: Sequence[int]) -> Iterator[_Level]:
    finest = info["scales"][0]["resolution"]
    for n, scale in enumerate(info["scales"]):
        factor = {a: s / f for a, s, f in zip("xyz", scale["resolution"], finest)}
        yield _Level(precomputed_grid(info, n), "xyz", factor, ())


def _datasets(store: Store, metadata: Mapping[str, Any], going: Sequence[int]) -> Iterator[_Level]:
    third = "zarr_format" in metadata
    attributes = metadata.get("attributes", {}) if third else metadata
    image = attributes.get("ome", attributes)["multiscales"][0]
    axes, _ = ome_axes(image)
    finest = ome_scale(image, image["datasets"][0], len(axes)) or [1.0] * len(axes)
    for number, dataset in enumerate(image["datasets"]):
        path = str(dataset["path"])
        names = ("zarr.json",) if third else (".zarray", ".zattrs")
        files = tuple(f"{path}/{name}" for name in names)
        scale = ome_scale(image, dataset, len(axes)) or finest
        gone = number in going and not store.exists(files[0])
        grid = None if gone else zarr_grid(path, read_json_object(store, files[0]), third=third)
        factor = {a: s / f for a, s, f in zip(axes, scale, finest)}
        yield _Level(grid, "".join(axes), factor, files)


def _chunks(store: Store, grid: ChunkGrid | None) -> list[Entry]:
    """Objects of a level."""
    if grid is None:
        return []
    naming = find_naming(store, grid)
    if naming is None:
        return []
    pattern, cut = grid.pattern(naming), len(grid.folder) + 1
    return [e for e in store.list(grid.folder) if pattern.fullmatch(e.key[cut:])]


def _inside(volume: _Volume, level: _Level, box_vox: tuple[Box, Box]) -> list[Entry]:
    """Objects of the chunks of a level that lie in a region as a whole."""
    grid = level.grid
    assert grid is not None, "of a level that is going no region is asked for"
    if grid.sharding:
        raise VolumeError(
            f"{volume.store.address(grid.folder)} has its chunks in shards, which can only be "
            "removed as a whole; convert the volume with sharded: false, or convert the part to "
            "be kept with box_vox"
        )
    naming = find_naming(volume.store, grid)
    if naming is None:
        return []
    region = dict(zip("zyx", zip(*box_vox)))
    chosen = []
    for axis, size, chunk, count in zip(level.axes, grid.shape, grid.chunk, grid.counts):
        first, last = region.get(axis, (0, math.inf))
        scale = level.factor[axis]
        # the last chunk ends with the volume
        ends = [((i + 1) * chunk if i + 1 < count else size) * scale for i in range(count)]
        starts = [i * chunk * scale for i in range(count)]
        reach = math.inf if last >= _finest(volume, axis) else last
        chosen.append(
            [i for i in range(count) if starts[i] >= first - _ALMOST and ends[i] <= reach + _ALMOST]
        )
    names = {grid.name(index, naming) for index in itertools.product(*chosen)}
    return [e for e in _chunks(volume.store, grid) if e.key[len(grid.folder) + 1 :] in names]


def _finest(volume: _Volume, axis: str) -> int:
    level = volume.levels[0]
    assert level.grid is not None, "see _inside"
    return level.grid.shape[level.axes.index(axis)] if axis in level.axes else 0


def _removal(store: Store, entries: Sequence[Entry], what: str) -> Removal:
    return Removal(store, tuple(e.key for e in entries), sum(e.size for e in entries), what)
