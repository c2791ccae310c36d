"""What image files state: shape, voxel size, type (standard library only).

The workflow sizes its jobs while it is being loaded, when no numeric package may be imported. Only
headers are read: a few hundred bytes of NIfTI and NRRD, the directory of TIFF, the metadata of
OME-Zarr and precomputed. Voxels are read by :mod:`terareg.volumes.images`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from terareg.core.errors import ConfigError, TeraregError, VolumeError, few
from terareg.storage.foreign import (
    DEFLATE_RATIO,
    boundary,
    short,
)
from terareg.storage.part_arrays import missing_package
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile
from terareg.storage.web import beside, is_web, store_at
from terareg.volumes.chunks import ChunkGrid, find_naming, look_for, precomputed_grid, zarr_grid
from terareg.volumes.imaris import read_imaris
from terareg.volumes.meta_image import (
    META_IMAGE,
    check_layout,
    detached_files,
    meta_layout,
)
from terareg.volumes.nifti import NiftiLayout, nifti_grid, nifti_stream, shear_degrees
from terareg.volumes.nrrd import check_data, read_nrrd_header
from terareg.volumes.ome_metadata import (
    UM_PER,
    check_levels,
    check_names,
    check_other_axes,
    ome_axes,
    ome_orientation,
    ome_scale,
    read_json_object,
    size_of,
    um_factors,
    unknown_unit,
    zarr_type,
)
from terareg.volumes.plane_series import PlaneSeries, plane_names, read_series
from terareg.volumes.plates import Box, is_plate, read_plate
from terareg.volumes.tiff_stack import companions_of, read_stack

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
TIFF = (".tif", ".tiff", ".btf")
IMARIS = (".ims",)
#: form of a folder of planes
SERIES = "series of planes"
#: form of the wells of a plate, side by side
PLATE = "OME-Zarr plate"
#: forms of files whose planes are read one by one; Imaris is read in chunks
FILE_FORMS = ("NIfTI", "NRRD", "TIFF", "MetaImage")
#: planes of a file on S3 or the web that are read at the same time
PLANES_AT_ONCE = 4
#: files that describe a volume in a folder, any one of them
VOLUME_FILES = ("zarr.json", ".zattrs", "info")
#: voxel sizes outside this range, and volumes longer than this, are taken for a wrong unit
VOXEL_RANGE_UM = (0.05, 5_000.0)
LONGEST_UM = 500_000.0
#: factor by which a sample may be longer or shorter than an atlas
MOST_APART = 25.0
_MOST_VOXELS = 1 << 44
_SITES_WATCHED = 8  # of a plate on the web
_STORED = ("uint8", "uint16", "float32")
_SPACING_REMEDY = "set input.spacing_um to [z, y, x] in micrometres"


@dataclass(frozen=True)
class Header:
    """What an image states.

    Attributes
    ----------
    name : str
        Address, for messages.
    form : str
        "NIfTI", "NRRD", "TIFF", "Imaris", "OME-Zarr", "precomputed", :data:`SERIES` or
        :data:`PLATE`.
    shape : tuple of int
        Voxels along (z, y, x).
    dtype : str
        NumPy name of the voxels' type as they are read ("float64" where a NIfTI file scales its
        values).
    spacing_um : tuple of float or None
        Voxel size (z, y, x); None if the image does not state it.
    orientation : str or None
        Code of the axes (z, y, x), see :mod:`terareg.core.frames`; trusted only from NIfTI files
        with a form code, and from OME-Zarr whose axes say it.
    channels : int
        Number of channels that an image file holds.
    channel_names : tuple of str
        Their names, where the file has any.
    unit : str or None
        Unit of the voxel size in the header, and whether that was only inferred from its magnitude.
    is_segmentation : bool
        Whether the metadata of a volume say that its voxels are labels.
    is_palette : bool
        Whether the voxels are numbers of colours, of which higher ones are not brighter.
    others : tuple of str
        Names of further images that the metadata of an OME-Zarr volume list, which are not read.
    origin_um, direction : tuple of float or None
        For NIfTI and NRRD files: centre of the first voxel in world coordinates (left, posterior,
        superior, as in ITK), and the unit vectors of the axes x, y and z, one after the other.
    outlines : tuple of (str, box)
        Wells and sites of a plate, see :class:`terareg.volumes.plates.Plate`.
    is_stream : bool
        Whether the voxels of an NIfTI or NRRD file are compressed as one, so that those at the end
        are reached through all others.
    is_apart : bool
        Whether planes of a TIFF file or folder are decoded by themselves, because they are
        compressed, have several numbers in a pixel, or lie in several files.
    """

    name: str
    form: str
    shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float, float] | None = None
    orientation: str | None = None
    channels: int = 1
    unit: str | None = None
    origin_um: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    is_segmentation: bool = False
    channel_names: tuple[str, ...] = ()
    is_palette: bool = False
    others: tuple[str, ...] = ()
    outlines: tuple[tuple[str, Box], ...] = ()
    is_stream: bool = False
    is_apart: bool = False

    @property
    def stored_dtype(self) -> str:
        """Type in which a volume stores the voxels: their own if possible, else "float32"."""
        return self.dtype if self.dtype in _STORED else "float32"

    @property
    def held_bytes(self) -> int:
        """Bytes that a reader of boxes holds besides them: planes of a file, none of a volume."""
        if self.form not in (*FILE_FORMS, SERIES):
            return 0
        planes = PLANES_AT_ONCE if "://" in self.name else 1
        return planes * self.whole_bytes // self.shape[0]

    @property
    def passed_bytes(self) -> int:
        """Bytes that a reader decompresses to reach its own."""
        return self.whole_bytes // 2 if self.is_stream else 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that a reader of all boxes keeps in a temporary file: one channel, decoded."""
        if not (self.is_stream or self.is_apart):
            return 0
        return self.whole_bytes // (1 + self.channels)

    @property
    def whole_bytes(self) -> int:
        """Bytes of a file that is read whole: its own copy of all channels, and an array of one."""
        one = math.prod(self.shape) * int(re.sub(r"\D", "", self.dtype)) // 8
        return one * (1 + self.channels)


