"""OME-Zarr 0.5, or 0.4: metadata of a volume, tensorstore specifications, shards and chunks.

Axes are z, y, x in micrometres. Level l has a scale (its spacing) and a translation (the centre of
its first voxel), so that the levels of the pyramid coincide exactly.

Specification: https://ngff.openmicroscopy.org/0.5/ and the Zarr 3 core and sharding codecs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import imagecodecs
import numpy as np

from terareg.storage.shards import Shard, checksum
from terareg.storage.store import Store
from terareg.volumes import ngff_04
from terareg.volumes.box_writers import OwnObjects
from terareg.volumes.plan import Block, VolumePlan

FOLDER = "ome.zarr"
_BLOSC = {"blosc-zstd": "zstd", "blosc-lz4": "lz4"}  # both with bit shuffling
_LEVEL = 1
_BLOSC_HEAD = 16  # header bytes; with more room, a chunk of noise would grow


def group_files(
    plan: VolumePlan, metadata: Mapping[str, Any], window: tuple[float, float] | None = None
) -> dict[str, dict]:
    """Contents of the group's metadata files by name; arguments as of :func:`group_json`."""
    group = group_json(plan, metadata, window)
    if plan.settings.ngff == "0.4":
        return ngff_04.group_files(group["attributes"]["ome"])
    return {"zarr.json": group}


def array_files(plan: VolumePlan) -> dict[str, dict]:
    """Contents of the metadata files of all levels by name below the group."""
    levels = range(len(plan.levels))
    if plan.settings.ngff != "0.4":
        return {f"{n}/zarr.json": array_json(plan, n) for n in levels}
    return {
        f"{n}/{name}": content
        for n in levels
        for name, content in {
            ".zarray": array_json(plan, n), ".zattrs": ngff_04.ARRAY_ATTRIBUTES,
        }.items()
    }  # fmt: skip


