"""Meshes of a stored label volume: surfaces of blocks, then whole objects in a viewer's form.

:func:`surface_part` makes the surfaces in the cells of a block, with fewer triangles;
:func:`write_meshes` joins those of each object, simplifies them again across the borders of
blocks, and writes one level of detail after the other. Memory holds one block, or the surfaces of
the ids of one shard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from terareg.core.errors import ConfigError, VolumeError, few
from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.objects import legacy, multires
from terareg.objects.id_shards import IdShards, write_shard
from terareg.objects.parts import Parts
from terareg.objects.simplify import simplified_together
from terareg.objects.spatial_index import SpatialIndex
from terareg.objects.surfaces import (
    STEPS,
    Surface,
    block_surfaces,
    joined,
    merged,
    with_volume,
)
from terareg.storage.records import to_json, write_files
from terareg.storage.store import Store
from terareg.volumes.plan import Block

FORMS = ("multiresolution", "legacy")
_NM_PER_UM = 1000.0


@dataclass(frozen=True)
class MeshSettings:
    """How labels become meshes.

    Attributes
    ----------
    form : str
        "multiresolution" (draco, several levels of detail) or "legacy" (one, uncompressed).
    sharded : bool
        Many meshes in a file; multiresolution only.
    error_nm : float
        How far simplified surfaces may lie from the voxels' (root mean square); 0 keeps every
        triangle. Each level of detail allows twice the error of the one before.
    levels : int
        Levels of detail; legacy meshes have one.
    dust_vox : int
        Labels with fewer voxels have no mesh.
    ids : tuple of int
        Labels to make; all, if there are none.
    shards : IdShards
        Parts in which objects are written, and with ``sharded`` their files.
    index : SpatialIndex, optional
        Boxes of space in which objects are listed.
    """

    form: str = "multiresolution"
    sharded: bool = False
    error_nm: float = 0.0
    levels: int = 3
    dust_vox: int = 0
    ids: tuple[int, ...] = ()
    shards: IdShards = field(default_factory=IdShards)
    index: SpatialIndex | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"mesh form {self.form!r} is unknown; use {' or '.join(FORMS)}")
        if self.form == "legacy" and self.sharded:
            raise ConfigError("legacy meshes cannot be sharded; use form: multiresolution")
        if not self.error_nm >= 0:
            raise ConfigError(f"mesh error {self.error_nm} nm is impossible; give 0 or more")
        if not 1 <= self.levels <= 10:
            raise ConfigError(f"{self.levels} levels of detail are impossible; use 1 to 10")


def surface_part(
    labels: np.ndarray, block: Block, frame: Frame, settings: MeshSettings
) -> dict[str, np.ndarray]:
    """Surfaces in the cells of a block: arrays for :meth:`Parts.write`.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The block and the planes after it, see :func:`terareg.objects.labelling.extended`.
    block : Block
    frame : Frame
        Grid of the volume.
    settings : MeshSettings
    """
    wanted = frozenset(settings.ids) or None
    surfaces = dict(block_surfaces(labels, block, frame.shape, wanted))
    if settings.error_nm:
        surfaces = _fewer(surfaces, frame, settings.error_nm / 2)
    own = labels[tuple(slice(n) for n in block.shape)]
    return _packed(own, surfaces, settings.shards)


def _fewer(surfaces: dict[int, Surface], frame: Frame, error_nm: float) -> dict[int, Surface]:
    """Surfaces of a block with fewer triangles; borders, which other blocks share, stay."""
    step_nm = np.array(frame.spacing_um) * _NM_PER_UM / STEPS
    pairs = [(s.vertices * step_nm, s.faces) for s in surfaces.values()]
    found = simplified_together(pairs, error_nm)
    return {
        label: merged(Surface(np.rint(vertices_nm / step_nm).astype(np.int64), faces))
        for label, (vertices_nm, faces) in zip(surfaces, found)
    }


def _packed(
    labels: np.ndarray, surfaces: dict[int, Surface], shards: IdShards
) -> dict[str, np.ndarray]:
    """Arrays of a block, apart for each shard: voxels of labels, and surfaces."""
    ids, voxels = _counted(labels)
    names = np.array(list(surfaces), np.uint64)
    of_ids, of_names = shards.number(ids), shards.number(names)
    arrays = {}
    for number in np.union1d(of_ids, of_names).tolist():
        inside = of_ids == number
        chosen = [int(name) for name in names[of_names == number]]
        listed = [surfaces[name] for name in chosen]
        none = np.zeros((0, 3), np.int64)
        for name, array in {
            "ids": ids[inside],
            "voxels": voxels[inside],
            "labels": np.array(chosen, np.uint64),
            "counts": np.array([(len(s.vertices), len(s.faces)) for s in listed], np.int64).reshape(
                -1, 2
            ),
            "vertices": _small(np.concatenate([none, *(s.vertices for s in listed)])),
            "faces": _small(np.concatenate([none, *(s.faces for s in listed)])),
        }.items():
            arrays[f"{number}/{name}"] = array
    return arrays


def _small(numbers: np.ndarray) -> np.ndarray:
    """The same in 16 bits, or in 32, which hold all numbers of surfaces."""
    low, high = numbers.min(initial=0), numbers.max(initial=0)
    short = np.iinfo(np.int16)
    return numbers.astype(np.int16 if short.min <= low and high <= short.max else np.int32)


def _counted(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels but 0, ascending, uint64, and how many voxels each has."""
    flat = labels.reshape(-1)
    # runs of equal voxels are few
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    ids, which = np.unique(flat[ends], return_inverse=True)
    voxels = np.bincount(which, np.diff(ends, prepend=-1)).astype(np.int64)
    return ids[ids > 0].astype(np.uint64), voxels[ids > 0]


