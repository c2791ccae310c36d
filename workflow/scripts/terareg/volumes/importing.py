"""Importing an image that others made as blocks of a volume, without losing a value.

Volumes hold uint8, uint16 or float32. Images of these types are stored as they are, value for
value; all others become float32: small integers exactly, float64 rounded to its 24 bits. Integers
that float32 cannot hold, and numbers beyond its range, are errors. Values that are not finite are
stored as 0 and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.core.parallel import map_items
from terareg.storage.foreign import boundary
from terareg.storage.part_arrays import part_facts
from terareg.storage.part_names import join_part
from terareg.storage.store import Store
from terareg.storage.web import beside, is_web, store_at
from terareg.volumes.chunks import count_absent, find_naming
from terareg.volumes.fetched import count_absent_in_shards
from terareg.volumes.headers import FILE_FORMS, PLATE, SERIES, Header, chunk_grids
from terareg.volumes.images import OpenedImage
from terareg.volumes.imaris import part_of
from terareg.volumes.objects import PLAN_FILE, read_block_records, read_plan
from terareg.volumes.plan import Block, VolumePlan

_VERSION = 1
_SLAB_VOXELS = 1 << 22
_EXACT_INTEGER = 1 << 24
_REQUESTS = 8  # at once, where objects cannot be listed


def check_whole(header: Header, fill_missing: bool = False) -> int | None:
    """Count the chunks of a volume that are absent because they are zero.

    Parameters
    ----------
    header : Header
    fill_missing : bool
        Whether those that a precomputed volume lacks are zeros too.

    Returns
    -------
    int or None
        Number in the finest level; 0 for files, and for formats in which zeros cannot be left out.
        None for volumes on the web, which lists nothing; absent chunks of a precomputed volume are
        an error there when they are read.

    Raises
    ------
    VolumeError
        If chunks are absent although the format, or records of terareg beside it, require them.
    """
    if header.form in (*FILE_FORMS, SERIES):
        return 0
    if header.form == "Imaris":
        return _absent_in_imaris(header)
    store = store_at(header.name)
    folder, _, form = header.name.rpartition("/")
    if _is_own(folder):
        _check_own(store_at(folder), form)
        return 0
    if header.form == PLATE:
        _check_sites(store)
    if is_web(header.name):
        return None
    with boundary(header.name, VolumeError, "check that the volume is complete"):
        absent = 0
        for grid in chunk_grids(store):
            count = count_absent_in_shards if grid.sharding else count_absent
            absent += count(store, grid, fill_missing)
        return absent


def _absent_in_imaris(header: Header) -> int:
    store, name = beside(header.name)
    count = 0
    for channel in range(header.channels):
        key = join_part(name, part_of(0, channel))
        absent, chunks = part_facts(store, key, VolumeError).absent
        if 0 < absent == chunks:
            raise VolumeError(
                f"{header.name} channel {channel} has a shape but no values, so it was never "
                "written; export it again"
            )
        count += absent
    return count


def _check_sites(store: Store) -> None:
    """Raise unless every image of a plate has chunks, under the names that its metadata imply."""
    grids = chunk_grids(store)
    what = f"{store.url}: images"
    found = map_items(lambda g: find_naming(store, g), grids, workers=_REQUESTS, what=what)
    for grid, naming in zip(grids, found, strict=True):
        if naming != grid.naming:
            raise VolumeError(
                f"{store.address(grid.folder)} has no chunks named as its metadata say; copy this "
                "image again, or take it out of the metadata of the plate"
            )


def _is_own(folder: str) -> bool:
    """Whether a folder is that of a volume of terareg."""
    above = folder.rpartition("/")[0]
    if not folder or (is_web(folder) and above.endswith("/")):  # the server itself
        return False
    return store_at(folder).exists(PLAN_FILE)


def _check_own(parent: Store, form: str) -> None:
    """Raise if an object that is named in the records of a terareg volume is missing."""
    address, _, key = parent.url.rpartition("/")
    store = store_at(address or "/")
    plan = read_plan(store, key)
    wanted = {
        name: size
        for record in read_block_records(store, key, plan)
        for name, size in record["objects"].items()
        if name.startswith(f"{key}/{form}/")
    }
    if is_web(store.url):
        what = f"{plan.name}: objects"
        sizes = map_items(store.size, list(wanted), workers=_REQUESTS, what=what)
        there = dict(zip(wanted, sizes, strict=True))
    else:
        there = {entry.key: entry.size for entry in store.list(f"{key}/{form}")}
    for name, size in wanted.items():
        if there.get(name) != size:
            raise VolumeError(
                f"{store.address(name)} is missing or has changed since it was written; run the "
                "workflow that made it again"
            )


def describe_input(headers: Mapping[str, Header], orientation: str) -> dict:
    """Content of ``input.json``: grid and channels of a sample whose input is already a volume.

    Parameters
    ----------
    headers : mapping of channel name to Header
        All on one grid, see :func:`terareg.volumes.headers.check_channels`.
    orientation : str
        Code of the array axes (z, y, x).
    """
    first = next(iter(headers.values()))
    frame = Frame(first.shape, first.spacing_um, orientation=orientation)
    plate = {}
    if first.outlines:
        # the sites in their order, in which the first counts where they overlap
        sites = [box for name, box in first.outlines if "/" in name]
        plate = {"outlines": dict(first.outlines), "sites": sites}
    return plate | {
        "version": _VERSION,
        "frame": frame.to_json(),
        "channels": {
            name: {
                "source": header.name,
                "form": header.form,
                "source_dtype": header.dtype,
                "dtype": header.stored_dtype,
            }
            | ({"ignored_images": list(header.others)} if header.others else {})
            for name, header in headers.items()
        },
    }


def frame_of_input(data: Mapping[str, Any]) -> Frame:
    """Grid that an ``input.json`` describes."""
    if data.get("version") != _VERSION:
        raise VolumeError(
            f"this description of the input has version {data.get('version')!r}, not {_VERSION}; "
            "delete it and run index_input again"
        )
    return Frame.from_json(data["frame"])


def import_block(image: OpenedImage, plan: VolumePlan, block: Block) -> tuple[np.ndarray, Clipped]:
    """Level-0 voxels of a block of an image, in the type of the plan.

    Parameters
    ----------
    image : OpenedImage
        Of the plan's shape.
    plan : VolumePlan
    block : Block
        One of ``plan.blocks()``.

    Returns
    -------
    array : numpy.ndarray of the plan's type, shape ``block.shape``
    clipped : Clipped
        Voxels that are not finite, stored as 0: ``high`` counts positive infinity, ``low`` NaN and
        negative infinity.

    Raises
    ------
    VolumeError
        If the image differs from its header, or the type cannot hold a value.
    """
    if image.frame.shape != plan.frame.shape:
        raise VolumeError(
            f"{image.name} has {image.frame.shape} voxels (z, y, x) although its header states "
            f"{plan.frame.shape}; save it again, for example as NRRD"
        )
    return as_stored(image.name, image.read(0, block.start, block.stop), np.dtype(plan.dtype))


def as_stored(name: str, voxels: np.ndarray, wanted: np.dtype) -> tuple[np.ndarray, Clipped]:
    """Voxels of a foreign image in a type of volumes; arguments and errors of :func:`import_block`.

    ``wanted`` is the voxels' own type, or float32 where volumes do not have it.
    """
    if voxels.dtype.newbyteorder("=") == wanted and wanted.kind == "u":
        return np.ascontiguousarray(voxels, wanted), Clipped()
    if wanted.kind == "u" or voxels.dtype.kind not in "buif":
        raise VolumeError(
            f"{name} has voxels of type {voxels.dtype} although its header states {wanted}; save "
            "it again, for example as NRRD"
        )
    result = np.empty(voxels.shape, np.float32)
    clipped = Clipped()
    planes = max(1, _SLAB_VOXELS // (voxels.shape[1] * voxels.shape[2]))
    for first in range(0, voxels.shape[0], planes):
        part = slice(first, first + planes)
        result[part], more = _as_float32(name, voxels[part])
        clipped += more
    return result, clipped


def _as_float32(name: str, voxels: np.ndarray) -> tuple[np.ndarray, Clipped]:
    if voxels.dtype.kind in "ui":
        for value in (voxels.min().item(), voxels.max().item()):
            if abs(value) > _EXACT_INTEGER:
                raise VolumeError(
                    f"{name} contains the integer {value}, too large for float32 to tell from its "
                    "neighbours; scale the image to uint16, or convert it to float32 yourself"
                )
        return voxels.astype(np.float32), Clipped()
    finite = np.isfinite(voxels)
    with np.errstate(over="ignore"):
        result = voxels.astype(np.float32)
    beyond = finite & ~np.isfinite(result)
    if beyond.any():
        raise VolumeError(
            f"{name} contains {voxels[beyond][0]:g}, too large for float32; scale the image down"
        )
    if finite.all():
        return result, Clipped()
    result[~finite] = 0
    high = int(np.count_nonzero(voxels == np.inf))
    return result, Clipped(int(np.count_nonzero(~finite)) - high, high)
