"""Plates of OME-Zarr (HCS): wells and sites side by side as one image (standard library only).

A plate lists its wells, a well the images of its sites (fields of view). Rows and columns of wells
that are used become rows and columns of cells, all of the size of the largest well: the gaps
between real wells are left out. In a well, sites lie where their translations say, or row by row
where these say nothing. Where sites overlap, the one that is listed first counts.

Specification: https://ngff.openmicroscopy.org/0.5/, "plate" and "well".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from terareg.core.errors import VolumeError, few
from terareg.storage.foreign import short
from terareg.storage.store import Store
from terareg.volumes.ome_metadata import (
    check_levels,
    check_names,
    check_other_axes,
    ome_attributes,
    ome_axes,
    ome_scale,
    ome_translation,
    read_json_object,
    size_of,
    um_factors,
    zarr_type,
)

_NAMES = ("zarr.json", ".zattrs")
_REQUESTS = 8  # at once
_REMEDY = "copy it, or take it out of the metadata of the plate"
_SAME = 1e-3
_T = TypeVar("_T")
_R = TypeVar("_R")

#: first row and column of a box of pixels, and the ones beyond its last
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SiteImage:
    """The finest level of the image of a site.

    Attributes
    ----------
    path : str
        Of the array below the plate.
    array : mapping
        Its ``zarr.json`` or ``.zarray``.
    third : bool
        Whether it is Zarr 3.
    axes : tuple of str
    shape : (z, y, x)
        One plane where there is no axis z.
    dtype : str
    channels : int
    spacing_um, place_um : tuple of float or None
        Voxel size (z, y, x), and place of the first voxel (y, x), as far as stated.
    """

    path: str
    array: Mapping[str, Any]
    third: bool
    axes: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str
    channels: int
    spacing_um: tuple[float, float, float] | None
    place_um: tuple[float, float] | None


@dataclass(frozen=True)
class Plate:
    """A plate as one image.

    Attributes
    ----------
    shape : (z, y, x)
    sites : tuple of (SiteImage, Box)
        In the order of the metadata, and where each lies.
    outlines : tuple of (str, Box)
        Wells ("B3") and then their sites ("B3/0").
    """

    shape: tuple[int, int, int]
    sites: tuple[tuple[SiteImage, Box], ...]
    outlines: tuple[tuple[str, Box], ...]

    @property
    def first(self) -> SiteImage:
        """The site that is like all others in type, voxel size, planes and channels."""
        return self.sites[0][0]


def is_plate(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata of a group, which may be spoiled, are those of a plate."""
    try:
        return "plate" in ome_attributes(metadata)
    except (AttributeError, TypeError):
        return False


def read_plate(store: Store, metadata: Mapping[str, Any]) -> Plate:
    """Wells and sites of a plate.

    Raises
    ------
    VolumeError
        If wells or sites that are listed are missing, contradict their place, or differ.
    ValueError, KeyError, TypeError
        If the metadata are none; see :func:`terareg.storage.foreign.boundary`.
    """
    wells = _wells(store, ome_attributes(metadata)["plate"])
    contents = _together(lambda path: _read_group(store, path, "well")["well"], wells)
    listed = [
        (path, f"{path}/{image['path']}") for path, well in zip(wells, contents)
        for image in _first_acquisition(store, path, well)
    ]  # fmt: skip
    images = _together(lambda pair: _site(store, pair[1]), listed)
    _check_alike(store, images)
    of: dict[str, list[SiteImage]] = {path: [] for path in wells}
    for (path, _), image in zip(listed, images):
        of[path].append(image)
    inside = {path: _arranged(store, path, sites) for path, sites in of.items()}
    height = max(box[2] for boxes in inside.values() for box in boxes)
    width = max(box[3] for boxes in inside.values() for box in boxes)
    top, left = (min(cell[k] for cell in wells.values()) for k in (0, 1))
    rows, columns = (1 + max(cell[k] for cell in wells.values()) for k in (0, 1))
    outlines: list[tuple[str, Box]] = []
    sites: list[tuple[SiteImage, Box]] = []
    fields: list[tuple[str, Box]] = []
    for path, (row, column) in wells.items():
        y, x = (row - top) * height, (column - left) * width
        name = path.replace("/", "")
        boxes = [(a + y, b + x, c + y, d + x) for a, b, c, d in inside[path]]
        outlines.append((name, (y, x, y + height, x + width)))
        fields += [(f"{name}/{site.path.split('/')[2]}", box) for site, box in zip(of[path], boxes)]
        sites += zip(of[path], boxes)
    shape = (images[0].shape[0], (rows - top) * height, (columns - left) * width)
    return Plate(shape, tuple(sites), (*outlines, *fields))