def write_meshes(
    grid: tuple[Frame, Box],
    parts: tuple[Parts, Mapping[str, str]],
    where: tuple[Store, str],
    shards: Iterable[int],
    settings: MeshSettings,
) -> dict:
    """Join, simplify and write the meshes of some shards.

    Parameters
    ----------
    grid : tuple of Frame and tuple of int
        Grid of the labels, and where its first voxel lies, in whole voxels.
    parts : tuple of Parts and mapping of str to str
        Of :func:`surface_part`, and the digests of all by name of the block.
    where : tuple of Store and str
        Folder of the meshes. Their ``info`` is written by :func:`write_info`.
    shards : iterable of int
        Numbers of shards.
    settings : MeshSettings

    Returns
    -------
    dict
        ``rows``: for each mesh its ``label``, ``voxels``, ``volume_um3``, and the ``triangles`` of
        the finest level of detail; ``objects``: what is known of each by key; ``dust``: labels
        that were left out; ``index``: where labels lie, see
        :meth:`terareg.objects.spatial_index.SpatialIndex.files`.
    """
    store, key = where
    frame, _ = grid
    summary: dict = {"rows": [], "objects": {}, "dust": 0, "index": {}}
    for shard in shards:
        written: dict[int, tuple[bytes, bytes]] = {}
        chosen = []
        for label, voxels, surface in _objects(*parts, shard):
            if voxels < settings.dust_vox:
                summary["dust"] += 1
            else:
                chosen.append((label, voxels, surface))
        for (label, voxels, _), details in zip(chosen, _details(chosen, grid, settings)):
            summary["rows"].append(
                {
                    "label": label,
                    "voxels": voxels,
                    "volume_um3": voxels * frame.voxel_volume_um3,
                    "triangles": len(details[0].faces),
                }
            )
            if settings.index is not None:
                settings.index.add(
                    summary["index"], label, (details[0].vertices_nm, details[0].faces)
                )
            if settings.form == "legacy":
                name = f"{label}.mesh"
                data = legacy.encode_fragment(details[0].vertices_nm, details[0].faces)
                objects = {name: data, f"{label}:0": to_json({"fragments": [name]})}
            else:
                manifest, fragments = multires.encode_whole(details)
                if settings.sharded:
                    written[label] = fragments, manifest
                    continue
                objects = {f"{label}.index": manifest, str(label): fragments}
            summary["objects"] |= write_files(store, key, objects)
        if written:
            name = f"{key}/{settings.shards.name(shard)}"
            summary["objects"] |= write_shard(store, name, written)
    return summary


