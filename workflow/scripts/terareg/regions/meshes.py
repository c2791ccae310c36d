"""Surfaces of regions in Neuroglancer's precomputed form, and the names of segments.

Meshes have several levels of detail (:mod:`terareg.objects.multires`), each of voxels twice as
large as those of the one before. Like precomputed voxels, vertices count from the outer corner of
the volume's first voxel.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from terareg.atlas.ontology import Ontology
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.parallel import map_items
from terareg.objects import multires
from terareg.objects.surfaces import enclosed_volume
from terareg.storage.records import object_facts, write_files
from terareg.storage.store import Store

logger = logging.getLogger(__name__)

_VOLUME_TOLERANCE = 0.01
_LEVEL_STEPS = 8
_DETAILS = 3
# most voxels of the grid of the mesh around everything
_WHOLE_VOXELS = 1_000_000


@dataclass(frozen=True)
class MeshSettings:
    """How regions become surfaces.

    Attributes
    ----------
    smoothing_vox : float
        Standard deviation of the Gaussian that smooths the staircase of the voxels; 0 does not
        smooth. The surface is placed so that it encloses the volume of the voxels.
    workers : int
        Threads.
    whole : int, optional
        Id whose mesh encloses all regions together, in place of a mesh of its own: the top of the
        ontology. It is made of a coarser grid, because it shows where the brain lies.
    """

    smoothing_vox: float = 0.7
    workers: int = 1
    whole: int | None = None


def region_mesh(
    mask: np.ndarray, frame: Frame, *, smoothing_vox: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface around the voxels of a mask.

    Marching cubes (Lewiner et al. 2003) on the smoothed mask, padded so that surfaces close at
    the border of the volume. The level is chosen at which the surface encloses the volume of the
    mask's voxels to 1 %, so that thin regions neither vanish nor shrink.

    Parameters
    ----------
    mask : numpy.ndarray of bool, or of the share of each voxel that is inside, shape (z, y, x)
        At least one voxel.
    frame : Frame
    smoothing_vox : float
        See :class:`MeshSettings`.

    Returns
    -------
    vertices_um : numpy.ndarray of float32, shape (n, 3)
        Order z, y, x, in the frame's micrometres.
    faces : numpy.ndarray of uint32, shape (m, 3)
        Triangles, counter-clockwise seen from outside in the coordinates x, y, z.
    """
    margin = 1 + math.ceil(4 * smoothing_vox)
    field = np.pad(mask, margin).astype(np.float32)
    if smoothing_vox > 0:
        field = ndimage.gaussian_filter(field, smoothing_vox, mode="constant", truncate=4)
    wanted = float(mask.sum(dtype=np.float64)) * frame.voxel_volume_um3
    spacing = np.array(frame.spacing_um)
    low, level, high = 0.0, 0.5 * min(1.0, float(field.max())), float(field.max())
    for _ in range(_LEVEL_STEPS):
        vertices, faces, _, _ = marching_cubes(field, level)
        ratio = enclosed_volume(vertices * spacing, faces) / wanted
        if smoothing_vox == 0 or abs(ratio - 1) <= _VOLUME_TOLERANCE:
            break
        low, high = (level, high) if ratio > 1 else (low, level)
        level = (low + high) / 2
    return frame.to_um(vertices - margin).astype(np.float32), faces.astype(np.uint32)


