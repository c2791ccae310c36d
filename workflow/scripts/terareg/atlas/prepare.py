"""Convert an atlas of any common format to terareg's form, and load it for block-wise use.

:func:`prepare_atlas` checks template, annotation and ontology against each other and writes

- ``template.nrrd``: intensities, source type if 8 or 16 bit or float32, otherwise float32;
- ``annotation.nrrd``: region ids, uint32, value for value those of the source;
- ``hemispheres.nrrd``: uint8, 1 left, 2 right, 0 neither;
- ``ontology.tsv``: see :meth:`terareg.atlas.ontology.Ontology.to_tsv`;
- ``atlas.json``: frame, ids and their voxel counts, checksums of sources and files.

:func:`prepare_image` adds further images on the template's grid, one file for each.

The images are NRRD files with spacing in millimetres and identity direction: their axes are those
of the arrays, not anatomical ones. The anatomical orientation is in ``atlas.json`` only, because
headers often state it wrongly (the Allen Institute's do).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terareg.atlas.brainglobe import DOWNLOAD_RECORD
from terareg.atlas.ontology import Ontology, Structure, read_ontology
from terareg.atlas.sources import (
    SourceImage,
    check_header_orientation,
    check_same_grid,
    intensities_of,
    read_image,
    spacing_of,
)
from terareg.atlas.symmetry import check_left_right
from terareg.core.errors import AtlasError
from terareg.core.frames import Frame
from terareg.core.orientation import check_orientation
from terareg.storage import nrrd
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import write_atomic

logger = logging.getLogger(__name__)

LEFT, RIGHT = 1, 2

_MAX_ID = 2**32 - 1
_RUN_AGAIN = "delete the folder and run prepare_atlas again"


@dataclass(frozen=True)
class AtlasSettings:
    """Where an atlas is and how to read it.

    Attributes
    ----------
    template, annotation : str
        Image files that SimpleITK (NRRD, NIfTI, MetaImage, ...) or tifffile reads, on one grid.
    ontology : str
        See :func:`terareg.atlas.ontology.read_ontology`.
    orientation : str
        Code of the axes (z, y, x) of the arrays, see :mod:`terareg.core.frames`; the Allen CCF's
        NRRD files are ``RIP``.
    spacing_um : tuple of float or None
        Voxel size (z, y, x). Needed for TIFF. If given, everything that headers say of the grid is
        ignored.
    hemispheres : str or None
        Image of hemispheres on the same grid. None: the middle plane of the right-left axis.
    hemisphere_values : tuple of int
        Values of (left, right) in that image.
    unlisted : {"error", "accept"}
        What to do with annotation ids that the ontology lacks; "accept" adds them to it as top
        regions named "unlisted region <id>".
    origin : str or None
        Name and version of a published atlas that these are the files of.
    """

    template: str
    annotation: str
    ontology: str
    orientation: str
    spacing_um: tuple[float, float, float] | None = None
    hemispheres: str | None = None
    hemisphere_values: tuple[int, int] = (LEFT, RIGHT)
    unlisted: str = "error"
    origin: str | None = None


@dataclass(frozen=True)
class Midplane:
    """Plane between the hemispheres.

    Attributes
    ----------
    axis : int
        Array axis that runs between left and right.
    index : float
        Position in voxels; voxels on it belong to the upper side.
    lower, upper : int
        Hemisphere (1 left, 2 right) below and above the plane.
    """

    axis: int
    index: float
    lower: int
    upper: int


@dataclass(frozen=True, eq=False)
class Atlas:
    """Template, annotation and ontology on one grid.

    The annotation is kept as an index into ``ids``, so that a 10 um mouse atlas takes 2.4 GB and
    a 25 um one 0.15 GB; ids pass through unchanged whatever their size.

    Attributes
    ----------
    frame : Frame
    ontology : Ontology
        Has an entry for every id but 0.
    ids : numpy.ndarray of uint32
        Ids of the annotation, ascending; the first is 0 (no region).
    index : numpy.ndarray of uint16 or uint32, shape (z, y, x)
        ``ids[index]`` is the annotation.
    midplane : Midplane
        Used unless there is an image of the hemispheres.
    sides : numpy.ndarray of uint8 or None, shape (z, y, x)
        1 left, 2 right, 0 neither.
    template : numpy.ndarray or None, shape (z, y, x)
        None if it was not loaded.
    """

    frame: Frame
    ontology: Ontology
    ids: np.ndarray
    index: np.ndarray
    midplane: Midplane
    sides: np.ndarray | None = None
    template: np.ndarray | None = None

    @property
    def annotation(self) -> np.ndarray:
        """Region ids, uint32 (z, y, x); makes a new array."""
        return self.ids[self.index]

    @property
    def hemispheres(self) -> np.ndarray:
        """Hemisphere of every voxel, uint8 (z, y, x): 1 left, 2 right, 0 neither.

        Voxels whose centres lie on the midplane belong to its upper side.
        """
        return self._sides(np.less)

    @property
    def hemispheres_below(self) -> np.ndarray:
        """As :attr:`hemispheres`, but voxels on the midplane belong to its lower side."""
        return self._sides(np.less_equal)

    def _sides(self, is_lower: np.ufunc) -> np.ndarray:
        if self.sides is not None:
            return self.sides
        return _plane_sides(self.midplane, self.frame, is_lower)


def midplane(frame: Frame) -> Midplane:
    """Return the middle plane of the right-left axis of a frame."""
    axis = next(a for a, letter in enumerate(frame.orientation) if letter in "RL")
    lower, upper = (LEFT, RIGHT) if frame.orientation[axis] == "R" else (RIGHT, LEFT)
    return Midplane(axis, (frame.shape[axis] - 1) / 2, lower, upper)


def _plane_sides(plane: Midplane, frame: Frame, is_lower: np.ufunc = np.less) -> np.ndarray:
    lower = is_lower(np.arange(frame.shape[plane.axis]), plane.index)
    line = np.where(lower, plane.lower, plane.upper).astype(np.uint8)
    shape = [1, 1, 1]
    shape[plane.axis] = -1
    return np.broadcast_to(line.reshape(shape), frame.shape)


def make_atlas(
    annotation: np.ndarray,
    frame: Frame,
    ontology: Ontology,
    *,
    template: np.ndarray | None = None,
    sides: np.ndarray | None = None,
) -> Atlas:
    """Build an :class:`Atlas` from arrays.

    Parameters
    ----------
    annotation : numpy.ndarray of uint32, shape (z, y, x)
    frame : Frame
    ontology : Ontology
    template : numpy.ndarray, optional, shape (z, y, x)
    sides : numpy.ndarray of uint8, optional, shape (z, y, x)
        1 left, 2 right, 0 neither.

    Raises
    ------
    AtlasError
        If shapes differ or the ontology lacks an id.
    """
    for name, array in (("annotation", annotation), ("template", template), ("sides", sides)):
        if array is not None and array.shape != frame.shape:
            raise AtlasError(
                f"atlas: {name} has shape {array.shape} but the frame has {frame.shape}"
            )
    counts = _count_ids(annotation)
    missing = [i for i in counts if i and i not in ontology]
    if missing:
        raise AtlasError(_unlisted_message("the annotation", missing, counts))
    ids = _id_table(counts)
    index: np.ndarray = np.empty(frame.shape, _index_type(ids))
    for z in range(frame.shape[0]):
        index[z] = np.searchsorted(ids, annotation[z])
    return Atlas(frame, ontology, ids, index, midplane(frame), sides, template)


@dataclass(frozen=True, eq=False)
class CheckedAtlas:
    """An atlas as its files hold it, read and found to be right.

    Attributes
    ----------
    frame : Frame
    spacing_source : str
        Where the voxel size comes from.
    ontology : Ontology
        Has an entry for every id but 0.
    template : numpy.ndarray, shape (z, y, x)
    annotation : numpy.ndarray of uint32, shape (z, y, x)
    counts : dict
        Voxels per id, ascending.
    unlisted : list of int
        Ids that the file of the ontology lacks.
    sides : numpy.ndarray of uint8 or None, shape (z, y, x)
        As in :class:`Atlas`.
    """

    frame: Frame
    spacing_source: str
    ontology: Ontology
    template: np.ndarray
    annotation: np.ndarray
    counts: dict[int, int]
    unlisted: list[int]
    sides: np.ndarray | None


def read_atlas(settings: AtlasSettings) -> CheckedAtlas:
    """Read the files of an atlas and check them against each other.

    Raises
    ------
    AtlasError
        If a file cannot be read; template and annotation differ in shape or frame; the voxel size
        is missing, ambiguous or implausible; the template is symmetric about another axis than
        left-right, and no image of the hemispheres says otherwise; ids are not integers from 0 to
        2**32 - 1, or are not in the ontology; the template is constant.
    ConfigError
        If the orientation is invalid.
    """
    orientation = check_orientation(settings.orientation, "atlases.NAME.orientation")
    if settings.unlisted not in ("error", "accept"):
        raise AtlasError(
            f"atlases.NAME.unlisted: {settings.unlisted!r} is unknown; write error or accept"
        )
    ontology = read_ontology(settings.ontology)
    stated = settings.spacing_um is not None
    template = read_image(settings.template, "template", stated=stated)
    annotation = read_image(settings.annotation, "annotation", stated=stated)
    check_same_grid(template, annotation, stated=stated)
    if not stated:
        check_header_orientation(orientation, (template, annotation))
    spacing_um, spacing_source = spacing_of(settings.spacing_um, (template, annotation))
    frame = Frame(template.array.shape, spacing_um, orientation=orientation)

    intensities = intensities_of(template)
    labels = lossless_ids(annotation.array, annotation.name)
    counts = _count_ids(labels)
    unlisted = [i for i in counts if i and i not in ontology]
    if unlisted and settings.unlisted == "error":
        raise AtlasError(_unlisted_message(annotation.name, unlisted, counts))
    if unlisted:
        logger.warning("%s", _unlisted_message(annotation.name, unlisted, counts))
        ontology = ontology.with_structures(
            Structure(i, f"unlisted-{i}", f"unlisted region {i}") for i in unlisted
        )
    if set(counts) <= {0}:
        raise AtlasError(
            f"{annotation.name} has no labelled voxel; give the annotation of the atlas"
        )

    sides = None
    if settings.hemispheres is not None:
        image = read_image(settings.hemispheres, "hemispheres", stated=stated)
        check_same_grid(annotation, image, stated=stated)
        sides = _sides(image, settings.hemisphere_values, frame)
    else:
        check_left_right(intensities, labels, orientation, template.name)
    return CheckedAtlas(
        frame, spacing_source, ontology, intensities, labels, counts, unlisted, sides
    )


def prepare_atlas(settings: AtlasSettings, out_folder: str | os.PathLike) -> dict:
    """Check an atlas and write it in terareg's form, see the module's docstring.

    Nothing is written before everything has been checked, see :func:`read_atlas`.

    Returns
    -------
    dict
        Content of ``atlas.json``.
    """
    found = read_atlas(settings)
    frame, sides = found.frame, found.sides
    out = Path(out_folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "atlas.json").unlink(missing_ok=True)
    images = {
        "template.nrrd": found.template,
        "annotation.nrrd": found.annotation,
        "hemispheres.nrrd": _plane_sides(midplane(frame), frame) if sides is None else sides,
    }
    for name, array in images.items():
        nrrd.write_image(out / name, array, frame)
    write_atomic(out / "ontology.tsv", found.ontology.to_tsv())

    keys = ("template", "annotation", "hemispheres", "ontology")
    sources = {key: getattr(settings, key) for key in keys}
    plane = midplane(frame)
    info: dict[str, Any] = {
        "frame": frame.to_json(),
        "extent_mm": _extent_mm(frame),
        "spacing_source": found.spacing_source,
        "template_dtype": found.template.dtype.name,
        "ids": list(found.counts),
        "voxels": list(found.counts.values()),
        "unlisted": found.unlisted,
        "regions_in_ontology": len(found.ontology),
        "hemispheres": {
            "source": "plane" if sides is None else "image",
            "axis": plane.axis,
            "index": plane.index,
            "lower": plane.lower,
            "upper": plane.upper,
        },
        "sources": _hashes({key: path for key, path in sources.items() if path is not None}),
        "files": {name: file_hash(out / name) for name in [*images, "ontology.tsv"]},
    }
    if settings.origin is not None:
        info["origin"] = settings.origin
    write_json(out / "atlas.json", info | {"sha256": fingerprint(info)})
    logger.info(
        "atlas: %d of the %d regions in the ontology are in the annotation, %s",
        len([i for i in found.counts if i]), len(found.ontology),
        ", ".join(f"{k} {v:.4g} mm" for k, v in info["extent_mm"].items()),
    )  # fmt: skip
    return info


def _hashes(sources: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Names and checksums of source files; those of a download must be what was downloaded."""
    found = {}
    for key, path in sources.items():
        file = Path(path)
        digest = _folder_hash(file) if file.is_dir() else file_hash(file)
        record = file.parent / DOWNLOAD_RECORD
        if record.is_file():
            whole = read_json(record)["files"].get(file.name, digest)
            if digest != whole:
                raise AtlasError(
                    f"{key} {path} has changed since it was downloaded (SHA-256 {digest[:12]} "
                    f"instead of {whole[:12]}); remove the folder and get the atlas again "
                    "(terareg atlas get)"
                )
        found[key] = {"name": file.name, "sha256": digest}
    return found


