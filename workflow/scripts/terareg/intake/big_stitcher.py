"""Projects of BigStitcher and BigDataViewer: an XML of views, and their pixels in HDF5, N5 or Zarr.

The transforms of a view are listed last to first: the one that is applied to pixels first stands
last. Together they lead from the pixels of a view to a world in which voxels may be cubes. What all
views have in common (voxel size, a shear or rotation of the whole) is divided out, so that the rest
is where a tile lies among the others, in its own pixels.

References
----------
Pietzsch et al. (2015), BigDataViewer; Hörl et al. (2019), BigStitcher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import numpy as np

from terareg.core.errors import AcquisitionError, few
from terareg.intake.found import Found, Look, channel_names, table_text
from terareg.storage.foreign import boundary, check_xml, read_object, short
from terareg.storage.part_arrays import missing_package
from terareg.storage.part_names import join_part
from terareg.volumes.ome_metadata import UM_PER

_REMEDY = "give the XML of a project of BigStitcher or BigDataViewer"
_FORMATS = {"bdv.hdf5": "hdf5", "bdv.n5": "n5", "bdv.multimg.zarr": "zarr"}
_ENDINGS = {"hdf5": (".h5", ".hdf5"), "n5": (".n5",), "zarr": (".zarr",)}
_MOST_VIEWS, _HEAD_BYTES = 1_000_000, 4096
#: how far the transform of a view may turn or stretch it against the others, as a part of its size
_TURNED = 0.05


@dataclass(frozen=True)
class View:
    """One view: a stack of one tile, channel, illumination and angle.

    Attributes
    ----------
    setup : int
    size : (z, y, x)
        Voxels.
    labels : mapping
        Ids of ``channel``, ``tile``, ``illumination`` and ``angle``.
    affine : numpy.ndarray, shape (3, 4)
        From pixels to the world, both x, y, z.
    """

    setup: int
    size: tuple[int, int, int]
    labels: Mapping[str, str]
    affine: np.ndarray


@dataclass(frozen=True)
class Project:
    """What an XML says.

    Attributes
    ----------
    views : tuple of View
        Of the only time; views that are marked as missing are left out.
    spacing_um : (z, y, x)
    names : mapping of (str, str) to str
        By kind of label and id: names that people gave.
    form, data : str
        "hdf5", "n5" or "zarr", and the key of the file or folder.
    groups : mapping of int to str
        With "zarr": folder of each setup.
    time : int
    """

    views: tuple[View, ...]
    spacing_um: tuple[float, float, float]
    names: Mapping[tuple[str, str], str]
    form: str
    data: str
    groups: Mapping[int, str]
    time: int

    def part(self, view: View) -> str:
        """Where the finest level of a view lies."""
        if self.form == "hdf5":
            return f"t{self.time:05d}/s{view.setup:02d}/0/cells"
        if self.form == "n5":
            return f"setup{view.setup}/timepoint{self.time}/s0"
        return f"{self.groups[view.setup]}/0"


def big_stitcher(look: Look) -> Found | None:
    """Tiles of a project whose XML lies in the folder."""
    found = []
    for name in sorted(n for n in look.top() if n.lower().endswith(".xml")):
        try:
            data, _ = look.store.read_range(name, 0, _HEAD_BYTES)
        except (OSError, EOFError):
            continue
        if b"<SpimData" in data:
            found.append(name)
    if len(found) > 1:
        raise AcquisitionError(
            f"{look.store.url} contains {len(found)} projects of BigStitcher, {few(found)}; give "
            "one of these files"
        )
    return of_project(look, found[0]) if found else None


def of_project(look: Look, name: str) -> Found:
    """Tiles of the project that an XML describes."""
    with boundary(look.store.address(name), AcquisitionError, _REMEDY):
        data = read_object(look.store, name)
        check_xml(data)
        root = defusedxml.ElementTree.fromstring(data, forbid_entities=True, forbid_external=True)
        project = read_project(root)
        places = tile_places(project)
        lines, labels = _lines(look, project, places)
    channels = channel_names(dict.fromkeys(labels))
    size = " x ".join(map(str, project.views[0].size))
    tiles = len({view.labels.get("tile", "") for view in project.views})
    why = (
        f"{name} is a project of BigStitcher or BigDataViewer with {len(project.views)} views of "
        f"{size} voxels (z, y, x) in {project.data}",
    )
    source = {
        "kind": "table", "path": look.store.url, "table": None, "channels": channels,
        "spacing_um": list(project.spacing_um),
    }  # fmt: skip
    columns = ["path", "channel", "tile", "y_um", "x_um", "z_um"]
    guesses = {"channels": "the names; the first is compared between tiles (stitching.channel)"}
    if any("side" in label for label in labels):
        guesses["channels"] += (
            "; several illuminations are listed as channels, input.sides joins them"
        )
    return Found(
        f"{tiles} tiles of BigStitcher" if tiles > 1 else "one tile of BigDataViewer",
        source, why,
        {
            "spacing_um": f"z, y, x, from {name}",
            "table": f"positions from the transforms of all views in {name}",
        },
        guesses, {}, table_text(columns, lines),
    )  # fmt: skip


def _lines(
    look: Look, project: Project, places: Mapping[int, tuple[float, float, float]]
) -> tuple[list[list[Any]], list[str]]:
    several = {
        kind: len({view.labels.get(kind) for view in project.views}) > 1
        for kind in ("channel", "illumination", "angle")
    }
    files = _Links(look, project)
    lines, labels = [], []
    for view in project.views:
        words = []
        for kind, mark in (("channel", "ch"), ("illumination", "side"), ("angle", "angle")):
            own = view.labels.get(kind, "0")
            if several[kind] or (kind == "channel" and (kind, own) in project.names):
                words.append(project.names.get((kind, own), "") if kind == "channel" else "")
                words[-1] = words[-1] or f"{mark}{own}"
        label = "_".join(words) or "signal"
        z, y, x = (p * s for p, s in zip(places[view.setup], project.spacing_um))
        tile = f"tile{int(view.labels.get('tile', '0')):03d}"
        lines.append([files.path(view), label, tile, y, x, z])
        labels.append(label)
    return lines, labels


class _Links:
    """Paths of views, through the links of an HDF5 file that is split into several."""

    def __init__(self, look: Look, project: Project) -> None:
        self.look, self.project = look, project

    def path(self, view: View) -> str:
        project = self.project
        file, part = project.data, project.part(view)
        if project.form == "hdf5":
            try:
                from terareg.storage.hdf5 import linked_file
            except ModuleNotFoundError as error:
                raise missing_package(error) from error
            other = linked_file(self.look.store, file, part)
            if other is not None:
                file = _beside(file, other[0])
                part = other[1].strip("/")
        return join_part(file, part)


def _beside(file: str, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it links to {short(name)}; put all partitions beside {file}")
    return (PurePosixPath(file).parent / path).as_posix()


# ---------------------------------------------------------------------- the XML
def read_project(root: Element) -> Project:
    """What the XML says; :class:`ValueError` where it does not say what is needed."""
    sequence = _child(root, "SequenceDescription")
    loader = _child(sequence, "ImageLoader")
    form = _FORMATS.get(loader.get("format", ""))
    if form is None:
        raise ValueError(
            f"its images are stored as {short(loader.get('format', ''))}; resave the project as "
            "HDF5 or N5 in BigStitcher"
        )
    data = _data(root, _child(loader, form))
    if not data.lower().endswith(_ENDINGS[form]):
        raise ValueError(f"its pixels are in {short(data)}; name it {_ENDINGS[form][0]}")
    groups = {
        int(group.get("setup", "")): (group.get("path") or _text(group, "path")).strip("/")
        for group in loader.iter("zgroup")
    }
    time = _only_time(sequence)
    missing = {
        int(view.get("setup", "-1"))
        for view in sequence.iter("MissingView")
        if int(view.get("timepoint", "0")) == time
    }
    affines = {
        int(each.get("setup", "")): _affine(each)
        for each in _child(root, "ViewRegistrations").iter("ViewRegistration")
        if int(each.get("timepoint", "0")) == time
    }
    views, spacings = [], set()
    setups = _child(sequence, "ViewSetups")
    for setup in setups.findall("ViewSetup"):
        number = int(_text(setup, "id"))
        if number in missing:
            continue
        if number not in affines:
            raise ValueError(f"view setup {number} has no registration; resave the project")
        size = _numbers(_text(setup, "size"), 3)[::-1]
        spacings.add(_spacing(setup, number))
        attributes = setup.find("attributes")
        labels = {} if attributes is None else {a.tag: (a.text or "").strip() for a in attributes}
        views.append(View(number, tuple(int(n) for n in size), labels, affines[number]))
    if not 1 <= len(views) <= _MOST_VIEWS:
        raise ValueError(f"only {len(views)} of its views exist")
    if len(spacings) > 1:
        raise ValueError(
            f"its views have {len(spacings)} different voxel sizes: {short(sorted(spacings))}"
        )
    return Project(tuple(views), spacings.pop(), dict(_names(setups)), form, data, groups, time)


def _data(root: Element, element: Element) -> str:
    base = root.findtext("BasePath") or "."
    name = (element.text or "").strip().replace("\\", "/")
    path = PurePosixPath(base.strip().replace("\\", "/"), name)
    if path.is_absolute() or ".." in path.parts or element.get("type", "relative") != "relative":
        raise ValueError(f"its pixels are in {short(str(path))}; put them beside the XML")
    return path.as_posix()


def _only_time(sequence: Element) -> int:
    times = sequence.find("Timepoints")
    if times is None:
        return 0
    first, last = times.findtext("first"), times.findtext("last")
    pattern = (times.findtext("integerpattern") or "0").strip()
    if first is not None and last is not None:
        pattern = f"{int(first)}" if int(first) == int(last) else f"{int(first)}-{int(last)}"
    if not re.fullmatch(r"\d{1,6}", pattern):
        raise ValueError(f"it has the time points {short(pattern)}; export a project with one")
    return int(pattern)


def _spacing(setup: Element, number: int) -> tuple[float, float, float]:
    voxel = setup.find("voxelSize")
    if voxel is None:
        raise ValueError(f"view setup {number} has no voxelSize; add it in BigStitcher")
    unit = (voxel.findtext("unit") or "").strip()
    factor = UM_PER.get(unit.lower().replace("\u03bc", "\u00b5"))
    if factor is None:
        raise ValueError(
            f"the voxel size of view setup {number} has the unit {short(unit)}, which is not a "
            "length; write um in the XML if it is micrometres"
        )
    x, y, z = _numbers(_text(voxel, "size"), 3)
    if min(x, y, z) <= 0:
        raise ValueError(f"view setup {number} has voxels of {short([x, y, z])}")
    return z * factor, y * factor, x * factor


def _affine(registration: Element) -> np.ndarray:
    total = np.eye(4)
    for transform in registration.iter("ViewTransform"):
        values = _numbers(transform.findtext("affine") or "", 12)
        total = total @ np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
    return total[:3]


def _names(setups: Element) -> Iterator[tuple[tuple[str, str], str]]:
    for group in setups.findall("Attributes"):
        kind = group.get("name", "")
        for item in group:
            name = (item.findtext("name") or "").strip()
            if name:
                yield (kind, (item.findtext("id") or "").strip()), name


def tile_places(project: Project) -> dict[int, tuple[float, float, float]]:
    """Position (z, y, x) of every setup in its own voxels.

    Raises
    ------
    ValueError
        If views are turned or stretched against each other, as those of several angles are.
    """
    common = project.views[0].affine[:, :3]
    if abs(np.linalg.det(common)) < 1e-12:
        raise ValueError(f"the transform of view setup {project.views[0].setup} cannot be inverted")
    inverse = np.linalg.inv(common)
    found = {}
    for view in project.views:
        size = np.array(view.size[::-1], float)
        moved = inverse @ view.affine[:, :3] - np.eye(3)
        turned = np.abs(moved * size).sum(axis=1) / 2
        if (turned > _TURNED * size.max()).any():
            raise ValueError(
                f"views {project.views[0].setup} and {view.setup} are rotated or stretched "
                f"relative to each other by up to {turned.max():.0f} voxels; views from several "
                "angles cannot be fused, so give a project of one angle"
            )
        # where the middle of the tile is, less where it would be without a transform
        place = inverse @ view.affine[:, 3] + moved @ (size / 2)
        x, y, z = (float(v) for v in place)
        found[view.setup] = (z, y, x)
    return found


def _child(element: Element, name: str) -> Element:
    found = element.find(name)
    if found is None:
        raise ValueError(f"it has no element {name}")
    return found


def _text(element: Element, name: str) -> str:
    return (_child(element, name).text or "").strip()


def _numbers(text: str, count: int) -> list[float]:
    values = [float(word) for word in text.split()]
    if len(values) != count or not all(np.isfinite(values)) or max(map(abs, values)) > 1e9:
        raise ValueError(f"{short(text)} are not {count} numbers")
    return values