def write_info(
    store: Store, key: str, settings: MeshSettings, properties: str | None = None
) -> dict[str, dict]:
    """Write ``info`` of a folder of meshes; return what is known of it.

    ``properties`` is the folder of their segment properties, relative to it.
    """
    sharding = settings.shards.to_json() if settings.sharded else None
    info = legacy.INFO if settings.form == "legacy" else multires.info_json(sharding)
    named = {} if properties is None else {"segment_properties": properties}
    index = {} if settings.index is None else settings.index.info()
    return write_files(store, key, {"info": to_json(info | named | index)})


def check_ids(labels: Collection[int], settings: MeshSettings, name: str) -> None:
    """Raise VolumeError if there is no mesh, or none of an id that was asked for.

    Parameters
    ----------
    labels : collection of int
        Of which there are meshes.
    settings : MeshSettings
    name : str
        Of the source, for the message.
    """
    missing = [str(label) for label in settings.ids if label not in labels]
    if missing:
        raise VolumeError(
            f"{name} has no mesh for id {few(missing)}; check the ids and dust_vox "
            f"({settings.dust_vox})"
        )
    if not labels:
        raise VolumeError(
            f"{name} has no label of at least {settings.dust_vox} voxels; check the source and "
            "dust_vox"
        )


def _objects(
    parts: Parts, digests: Mapping[str, str], shard: int
) -> Iterator[tuple[int, int, Surface]]:
    """Label, voxels and surface of the objects of a shard, ascending by label."""
    voxels: dict[int, int] = {}
    surfaces: dict[int, list[Surface]] = {}
    names = {n: f"{shard}/{n}" for n in ("ids", "voxels", "labels", "counts", "vertices", "faces")}
    for block, digest in digests.items():
        part = parts.read(block, digest, names.values())
        if not part:
            continue
        ids, voxels_here, labels, counts, vertices, faces = (part[n] for n in names.values())
        for label, count in zip(ids.tolist(), voxels_here.tolist()):
            voxels[label] = voxels.get(label, 0) + count
        v = f = 0
        for label, (vertex_count, face_count) in zip(labels.tolist(), counts.tolist()):
            surface = Surface(
                vertices[v : v + vertex_count].astype(np.int64),
                faces[f : f + face_count].astype(np.int64),
            )
            surfaces.setdefault(label, []).append(surface)
            v, f = v + vertex_count, f + face_count
    for label in sorted(surfaces):
        yield label, voxels[label], joined(surfaces.pop(label))


def _details(
    objects: list[tuple[int, int, Surface]], grid: tuple[Frame, Box], settings: MeshSettings
) -> list[list[multires.Detail]]:
    """Levels of detail of objects, finest first, in nanometres from the corner of space."""
    frame, offset_vox = grid
    spacing_nm = np.array(frame.spacing_um) * _NM_PER_UM
    corner_nm = (np.array(offset_vox) + 0.5) * spacing_nm
    voxel_nm3 = float(np.prod(spacing_nm))
    levels = 1 if settings.form == "legacy" else settings.levels
    coarsest_nm = settings.error_nm or float(spacing_nm.min()) / 2
    pairs = [(s.vertices * (spacing_nm / STEPS), s.faces) for _, _, s in objects]
    details: list[list[multires.Detail]] = [[] for _ in objects]
    for level in range(levels):
        error_nm = settings.error_nm / 2 if level == 0 else coarsest_nm * 2**level
        pairs = simplified_together(pairs, error_nm)
        scale = float(spacing_nm.min()) * 2**level
        for (_, voxels, _), (vertices_nm, faces), found in zip(objects, pairs, details):
            placed = with_volume(vertices_nm, faces, voxels * voxel_nm3) + corner_nm
            found.append(multires.Detail(placed[:, ::-1].copy(), faces, scale))
    return details
