"""What image files say of themselves: shape, voxel size, type (standard library only).

The workflow sizes its jobs while it is being loaded, before any numeric package may be imported.
Only headers are read: a few hundred bytes of NIfTI and NRRD, the directory of TIFF, the metadata
of OME-Zarr and precomputed. Voxels are read by :mod:`terareg.volumes.images`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError, StoreError, VolumeError
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile, Tiff
from terareg.volumes.nifti import NiftiLayout, nifti_orientation, nifti_stream

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
TIFF = (".tif", ".tiff", ".btf")
FILE_FORMS = ("NIfTI", "NRRD", "TIFF")
UM_PER = {
    "angstrom": 1e-4, "nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0,
    "microns": 1.0, "um": 1.0, "µm": 1.0, "millimeter": 1e3, "mm": 1e3, "centimeter": 1e4,
    "meter": 1e6, "m": 1e6,
}  # fmt: skip
_PLAUSIBLE_UM = (0.01, 50_000.0)
_NIFTI_COLOURS = (128, 2304)  # three or four bytes to a voxel
_NRRD_TYPES = {
    "signed char": "int8", "int8": "int8", "int8_t": "int8",
    "unsigned char": "uint8", "uchar": "uint8", "uint8": "uint8", "uint8_t": "uint8",
    "short": "int16", "short int": "int16", "signed short": "int16", "int16": "int16",
    "int16_t": "int16", "unsigned short": "uint16", "ushort": "uint16", "uint16": "uint16",
    "unsigned short int": "uint16", "uint16_t": "uint16", "int": "int32", "signed int": "int32",
    "int32": "int32", "int32_t": "int32", "unsigned int": "uint32", "uint": "uint32",
    "uint32": "uint32", "uint32_t": "uint32", "long long": "int64", "int64": "int64",
    "int64_t": "int64", "longlong": "int64", "unsigned long long": "uint64", "uint64": "uint64",
    "uint64_t": "uint64", "ulonglong": "uint64", "float": "float32", "double": "float64",
}  # fmt: skip
_TIFF_KINDS = {1: "uint", 2: "int", 3: "float"}
_TIFF_TAGS = {256, 257, 258, 277, 339}  # width, height, bits, samples, their format
_STORED = ("uint8", "uint16", "float32")
_BROKEN = (OSError, EOFError, ValueError, LookupError, struct.error, zlib.error)
_SPACING_REMEDY = "set input.spacing_um to [z, y, x] in micrometres"


@dataclass(frozen=True)
class Header:
    """What an image says of itself.

    Attributes
    ----------
    name : str
        Address, for messages.
    form : str
        "NIfTI", "NRRD", "TIFF", "OME-Zarr" or "precomputed".
    shape : tuple of int
        Voxels along (z, y, x).
    dtype : str
        NumPy name of the voxels' type as they are read ("float64" where a NIfTI file scales its
        values).
    spacing_um : tuple of float or None
        Voxel size (z, y, x); None where the image does not say it.
    orientation : str or None
        Code of the axes (z, y, x), see :mod:`terareg.core.frames`; only NIfTI files with a form
        code are believed.
    """

    name: str
    form: str
    shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float, float] | None = None
    orientation: str | None = None

    @property
    def stored_dtype(self) -> str:
        """Type in which the voxels are stored: their own if volumes have it, else "float32"."""
        return self.dtype if self.dtype in _STORED else "float32"

    @property
    def held_bytes(self) -> int:
        """Bytes that a reader holds in memory: files are read whole, volumes box by box."""
        if self.form not in FILE_FORMS:
            return 0
        # the file's own copy, and the array made from it
        return 2 * math.prod(self.shape) * int(re.sub(r"\D", "", self.dtype)) // 8


def read_header(address: str, spacing_um: Sequence[float] | None = None) -> Header:
    """Header of an image file, or of the folder of an OME-Zarr or precomputed volume.

    Parameters
    ----------
    address : str
        Path or ``s3://`` address.
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x) by the user, micrometres. Where given, nothing that the header says
        of the grid is believed: neither voxel size nor orientation.

    Raises
    ------
    VolumeError
        If there is nothing at ``address``, or nothing of a known form, or no single volume of
        three dimensions.
    ConfigError
        If the voxel size is unknown, ambiguous or implausible.
    """
    address = str(address).rstrip("/")
    form = _form_of_file(address)
    if form is None:
        header = _volume_header(address)
    else:
        store, name = _store_and_name(address)
        if store.entry(name) is None:
            raise VolumeError(f"{address} does not exist; correct the path")
        reader = {"NIfTI": _nifti, "NRRD": _nrrd, "TIFF": _tiff}[form]
        try:
            with ObjectFile(store, name, ranged=True) as file:
                header = reader(file, address, believed=spacing_um is None)
        except _BROKEN as error:
            raise VolumeError(
                f"{address} cannot be read as {form} ({error or type(error).__name__}); "
                "check that the file is complete"
            ) from error
    if min(header.shape) < 2:
        raise VolumeError(
            f"{address} has shape {header.shape} (z, y, x), which is no volume; give one image of "
            "three dimensions"
        )
    if spacing_um is not None:
        return replace(header, spacing_um=tuple(float(s) for s in spacing_um), orientation=None)
    low, high = _PLAUSIBLE_UM
    if header.spacing_um is None:
        raise ConfigError(f"{address} does not say how large its voxels are; {_SPACING_REMEDY}")
    if not all(low <= s <= high for s in header.spacing_um):
        raise ConfigError(
            f"{address} says that its voxels measure {_list(header.spacing_um)} um (z, y, x), "
            f"which is implausible; {_SPACING_REMEDY}"
        )
    return header


def check_channels(headers: Mapping[str, Header], orientation: str) -> None:
    """Raise unless the channels of a sample can be read and lie on one grid of this orientation.

    Raises
    ------
    VolumeError
        If a channel is a file on S3, or two channels differ in shape or voxel size.
    ConfigError
        If a header states another orientation.
    """
    for header in headers.values():
        if header.form in FILE_FORMS and header.name.startswith("s3://"):
            raise VolumeError(
                f"{header.name} is a {header.form} file on S3, which is read from disk only; give "
                "a local copy of it, or an OME-Zarr or precomputed volume"
            )
    (first_name, first), *others = headers.items()
    for name, header in others:
        if header.shape != first.shape:
            raise VolumeError(
                f"channel {name} has shape {header.shape} (z, y, x) but channel {first_name} has "
                f"{first.shape}; give channels on one grid"
            )
        if any(abs(a / b - 1) > 1e-3 for a, b in zip(header.spacing_um, first.spacing_um)):
            raise VolumeError(
                f"channel {name} has voxels of {_list(header.spacing_um)} um (z, y, x) but channel "
                f"{first_name} of {_list(first.spacing_um)} um; give channels on one grid, or "
                f"{_SPACING_REMEDY}"
            )
    for header in headers.values():
        if header.orientation not in (None, orientation.upper()):
            raise ConfigError(
                f"{header.name} says in its header that its array axes z, y, x are "
                f"{header.orientation} (written {header.orientation[::-1]} where axes are listed "
                f"x, y, z), not {orientation}; correct input.orientation, or set input.spacing_um "
                "to overrule the header"
            )


def image_state(address: str) -> str:
    """Digest of names, sizes and change stamps of what an image consists of."""
    store, name = _store_and_name(address)
    digest = hashlib.sha256()
    if name is not None:
        stat = Path(address).stat()
        digest.update(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    else:
        for entry in store.list():
            digest.update(f"{entry.key}\t{entry.size}\t{entry.stamp}\n".encode())
    return digest.hexdigest()


def image_files(address: str) -> list[str]:
    """Local files that stand for an image: the file itself, or the metadata of a volume."""
    store, name = _store_and_name(address)
    if name is not None:
        return [address]
    if store.is_s3:
        return []
    names = ("zarr.json", ".zattrs", "info")
    return [str(store.path(n)) for n in names if store.exists(n)][:1]


def _store_and_name(address: str) -> tuple[Store, str | None]:
    if _form_of_file(address) is None:
        return Store(address), None
    folder, _, name = address.rpartition("/")
    return Store(folder or ("/" if address.startswith("/") else ".")), name


def _form_of_file(address: str) -> str | None:
    lower = address.lower()
    for form, endings in zip(FILE_FORMS, (NIFTI, NRRD, TIFF)):
        if lower.endswith(endings):
            return form
    return None


# ---------------------------------------------------------------------- NIfTI
def _nifti(file: ObjectFile, name: str, *, believed: bool) -> Header:
    data = nifti_stream(file, name).read(348)
    layout = NiftiLayout.of(data)
    if layout is None:
        raise ValueError("not NIfTI-1; convert it to NIfTI-1 or NRRD")
    count = layout.dim[0]
    while count > 3 and layout.dim[count] == 1:
        count -= 1
    if count != 3:
        sizes = layout.dim[1 : count + 1]
        raise ValueError(f"{count} dimensions {sizes}; give one volume of three")
    dtype = "uint8" if layout.code in _NIFTI_COLOURS else layout.dtype
    if dtype is None:
        raise ValueError(f"voxel type {layout.code}; give integers or floating-point numbers")
    pixdim = struct.unpack_from(f"{layout.order}8f", data, 76)
    unit = {1: "m", 2: "mm", 3: "um"}.get(data[123] & 7)
    spacing = _spacing_um(name, [abs(p) for p in pixdim[3:0:-1]], unit) if believed else None
    dtype = "float64" if layout.scaled else dtype
    orientation = nifti_orientation(data, layout.order)
    return Header(name, "NIfTI", layout.shape, dtype, spacing, orientation)


# ---------------------------------------------------------------------- NRRD
def _nrrd(file: ObjectFile, name: str, *, believed: bool) -> Header:
    head = file.get(0, 1 << 16).replace(b"\r\n", b"\n")
    if not head.startswith(b"NRRD"):
        raise ValueError("not an NRRD file")
    text = head.split(b"\n\n", 1)[0].decode("utf-8", "replace")
    fields = {
        k.strip().lower(): v.strip() for k, v in re.findall(r"^([^#:\n]+):\s(.*)$", text, re.M)
    }
    sizes = [int(n) for n in fields["sizes"].split()]
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kinds = fields.get("kinds", "").split()
    spatial = list(range(len(sizes)))
    if len(directions) == len(sizes):
        spatial = [i for i in spatial if directions[i] != "none"]
    elif len(kinds) == len(sizes):
        spatial = [i for i in spatial if kinds[i] in ("domain", "space", "???")]
    if len(spatial) != 3:
        raise ValueError(f"{len(spatial)} dimensions {tuple(sizes)}; give one volume of three")
    word = fields["type"].lower()
    if word not in _NRRD_TYPES:
        raise ValueError(f"voxel type {word!r}; give integers or floating-point numbers")
    given = None
    if len(directions) == len(sizes):
        vectors = [[float(v) for v in directions[i][1:-1].split(",")] for i in spatial]
        given = [math.hypot(*v) for v in vectors]
    elif "spacings" in fields:
        given = [float(fields["spacings"].split()[i]) for i in spatial]
    units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    spacing = None
    if believed and given is not None and all(math.isfinite(s) for s in given):
        spacing = _spacing_um(name, given[::-1], units[0].lower() if units else None)
    shape: tuple[int, int, int] = tuple(sizes[i] for i in reversed(spatial))
    return Header(name, "NRRD", shape, _NRRD_TYPES[word], spacing)


# ---------------------------------------------------------------------- TIFF
def _tiff(file: ObjectFile, name: str, *, believed: bool) -> Header:
    """TIFF files are asked for their voxel size by name: what they say of it is rarely true."""
    tiff = Tiff.open(file)
    pages = [tiff.tags(offset, _TIFF_TAGS) for offset in tiff.directories()]
    description = tiff.description(tiff.first)
    first = {tag: values[0] for tag, values in pages[0].items()}
    height, width, samples = first[257], first[256], first.get(277, 1)
    same = [page for page in pages if (page[257][0], page[256][0]) == (height, width)]
    depth = _tiff_depth(description, len(same), height, width, samples)
    kind = _TIFF_KINDS.get(first.get(339, 1))
    if kind is None:
        raise ValueError(f"sample format {first[339]}; give integers or floating-point numbers")
    bits = first.get(258, 1)
    return Header(name, "TIFF", (depth, height, width), f"{kind}{max(bits, 8)}")


def _tiff_depth(description: str, pages: int, height: int, width: int, samples: int) -> int:
    """Planes of the volume, by what common writers note in the first page's description."""
    if description.startswith("ImageJ="):
        noted = {k: int(v) for k, v in re.findall(r"^(\w+)=(\d+)$", description, re.M)}
        several = [noted[k] for k in ("slices", "frames") if noted.get(k, 1) > 1]
        return several[0] if several else noted.get("images", pages) // noted.get("channels", 1)
    if description.lstrip().startswith("{") and '"shape"' in description:
        noted = json.loads(description)
        shape = list(noted["shape"])
        axes = noted.get("axes")
        if axes and len(axes) == len(shape):
            sizes = dict(zip(axes, shape))
            several = [sizes[a] for a in "ZT" if sizes.get(a, 1) > 1]
            others = [n for a, n in sizes.items() if a not in "ZTYXCS" and n > 1]
            return (several + others + [1])[0]
        if samples > 1 and shape[-1] == samples:
            shape.pop()
        outer = [n for n in shape[:-2] if n > 1]
        if len(outer) > 1:
            raise ValueError(f"{len(outer) + 2} dimensions {tuple(shape)}; give one volume")
        return (outer + [1])[0]
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if pixels:  # OME-XML; one element of it needs no parser
        noted = {k: int(v) for k, v in re.findall(r'\bSize([ZT])="(\d+)"', pixels[0])}
        return ([noted[a] for a in "ZT" if noted.get(a, 1) > 1] + [1])[0]
    return pages