def _folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint({path.relative_to(folder).as_posix(): file_hash(path) for path in files})


def read_further_image(settings: AtlasSettings, path: str, name: str) -> tuple[np.ndarray, Frame]:
    """Read a further image of an atlas, which lies on the grid of its template.

    Parameters
    ----------
    settings : AtlasSettings
        Of the atlas.
    path : str
        Image file.
    name : str
        What messages call it.

    Raises
    ------
    AtlasError
        If the file cannot be read, is constant, or is not on the grid of the template.
    """
    orientation = check_orientation(settings.orientation, "atlases.NAME.orientation")
    stated = settings.spacing_um is not None
    template = read_image(settings.template, "template", stated=stated)
    image = read_image(path, f"images.{name}", stated=stated)
    check_same_grid(template, image, stated=stated)
    if not stated:
        check_header_orientation(orientation, (image,))
    spacing_um, _ = spacing_of(settings.spacing_um, (template, image))
    frame = Frame(image.array.shape, spacing_um, orientation=orientation)
    return intensities_of(image), frame


def prepare_image(settings: AtlasSettings, path: str, name: str, out: str | os.PathLike) -> None:
    """Write what :func:`read_further_image` reads as ``NAME.nrrd``, its checksum as ``NAME.json``.

    Parameters
    ----------
    settings, path, name
        As there.
    out : path
        The file ``NAME.nrrd`` to write.
    """
    image, frame = read_further_image(settings, path, name)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write_image(out, image, frame)
    write_json(out.with_suffix(".json"), {"sha256": file_hash(out)})