def read_header(address: str, spacing_um: Sequence[float] | None = None) -> Header:
    """Header of an image file, or of the folder of an OME-Zarr or precomputed volume.

    Parameters
    ----------
    address : str
        Path, ``s3://`` or ``https://`` address.
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x) from the user, micrometres. If given, everything that the header says
        of the grid is ignored: voxel size and orientation.

    Raises
    ------
    VolumeError
        If there is nothing at ``address``, or nothing of a known form, or not exactly one
        three-dimensional volume.
    ConfigError
        If the voxel size is unknown, ambiguous or implausible.
    """
    header = describe_image(address, believed=spacing_um is None)
    name = header.name
    # wells of a plate are often one plane
    if min(header.shape[1:] if header.form == PLATE else header.shape) < 2:
        raise VolumeError(
            f"{name} has shape {header.shape} (z, y, x), which is not a volume; give one image "
            "with three dimensions"
        )
    if spacing_um is not None:
        header = replace(header, spacing_um=tuple(float(s) for s in spacing_um), orientation=None)
    if header.spacing_um is None:
        states = f"its voxel size in {short(header.unit)}" if header.unit else "no voxel size"
        raise ConfigError(f"{name} states {states}; {_SPACING_REMEDY}")
    check_plausible(header.shape, header.spacing_um, name)
    return header


def describe_image(address: str, *, believed: bool = True) -> Header:
    """As :func:`read_header`, but without checking sizes.

    With ``believed`` false, everything that the header says of the grid is ignored.
    """
    address = str(address).rstrip("/")
    form = image_form(address)
    if form is None:
        series = find_series(address)
        if series is not None:
            return Header(address, SERIES, series.shape, series.dtype, is_apart=not series.plain)
        return _volume_header(address)
    store, name = beside(address)
    if store.entry(name) is None:
        state = "is not a file" if _is_there(store, address) else "does not exist"
        otherwise = ", or make it public" if is_web(address) else ""
        raise VolumeError(f"{address} {state}; correct the path{otherwise}")
    if form == "Imaris":
        return _imaris(store, name, address, believed=believed)
    reader = {"NIfTI": _nifti, "NRRD": _nrrd, "TIFF": _tiff, "MetaImage": _meta}[form]
    with boundary(address, VolumeError, "check that the file is complete", form):
        with ObjectFile(store, name, ranged=True) as file:
            return reader(_Source(store, name, file, address), believed=believed)


