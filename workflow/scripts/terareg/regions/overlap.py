"""Accuracy of a registration by regions: labels of the sample compared with the atlas's."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.atlas.prepare import lossless_ids
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.regions.labels import label_block, slabs
from terareg.registration.transform import Transform
from terareg.volumes.headers import describe_image, image_form
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.meta_image import META_IMAGE

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology
    from terareg.atlas.prepare import Atlas

logger = logging.getLogger(__name__)


def read_sample_labels(
    path: str | os.PathLike, sample: Frame, spacing_um: Sequence[float] | None = None
) -> tuple[np.ndarray, Frame]:
    """Read an image of regions that covers a sample.

    Parameters
    ----------
    path : path
        NIfTI, NRRD or TIFF with the axes of the sample's volume and voxels of any size.
    sample : Frame
        Volume of the sample; the image has the same outer faces.
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x), if the file does not give it or gives a wrong one.

    Returns
    -------
    labels : numpy.ndarray of uint32, shape (z, y, x)
    frame : Frame
        In sample space.

    Raises
    ------
    VolumeError
        If the image does not cover the same extent as the sample, or its NIfTI header states other
        axes.
    AtlasError
        If its values are not ids.
    """
    settings = ImageSettings(tuple(spacing_um) if spacing_um else None, sample.orientation)
    if not str(path).lower().endswith(META_IMAGE):
        found = describe_image(str(path), believed=False)
        if found.channels != 1:
            raise VolumeError(
                f"labels {path} have {found.channels} components per voxel; give one id for each"
            )
    if spacing_um is None and image_form(str(path)) == "NIfTI":
        stated = describe_image(str(path)).orientation
        if stated not in (None, sample.orientation):
            raise VolumeError(
                f"labels {path} have orientation {stated} (z, y, x) in their header but the sample "
                f"{sample.orientation}; save them with the axes of the sample, or set "
                "sample_labels.NAME.spacing_um to overrule the header"
            )
    image = open_image(str(path), settings)
    given = image.frames[0]
    labels = lossless_ids(image.read(0, (0, 0, 0), given.shape), f"labels {path}")
    slack = np.maximum(given.spacing_um, sample.spacing_um)
    if np.any(np.abs(np.subtract(given.extent_um, sample.extent_um)) > slack):
        raise VolumeError(
            f"labels {path} cover {_sizes(given)} um (z, y, x) but the sample covers "
            f"{_sizes(sample)} um; give an image of the same field of view with the same axes, or "
            "state its voxel size"
        )
    origin = (
        o - s / 2 + t / 2 for o, s, t in zip(sample.origin_um, sample.spacing_um, given.spacing_um)
    )
    return labels, Frame(given.shape, given.spacing_um, tuple(origin), sample.orientation)


def score_labels(
    labels: np.ndarray,
    frame: Frame,
    transform: Transform,
    atlas: Atlas,
    groups: Sequence[int] = (),
) -> list[dict]:
    """Dice coefficient of every region in the sample's labels.

    Parameters
    ----------
    labels : numpy.ndarray of uint32, shape (z, y, x)
        Region ids in the sample, 0 where nothing was labelled. A subset of the regions may be
        labelled; other regions of the atlas are not scored.
    frame : Frame
        Grid of ``labels`` in sample space.
    transform : Transform
        Maps atlas points to sample points.
    atlas : Atlas
    groups : sequence of int
        Regions of the ontology. On both sides every id is replaced by the nearest of them among
        itself and its ancestors; ids without one are left out.

    Returns
    -------
    list of dict
        One row per region in the order of the ontology, then rows "mean", "median" and "p10" over
        them. Keys: kind ("region" or "summary"), id, acronym, name, dice, affine_dice (with the
        affine part alone: before the deformation), sample_mm3, atlas_mm3 (volume of the atlas
        region after transformation into the sample) and common_mm3.

    Raises
    ------
    VolumeError
        If an id is not in the ontology, or no labelled voxel is left.
    """
    to_group = _grouping(atlas.ontology, groups)
    unknown = [int(i) for i in np.unique(labels) if i and int(i) not in atlas.ontology]
    if unknown:
        raise VolumeError(
            f"labels of the sample: id {unknown[0]} is not in the atlas's ontology "
            f"({len(unknown)} in all); use ids of the atlas"
        )
    affine = Transform.from_affine(transform.affine, transform.atlas_frame, transform.sample_frame)
    counts = [_counts(labels, frame, t, atlas, to_group) for t in (transform, affine)]
    (own, found, common), (_, affine_found, affine_common) = counts
    if not own:
        raise VolumeError(
            "labels of the sample: no voxel has a label"
            + (
                " within the groups; name groups that contain labelled regions"
                if groups
                else "; check the image"
            )
        )
    cube = frame.voxel_volume_um3 / 1e9
    rows: list[dict[str, Any]] = []
    for region in atlas.ontology.ids:
        if region not in own:
            continue
        structure = atlas.ontology[region]
        rows.append(
            {
                "kind": "region",
                "id": region,
                "acronym": structure.acronym,
                "name": structure.name,
                "dice": _dice(own, found, common, region),
                "affine_dice": _dice(own, affine_found, affine_common, region),
                "sample_mm3": own[region] * cube,
                "atlas_mm3": found[region] * cube,
                "common_mm3": common[region] * cube,
            }
        )
    absent = [row["acronym"] for row in rows if not found[row["id"]]]
    if absent:
        logger.warning(
            "%d labelled regions have no voxel in the transformed atlas labels: %s",
            len(absent),
            ", ".join(absent[:5]),
        )
    return rows + _summary(rows)


def _grouping(ontology: Ontology, groups: Sequence[int]) -> dict[int, int]:
    """The group of every id; ids without a group are left out."""
    if not groups:
        return {i: i for i in ontology.ids}
    missing = [g for g in groups if g not in ontology]
    if missing:
        raise VolumeError(
            f"groups: region {missing[0]} is not in the atlas's ontology; use ids of the ontology"
        )
    chosen = set(groups)
    nearest = {}
    for item in ontology:
        found = next((i for i in (item.id, *ontology.ancestors(item.id)) if i in chosen), None)
        if found is not None:
            nearest[item.id] = found
    return nearest


def _counts(labels, frame, transform, atlas, to_group) -> tuple[Counter, Counter, Counter]:
    """Voxels by region: in the sample's labels, in the atlas's, and where they agree."""
    own: Counter[int] = Counter()
    found: Counter[int] = Counter()
    common: Counter[int] = Counter()
    for start, stop in slabs(frame):
        part = frame.cropped((start, 0, 0), (stop, *frame.shape[1:]))
        pairs = labels[start:stop].astype(np.uint64) << np.uint64(32)
        pairs |= label_block(transform, atlas, part).astype(np.uint64)
        for pair, voxels in zip(*(a.tolist() for a in np.unique(pairs, return_counts=True))):
            mine, other = to_group.get(pair >> 32), to_group.get(pair & 0xFFFFFFFF)
            if mine:
                own[mine] += voxels
            if other:
                found[other] += voxels
            if mine and mine == other:
                common[mine] += voxels
    return own, found, common


def _dice(own: Counter, found: Counter, common: Counter, region: int) -> float:
    return 2 * common[region] / (own[region] + found[region])


def _summary(rows: list[dict]) -> list[dict]:
    empty = dict.fromkeys(rows[0])
    return [
        empty
        | {"kind": "summary", "name": name}
        | {key: float(of([row[key] for row in rows])) for key in ("dice", "affine_dice")}
        for name, of in (
            ("mean", np.mean),
            ("median", np.median),
            ("p10", lambda values: np.percentile(values, 10)),
        )
    ]


def _sizes(frame: Frame) -> str:
    return " x ".join(f"{e:.0f}" for e in frame.extent_um)
