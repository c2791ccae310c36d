"""Images that others made: NIfTI, NRRD, TIFF, OME-Zarr and precomputed, as frames and voxels.

Voxels come as (z, y, x) in the order of the file. Physical positions of the file's own world are
not kept: level 0 starts at 0 um. What the file says of its orientation is used unless the caller
knows better.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import SimpleITK as sitk
import tensorstore as ts
import tifffile

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame, check_orientation
from terareg.storage.store import ARRAY_ERRORS, Store, outage
from terareg.volumes.headers import (
    NIFTI,
    NRRD,
    TIFF,
    UM_PER,
    ome_axes,
    ome_scale,
)
from terareg.volumes.nifti import NiftiLayout, nifti_stream
from terareg.volumes.reader import Levels

logger = logging.getLogger(__name__)

_ITK = (*NIFTI, *NRRD, ".mha", ".mhd")
_MOST_OBLIQUE_DEGREES = 1.0


@dataclass(frozen=True)
class ImageSettings:
    """What a file may not say of itself.

    Attributes
    ----------
    spacing_um : tuple of float, optional
        Voxel size (z, y, x), micrometres; needed for plain TIFF.
    orientation : str, optional
        Code of the array axes (z, y, x), see :mod:`terareg.core.frames`; needed where the file has
        none (TIFF, OME-Zarr, precomputed).
    channel : int
        Channel of an image with several.
    """

    spacing_um: tuple[float, float, float] | None = None
    orientation: str | None = None
    channel: int = 0


class Image(Levels):
    """A foreign image. The type's attributes are those of :class:`Levels`."""

    def __init__(self, name: str, frames: Sequence[Frame], sources: Sequence[Any]) -> None:
        self.name = name
        self.frames = tuple(frames)
        self._sources = tuple(sources)
        first = sources[0]
        self.dtype = first.dtype if isinstance(first, np.ndarray) else first.dtype.numpy_dtype
        self.is_segmentation = False

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        source = self._sources[level]
        if isinstance(source, np.ndarray):
            return np.ascontiguousarray(source[box])
        try:
            return np.ascontiguousarray(source[box].read().result())
        except ARRAY_ERRORS as error:
            raise outage(self.name, error) or VolumeError(
                f"{self.name} cannot be read: {error}"
            ) from error


def open_image(address: str, settings: ImageSettings | None = None) -> Image:
    """Open an image file, an OME-Zarr group (0.4 or 0.5) or a precomputed volume.

    Parameters
    ----------
    address : str
        Path, or ``s3://`` address for OME-Zarr and precomputed.
    settings : ImageSettings, optional

    Returns
    -------
    Image
        NIfTI, NRRD, MetaImage and TIFF files are held in memory; OME-Zarr and precomputed
        volumes are read box by box.

    Raises
    ------
    VolumeError
        If there is nothing of a known form at ``address``, or not one three-dimensional image.
    ConfigError
        If voxel size or orientation is unknown.
    """
    settings = settings or ImageSettings()
    address = str(address).removeprefix("precomputed://").removeprefix("zarr://").rstrip("/")
    lower = address.lower()
    if lower.endswith(_ITK):
        return _open_itk(address, settings)
    if lower.endswith(TIFF):
        return _open_tiff(address, settings)
    store = Store(address)
    for name, opener in (
        ("zarr.json", _open_ome_zarr),
        (".zattrs", _open_ome_zarr),
        ("info", _open_precomputed),
    ):
        try:
            metadata = json.loads(store.read(name))
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            raise VolumeError(f"{store.address(name)} cannot be read: {error}") from error
        return opener(store, metadata, settings)
    raise VolumeError(
        f"{address} is no image that terareg reads; give a NIfTI, NRRD or TIFF file, or the "
        "folder of an OME-Zarr or precomputed volume"
    )