# ---------------------------------------------------------------------- volumes in folders
def _volume_header(address: str) -> Header:
    store = Store(address)
    for name, reader in (
        ("zarr.json", _ome_zarr),
        (".zattrs", _ome_zarr),
        ("info", _precomputed),
    ):
        try:
            metadata = json.loads(store.read(name))
        except (FileNotFoundError, IsADirectoryError):
            continue
        except ValueError as error:
            raise VolumeError(
                f"{store.address(name)} cannot be read ({error}); check that it is complete"
            ) from error
        try:
            return reader(store, metadata)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise VolumeError(
                f"{address} holds no image that can be read ({error!r}); give an OME-Zarr or "
                "precomputed volume with complete metadata"
            ) from error
    if not store.is_s3 and not os.path.exists(address):
        raise VolumeError(f"{address} does not exist; correct the path")
    raise VolumeError(
        f"{address} is no image that terareg reads; give a NIfTI, NRRD or TIFF file, or the "
        "folder of an OME-Zarr or precomputed volume"
    )


def _ome_zarr(store: Store, metadata: Mapping[str, Any]) -> Header:
    third = "zarr_format" in metadata
    attributes = metadata.get("attributes", {}) if third else metadata
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        raise VolumeError(
            f"{store.url} is a Zarr group without an OME-Zarr image in it; give the group that "
            "has multiscales"
        )
    image = multiscales[0]
    axes, units = ome_axes(image)
    if not {"x", "y", "z"} <= set(axes):
        raise VolumeError(f"{store.url} has axes {axes}; give one volume of three dimensions")
    dataset = image["datasets"][0]
    scale = ome_scale(image, dataset, len(axes))
    name = f"{dataset['path']}/{'zarr.json' if third else '.zarray'}"
    try:
        array = json.loads(store.read(name))
    except (FileNotFoundError, ValueError, StoreError) as error:
        raise VolumeError(
            f"{store.address(name)} cannot be read ({error}); check that the volume is complete"
        ) from error
    sizes = dict(zip(axes, array["shape"], strict=True))
    dtype = array["data_type"] if third else _zarr_type(array["dtype"])
    found = [UM_PER.get(units.get(a) or "micrometer") for a in "zyx"]
    factors = [f for f in found if f is not None]
    spacing: tuple[float, float, float] | None = None
    if scale is not None and len(factors) == 3:
        spacing = tuple(scale[axes.index(a)] * f for a, f in zip("zyx", factors))
    shape: tuple[int, int, int] = tuple(int(sizes[a]) for a in "zyx")
    return Header(store.url, "OME-Zarr", shape, dtype, spacing)


