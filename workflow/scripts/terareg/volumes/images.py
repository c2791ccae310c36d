"""Images that others made: NIfTI, NRRD, TIFF, Imaris, OME-Zarr, precomputed, as frames and voxels.

Voxels come as (z, y, x) in the order of the file. World coordinates of the file are not kept: level
0 starts at 0 um. The orientation that the file states is used unless the caller gives one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorstore as ts

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame, check_orientation
from terareg.storage.foreign import boundary, check_memory, reason
from terareg.storage.part_arrays import open_part
from terareg.storage.part_names import join_part
from terareg.storage.store import ARRAY_ERRORS, Store, outage
from terareg.storage.web import beside, plain_address, store_at
from terareg.volumes.chunks import (
    ChunkGrid,
    Naming,
    find_naming,
    precomputed_grid,
    zarr_grid,
)
from terareg.volumes.fetched import FetchedChunks
from terareg.volumes.file_boxes import FileBoxes
from terareg.volumes.headers import (
    Header,
    describe_image,
    find_series,
    image_form,
    level_shapes,
    nrrd_orientation,
    on_grid,
    read_metadata,
)
from terareg.volumes.imaris import part_of
from terareg.volumes.itk_files import open_itk, orientation_of, read_itk
from terareg.volumes.meta_image import meta_layout, shear_of
from terareg.volumes.ome_metadata import (
    check_levels,
    check_names,
    check_other_axes,
    ome_axes,
    ome_orientation,
    ome_scale,
    read_json_object,
    um_factors,
)
from terareg.volumes.plates import Plate, SiteImage, is_plate, read_plate
from terareg.volumes.reader import Levels
from terareg.volumes.voxels import file_planes

logger = logging.getLogger(__name__)
_APART = 2.0  # voxels of a level by which its extent may differ from that of the first


@dataclass(frozen=True)
class ImageSettings:
    """What a file may not state.

    Attributes
    ----------
    spacing_um : tuple of float, optional
        Voxel size (z, y, x), micrometres; needed for plain TIFF.
    orientation : str, optional
        Code of the array axes (z, y, x), see :mod:`terareg.core.frames`; needed where the file has
        none (TIFF, OME-Zarr, precomputed).
    channel : int
        Channel to read from an image with several.
    fill_missing : bool
        Whether chunks that a precomputed volume lacks are zeros; an error by default.
    """

    spacing_um: tuple[float, float, float] | None = None
    orientation: str | None = None
    channel: int = 0
    fill_missing: bool = False


class OpenedImage(Levels):
    """A foreign image. The type's attributes are those of :class:`Levels`."""

    def __init__(self, name: str, frames: Sequence[Frame], sources: Sequence[Any]) -> None:
        self.name = name
        self.frames = tuple(frames)
        self._sources = tuple(sources)
        first = sources[0]
        plain = isinstance(first, (np.ndarray, _FilePart, FileBoxes, _Mosaic))
        self.dtype = first.dtype if plain else first.dtype.numpy_dtype
        self.is_segmentation = False

    def array(self, level: int) -> Any:
        """What a level is read from: an array of NumPy or tensorstore, or a reader of boxes."""
        return self._sources[level]

    def planes_together(self, level: int) -> int:
        """Planes of a chunk; 1 where planes are read one by one."""
        source = self._sources[level]
        if isinstance(source, (np.ndarray, FileBoxes, _Mosaic)):
            return 1
        if isinstance(source, (_FilePart, FetchedChunks)):
            return source.planes_together
        return int(source.chunk_layout.read_chunk.shape[0])

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        box: Any = tuple(slice(a, b) for a, b in zip(start, stop))
        source = self._sources[level]
        if isinstance(source, np.ndarray):
            return np.ascontiguousarray(source[box])
        if isinstance(source, _FilePart):
            return source.read(box)
        if isinstance(source, _Mosaic):
            with boundary(self.name, VolumeError, "check that the plate is complete"):
                return source.read(box)
        if isinstance(source, FileBoxes):
            with boundary(self.name, VolumeError, "check that the file is complete"):
                return source.read(box)
        if isinstance(source, FetchedChunks):
            with boundary(self.name, VolumeError, "check that the volume is complete"):
                return np.ascontiguousarray(source.read(start, stop))
        try:
            return np.ascontiguousarray(source[box].read().result())
        except ARRAY_ERRORS as error:
            raise outage(self.name, error) or VolumeError(
                f"{self.name} cannot be read: {reason(error)}; check that the volume is complete"
            ) from error