def _open_itk(path: str, settings: ImageSettings) -> Image:
    image = sitk.ImageFileReader()
    image.SetFileName(path)
    try:
        image.ReadImageInformation()
        if image.GetDimension() != 3:
            raise VolumeError(
                f"{path} has {image.GetDimension()} dimensions; give one volume of three"
            )
        array = nifti_voxels(path) if path.lower().endswith(NIFTI) else None
        if array is None:
            array = sitk.GetArrayFromImage(image.Execute())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise VolumeError(f"{path} cannot be read: {reason}") from error
    if image.GetNumberOfComponents() > 1:
        array = np.ascontiguousarray(_channel(path, array, -1, settings.channel))
    found = _orientation_of(path, np.array(image.GetDirection()).reshape(3, 3))
    orientation = settings.orientation or found
    if check_orientation(orientation) != found:
        logger.warning(
            "%s says that it is oriented %s; %s is used as configured", path, found, orientation
        )
    spacing = settings.spacing_um or tuple(s * 1e3 for s in image.GetSpacing()[::-1])
    return Image(path, [Frame(array.shape, spacing, orientation=orientation)], [array])


def nifti_voxels(path: str) -> np.ndarray | None:
    """Voxels of a NIfTI-1 file, (z, y, x); None where they are not plain numbers.

    ITK reads a file that was cut off without an error, and turns what is not finite into zeros.
    """
    try:
        with open(path, "rb") as file:
            stream = nifti_stream(file, path)
            layout = NiftiLayout.of(stream.read(348))
            if layout is None or layout.dtype is None:
                return None
            dtype = np.dtype(layout.dtype).newbyteorder(layout.order)  # type: ignore[arg-type]
            wanted = math.prod(layout.shape) * dtype.itemsize
            stream.seek(layout.offset)
            data = stream.read(wanted)
            stream.read()  # the end of a compressed file has its checksum
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise VolumeError(f"{path} cannot be read ({error}); copy it again") from error
    if len(data) != wanted:
        raise VolumeError(
            f"{path} cannot be read: it has {len(data)} bytes of voxels instead of {wanted}; copy "
            "it again"
        )
    array = np.frombuffer(data, dtype).reshape(layout.shape)
    if layout.scaled:
        return array * np.float64(layout.slope) + np.float64(layout.intercept)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _orientation_of(path: str, direction: np.ndarray) -> str:
    """Code of the array axes from ITK's direction: columns are image axes in L, P, S."""
    letters, used = "", set()
    for axis in (2, 1, 0):
        vector = direction[:, axis] / np.linalg.norm(direction[:, axis])
        main = int(np.argmax(np.abs(vector)))
        angle = math.degrees(math.acos(min(1.0, abs(vector[main]))))
        if angle > _MOST_OBLIQUE_DEGREES:
            logger.warning("%s: an axis is %.0f degrees oblique; its main direction counts",
                           path, angle)  # fmt: skip
        used.add(main)
        letters += ("LPS" if vector[main] > 0 else "RAI")[main]
    if len(used) != 3:
        raise VolumeError(f"{path} is rotated by 45 degrees or more; resample it to its axes first")
    return letters


def _open_tiff(path: str, settings: ImageSettings) -> Image:
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            array, axes = series.asarray(), series.axes
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise VolumeError(f"{path} cannot be read: {error}") from error
    axes = "".join(a if a in "ZYXCST" else "Z" for a in axes)
    if "Z" not in axes and axes.count("T") == 1:
        axes = axes.replace("T", "Z")
    for name in "CST":
        if name in axes:
            which = settings.channel if name in "CS" else 0
            array = _channel(path, array, axes.index(name), which)
            axes = axes.replace(name, "", 1)
    if axes == "YX":
        array = array[None]
    elif sorted(axes) != ["X", "Y", "Z"]:
        raise VolumeError(f"{path} has axes {series.axes}; give one volume of three dimensions")
    else:
        array = array.transpose([axes.index(a) for a in "ZYX"])
    frame = Frame(array.shape, *_asked(path, settings, None))
    return Image(path, [frame], [np.ascontiguousarray(array)])