def load_image(path: str | os.PathLike, frame: Frame) -> np.ndarray:
    """Voxels (z, y, x) of what :func:`prepare_image` wrote for an atlas with this frame.

    Raises
    ------
    AtlasError
        If the file is not what was written.
    """
    path = Path(path)
    record = read_json(path.with_suffix(".json"))
    if not isinstance(record, dict) or record.get("sha256") != file_hash(path):
        raise AtlasError(
            f"{path} was damaged or edited; delete it and run prepare_atlas_image again"
        )
    return nrrd.read_image(path, frame)


# parts of a prepared atlas, checked as in load_atlas
def load_template(folder: str | os.PathLike) -> tuple[np.ndarray, Frame]:
    """Template (z, y, x) of a prepared atlas and its frame."""
    info = _checked_info(folder, ["template.nrrd"])
    frame = Frame.from_json(info["frame"])
    return nrrd.read_image(Path(folder) / "template.nrrd", frame), frame


def load_frame(folder: str | os.PathLike) -> Frame:
    """Grid of a prepared atlas."""
    return Frame.from_json(_checked_info(folder)["frame"])


def load_ontology(folder: str | os.PathLike) -> tuple[Ontology, list[int]]:
    """Ontology of a prepared atlas, and the ids in its annotation."""
    info = _checked_info(folder, ["ontology.tsv"])
    return read_ontology(Path(folder) / "ontology.tsv"), [int(i) for i in info["ids"]]