def _wells(store: Store, plate: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Row and column of every well by its path."""
    names = [[str(each["name"]) for each in plate[key]] for key in ("rows", "columns")]
    wells: dict[str, tuple[int, int]] = {}
    for well in plate["wells"]:
        path, place = str(well["path"]), (well["rowIndex"], well["columnIndex"])
        for index, known, what in zip(place, names, ("row", "column")):
            if type(index) is not int or not 0 <= index < len(known):
                raise VolumeError(
                    f"{store.url} lists well {short(path)} in {what} {short(index)}, but its "
                    f"plate has {what}s 0 to {len(known) - 1}; correct its metadata"
                )
        expected = f"{names[0][place[0]]}/{names[1][place[1]]}"
        if path != expected or path in wells:
            state = "again" if path in wells else f"in the place of {short(expected)}"
            raise VolumeError(f"{store.url} lists well {short(path)} {state}; correct its metadata")
        wells[path] = place
    if not wells:
        raise VolumeError(f"{store.url} is a plate that lists no wells; give one with images")
    return wells


def _read_group(store: Store, path: str, key: str) -> Mapping[str, Any]:
    """What the group of a well or site states of OME-Zarr, with a key that it must have."""
    for name in _NAMES:
        try:
            metadata = read_json_object(store, f"{path}/{name}")
        except (FileNotFoundError, IsADirectoryError):
            continue
        found = ome_attributes(metadata)
        if not found.get(key):
            raise VolumeError(f"{store.address(path)} states no {key}; {_REMEDY}")
        return {"third": name == _NAMES[0], **found}
    what = "well" if key == "well" else "image"
    raise VolumeError(
        f"{store.address(path)} is missing, although the plate lists this {what}; {_REMEDY}"
    )


def _first_acquisition(store: Store, path: str, well: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Images of the sites of a well; of one that was imaged several times, those of the first."""
    images = well.get("images")
    if not images:
        raise VolumeError(f"{store.address(path)} lists no images of this well; {_REMEDY}")
    first = min(image.get("acquisition") or 0 for image in images)
    return [image for image in images if (image.get("acquisition") or 0) == first]


def _site(store: Store, path: str) -> SiteImage:
    ome = _read_group(store, path, "multiscales")
    image, third = ome["multiscales"][0], ome["third"]
    axes, units = ome_axes(image)
    if not {"x", "y"} <= set(axes):
        raise VolumeError(f"{store.address(path)} has axes {axes}; give images with y and x")
    check_levels(image["datasets"])
    dataset = image["datasets"][0]
    key = f"{path}/{dataset['path']}"
    try:
        array = read_json_object(store, f"{key}/{'zarr.json' if third else '.zarray'}")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise VolumeError(f"{store.address(key)} is missing; {_REMEDY}") from error
    sizes = dict(zip(axes, array["shape"], strict=True))
    check_other_axes(store.address(path), sizes)
    check_names(store.address(path), axes, array)
    scale = ome_scale(image, dataset, len(axes))
    place = ome_translation(image, dataset, len(axes))
    # a plane without an axis z is as thick as its pixels are high
    factors = um_factors({"z": units.get("y"), **units})
    spacing: tuple[float, float, float] | None = None
    if scale is not None and factors is not None:
        of = {a: s * f for a, s, f in zip(("z", "y", "x"), _by_axis(axes, scale), factors)}
        spacing = (of["z"], of["y"], of["x"])
    where = None
    if place is not None and factors is not None:
        _, y, x = (p * f for p, f in zip(_by_axis(axes, place), factors))
        where = (y, x)
    shape: tuple[int, int, int] = tuple(size_of(sizes.get(a, 1)) for a in "zyx")
    return SiteImage(
        key, array, third, tuple(axes), shape,
        str(array["data_type"]) if third else zarr_type(array["dtype"]),
        size_of(sizes.get("c", 1)), spacing, where,
    )  # fmt: skip


def _by_axis(axes: list[str], values: Iterable[float]) -> list[float]:
    """Values along z, y and x; that of y where there is no z."""
    of = dict(zip(axes, values))
    return [of.get("z", of["y"]), of["y"], of["x"]]


def _check_alike(store: Store, images: list[SiteImage]) -> None:
    first = images[0]
    for image in images[1:]:
        for what, own, other in (
            ("type", image.dtype, first.dtype),
            ("planes", image.shape[0], first.shape[0]),
            ("channels", image.channels, first.channels),
        ):
            if own != other:
                raise VolumeError(
                    f"{store.address(image.path)} has {what} {own}, but {first.path} has {other}; "
                    "give plates whose images are alike"
                )
        sizes = image.spacing_um, first.spacing_um
        if (None in sizes and sizes[0] != sizes[1]) or any(
            abs(a / b - 1) > _SAME for a, b in zip(sizes[0] or (), sizes[1] or ())
        ):
            raise VolumeError(
                f"{store.address(image.path)} states voxels of {sizes[0]} um (z, y, x), but "
                f"{first.path} of {sizes[1]} um; give plates whose images are alike"
            )


def _arranged(store: Store, path: str, sites: list[SiteImage]) -> list[Box]:
    """Boxes of the sites of a well, from its first row and column on."""
    places = [site.place_um for site in sites]
    step = sites[0].spacing_um
    known = [place for place in places if place is not None]
    if step is not None and len(known) == len(sites) and len(set(known)) > 1:
        twice = [place for place in known if known.count(place) > 1]
        if twice:
            same = [site.path.split("/")[2] for site in sites if site.place_um == twice[0]]
            raise VolumeError(
                f"{store.address(path)} has its sites {few(same)} at the same place (y, x) "
                f"{twice[0]} um; correct their translations"
            )
        top, left = (min(place[k] for place in known) for k in (0, 1))
        corners = [(round((y - top) / step[1]), round((x - left) / step[2])) for y, x in known]
    else:
        across = math.ceil(math.sqrt(len(sites)))
        height, width = (max(site.shape[k] for site in sites) for k in (1, 2))
        corners = [(n // across * height, n % across * width) for n in range(len(sites))]
    return [(y, x, y + s.shape[1], x + s.shape[2]) for (y, x), s in zip(corners, sites)]


def _together(act: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Results of small requests, several at once."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(act, items))
