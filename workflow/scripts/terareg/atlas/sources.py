"""Images of an atlas as other programs wrote them, and what their headers say of the grid."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tensorstore as ts

from terareg.atlas.brainglobe import zarr_level_shape
from terareg.core.errors import AtlasError, TeraregError
from terareg.storage.foreign import boundary, check_memory
from terareg.volumes.headers import (
    VOXEL_RANGE_UM,
    check_plausible,
    describe_image,
    image_form,
    likely_unit,
)
from terareg.volumes.itk_files import read_itk
from terareg.volumes.meta_image import shear_of
from terareg.volumes.voxels import file_voxels

logger = logging.getLogger(__name__)

_KEPT_TYPES = ("uint8", "int8", "uint16", "int16", "float32")


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as read: array, and what its header says of the grid (x, y, z), if anything.

    Spacing and origin are in micrometres, and ``unit`` is the unit in which the header states them;
    None where it states none and the magnitude does not tell it either: both are then as in the
    header. World coordinates are those of ITK (left, posterior, superior).
    """

    name: str
    key: str
    array: np.ndarray
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    orientation: str | None = None


def read_image(path: str | os.PathLike, key: str, *, stated: bool = False) -> SourceImage:
    """Read an image of three dimensions.

    Parameters
    ----------
    path : path
        Image file, or the folder of a level of an OME-Zarr image (version 3 of Zarr).
    key : str
        Of the atlas's settings, for messages.
    stated : bool
        Whether the user states the voxel size: then everything that the header says of the grid is
        ignored.
    """
    path = Path(path)
    name = f"{key} {path.name}"
    remedy = f"correct atlases.NAME.{key}"
    if "\0" not in str(path) and path.is_dir():
        return _read_level(path, key, name)
    if "\0" in str(path) or not path.is_file():
        there = "\0" not in str(path) and os.path.lexists(path)
        raise AtlasError(f"{key} {path} {'is not a file' if there else 'does not exist'}; {remedy}")
    if image_form(str(path)) in (None, "MetaImage"):
        reader, array = read_itk(path, AtlasError, name)
        if reader.GetNumberOfComponents() != 1:
            raise AtlasError(f"{name} has several components per voxel; give a grey or label image")
        return _of_itk(name, key, reader, array, stated=stated)
    with boundary(name, AtlasError, remedy):
        try:
            header = describe_image(str(path), believed=not stated)
        except TeraregError as error:
            text = str(error).replace("input.spacing_um", "atlases.NAME.spacing_um")
            raise AtlasError(f"{key}: {text}") from error
        if header.form == "Imaris":
            raise AtlasError(f"{name} is an Imaris file; export it as NIfTI, NRRD or TIFF")
        if header.channels != 1:
            raise AtlasError(f"{name} has several components per voxel; give a grey or label image")
        if min(header.shape) < 2:
            raise AtlasError(
                f"{name} has shape {header.shape}; give one volume with three dimensions"
            )
        check_memory(header.whole_bytes, name, AtlasError)
        array = file_voxels(str(path), header)
    spacing = None if header.spacing_um is None else header.spacing_um[::-1]
    return SourceImage(
        name, key, array, spacing, header.unit, header.origin_um, header.direction,
        header.orientation,
    )  # fmt: skip


def _of_itk(
    name: str, key: str, reader: sitk.ImageFileReader, array: np.ndarray, *, stated: bool
) -> SourceImage:
    """An image as ITK reads it; its headers state no unit."""
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    # columns of ITK's matrix are the axes
    direction = tuple(np.array(reader.GetDirection()).reshape(3, 3).T.ravel().tolist())
    if stated:
        return SourceImage(name, key, array, spacing, None, origin, direction)
    if shear := shear_of(reader.GetDirection()):
        raise AtlasError(
            f"{name}: its axes are sheared by {shear:.1f} degrees; set atlases.NAME.spacing_um to "
            "[z, y, x] in micrometres"
        )
    unit = likely_unit(spacing)
    if unit is not None:
        factor = 1000.0 if unit == "mm" else 1.0
        spacing = tuple(float(f"{s * factor:.6g}") for s in spacing)
        origin, unit = tuple(v * factor for v in origin), f"{unit} (by magnitude)"
    return SourceImage(name, key, array, spacing, unit, origin, direction)