def load_atlas(folder: str | os.PathLike, *, template: bool = True) -> Atlas:
    """Load what :func:`prepare_atlas` wrote.

    The annotation is decompressed slab by slab straight into its index, so that memory stays at
    two bytes per voxel.

    Parameters
    ----------
    folder : path
    template : bool
        Whether to load the template too; labels and points do not need it.

    Raises
    ------
    AtlasError
        If the folder holds no complete atlas.
    """
    folder = Path(folder)
    loaded = ["annotation.nrrd", "ontology.tsv", *(["template.nrrd"] if template else [])]
    info = _checked_info(folder, [*loaded, "hemispheres.nrrd"])
    frame = Frame.from_json(info["frame"])
    ids = _id_table(info["ids"])
    index: np.ndarray = np.empty(frame.shape, _index_type(ids))
    for start, slab in nrrd.image_slabs(folder / "annotation.nrrd", frame):
        found = np.minimum(np.searchsorted(ids, slab), len(ids) - 1)
        if not np.array_equal(ids[found], slab):
            raise AtlasError(
                f"{folder / 'annotation.nrrd'} has ids that are not in atlas.json; {_RUN_AGAIN}"
            )
        index[start : start + len(slab)] = found
    sides = None
    if info["hemispheres"]["source"] == "image":
        sides = nrrd.read_image(folder / "hemispheres.nrrd", frame)
    return Atlas(
        frame,
        read_ontology(folder / "ontology.tsv"),
        ids,
        index,
        midplane(frame),
        sides,
        nrrd.read_image(folder / "template.nrrd", frame) if template else None,
    )