def find_series(address: str) -> PlaneSeries | None:
    """The planes in a folder, local or on S3, that has no volume; None if there are none.

    Raises
    ------
    VolumeError
        If the planes are no series, see :func:`terareg.volumes.plane_series.read_series`.
    """
    if is_web(address) or image_form(address) is not None:
        return None
    if "://" not in address and not os.path.isdir(address):
        return None
    store = store_at(address)
    if any(store.exists(name) for name in VOLUME_FILES):
        return None
    names = plane_names(store)
    return read_series(store, names) if names else None


def _is_there(store: Store, address: str) -> bool:
    return store.is_local and os.path.lexists(address)


def check_plausible(
    shape: Sequence[int],
    spacing_um: Sequence[float],
    name: str,
    error: type[TeraregError] = ConfigError,
    remedy: str = _SPACING_REMEDY,
) -> None:
    """Raise if voxels or a whole volume have an impossible size, which means a wrong unit."""
    low, high = VOXEL_RANGE_UM
    if len(spacing_um) != 3 or not all(low <= s <= high for s in spacing_um):
        raise error(
            f"{name} has voxels of {_list(spacing_um)} um (z, y, x), which is implausible "
            f"(outside {low:g} to {high:g} um); {remedy}"
        )
    extent = [n * s for n, s in zip(shape, spacing_um)]
    if max(extent) > LONGEST_UM or math.prod(shape) > _MOST_VOXELS:
        raise error(
            f"{name} has {' x '.join(map(str, shape))} voxels of {_list(spacing_um)} um (z, y, x) "
            f"and would be {max(extent) / 1e6:.3g} m long, which is implausible; {remedy}"
        )


def check_extents(
    sample: tuple[Sequence[int], Sequence[float]],
    atlas: tuple[Sequence[int], Sequence[float]],
    names: tuple[str, str],
) -> None:
    """Raise if sample and atlas differ so much in size that one must have a wrong unit.

    Parameters
    ----------
    sample, atlas : (shape, spacing_um)
        Voxels and their sizes along (z, y, x).
    names : (str, str)
        Of sample and atlas.

    Raises
    ------
    ConfigError
        If the longest side of one is more than 25 times that of the other. A part of a brain, or an
        expanded or shrunken one, stays within this factor.
    """
    own, other = (max(n * s for n, s in zip(*grid)) for grid in (sample, atlas))
    if not 1 / MOST_APART <= own / other <= MOST_APART:
        raise ConfigError(
            f"sample {names[0]} is {own / 1e3:.4g} mm long but atlas {names[1]} {other / 1e3:.4g} "
            "mm, so they cannot be brains of one species; correct input.spacing_um or "
            f"atlases.{names[1]}.spacing_um (micrometres, z, y, x)"
        )


def check_channels(headers: Mapping[str, Header], orientation: str) -> None:
    """Raise unless the channels of a sample can be read and share a grid of this orientation.

    Raises
    ------
    VolumeError
        If two channels differ in shape or voxel size.
    ConfigError
        If a header states another orientation.
    """
    (first_name, first), *others = headers.items()
    for name, header in others:
        if header.shape != first.shape:
            raise VolumeError(
                f"channel {name} has shape {header.shape} (z, y, x) but channel {first_name} has "
                f"{first.shape}; give channels on one grid"
            )
        own, wanted = header.spacing_um or (), first.spacing_um or ()
        if any(abs(a / b - 1) > 1e-3 for a, b in zip(own, wanted, strict=True)):
            raise VolumeError(
                f"channel {name} has voxels of {_list(own)} um (z, y, x) but channel "
                f"{first_name} of {_list(wanted)} um; give channels on one grid, or "
                f"{_SPACING_REMEDY}"
            )
    for header in headers.values():
        if header.orientation not in (None, orientation.upper()):
            raise ConfigError(
                f"{header.name} has orientation {header.orientation} (z, y, x; in order x, y, z: "
                f"{header.orientation[::-1]}) in its header, not {orientation}; correct "
                "input.orientation, or set input.spacing_um to overrule the header"
            )


