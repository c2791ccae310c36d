"""Points for Neuroglancer in any number: precomputed annotations with a spatial index.

The viewer fetches what it shows: coarse cells of the index hold a random share of the points, finer
ones the rest. Each level of the index, and the points by number, is one sharded object.
Specification: annotations.md and sharded.md of https://github.com/google/neuroglancer,
folder src/datasource/precomputed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.storage.records import write_files
from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding
from terareg.volumes.chunks import morton

_MOST_SHOWN = 4000  # points of a cell of the index
_MOST_LEVELS = 16
_INDEX_BITS = 8  # entries of a part of an object's index, as a power of two


def write_annotations(
    store: Store,
    key: str,
    position_um: np.ndarray,
    properties: Mapping[str, np.ndarray],
    frame: Frame,
) -> dict[str, dict[str, Any]]:
    """Write points as a precomputed annotation layer.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the layer; what lies there is removed.
    position_um : numpy.ndarray, shape (n, 3)
        (z, y, x). Point i has number i + 1 in the viewer.
    properties : mapping of str to numpy.ndarray, shape (n,)
        Shown beside a point, and usable in shaders, as float32.
    frame : Frame
        Volume that the points belong to; it bounds the index together with the points.

    Returns
    -------
    dict
        What is known of every object, by key.
    """
    store.delete_folder(key)
    points = np.asarray(position_um, float).reshape(-1, 3)[:, ::-1].astype("<f4")
    records = _records(points, properties)
    corners = frame.to_um(np.array([(-0.5,) * 3, np.array(frame.shape) - 0.5]))[:, ::-1]
    low = np.minimum(corners[0], points.min(axis=0, initial=np.inf)).astype(float)
    high = np.maximum(corners[1], points.max(axis=0, initial=-np.inf)).astype(float)
    ids = np.arange(1, len(points) + 1, dtype=np.uint64)
    spatial: list[dict[str, Any]] = []
    objects: dict[str, dict[str, Any]] = {}
    for level, (grid, size, cells, chosen) in enumerate(_levels(points, low, high)):
        name = f"spatial{level}"
        parts = [_cell(records[which], ids[which]) for which in chosen]
        bits, shard = _shard(cells, parts)
        objects |= write_files(store, f"{key}/{name}", {"0.shard": shard})
        most = max(map(len, chosen), default=1)
        spatial.append(
            {"key": name, "grid_shape": grid, "chunk_size": size, "limit": most, "sharding": bits}
        )
    bits, shard = _shard(ids.tolist(), [r.tobytes() for r in records])
    objects |= write_files(store, f"{key}/by_id", {"0.shard": shard})
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [1e-6, "m"] for axis in "xyz"},
        "lower_bound": low.tolist(),
        "upper_bound": high.tolist(),
        "annotation_type": "POINT",
        "properties": [{"id": name, "type": "float32"} for name in properties],
        "relationships": [],
        "by_id": {"key": "by_id", "sharding": bits},
        "spatial": spatial,
    }
    # last, so that a layer without it is not complete; the order of the dimensions matters
    text = (json.dumps(info, indent=1) + "\n").encode()
    return objects | write_files(store, key, {"info": text})


def _records(points: np.ndarray, properties: Mapping[str, np.ndarray]) -> np.ndarray:
    """Coordinates and properties of every point, float32 (n, 3 + properties)."""
    columns = [points, *(np.asarray(v, "<f4").reshape(-1, 1) for v in properties.values())]
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def _cell(records: np.ndarray, ids: np.ndarray) -> bytes:
    """The points of a cell of the index: their number, the points, their ids."""
    return np.uint64(len(ids)).tobytes() + records.tobytes() + ids.astype("<u8").tobytes()


def _levels(points: np.ndarray, low: np.ndarray, high: np.ndarray):
    """Grid, cell size, Morton codes of the cells with points, and their points, level by level."""
    extent = np.maximum(high - low, 1e-3)
    # which points a coarse level shows must not depend on their order in space
    chance = np.random.default_rng(0).random(len(points))
    left = np.arange(len(points))
    for level in range(_MOST_LEVELS):
        grid = np.maximum(1, np.ceil(extent / extent.max() * 2**level - 1e-9)).astype(int)
        size = extent / grid
        place = np.clip(((points[left] - low) / size).astype(int), 0, grid - 1)
        flat = np.ravel_multi_index(tuple(place.T), tuple(grid))
        most = int(np.bincount(flat).max(initial=0)) if len(flat) else 0
        last = most <= _MOST_SHOWN or level == _MOST_LEVELS - 1
        share = 1.0 if last else _MOST_SHOWN / most
        order = np.argsort(flat, kind="stable")
        shown = order[chance[left[order]] < share] if not last else order
        cells, first = np.unique(flat[shown], return_index=True)
        parts = np.split(left[shown], first[1:]) if len(cells) else []
        bits: Box = tuple(int(n - 1).bit_length() for n in grid[::-1])
        places = np.stack(np.unravel_index(cells, tuple(grid)), -1) if len(cells) else ()
        codes = [morton((int(z), int(y), int(x)), bits) for x, y, z in places]
        ranked = sorted(range(len(codes)), key=codes.__getitem__)
        yield (
            grid.tolist(), size.tolist(),
            [codes[i] for i in ranked], [parts[i] for i in ranked],
        )  # fmt: skip
        if last:
            return
        kept = np.setdiff1d(np.arange(len(left)), shown, assume_unique=True)
        # those left are spread evenly over what was not shown
        chance = (chance - share) / (1 - share)
        left = left[kept]


def _shard(ids: list[int], values: list[bytes]) -> tuple[dict[str, Any], bytes]:
    """How one shard of values under ascending numbers is divided, and the shard."""
    last = int(ids[-1]) if ids else 0
    parts_bits = max(0, last.bit_length() - _INDEX_BITS)
    # with very sparse numbers a part would be empty too often: fewer, longer parts
    parts_bits = min(parts_bits, max(0, math.ceil(math.log2(max(1, len(ids)) / 2**_INDEX_BITS))))
    sharding = Sharding(max(0, last.bit_length() - parts_bits), parts_bits)
    sizes = [len(value) for value in values]
    starts = [0, *itertools.accumulate(sizes)]
    head, tail = sharding.head_and_tail(ids, starts[:-1], sizes, starts[-1])
    return sharding.to_json(), b"".join([head, *values, tail])