def _open_ome_zarr(store: Store, metadata: dict, settings: ImageSettings) -> Image:
    attributes = metadata.get("attributes", metadata) if "zarr_format" in metadata else metadata
    ome = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        raise VolumeError(f"{store.url} is a Zarr group without an OME-Zarr image in it")
    image = ome["multiscales"][0]
    driver = "zarr3" if "zarr_format" in metadata else "zarr"
    axes, units = ome_axes(image)
    spacing, sources = [], []
    for dataset in image["datasets"]:
        scale = ome_scale(image, dataset, len(axes)) or [1.0] * len(axes)
        array = _open(store, {"driver": driver, "kvstore": store.kvstore(dataset["path"])})
        for name in reversed(axes):
            if name not in "zyx":
                which = settings.channel if name == "c" else 0
                array = _channel(store.url, array, axes.index(name), which)
        kept = [a for a in axes if a in "zyx"]
        if sorted(kept) != ["x", "y", "z"]:
            raise VolumeError(f"{store.url} has axes {axes}; give one volume of three dimensions")
        sources.append(array[ts.d[[kept.index(a) for a in "zyx"]].transpose[:]])
        factors = [UM_PER.get(units.get(a) or "micrometer", math.nan) for a in "zyx"]
        spacing.append([scale[axes.index(a)] * f for a, f in zip("zyx", factors)])
    return _pyramid(store.url, sources, spacing, settings)


def _open_precomputed(store: Store, info: dict, settings: ImageSettings) -> Image:
    if "scales" not in info:
        raise VolumeError(f"{store.address('info')} describes no precomputed volume")
    address = store.kvstore("x")
    address["path"] = str(PurePosixPath(address["path"]).parent) + "/"
    spacing, sources = [], []
    for index, scale in enumerate(info["scales"]):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": address, "scale_index": index}
        array = _open(store, spec)
        array = array[ts.d["x", "y", "z"].translate_to[0]]
        array = _channel(store.url, array, 3, settings.channel)
        sources.append(array[ts.d["z", "y", "x"].transpose[:]])
        spacing.append([r / 1e3 for r in scale["resolution"][::-1]])
    image = _pyramid(store.url, sources, spacing, settings)
    image.is_segmentation = info.get("type") == "segmentation"
    return image


def _pyramid(
    name: str, sources: list, spacing: list[list[float]], settings: ImageSettings
) -> Image:
    """Frames of levels: their outer faces coincide, whatever offset a writer gave the centres."""
    first = spacing[0] if all(math.isfinite(s) for s in spacing[0]) else None
    asked, orientation = settings.spacing_um, settings.orientation
    known: tuple[float, float, float] | None = asked or (None if first is None else tuple(first))
    size, _, orientation = _asked(name, replace(settings, spacing_um=known), first)
    frames = []
    for array, level in zip(sources, spacing):
        ratio = [a / b for a, b in zip(level, spacing[0])]
        scaled = [s * r for s, r in zip(size, ratio)]
        origin = [(c - s) / 2 for c, s in zip(scaled, size)]
        frames.append(Frame(array.shape, tuple(scaled), tuple(origin), orientation))
    return Image(name, frames, sources)


def _asked(name: str, settings: ImageSettings, found: Sequence[float] | None) -> tuple:
    """Spacing, origin and orientation from the settings, or an error that says what is needed."""
    spacing = settings.spacing_um or found
    if spacing is None:
        raise ConfigError(
            f"{name} does not say how large its voxels are; set spacing_um to three numbers "
            "(z, y, x) in micrometres"
        )
    if settings.orientation is None:
        raise ConfigError(
            f"{name} does not say how it is oriented; set orientation to three letters for its "
            "axes z, y, x, for example RIP"
        )
    return tuple(spacing), (0.0, 0.0, 0.0), settings.orientation


def _channel(name: str, array: Any, axis: int, channel: int) -> Any:
    axis %= array.ndim
    count = array.shape[axis]
    if not 0 <= channel < count:
        raise VolumeError(f"{name} has channels 0 to {count - 1}, there is no channel {channel}")
    return array[(slice(None),) * axis + (channel,)]


def _open(store: Store, spec: dict) -> ts.TensorStore:
    try:
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        return ts.open(spec, open=True, read=True, context=context).result()
    except ARRAY_ERRORS as error:
        raise outage(store.url, error) or VolumeError(
            f"{store.url} cannot be opened: {error}"
        ) from error