def _checked_info(folder: str | os.PathLike, names: Sequence[str] = ()) -> dict[str, Any]:
    """What ``atlas.json`` says, if it and these files are what :func:`prepare_atlas` wrote."""
    folder = Path(folder)
    if not (folder / "atlas.json").is_file():
        raise AtlasError(f"{folder} contains no prepared atlas; run the rule prepare_atlas")
    info: dict[str, Any] = read_json(folder / "atlas.json")
    facts = {key: value for key, value in info.items() if key != "sha256"}
    if info.get("sha256") != fingerprint(facts):
        raise AtlasError(f"{folder / 'atlas.json'} was damaged or edited; {_RUN_AGAIN}")
    for name in names:
        if file_hash(folder / name) != info["files"].get(name):
            raise AtlasError(f"{folder / name} was damaged or edited; {_RUN_AGAIN}")
    return info


# ---------------------------------------------------------------------- checking values
def lossless_ids(array: np.ndarray, name: str) -> np.ndarray:
    """Region ids as uint32, every value unchanged; ``name`` is what messages call the image."""
    if array.dtype.kind not in "uif":
        raise AtlasError(f"{name} has type {array.dtype}; give integer region ids")
    for slab in array:
        if array.dtype.kind == "f":
            broken = slab[~np.isfinite(slab) | (slab != np.rint(slab))]
            if broken.size:
                raise AtlasError(
                    f"{name} has value {broken[0]}, not an integer region id; give the "
                    "annotation without interpolation"
                )
            if np.abs(slab).max() >= 2 ** (np.finfo(array.dtype).nmant + 1):
                raise AtlasError(
                    f"{name} has id {slab.max():.0f} in type {array.dtype}, too large to be told "
                    "from its neighbours; give the annotation as uint32"
                )
        for value in (slab.min(), slab.max()):
            if not 0 <= value <= _MAX_ID:
                raise AtlasError(
                    f"{name} has id {value:.0f}, outside 0 to {_MAX_ID}; renumber it in the "
                    "annotation and the ontology"
                )
    return array.astype(np.uint32)