def check_channel(header: Header, name: str, stated: int | None) -> None:
    """Raise :class:`VolumeError` unless it is an image and clear which of its channels is meant.

    Parameters
    ----------
    header : Header
    name : str
        Of the channel in the configuration.
    stated : int or None
        Its number in the image, if the user gives one.
    """
    if header.is_segmentation:
        raise VolumeError(
            f"{header.name} is a segmentation according to its header, but input.channels.{name} "
            "needs an image, whose values are brightness; give the image from which it was made"
        )
    if header.is_palette:
        raise VolumeError(
            f"{header.name} contains numbers of colours (a palette), not brightness; save the "
            "image in grey values, in Fiji with Image, Lookup Tables, Grays if its numbers are "
            f"brightness, and give that as input.channels.{name}"
        )
    if stated is None and header.channels == 1:
        return
    if stated is None:
        names = f" ({', '.join(header.channel_names)})" if header.channel_names else ""
        raise VolumeError(
            f"{header.name} contains {header.channels} channels{names}; set input.channels.{name} "
            f"to {{path: {header.name}, channel: N}} with a number from 0 to {header.channels - 1}"
        )
    if stated >= header.channels:
        raise VolumeError(
            f"{header.name} has channels 0 to {header.channels - 1}, not {stated}; correct "
            f"input.channels.{name}.channel"
        )


def first_of_several(header: Header) -> str:
    """What is done if an OME-Zarr volume lists further images."""
    return (
        f"its metadata list {len(header.others) + 1} images (multiscales), of which the first is "
        f"read and {few(header.others)} ignored"
    )