def write_meshes(
    store: Store,
    key: str,
    labels: np.ndarray,
    frame: Frame,
    volume_frame: Frame,
    settings: MeshSettings | None = None,
) -> dict[str, dict]:
    """Write a mesh for every id of a label volume; meshes that were there before are replaced.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the meshes; the volume's ``info`` names it as ``mesh``.
    labels : numpy.ndarray of uint32, shape ``frame.shape``
        The regions at a resolution suitable for meshes, for example 50 um; 0 is left out.
    frame : Frame
        Grid of ``labels``.
    volume_frame : Frame
        Grid of the finest level of the precomputed volume that the meshes belong to.
    settings : MeshSettings, optional

    Returns
    -------
    dict of str to dict
        By object key, ascending by id: what :func:`~terareg.storage.records.object_facts` says.

    Raises
    ------
    VolumeError
        If no voxel has a label.
    """
    settings = settings or MeshSettings()
    if labels.shape != frame.shape:
        raise VolumeError(f"the labels have shape {labels.shape} but their frame has {frame.shape}")
    ids = np.unique(labels)
    ids = ids[ids != 0]
    if not ids.size:
        raise VolumeError(
            "the label volume has no labelled voxel; check the registration and the orientation"
        )
    compact = np.empty(labels.shape, np.int32)
    for plane, numbers in zip(labels, compact):  # by plane, because searchsorted returns 64 bits
        numbers[...] = np.searchsorted(ids, plane) + 1
        numbers[plane == 0] = 0
    boxes = ndimage.find_objects(compact)
    store.delete_folder(key)
    corner_um = volume_frame.to_um(np.full(3, -0.5))
    scale_nm = 1000 * min(frame.spacing_um)

    def write(region: int) -> dict[str, dict]:
        if region == settings.whole:
            mask, part = _every(compact, frame)
        else:
            number = int(np.searchsorted(ids, region))
            box = boxes[number]
            mask = compact[box] == number + 1
            part = frame.cropped([s.start for s in box], [s.stop for s in box])
        details = []
        for factor in (2**n for n in range(_DETAILS)):
            share, grid = _coarser(mask, part, factor)
            vertices_um, faces = region_mesh(share, grid, smoothing_vox=settings.smoothing_vox)
            vertices_nm = (vertices_um.astype(np.float64) - corner_um)[:, ::-1] * 1000
            details.append(multires.Detail(vertices_nm, faces, scale_nm * factor))
        manifest, fragments = multires.encode_whole(details)
        return write_files(store, key, {f"{region}.index": manifest, str(region): fragments})

    info = _json(multires.info_json())
    written = {f"{key}/info": object_facts(info)}
    regions = sorted({*ids.tolist(), settings.whole or 0} - {0})
    for part in map_items(write, regions, workers=settings.workers, what="meshes"):
        written |= part
    store.write(f"{key}/info", info)
    return written


def _coarser(mask: np.ndarray, frame: Frame, factor: int) -> tuple[np.ndarray, Frame]:
    """How much of each larger voxel a mask fills, and their grid."""
    if factor == 1:
        return mask, frame
    padded = np.pad(mask, [(0, -n % factor) for n in mask.shape])
    z, y, x = (n // factor for n in padded.shape)
    cells = padded.reshape(z, factor, y, factor, x, factor)
    return cells.mean(axis=(1, 3, 5), dtype=np.float32), frame.downsampled((factor,) * 3)


def _every(numbers: np.ndarray, frame: Frame) -> tuple[np.ndarray, Frame]:
    """Where any region is, on a coarser grid."""
    step = max(1, math.ceil((numbers.size / _WHOLE_VOXELS) ** (1 / 3)))
    while not (mask := numbers[::step, ::step, ::step] > 0).any():
        step -= 1
    z, y, x = (step * s for s in frame.spacing_um)
    return mask, Frame(mask.shape, (z, y, x), frame.origin_um, frame.orientation)


def segment_properties(ids: Iterable[int], ontology: Ontology) -> dict:
    """Neuroglancer's inline segment properties: acronym as label, name as description.

    Ids are in the ontology's order, so that the viewer lists a region beside its neighbours.
    """
    wanted = {int(i) for i in ids} - {0}
    listed = [region for region in ontology if region.id in wanted]
    missing = wanted - {region.id for region in listed}
    if missing:
        raise VolumeError(
            f"the labels contain id {min(missing)}, which is not in the ontology; make the labels "
            "again from this atlas"
        )
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(region.id) for region in listed],
            "properties": [
                {"id": "label", "type": "label", "values": [r.acronym for r in listed]},
                {"id": "name", "type": "description", "values": [r.name for r in listed]},
            ],
        },
    }


def label_metadata(ids: Iterable[int], ontology: Ontology) -> dict[str, dict[str, str]]:
    """Colours, names and acronyms of regions, for :func:`terareg.volumes.ngff.group_json`.

    Keys are ids as text, as they are once they were written to a file.
    """
    regions = [ontology[int(i)] for i in ids]
    return {
        "label_colours": {str(r.id): r.colour for r in regions},
        "label_names": {str(r.id): r.name for r in regions},
        "label_acronyms": {str(r.id): r.acronym for r in regions},
    }


def write_segment_properties(
    store: Store, key: str, ids: Iterable[int], ontology: Ontology
) -> dict[str, dict]:
    """Write ``<key>/info``; the volume's ``info`` names the folder as ``segment_properties``."""
    return write_files(store, key, {"info": _json(segment_properties(ids, ontology))})


def _json(data: dict) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