def _count_ids(labels: np.ndarray) -> dict[int, int]:
    """Voxels per id, ascending."""
    counts: dict[int, int] = {}
    for slab in labels:
        ids, voxels = np.unique(slab, return_counts=True)
        for i, n in zip(ids.tolist(), voxels.tolist()):
            counts[i] = counts.get(i, 0) + n
    return dict(sorted(counts.items()))


def _unlisted_message(name: str, missing: list[int], counts: dict[int, int]) -> str:
    first = ", ".join(f"{i} ({counts[i]} voxels)" for i in missing[:5])
    total = sum(counts[i] for i in missing)
    return (
        f"{name} has {len(missing)} ids, in {total} voxels, that are not in the ontology: "
        f"{first}{', ...' if len(missing) > 5 else ''}; add them to the ontology or set "
        "atlases.NAME.unlisted: accept"
    )


def _sides(image: SourceImage, values: tuple[int, int], frame: Frame) -> np.ndarray:
    left, right = values
    if left == right:
        raise AtlasError(
            f"atlases.NAME.hemisphere_values: {left} stands for both hemispheres; give the values "
            "of [left, right]"
        )
    for side, value in (("left", left), ("right", right)):
        if not np.any(image.array == value):
            raise AtlasError(
                f"{image.name} has no voxel of value {value} ({side}); set "
                "atlases.NAME.hemisphere_values to the values of [left, right]"
            )
    sides = np.zeros(image.array.shape, np.uint8)
    sides[image.array == left] = LEFT
    sides[image.array == right] = RIGHT
    plane = midplane(frame)
    centres = [_centre_along(sides == side, plane.axis) for side in (plane.lower, plane.upper)]
    if centres[0] > centres[1]:
        raise AtlasError(
            f"{image.name}: by orientation {frame.orientation} the voxels of value {left} (left) "
            f"are on the right of those of value {right} (right); correct "
            "atlases.NAME.orientation, or swap atlases.NAME.hemisphere_values (of an atlas given "
            "by its name, give the files instead)"
        )
    return sides


def _centre_along(mask: np.ndarray, axis: int) -> float:
    """Mean index of the chosen voxels along an axis."""
    others = tuple(a for a in range(3) if a != axis)
    counts = np.count_nonzero(mask, axis=others)
    return float(counts @ np.arange(len(counts)) / counts.sum())


def _extent_mm(frame: Frame) -> dict[str, float]:
    names = {"R": "left-right", "A": "anterior-posterior", "S": "superior-inferior"}
    names |= {"L": names["R"], "P": names["A"], "I": names["S"]}
    return {
        names[letter]: round(extent / 1000, 6)
        for letter, extent in zip(frame.orientation, frame.extent_um)
    }


# ---------------------------------------------------------------------- index of the regions
def _id_table(ids) -> np.ndarray:
    return np.array(sorted({0, *ids}), np.uint32)


def _index_type(ids: np.ndarray) -> type:
    return np.uint16 if len(ids) <= 2**16 else np.uint32
