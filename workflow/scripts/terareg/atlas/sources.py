"""Images of an atlas as other programs wrote them, and what their headers say of the grid."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile

from terareg.core.errors import AtlasError, VolumeError, last_line
from terareg.storage import nrrd
from terareg.volumes.headers import NIFTI, likely_unit
from terareg.volumes.images import nifti_voxels

logger = logging.getLogger(__name__)

_PLAUSIBLE_UM = (0.1, 2000.0)
_KEPT_TYPES = ("uint8", "int8", "uint16", "int16", "float32")


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as read: array, and what its header says of the grid (x, y, z), if anything."""

    name: str
    key: str
    array: np.ndarray
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    orientation: str | None = None


def _own_nifti(path: Path, array: np.ndarray) -> np.ndarray:
    """Voxels of a NIfTI file without ITK, which takes what was cut off for zeros."""
    try:
        own = nifti_voxels(str(path))
    except VolumeError as error:
        raise AtlasError(str(error)) from error
    return array if own is None else own


def read_image(path: str | os.PathLike, key: str) -> SourceImage:
    """Read an image of three dimensions; ``key`` of the atlas's settings is for messages."""
    path = Path(path)
    name = f"{key} {path.name}"
    if not path.is_file():
        raise AtlasError(f"{key} {path} does not exist; correct atlases.NAME.{key}")
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            image = SourceImage(name, key, tifffile.imread(path))
        except Exception as error:
            raise AtlasError(
                f"{name} cannot be read as TIFF ({last_line(error)}); correct atlases.NAME.{key}"
            ) from error
    else:
        try:
            read = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise AtlasError(
                f"{name} cannot be read by SimpleITK ({last_line(error)}); convert it to NRRD, "
                "NIfTI or TIFF"
            ) from error
        array = sitk.GetArrayFromImage(read)
        if path.name.lower().endswith(NIFTI) and read.GetDimension() == 3:
            array = _own_nifti(path, array)
        image = SourceImage(
            name,
            key,
            array,
            read.GetSpacing(),
            _unit(path, read),
            read.GetOrigin(),
            read.GetDirection(),
            _nifti_orientation(read),
        )
        if read.GetNumberOfComponentsPerPixel() != 1:
            raise AtlasError(f"{name} has several components per voxel; give a grey or label image")
    if image.array.ndim != 3:
        raise AtlasError(
            f"{name} has shape {image.array.shape}; give one volume with three dimensions"
        )
    return image


def _unit(path: Path, image: sitk.Image) -> str | None:
    """Unit of the spacing where the format states it: "mm", "um", or None."""
    if image.HasMetaDataKey("xyzt_units"):  # NIfTI; ITK has converted metres and micrometres to mm
        stated = image.GetMetaData("xyzt_units").strip()
        return "mm" if stated.isdigit() and int(stated) & 7 else None
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        units = re.match(r'"([^"]*)"', nrrd.header_keys(path).get("space units", ""))
        word = units[1].strip().lower() if units else ""
        if word in ("mm", "millimeter", "millimetre", "millimeters", "millimetres"):
            return "mm"
        if word in ("um", "µm", "micron", "microns", "micrometer", "micrometre", "micrometers"):
            return "um"
    return None


def _nifti_orientation(image: sitk.Image) -> str | None:
    """Orientation code of the array axes where the format defines them: NIfTI with a form code."""
    codes = [key for key in ("qform_code", "sform_code") if image.HasMetaDataKey(key)]
    if not any(image.GetMetaData(key).strip() not in ("", "0") for key in codes):
        return None
    # columns are the directions of x, y and z in ITK's axes, which grow to left, posterior, up
    columns = np.array(image.GetDirection()).reshape(3, 3).T
    letters = []
    for column in reversed(columns):
        axis = int(np.argmax(np.abs(column)))
        letters.append(("LPS" if column[axis] > 0 else "RAI")[axis])
    return "".join(letters)


def check_same_grid(first: SourceImage, second: SourceImage, *, stated: bool) -> None:
    """Raise unless two images lie on one grid; headers count unless the spacing was stated."""
    pair = f"{first.name} and {second.name}"
    if first.array.shape != second.array.shape:
        raise AtlasError(
            f"{pair} have different shapes, {first.array.shape} and {second.array.shape}; give "
            "both at one resolution"
        )
    if stated or first.spacing is None or second.spacing is None:
        return
    scale = np.array(first.spacing)
    for what, a, b, tolerance in (
        ("spacings", first.spacing, second.spacing, 1e-3 * scale),
        ("origins", first.origin, second.origin, 1e-2 * scale),
        ("directions", first.direction, second.direction, 1e-3),
    ):
        if np.any(np.abs(np.subtract(a, b)) > tolerance):
            raise AtlasError(
                f"{pair} have different {what} in their headers, {_numbers(a)} and {_numbers(b)}; "
                f"give files on one grid, or set atlases.NAME.spacing_um to state that they are"
            )


def check_header_orientation(stated: str, images: tuple[SourceImage, ...]) -> None:
    """Raise if a header says another orientation than the user stated."""
    for image in images:
        if image.orientation not in (None, stated):
            raise AtlasError(
                f"{image.name} says in its NIfTI header that its array axes are "
                f"{image.orientation}, not {stated}; correct atlases.NAME.orientation (axes z, y, "
                "x), or set atlases.NAME.spacing_um to overrule the header"
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
        unit = image.unit or likely_unit(image.spacing)
        if unit is None:
            raise AtlasError(
                f"{image.name}: voxel size {_numbers(image.spacing)} in its header may be "
                "millimetres or micrometres; set atlases.NAME.spacing_um to [z, y, x] in "
                "micrometres"
            )
        factor = 1000.0 if unit == "mm" else 1.0
        # NIfTI keeps 0.15 as float32 0.14999999
        spacing = tuple(float(f"{s * factor:.6g}") for s in reversed(image.spacing))
        source = f"header of {image.name} in {unit}" + ("" if image.unit else " (by magnitude)")
        remedy = "set atlases.NAME.spacing_um to [z, y, x] in micrometres"
        logger.info("atlas: voxel size %s um from the %s", _numbers(spacing), source)
    low, high = _PLAUSIBLE_UM
    if len(spacing) != 3 or not all(low <= s <= high for s in spacing):
        raise AtlasError(
            f"atlas: voxel size {_numbers(spacing)} um ({source}) is implausible, not three values "
            f"from {low:g} to {high:g}; {remedy}"
        )
    return spacing, source


def _numbers(values) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def intensities_of(image: SourceImage) -> np.ndarray:
    """Voxels in a type that is kept, float32 otherwise; raise if they show nothing."""
    array = image.array
    if array.dtype.name not in _KEPT_TYPES:
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise AtlasError(f"{image.name} has values that are not finite; replace them by 0")
    if array.min() == array.max():
        raise AtlasError(f"{image.name} is {array.min()} everywhere; give an image of the atlas")
    return array