def ome_axes(image: Mapping[str, Any]) -> tuple[list[str], dict[str, str | None]]:
    """Names of the axes of an OME-Zarr image in order, and their units by name."""
    axes = image.get("axes", "tczyx")  # version 0.3 and earlier: names alone, or none
    names = [a["name"].lower() if isinstance(a, dict) else a for a in axes]
    return names, {a["name"].lower(): a.get("unit") for a in axes if isinstance(a, dict)}


def ome_scale(image: Mapping, dataset: Mapping, axes: int) -> list[float] | None:
    """Step of every axis of a level, in the axis' unit; None where the metadata do not say it."""
    scale = None
    for part in (image, dataset):
        for transform in part.get("coordinateTransformations", []):
            if transform["type"] == "scale":
                factors = transform["scale"]
                if len(factors) != axes:
                    raise VolumeError(
                        f"level {dataset['path']} of an OME-Zarr image has {len(factors)} scales "
                        f"for {axes} axes; correct its coordinateTransformations"
                    )
                scale = [a * b for a, b in zip(scale or [1.0] * axes, factors)]
    return scale


def _zarr_type(code: str) -> str:
    """NumPy name of a type code of Zarr 2, for example "<u2"."""
    return f"{ {'u': 'uint', 'i': 'int', 'f': 'float', 'b': 'bool'}[code[1]] }{8 * int(code[2:])}"