def _read_level(path: Path, key: str, name: str) -> SourceImage:
    remedy = f"correct atlases.NAME.{key}"
    shape = zarr_level_shape(path)
    if shape is None:
        raise AtlasError(
            f"{key} {path} is a folder but not a level of an OME-Zarr image, which has a "
            f"zarr.json of an array; {remedy}"
        )
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    with boundary(name, AtlasError, remedy):
        source = ts.open(spec).result()
        held = math.prod(shape) * source.dtype.numpy_dtype.itemsize
        check_memory(held, name, AtlasError)
        array = np.asarray(source.read().result()).reshape(shape)
    return SourceImage(name, key, array)


def check_same_grid(first: SourceImage, second: SourceImage, *, stated: bool) -> None:
    """Raise unless two images share a grid; headers are compared unless spacing was stated."""
    pair = f"{first.name} and {second.name}"
    if first.array.shape != second.array.shape:
        raise AtlasError(
            f"{pair} have different shapes, {first.array.shape} and {second.array.shape}; give "
            "both at the same resolution"
        )
    if stated or first.spacing is None or second.spacing is None:
        return
    scale = np.array(first.spacing)
    lengths_too = (first.unit is None) == (second.unit is None)
    for what, a, b, tolerance in (
        ("spacings", first.spacing, second.spacing, 1e-3 * scale),
        ("origins", first.origin, second.origin, 1e-2 * scale),
        ("directions", first.direction, second.direction, 1e-3),
    ):
        if a is None or b is None or (what != "directions" and not lengths_too):
            continue
        if np.any(np.abs(np.subtract(a, b)) > tolerance):
            raise AtlasError(
                f"{pair} have different {what} in their headers, {_numbers(a)} and {_numbers(b)}; "
                "give files on one grid, or set atlases.NAME.spacing_um if they are on one"
            )


def check_header_orientation(stated: str, images: tuple[SourceImage, ...]) -> None:
    """Raise if a header states another orientation than the user."""
    for image in images:
        if image.orientation not in (None, stated):
            raise AtlasError(
                f"{image.name} has orientation {image.orientation} in its NIfTI header, not "
                f"{stated}; correct atlases.NAME.orientation (axes z, y, x), or set "
                "atlases.NAME.spacing_um to overrule the header"
            )


def spacing_of(
    stated: tuple[float, float, float] | None, images: tuple[SourceImage, ...]
) -> tuple[tuple[float, float, float], str]:
    """Voxel size (z, y, x) in micrometres, and where it comes from."""
    if stated is not None:
        spacing, source = tuple(float(s) for s in stated), "configuration"
        remedy = "correct atlases.NAME.spacing_um (micrometres, z, y, x)"
    else:
        image = next((i for i in images if i.spacing is not None), None)
        if image is None:
            raise AtlasError(
                f"{images[0].name} is a TIFF file and states no voxel size; set "
                "atlases.NAME.spacing_um to [z, y, x] in micrometres"
            )
        unit, spacing = image.unit, tuple(reversed(image.spacing))
        if unit is None:
            raise AtlasError(
                f"{image.name}: voxel size {_numbers(image.spacing)} in its header may be "
                "millimetres or micrometres; set atlases.NAME.spacing_um to [z, y, x] in "
                "micrometres"
            )
        source = f"header of {image.name} in {unit}"
        remedy = "set atlases.NAME.spacing_um to [z, y, x] in micrometres"
        logger.info("atlas: voxel size %s um from the %s", _numbers(spacing), source)
    low, high = VOXEL_RANGE_UM
    if len(spacing) != 3 or not all(low <= s <= high for s in spacing):
        raise AtlasError(
            f"atlas: voxel size {_numbers(spacing)} um ({source}) is implausible, not three values "
            f"from {low:g} to {high:g}; {remedy}"
        )
    check_plausible(images[0].array.shape, spacing, images[0].name, AtlasError, remedy)
    return spacing, source


def _numbers(values) -> str:
    # adding 0 leaves no negative zero
    return "(" + ", ".join(f"{v + 0:.6g}" for v in values) + ")"


def intensities_of(image: SourceImage) -> np.ndarray:
    """Voxels in a type that is stored, else float32; raise if constant or not finite."""
    array = image.array
    if array.dtype.name not in _KEPT_TYPES:
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise AtlasError(f"{image.name} has values that are not finite; replace them with 0")
    if array.min() == array.max():
        raise AtlasError(
            f"{image.name} is {array.min()} everywhere; give an image that is not constant"
        )
    return array