def group_json(
    plan: VolumePlan, metadata: Mapping[str, Any], window: tuple[float, float] | None = None
) -> dict:
    """Contents of the group's ``zarr.json`` (0.5).

    Parameters
    ----------
    plan : VolumePlan
    metadata : mapping
        ``colour`` ("RRGGBB", default white) for images; ``label_colours`` ({id: "RRGGBB"}),
        ``label_names`` and ``label_acronyms`` ({id: str}) for segmentations.
    window : (float, float), optional
        Display range; the whole range of the type if not known yet.
    """
    scale = [
        [
            {"type": "scale", "scale": list(level.frame.spacing_um)},
            {"type": "translation", "translation": list(level.frame.origin_um)},
        ]
        for level in plan.levels
    ]
    multiscale = {
        "name": plan.name,
        "type": plan.downsampling,
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
        "datasets": [{"path": str(i), "coordinateTransformations": t} for i, t in enumerate(scale)],
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if plan.is_segmentation:
        ome["image-label"] = _image_label(metadata)
    else:
        low, high = type_range(plan.dtype) if window is None else window
        bottom, top = type_range(plan.dtype)
        ome["omero"] = {
            "name": plan.name,
            "channels": [
                {
                    "label": plan.name,
                    "color": str(metadata.get("colour", "FFFFFF")),
                    "active": True,
                    "coefficient": 1.0,
                    "family": "linear",
                    "inverted": False,
                    "window": {
                        "min": min(bottom, low),
                        "max": max(top, high),
                        "start": low,
                        "end": high,
                    },
                }
            ],
            "rdefs": {"defaultT": 0, "defaultZ": plan.frame.shape[0] // 2, "model": "greyscale"},
        }
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def array_json(plan: VolumePlan, level: int) -> dict:
    """Contents of the metadata file of one level: shards of the plan, inner chunks, codec."""
    if plan.settings.ngff == "0.4":
        return ngff_04.array_json(plan, level, _LEVEL)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    inner: list[dict[str, Any]] = (
        [little] if np.dtype(plan.dtype).itemsize > 1 else [{"name": "bytes"}]
    )
    codec = plan.settings.codec
    if codec in _BLOSC:
        options = {
            "typesize": np.dtype(plan.dtype).itemsize,
            "cname": _BLOSC[codec],
            "clevel": _LEVEL,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        }
        inner.append({"name": "blosc", "configuration": options})
    elif codec == "zstd":
        inner.append({"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}})
    elif codec == "gzip":
        inner.append({"name": "gzip", "configuration": {"level": _LEVEL}})
    # one checksum per chunk, so that readers report damage instead of returning noise
    inner.append({"name": "crc32c"})
    sharding = {
        "chunk_shape": list(plan.chunk),
        "codecs": inner,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    sharded = plan.settings.sharded
    edges = plan.levels[level].shard if sharded else plan.chunk
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(plan.levels[level].shape),
        "data_type": plan.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(edges)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if plan.dtype == "float32" else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}] if sharded else inner,
        "dimension_names": ["z", "y", "x"],
        "attributes": {},
    }


def spec(store: Store, key: str, plan: VolumePlan, level: int) -> dict:
    """Tensorstore specification of a level.

    Metadata come from the plan, so that a job makes no request before it writes. Chunks of zeros
    are stored and absent ones are an error, so that lost data never read as background.
    """
    return {
        "driver": "zarr" if plan.settings.ngff == "0.4" else "zarr3",
        "kvstore": store.kvstore(f"{key}/{FOLDER}/{level}"),
        "metadata": array_json(plan, level),
        "open": True,
        "assume_metadata": True,
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def _object_key(key: str, plan: VolumePlan, level: int, index: Sequence[int]) -> str:
    """Key of the object that holds a shard (z, y, x) of a level, or a chunk without shards."""
    prefix = [] if plan.settings.ngff == "0.4" else ["c"]
    return "/".join([key, FOLDER, str(level), *prefix, *map(str, index)])


class _Chunks(OwnObjects):
    """Chunks in objects of their own; has the methods of a Shard."""

    def __init__(
        self, store: Store, key: str, plan: VolumePlan, level: int, first: Sequence[int]
    ) -> None:
        super().__init__(store)
        self._place, self._first = (key, plan, level), first
        self._checked = plan.settings.ngff != "0.4"

    def add(self, position: Sequence[int], data: bytes | np.ndarray) -> None:
        """Write an encoded chunk, and its checksum where the format has one."""
        index = tuple(a + b for a, b in zip(self._first, position))
        end = checksum(data) if self._checked else b""
        self.put(_object_key(*self._place, index), bytes(data) + end)


class ShardWriter:
    """One shard of a level, written in layers of chunks from its first to its last plane.

    Where chunks lie in objects of their own, it writes these.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the volume.
    plan : VolumePlan
    level : int
    box : Block
        The shard, in voxels of the level.
    """

    def __init__(self, store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> None:
        self._plan = plan
        self._shard: Shard | _Chunks
        if plan.settings.sharded:
            grid = [s // c for s, c in zip(plan.levels[level].shard, plan.chunk)]
            self._shard = Shard(store, _object_key(key, plan, level, box.index), grid)
        else:
            first = [a // c for a, c in zip(box.start, plan.chunk)]
            self._shard = _Chunks(store, key, plan, level, first)

    def add(self, first: int, layer: np.ndarray) -> None:
        """Encode the chunks that begin at plane ``first`` of the shard, (z, y, x)."""
        depth, height, width = self._plan.chunk
        chunk = np.empty(self._plan.chunk, layer.dtype)
        room = np.empty(chunk.nbytes + _BLOSC_HEAD, np.uint8)
        for y in range(0, layer.shape[1], height):
            for x in range(0, layer.shape[2], width):
                part = layer[:, y : y + height, x : x + width]
                if part.shape != chunk.shape:
                    chunk[...] = 0
                chunk[tuple(map(slice, part.shape))] = part
                position = (first // depth, y // height, x // width)
                self._shard.add(position, self._encode(chunk, room))

    def close(self) -> dict[str, int]:
        """Make the shard appear; return {key: bytes}."""
        return self._shard.close()

    def discard(self) -> None:
        """Remove what was written of a shard that was not closed."""
        self._shard.discard()

    def _encode(self, chunk: np.ndarray, room: np.ndarray) -> Any:
        # the type stubs of imagecodecs know only bytes, but its functions take and return arrays
        codecs: Any = imagecodecs
        codec = self._plan.settings.codec
        if codec == "none":
            return chunk.reshape(-1).view(np.uint8)
        if codec == "zstd":
            return codecs.zstd_encode(chunk, level=_LEVEL)
        if codec == "gzip":
            return codecs.gzip_encode(chunk, level=_LEVEL)
        return codecs.blosc_encode(
            chunk,
            level=_LEVEL,
            compressor=_BLOSC[codec],
            shuffle=imagecodecs.BLOSC.SHUFFLE.BITSHUFFLE,
            typesize=chunk.itemsize,
            blocksize=0,
            numthreads=1,
            out=room,
        )


def type_range(dtype: str) -> tuple[float, float]:
    """Smallest and largest value of an integer type; 0 and 1 for floats."""
    if np.dtype(dtype).kind == "f":
        return 0.0, 1.0
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)


def _image_label(metadata: Mapping[str, Any]) -> dict:
    label: dict[str, Any] = {"version": "0.5"}
    colours = metadata.get("label_colours", {})
    if colours:
        label["colors"] = [
            {"label-value": int(i), "rgba": [*bytes.fromhex(colours[i]), 255]}
            for i in sorted(colours, key=int)
        ]
    names, acronyms = metadata.get("label_names", {}), metadata.get("label_acronyms", {})
    if names:
        # napari finds the row of a label by its "index"
        label["properties"] = [
            {"label-value": int(i), "index": int(i), "name": str(names[i])}
            | ({"acronym": str(acronyms[i])} if i in acronyms else {})
            for i in sorted(names, key=int)
        ]
    return label