def image_state(address: str) -> str:
    """Digest of names, sizes and change stamps of the files that an image consists of.

    The web lists nothing: of a volume there it is the digest of the metadata, and of the sizes and
    stamps of chunks in all parts of the finest level.
    """
    store, name = _store_and_name(address)
    digest = hashlib.sha256()
    if name is not None:
        for file in _parts(store, name, address):
            entry = store.entry(file)
            if entry is None:
                raise VolumeError(f"{store.address(file)} does not exist; correct the path")
            digest.update(f"{file}\t{entry.size}\t{entry.stamp}\n".encode())
    elif is_web(address):
        file, metadata = read_metadata(address, store)
        digest.update(json.dumps([file, metadata], sort_keys=True).encode())
        with boundary(f"{address}: its metadata", VolumeError, "check that the volume is complete"):
            grids = chunk_grids(store)
            for grid in grids[:: -(-len(grids) // _SITES_WATCHED)]:
                for entry in look_for(store, grid, find_naming(store, grid) or grid.naming):
                    digest.update(f"{entry.key}\t{entry.size}\t{entry.stamp}\n".encode())
    else:
        for entry in store.list():
            digest.update(f"{entry.key}\t{entry.size}\t{entry.stamp}\n".encode())
    return digest.hexdigest()


def image_files(address: str) -> list[str]:
    """Local files that represent an image: a file and its companions, or a volume's metadata."""
    store, name = _store_and_name(address)
    if not store.is_local:
        return []
    if name is not None:
        others = _parts(store, name, address)[1:]
        return [address, *(str(store.path(other)) for other in others)]
    return [str(store.path(n)) for n in VOLUME_FILES if store.exists(n)][:1]


def data_files(path: str) -> list[str]:
    """Other local files that an image file needs: data of detached headers, sets of TIFF files.

    Errors of the file are left to those who read it.
    """
    if "://" in path or not os.path.isfile(path):
        return []
    try:
        with boundary(path, VolumeError, "check that the file is complete"):
            if path.lower().endswith(META_IMAGE):
                return [str(file) for file in detached_files(path)]
            return image_files(path)[1:] if image_form(path) else []
    except VolumeError:
        return []


def _parts(store: Store, name: str, address: str) -> list[str]:
    """Files that an image file consists of: itself, then its companions."""
    found = []
    with boundary(address, VolumeError, "check that the file is complete"):
        if image_form(address) == "TIFF":
            found = companions_of(store, name)
        elif image_form(address) == "MetaImage":
            layout = meta_layout(store, name)
            found = [layout.file] if layout is not None and layout.file != name else []
        elif image_form(address) == "NRRD":
            with ObjectFile(store, name, ranged=True) as file:
                found = list(read_nrrd_header(file).files)
    return [name, *found]


def _store_and_name(address: str) -> tuple[Store, str | None]:
    if image_form(address) is None:
        return store_at(address), None
    return beside(address)


def image_form(address: str) -> str | None:
    """Form of an image file from the end of its name; None for the folder of a volume."""
    lower = address.lower()
    for form, endings in zip((*FILE_FORMS, "Imaris"), (NIFTI, NRRD, TIFF, META_IMAGE, IMARIS)):
        if lower.endswith(endings):
            return form
    return None


@dataclass(frozen=True)
class _Source:
    """An open image file and its name."""

    store: Store
    key: str
    file: ObjectFile
    name: str


# ---------------------------------------------------------------------- NIfTI
def _nifti(source: _Source, *, believed: bool) -> Header:
    name, size = source.name, source.file.size
    data = nifti_stream(source.file, name).read(348)
    layout = NiftiLayout.of(data)
    if layout is None:
        raise ValueError("not NIfTI-1; convert it to NIfTI-1 or NRRD")
    count = layout.dim[0]
    while count > 3 and layout.dim[count] == 1:
        count -= 1
    sizes = layout.dim[1 : count + 1]
    if count != 3:
        raise ValueError(f"{count} dimensions {sizes}; give one volume with three")
    if min(sizes) < 1:
        raise ValueError(f"its sizes are {sizes}")
    if layout.dtype is None:
        raise ValueError(f"voxel type {layout.code}; give integers or floating-point numbers")
    wanted = layout.offset + layout.voxel_bytes
    room = size * DEFLATE_RATIO if name.lower().endswith(".gz") else size
    if room < wanted:
        raise ValueError(
            f"its sizes {sizes} need {wanted} bytes, too many for a file of {size} bytes"
        )
    if room == size and size - wanted >= layout.voxel_bytes // sizes[2]:
        raise ValueError(f"its sizes {sizes} need {wanted} bytes but it has {size}")
    dtype = "float64" if layout.scaled else layout.dtype
    header = Header(
        name, "NIfTI", layout.shape, dtype, channels=layout.samples,
        is_segmentation=layout.is_labels, is_stream=name.lower().endswith(".gz"),
    )  # fmt: skip
    if not believed:
        return header
    grid = nifti_grid(data, layout.order)
    if grid.contradiction:
        raise ConfigError(f"{name} contradicts itself: {grid.contradiction}; {_SPACING_REMEDY}")
    header = replace(header, orientation=grid.orientation)
    return on_grid(header, grid.spacing, grid.unit, (grid.origin, grid.direction))


# ---------------------------------------------------------------------- NRRD
def _nrrd(source: _Source, *, believed: bool) -> Header:
    header = read_nrrd_header(source.file)
    check_data(header, source.store.size, source.file.size)
    channels = math.prod(header.sizes) // math.prod(header.shape)
    found = Header(
        source.name, "NRRD", header.shape, header.dtype, channels=channels,
        is_stream=header.encoding not in ("raw", "text"),
    )  # fmt: skip
    if not believed or header.spacing is None:
        return found
    if header.contradiction:
        raise ConfigError(
            f"{source.name} contradicts itself: {header.contradiction}; {_SPACING_REMEDY}"
        )
    return on_grid(found, header.spacing, header.unit, (header.origin, header.direction))


def nrrd_orientation(address: str) -> str | None:
    """Code of the axes (z, y, x) in the header of an NRRD file, which is often wrong."""
    store, name = beside(address)
    with boundary(address, VolumeError, "check that the file is complete"):
        with ObjectFile(store, name, ranged=True) as file:
            return read_nrrd_header(file).orientation


# ---------------------------------------------------------------------- MetaImage
def _meta(source: _Source, *, believed: bool) -> Header:
    """Header of a MetaImage; which way its axes point is often wrong, and so is not told."""
    layout = meta_layout(source.store, source.key)
    if layout is None:
        raise ValueError("its voxels are text or of an unusual type; write them as binary numbers")
    check_layout(layout, source.store.size(layout.file))
    header = Header(
        source.name, "MetaImage", layout.shape, layout.dtype, channels=layout.samples,
        is_stream=layout.compressed,
    )  # fmt: skip
    if not believed or layout.spacing is None:
        return header
    axes = [list((layout.direction or ())[first : first + 3]) for first in (0, 3, 6)]
    if shear := shear_degrees(axes):
        raise ConfigError(
            f"{source.name} contradicts itself: its axes are sheared by {shear:.1f} degrees; "
            f"{_SPACING_REMEDY}"
        )
    return on_grid(header, layout.spacing[::-1], None, (layout.origin, layout.direction))


# ---------------------------------------------------------------------- TIFF
def _tiff(source: _Source, *, believed: bool) -> Header:
    """Header of a TIFF file, without voxel size: what TIFF files say of it is rarely true."""
    stack = read_stack(source.store, source.key, source.file)
    kind, planes = stack.kind, stack.planes
    shape = (planes.depth, *kind.shape)
    return Header(
        source.name, "TIFF", shape, kind.dtype, channels=planes.channels * kind.samples,
        is_palette=kind.is_palette,
        is_apart=any(stack.starts_of(channel) is None for channel in range(planes.channels)),
    )  # fmt: skip


# ---------------------------------------------------------------------- Imaris
def _imaris(store: Store, name: str, address: str, *, believed: bool) -> Header:
    with boundary(address, VolumeError, "check that the file is complete", "Imaris"):
        try:
            image = read_imaris(store, name)
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
    header = Header(
        address, "Imaris", image.shapes[0], image.dtype, channels=len(image.channels),
        channel_names=image.channels,
    )  # fmt: skip
    if not believed or image.spacing is None:
        return header
    corner = None if image.corner is None else image.corner[::-1]
    return on_grid(header, image.spacing, image.unit.lower() or None, (corner, None))


# ---------------------------------------------------------------------- volumes in folders
def read_metadata(address: str, store: Store) -> tuple[str, dict]:
    """Name and content of the file that describes a volume in a folder.

    Raises
    ------
    VolumeError
        If there is none, or it cannot be read.
    """
    for name in VOLUME_FILES:
        try:
            metadata = read_json_object(store, name)
        except (FileNotFoundError, IsADirectoryError):
            continue
        if not isinstance(metadata, dict):
            raise VolumeError(
                f"{store.address(name)} contains {short(metadata)}; give the metadata of a volume"
            )
        return name, metadata
    if is_web(store.url):
        raise VolumeError(
            f"{address} does not exist; correct the path, or make it public (folders of planes "
            "cannot be read from the web, which lists no files)"
        )
    if store.is_local and not os.path.exists(address):
        raise VolumeError(f"{address} does not exist; correct the path")
    raise VolumeError(
        f"{address} is not an image that terareg can read; give a NIfTI, NRRD, MetaImage, "
        "TIFF or Imaris file, or the folder of an OME-Zarr or precomputed volume or of TIFF or PNG "
        "planes"
    )


def _volume_header(address: str) -> Header:
    store = store_at(address)
    name, metadata = read_metadata(address, store)
    if is_plate(metadata):
        return _plate_header(store, metadata)
    reader = _precomputed if name == "info" else _ome_zarr
    remedy = "give an OME-Zarr or precomputed volume with complete metadata"
    with boundary(f"{address}: its metadata", VolumeError, remedy):
        header, grid = reader(store, metadata)
        naming = find_naming(store, grid)
    if naming is None and is_web(address):
        raise VolumeError(
            f"{address} has no chunk at {len(grid.spread())} places spread over {grid.folder}, "
            "where its voxels are according to its metadata; copy them there, or, if nearly all of "
            "it is black, give it in a folder or on s3://"
        )
    if naming is None:
        raise VolumeError(
            f"{address} has no chunk under {grid.folder}, where its voxels are according to its "
            "metadata; copy them, or correct the metadata"
        )
    return header


def chunk_grids(store: Store) -> list[ChunkGrid]:
    """Chunks of the finest level of a volume in a folder; of a plate, those of every site."""
    name, metadata = read_metadata(store.url, store)
    if is_plate(metadata):
        sites = (site for site, _ in read_plate(store, metadata).sites)
        return [zarr_grid(site.path, site.array, third=site.third) for site in sites]
    return [(_precomputed if name == "info" else _ome_zarr)(store, metadata)[1]]


def _plate_header(store: Store, metadata: Mapping[str, Any]) -> Header:
    remedy = "give a plate with complete metadata"
    with boundary(f"{store.url}: its metadata", VolumeError, remedy):
        plate = read_plate(store, metadata)
        site = plate.first
        grid = zarr_grid(site.path, site.array, third=site.third)
        if find_naming(store, grid) is None:
            raise VolumeError(
                f"{store.address(site.path)}, the first image of the plate, has no chunks; copy "
                "them, or take it out of the metadata of the plate"
            )
    return Header(
        store.url, PLATE, plate.shape, site.dtype, site.spacing_um, channels=site.channels,
        outlines=plate.outlines,
    )  # fmt: skip


def _ome_zarr(store: Store, metadata: Mapping[str, Any]) -> tuple[Header, ChunkGrid]:
    third = "zarr_format" in metadata
    attributes = metadata.get("attributes", {}) if third else metadata
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        raise VolumeError(
            f"{store.url} is a Zarr group without an OME-Zarr image; give the group that has "
            "multiscales"
        )
    image, *others = multiscales
    axes, units = ome_axes(image)
    if not {"x", "y", "z"} <= set(axes):
        raise VolumeError(f"{store.url} has axes {axes}; give one volume with three dimensions")
    check_levels(image["datasets"])
    dataset = image["datasets"][0]
    scale = ome_scale(image, dataset, len(axes))
    scales = [ome_scale(image, each, len(axes)) for each in image["datasets"]]
    check_finest_first(store.url, [[s[axes.index(a)] for a in "zyx"] for s in scales if s])
    name = f"{dataset['path']}/{'zarr.json' if third else '.zarray'}"
    try:
        array = read_json_object(store, name)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise VolumeError(
            f"{store.address(name)} does not exist; check that the volume is complete"
        ) from error
    sizes = dict(zip(axes, array["shape"], strict=True))
    check_other_axes(store.url, sizes)
    check_names(store.url, axes, array)
    dtype = array["data_type"] if third else zarr_type(array["dtype"])
    factors = um_factors(units)
    spacing: tuple[float, float, float] | None = None
    if scale is not None and factors is not None:
        spacing = tuple(scale[axes.index(a)] * f for a, f in zip("zyx", factors))
    shape: tuple[int, int, int] = tuple(size_of(sizes[a]) for a in "zyx")
    grid = zarr_grid(str(dataset["path"]), array, third=third)
    header = Header(
        store.url,
        "OME-Zarr",
        shape,
        str(dtype),
        spacing,
        orientation=ome_orientation(image),
        channels=size_of(sizes.get("c", 1)),
        is_segmentation="image-label" in attributes.get("ome", attributes),
        unit=unknown_unit(units) if spacing is None else None,
        others=tuple(short(each.get("name") or f"number {n}") for n, each in enumerate(others, 2)),
    )
    return header, grid


def check_finest_first(name: str, sizes: Sequence[Sequence[float]]) -> None:
    """Raise :class:`VolumeError` unless level 0 has the smallest voxels, and all are above 0."""
    for level, own in enumerate(sizes):
        if not all(size > 0 for size in own):
            raise VolumeError(
                f"{name} states voxels of {_list(own)} for level {level}; correct its metadata, "
                "sizes are larger than 0"
            )
        if any(a < b * (1 - 1e-3) for a, b in zip(own, sizes[0])):
            raise VolumeError(
                f"{name} states for level {level} smaller voxels than for level 0, {_list(own)} "
                f"and {_list(sizes[0])}; list its levels from fine to coarse"
            )


def _precomputed(store: Store, info: Mapping[str, Any]) -> tuple[Header, ChunkGrid]:
    check_levels(info["scales"])
    scale = info["scales"][0]
    spacing: tuple[float, float, float] = tuple(float(r) / 1e3 for r in scale["resolution"][::-1])
    shape: tuple[int, int, int] = tuple(size_of(n) for n in scale["size"][::-1])
    channels = size_of(info.get("num_channels", 1))
    check_finest_first(store.url, [[float(r) for r in s["resolution"]] for s in info["scales"]])
    header = Header(
        store.url,
        "precomputed",
        shape,
        str(info["data_type"]),
        spacing,
        channels=channels,
        is_segmentation=info.get("type") == "segmentation",
    )
    return header, precomputed_grid(info, 0)


def level_shapes(address: str) -> list[tuple[int, int, int]]:
    """Voxels (z, y, x) of every level of an image, finest first; a file has one level."""
    address = str(address).rstrip("/")
    if image_form(address) is not None:
        if address.lower().endswith(IMARIS):
            with boundary(address, VolumeError, "check that the file is complete", "Imaris"):
                return list(read_imaris(*beside(address)).shapes)
        return [describe_image(address, believed=False).shape]
    series = find_series(address)
    if series is not None:
        return [series.shape]
    store = store_at(address)
    name, metadata = read_metadata(address, store)
    if is_plate(metadata):
        return [_plate_header(store, metadata).shape]
    with boundary(f"{address}: its metadata", VolumeError, "check that the volume is complete"):
        if name == "info":
            return [tuple(size_of(n) for n in s["size"][::-1]) for s in metadata["scales"]]
        third = "zarr_format" in metadata
        attributes = metadata.get("attributes", {}) if third else metadata
        image = attributes.get("ome", attributes)["multiscales"][0]
        axes, _ = ome_axes(image)
        shapes: list[tuple[int, int, int]] = []
        for dataset in image["datasets"]:
            array = f"{dataset['path']}/{'zarr.json' if third else '.zarray'}"
            sizes = dict(zip(axes, read_json_object(store, array)["shape"], strict=True))
            shapes.append(tuple(size_of(sizes[a]) for a in "zyx"))
        return shapes


# ---------------------------------------------------------------------- voxel size
def on_grid(header: Header, spacing: Sequence[float], unit: str | None, world: tuple) -> Header:
    """The header with a voxel size in micrometres; the file may not state the unit."""
    if unit is not None and unit not in UM_PER:
        raise ConfigError(
            f"{header.name} states its voxel size in {short(unit)}; {_SPACING_REMEDY}"
        )
    known = unit or likely_unit(spacing)
    if known is None:
        raise ConfigError(
            f"{header.name}: voxel size {_list(spacing)} (z, y, x) in its header may be "
            f"millimetres or micrometres; {_SPACING_REMEDY}"
        )
    factor, (origin, direction) = UM_PER[known], world
    return replace(
        header,
        # headers store 0.15 as float32, which reads as 0.14999999
        spacing_um=tuple(float(f"{s * factor:.6g}") for s in spacing),
        unit=known if unit else f"{known} (by magnitude)",
        origin_um=None if origin is None else tuple(v * factor for v in origin),
        direction=direction,
    )


def likely_unit(spacing: Sequence[float]) -> str | None:
    """Likely unit of a spacing without unit, "um" or "mm": no image has voxels of 5 mm or 5 nm.

    None if both are possible.
    """
    if min(spacing) >= 5:
        return "um"
    return "mm" if max(spacing) < 1 else None


def _list(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