@dataclass(frozen=True)
class _FilePart:
    """A level that is an array in a file of many."""

    store: Store
    key: str
    shape: tuple[int, int, int]
    dtype: np.dtype

    @property
    def planes_together(self) -> int:
        with open_part(self.store, self.key, VolumeError) as array:
            return int(array.chunk[0])

    def read(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        with open_part(self.store, self.key, VolumeError) as array:
            return array.read(*box)


class _Mosaic:
    """Wells of a plate side by side, (z, y, x); sites are opened when they are read."""

    def __init__(self, store: Store, plate: Plate, channel: int) -> None:
        self._store, self._plate, self._channel = store, plate, channel
        self.shape, self.dtype = plate.shape, np.dtype(plate.first.dtype)

    def read(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        found = np.zeros([part.stop - part.start for part in box], self.dtype)
        depth, rows, columns = box
        # the first of sites that overlap is written last
        for site, (top, left, bottom, right) in reversed(self._plate.sites):
            low = max(top, rows.start), max(left, columns.start)
            high = min(bottom, rows.stop), min(right, columns.stop)
            if low[0] >= high[0] or low[1] >= high[1]:
                continue
            inside = (depth, *(slice(a - c, b - c) for a, b, c in zip(low, high, (top, left))))
            at = tuple(
                slice(a - p.start, b - p.start) for a, b, p in zip(low, high, (rows, columns))
            )
            found[(slice(None), *at)] = self._site(site)[inside].read().result()
        return found

    def _site(self, site: SiteImage) -> ts.TensorStore:
        """Voxels (z, y, x) of a channel of a site."""
        spec = {
            "driver": "zarr3" if site.third else "zarr", "kvstore": self._store.kvstore(site.path)
        }  # fmt: skip
        array, names = _open(self._store, spec), list(site.axes)
        for name in [name for name in names if name not in "zyx"]:
            axis = names.index(name)
            index = self._channel if name == "c" else 0
            array = array[(slice(None),) * axis + (index,)]
            names.remove(name)
        if "z" not in names:
            array, names = array[ts.newaxis], ["z", *names]
        return array[ts.d[[names.index(a) for a in "zyx"]].transpose[:]]


def open_image(address: str, settings: ImageSettings | None = None) -> OpenedImage:
    """Open an image file, an OME-Zarr group (0.4 or 0.5) or a precomputed volume.

    Parameters
    ----------
    address : str
        Path; for OME-Zarr and precomputed also an address ``s3://`` or ``https://``.
    settings : ImageSettings, optional

    Returns
    -------
    OpenedImage
        It is read box by box. NIfTI, NRRD, MetaImage and TIFF files that are compressed are
        decompressed into a temporary file, see :mod:`terareg.volumes.file_boxes`.

    Raises
    ------
    VolumeError
        If there is nothing of a known form at ``address``, or not one three-dimensional image.
    ConfigError
        If voxel size or orientation is unknown.
    """
    settings = settings or ImageSettings()
    address = plain_address(str(address))
    form = image_form(address)
    if form == "Imaris":
        return _open_imaris(address, settings)
    if form == "MetaImage" and "://" not in address:
        return _open_meta_image(address, settings)
    if form is not None or find_series(address) is not None:
        return _open_file(address, settings)
    store = store_at(address)
    name, metadata = read_metadata(address, store)
    if is_plate(metadata):
        return _open_plate(address, store, metadata, settings)
    opener = _open_precomputed if name == "info" else _open_ome_zarr
    with boundary(f"{address}: its metadata", VolumeError, "check that the volume is complete"):
        return opener(store, metadata, settings)


def image_planes(
    address: str, wanted: Sequence[int], channel: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield planes across z of a NIfTI, NRRD or TIFF file or a folder of planes, one at a time.

    See :func:`terareg.volumes.voxels.file_planes`; a damaged file is a :class:`VolumeError`.
    """
    header = describe_image(address, believed=False)
    check_memory(header.held_bytes, address, VolumeError)
    with boundary(address, VolumeError, "check that the file is complete"):
        yield from file_planes(address, header, wanted, channel)


def _open_file(address: str, settings: ImageSettings) -> OpenedImage:
    known = settings.spacing_um is not None and settings.orientation is not None
    header = describe_image(address, believed=not known)
    check_memory(header.held_bytes, address, VolumeError)
    with boundary(address, VolumeError, "check that the file is complete"):
        voxels = FileBoxes(address, header, settings.channel)
        if voxels.dtype.kind == "f" and not voxels.has_numbers():
            raise ValueError("all of its voxels are NaN")
    return OpenedImage(address, [Frame(header.shape, *_grid(header, settings))], [voxels])


def _open_imaris(address: str, settings: ImageSettings) -> OpenedImage:
    header = describe_image(address, believed=settings.spacing_um is None)
    if not 0 <= settings.channel < header.channels:
        raise VolumeError(
            f"{address} has channels 0 to {header.channels - 1}, not {settings.channel}"
        )
    shapes = level_shapes(address)
    store, name = beside(address)
    sources = [
        _FilePart(
            store, join_part(name, part_of(level, settings.channel)), shape, np.dtype(header.dtype)
        )
        for level, shape in enumerate(shapes)
    ]
    # levels share their outer faces, so that their sizes tell those of their voxels
    spacing = [[n / m for n, m in zip(shapes[0], shape)] for shape in shapes]
    if header.spacing_um is not None:
        spacing = [[a * b for a, b in zip(header.spacing_um, level)] for level in spacing]
    else:
        spacing[0] = spacing[0] if settings.spacing_um else [math.nan] * 3
    return _pyramid(address, sources, spacing, settings)


def _open_meta_image(address: str, settings: ImageSettings) -> OpenedImage:
    reader = open_itk(address)
    with boundary(address, VolumeError, "check that the file is complete"):
        layout = meta_layout(*beside(address))
    orientation = orientation_of(np.array(reader.GetDirection()).reshape(3, 3))
    if layout is not None:
        header = Header(
            address, "MetaImage", layout.shape, layout.dtype,
            orientation=orientation, channels=layout.samples,
        )  # fmt: skip
        with boundary(address, VolumeError, "check that the file is complete"):
            voxels: Any = FileBoxes(address, header, settings.channel)
    else:
        voxels = read_itk(address)[1]
        if reader.GetNumberOfComponents() > 1:
            voxels = np.ascontiguousarray(_channel(address, voxels, -1, settings.channel))
        header = Header(
            address, "MetaImage", voxels.shape, voxels.dtype.name, orientation=orientation
        )
    if settings.spacing_um is None:
        if shear := shear_of(reader.GetDirection()):
            raise ConfigError(
                f"{address} contradicts itself: its axes are sheared by {shear:.1f} degrees; set "
                "spacing_um to [z, y, x] in micrometres"
            )
        header = on_grid(header, reader.GetSpacing()[::-1], None, (None, None))
    return OpenedImage(address, [Frame(header.shape, *_grid(header, settings))], [voxels])


def _grid(header: Header, settings: ImageSettings) -> tuple:
    """Spacing, origin and orientation of a file."""
    found = header.orientation
    if found is None and header.form == "NRRD":
        found = nrrd_orientation(header.name)
    asked = replace(settings, orientation=settings.orientation or found)
    if found and settings.orientation and check_orientation(settings.orientation) != found:
        logger.warning(
            "%s has orientation %s in its header; %s is used, as configured",
            header.name, found, settings.orientation,
        )  # fmt: skip
    return _asked(header.name, asked, header.spacing_um)


def _open_ome_zarr(store: Store, metadata: dict, settings: ImageSettings) -> OpenedImage:
    third = "zarr_format" in metadata
    attributes = metadata.get("attributes", {}) if third else metadata
    ome = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        raise VolumeError(
            f"{store.url} is a Zarr group without an OME-Zarr image; give the group that has "
            "multiscales"
        )
    image = ome["multiscales"][0]
    axes, units = ome_axes(image)
    if settings.orientation is None and settings.spacing_um is None:
        settings = replace(settings, orientation=ome_orientation(image))
    kept = [a for a in axes if a in "zyx"]
    if sorted(kept) != ["x", "y", "z"]:
        raise VolumeError(f"{store.url} has axes {axes}; give one volume with three dimensions")
    check_levels(image["datasets"])
    spacing, sources = [], []
    for dataset in image["datasets"]:
        scale = ome_scale(image, dataset, len(axes))
        array = read_json_object(store, f"{dataset['path']}/{'zarr.json' if third else '.zarray'}")
        grid = zarr_grid(str(dataset["path"]), array, third=third)
        spec = {"driver": "zarr3" if third else "zarr"}
        fixed = {
            axes.index(name): settings.channel if name == "c" else 0
            for name in axes
            if name not in "zyx"
        }
        check_other_axes(store.url, dict(zip(axes, grid.shape, strict=True)))
        check_names(store.url, axes, array)
        _check_fixed(store.url, grid, fixed)
        order = [kept.index(a) for a in "zyx"]

        def view(array: ts.TensorStore, fixed=fixed, order=order) -> ts.TensorStore:
            for axis in sorted(fixed, reverse=True):
                array = _channel(store.url, array, axis, fixed[axis])
            return array[ts.d[order].transpose[:]]

        axis_of = [axes.index(a) for a in "zyx"]
        sources.append(_source(store, (grid, spec), view, (axis_of, fixed)))
        if scale is None:
            spacing.append([math.nan] * 3)
            continue
        # without a stated unit, only the ratios of levels are known
        stated = um_factors(units) or [1.0 if settings.spacing_um else math.nan] * 3
        spacing.append([scale[axes.index(a)] * f for a, f in zip("zyx", stated)])
    if settings.spacing_um and not math.isfinite(spacing[0][0]):
        spacing[0] = [1.0] * 3
    return _pyramid(store.url, sources, spacing, settings)


def _open_plate(address: str, store: Store, metadata: dict, settings: ImageSettings) -> OpenedImage:
    with boundary(f"{address}: its metadata", VolumeError, "check that the plate is complete"):
        plate = read_plate(store, metadata)
    if not 0 <= settings.channel < plate.first.channels:
        raise VolumeError(
            f"{address} has channels 0 to {plate.first.channels - 1}, not {settings.channel}"
        )
    spacing = [list(plate.first.spacing_um or [1.0 if settings.spacing_um else math.nan] * 3)]
    return _pyramid(address, [_Mosaic(store, plate, settings.channel)], spacing, settings)


def _check_fixed(name: str, grid: ChunkGrid, fixed: dict[int, int]) -> None:
    for axis, index in fixed.items():
        if not 0 <= index < grid.shape[axis]:
            raise VolumeError(f"{name} has channels 0 to {grid.shape[axis] - 1}, not {index}")


def _open_precomputed(store: Store, info: dict, settings: ImageSettings) -> OpenedImage:
    if "scales" not in info:
        raise VolumeError(f"{store.address('info')} does not describe a precomputed volume")
    check_levels(info["scales"])
    spacing, sources = [], []
    for index, scale in enumerate(info["scales"]):
        spec = {"driver": "neuroglancer_precomputed", "scale_index": index}

        def view(array: ts.TensorStore) -> ts.TensorStore:
            array = array[ts.d["x", "y", "z"].translate_to[0]]
            array = _channel(store.url, array, 3, settings.channel)
            return array[ts.d["z", "y", "x"].transpose[:]]

        grid = precomputed_grid(info, index)
        naming = _naming(store, grid)
        axes = ([2, 1, 0], {3: settings.channel})
        sources.append(
            FetchedChunks(store, (grid, naming), spec, view, axes, settings.fill_missing)
        )
        spacing.append([r / 1e3 for r in scale["resolution"][::-1]])
    image = _pyramid(store.url, sources, spacing, settings)
    image.is_segmentation = info.get("type") == "segmentation"
    return image


def _source(store: Store, how: tuple[ChunkGrid, dict], view, axes: tuple) -> Any:
    """A level of Zarr as tensorstore opens it, or read through the real names of its chunks."""
    grid, spec = how
    naming = _naming(store, grid)
    if naming != grid.naming:
        return FetchedChunks(store, (grid, naming), spec, view, axes)
    return view(_open(store, spec | {"kvstore": store.kvstore(grid.folder)}))


def _naming(store: Store, grid: ChunkGrid) -> Naming:
    """How the chunks of a level are named, with a warning where the metadata say otherwise."""
    naming = find_naming(store, grid) or grid.naming
    if naming != grid.naming:
        logger.warning(
            "%s: the names of its chunks differ from those in its metadata; they are like %s",
            store.url, grid.name((0,) * len(grid.shape), naming),
        )  # fmt: skip
    return naming


def _pyramid(
    name: str, sources: list, spacing: list[list[float]], settings: ImageSettings
) -> OpenedImage:
    """The image with frames of its levels: outer faces coincide, whatever offsets a writer gave."""
    first = spacing[0] if all(math.isfinite(s) for s in spacing[0]) else None
    asked, orientation = settings.spacing_um, settings.orientation
    known: tuple[float, float, float] | None = asked or (None if first is None else tuple(first))
    size, _, orientation = _asked(name, replace(settings, spacing_um=known), first)
    frames = []
    shapes = [source.shape for source in sources]
    for array, ratio in zip(sources, _ratios(name, shapes, spacing, believed=asked is None)):
        scaled = [s * r for s, r in zip(size, ratio)]
        origin = [(c - s) / 2 for c, s in zip(scaled, size)]
        frames.append(Frame(array.shape, tuple(scaled), tuple(origin), orientation))
    return OpenedImage(name, frames, sources)


def _ratios(
    name: str,
    shapes: Sequence[Sequence[int]],
    spacing: Sequence[Sequence[float]],
    *,
    believed: bool,
) -> list[list[float]]:
    """Voxel size of every level over that of the first one, along (z, y, x).

    All levels cover the same field of view, but for the rounding of their sizes. With ``believed``
    false, sizes count where the metadata contradict them, as they do where these state no size.
    """
    found: list[list[float]] = []
    for level, (shape, own) in enumerate(zip(shapes, spacing)):
        by_size = [_whole(n / m) for n, m in zip(shapes[0], shape)]
        ratio = [a / b if b else math.nan for a, b in zip(own, spacing[0])]
        if not all(map(math.isfinite, ratio)):
            ratio = by_size
        elif any(abs(m * r - n) > _APART * max(r, 1.0) for n, m, r in zip(shapes[0], shape, ratio)):
            if believed:
                raise VolumeError(
                    f"{name} states for level {level} voxels {_times(ratio)} times as large as "
                    f"those of level 0 (z, y, x), but it has {_times(shape)} of them where level 0 "
                    f"has {_times(shapes[0])}; correct the metadata, or set spacing_um"
                )
            ratio = by_size
        found.append(ratio)
    return found


def _whole(ratio: float) -> float:
    """A ratio of sizes without what the rounding of the smaller one changes."""
    near = round(ratio)
    return float(near) if near and abs(ratio - near) < 0.5 else ratio


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def _asked(name: str, settings: ImageSettings, found: Sequence[float] | None) -> tuple:
    """Spacing, origin and orientation from the settings, or an error that says what is needed."""
    spacing = settings.spacing_um or found
    if spacing is None:
        raise ConfigError(
            f"{name} states no voxel size; set spacing_um to three numbers (z, y, x) in micrometres"
        )
    if settings.orientation is None:
        raise ConfigError(
            f"{name} states no orientation; set orientation to three letters for its axes z, y, "
            "x, for example RIP"
        )
    return tuple(spacing), (0.0, 0.0, 0.0), settings.orientation


def _channel(name: str, array: Any, axis: int, channel: int) -> Any:
    axis %= array.ndim
    count = array.shape[axis]
    if not 0 <= channel < count:
        raise VolumeError(f"{name} has channels 0 to {count - 1}, not {channel}")
    return array[(slice(None),) * axis + (channel,)]


def _open(store: Store, spec: dict) -> ts.TensorStore:
    try:
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        return ts.open(spec, open=True, read=True, context=context).result()
    except ARRAY_ERRORS as error:
        raise outage(store.url, error) or VolumeError(
            f"{store.url} cannot be opened: {reason(error)}; check that the volume is complete"
        ) from error