def _precomputed(store: Store, info: Mapping[str, Any]) -> Header:
    scale = info["scales"][0]
    spacing: tuple[float, float, float] = tuple(r / 1e3 for r in scale["resolution"][::-1])
    shape: tuple[int, int, int] = tuple(int(n) for n in scale["size"][::-1])
    return Header(store.url, "precomputed", shape, info["data_type"], spacing)


# ---------------------------------------------------------------------- voxel size
def _spacing_um(
    name: str, spacing: Sequence[float], unit: str | None
) -> tuple[float, float, float]:
    """Micrometres from a spacing whose unit a file may not state."""
    if unit is not None and unit not in UM_PER:
        raise ConfigError(f"{name} gives its voxel size in {unit!r}; {_SPACING_REMEDY}")
    unit = unit or likely_unit(spacing)
    if unit is None:
        raise ConfigError(
            f"{name}: voxel size {_list(spacing)} (z, y, x) in its header may be millimetres "
            f"or micrometres; {_SPACING_REMEDY}"
        )
    # headers keep 0.15 as float32 0.14999999
    return tuple(float(f"{s * UM_PER[unit]:.6g}") for s in spacing)


def likely_unit(spacing: Sequence[float]) -> str | None:
    """Unit of a spacing without one, "um" or "mm": nothing has voxels of 5 mm or 5 nm.

    None where either could be meant.
    """
    if min(spacing) >= 5:
        return "um"
    return "mm" if max(spacing) < 1 else None


def _list(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
