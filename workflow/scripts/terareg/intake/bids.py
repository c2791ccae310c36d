"""Tiles of a BIDS data set of microscopy: chunks of a sample in a folder ``micr``.

The voxel size and the place of a chunk are in JSON files beside the images, each of which also
holds for the folders below it. The translation of ``ChunkTransformationMatrix`` is in voxels where
the matrix does not scale, and in the unit of ``PixelSize`` where it scales by that.

References
----------
Brain Imaging Data Structure 1.10, "Microscopy".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from terareg.core.errors import AcquisitionError
from terareg.intake.found import Found, Look, channel_names, table_text
from terareg.storage.foreign import boundary, load_json, read_object, short
from terareg.storage.part_names import join_part
from terareg.volumes.headers import read_metadata
from terareg.volumes.ome_metadata import UM_PER

_IMAGE = re.compile(
    r"(?:.*/)?micr/(?P<name>(?:[a-zA-Z]+-[a-zA-Z0-9]+_)+(?P<suffix>[A-Za-z0-9]+))"
    r"(?P<ending>\.ome\.tiff?$|\.ome\.btf$|\.tiff?$|\.ome\.zarr(?=/))"
)
_REMEDY = "correct the JSON file beside the image"
_SAME = 1e-6


@dataclass(frozen=True)
class _Chunk:
    """One image of the data set, with its entities and what JSON files say of it."""

    key: str
    entities: Mapping[str, str]
    meta: Mapping[str, Any] = field(default_factory=dict)


def bids(look: Look) -> Found | None:
    """Chunks of one sample; None where the folder is no BIDS data set or has no chunks."""
    found = list(_chunks(look))
    if not found:
        return None
    of = {(c.entities.get("sub"), c.entities.get("ses"), c.entities.get("sample")) for c in found}
    if len(of) > 1:
        names = sorted(
            "_".join(f"{k}-{v}" for k, v in zip(("sub", "ses", "sample"), each) if v) for each in of
        )
        raise AcquisitionError(
            f"{look.store.url} is a BIDS dataset of {len(of)} samples, {', '.join(names[:4])}; "
            "give the folder micr of one of them"
        )
    spacing = _spacing(look, found)
    labels = _labels(found)
    source: dict[str, Any] = {
        "kind": "table", "path": look.store.url, "table": None,
        "channels": channel_names(dict.fromkeys(labels)), "spacing_um": spacing and list(spacing),
    }  # fmt: skip
    notes, guesses, asked = {}, {}, {}
    if spacing is None:
        asked["spacing_um"] = "voxel size [z, y, x] in micrometres; no JSON file states PixelSize"
    else:
        notes["spacing_um"] = "z, y, x, from PixelSize of the JSON files"
    tiles = {c.entities["chunk"] for c in found}
    columns, lines = ["path", "channel", "tile"], []
    places = [_place(look, c, spacing) for c in found]
    if len(tiles) > 1 and None in places:
        lacking = found[places.index(None)].key
        raise AcquisitionError(
            f"{look.store.url} is a BIDS dataset of {len(tiles)} chunks, but no JSON file states "
            f"ChunkTransformationMatrix and PixelSize of {lacking}; add them, or list the tiles "
            "in a table (input.kind: table) with row and column"
        )
    columns += ["y_um", "x_um", "z_um"] if len(tiles) > 1 else ["row", "column"]
    for chunk, label, place in zip(found, labels, places):
        where = [place[1], place[2], place[0]] if len(tiles) > 1 and place else [0, 0]
        lines.append([_path(look, chunk), label, f"chunk{chunk.entities['chunk']}", *where])
    if len(tiles) > 1:
        notes["table"] = "positions from ChunkTransformationMatrix of the JSON files"
    guesses["channels"] = "the names; the first is compared between tiles (stitching.channel)"
    return Found(
        f"{len(tiles)} chunks of a BIDS dataset", source,
        (f"{len(found)} images have BIDS names of chunks, such as {found[0].key}",),
        notes, guesses, asked, table_text(columns, lines),
    )  # fmt: skip


def _path(look: Look, chunk: _Chunk) -> str:
    """The path in a table: of a folder of OME-Zarr, its finest level is named."""
    if not chunk.key.lower().endswith(".zarr"):
        return chunk.key
    address = look.store.address(chunk.key)
    _, metadata = read_metadata(address, look.store.child(chunk.key))
    attributes = metadata.get("attributes", metadata)
    with boundary(f"{address}: its metadata", AcquisitionError, _REMEDY):
        levels = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
        return join_part(chunk.key, str(levels[0]["path"]))


def _chunks(look: Look) -> Iterator[_Chunk]:
    base = "micr/" if PurePosixPath(look.store.url).name == "micr" else ""
    sides: dict[str, dict] = {}
    seen: set[str] = set()
    for key in look.keys:
        match = _IMAGE.match(base + key)
        if match is None:
            continue
        entities = dict(re.findall(r"([a-zA-Z]+)-([a-zA-Z0-9]+)", match["name"]))
        image = (base + key)[: match.end()][len(base) :]
        # of a folder of OME-Zarr there are many keys
        if "chunk" not in entities or image in seen:
            continue
        seen.add(image)
        yield _Chunk(image, entities | {"": match["suffix"]}, _meta(look, image, entities, sides))


def _meta(look: Look, key: str, entities: Mapping[str, str], read: dict[str, dict]) -> dict:
    """Metadata of an image: of the JSON files above it whose names it has, the nearest counts."""
    found: dict = {}
    folder = PurePosixPath(key).parent
    for place in [*reversed(folder.parents), folder]:
        names = look.json_in("" if place == PurePosixPath(".") else place.as_posix())
        for name in sorted(names, key=len):
            stem = PurePosixPath(name).name.removesuffix(".json")
            own = dict(re.findall(r"([a-zA-Z]+)-([a-zA-Z0-9]+)", stem))
            if own.items() <= entities.items() and not stem.startswith("dataset_"):
                if name not in read:
                    with boundary(look.store.address(name), AcquisitionError, _REMEDY):
                        read[name] = load_json(read_object(look.store, name))
                if isinstance(read[name], dict):
                    found |= read[name]
    return found


def _spacing(look: Look, chunks: Sequence[_Chunk]) -> tuple[float, float, float] | None:
    sizes = {_pixel_size(c) for c in chunks}
    if len(sizes) > 1:
        raise AcquisitionError(
            f"{look.store.url}: its chunks have PixelSize {short(sorted(map(str, sizes)))}; "
            "correct the JSON files"
        )
    return sizes.pop()


def _pixel_size(chunk: _Chunk) -> tuple[float, float, float] | None:
    values, unit = chunk.meta.get("PixelSize"), chunk.meta.get("PixelSizeUnits")
    factor = UM_PER.get(str(unit).lower())
    if not isinstance(values, list) or len(values) != 3 or factor is None:
        return None
    numbers = [float(v) * factor if _is_number(v) and v > 0 else math.nan for v in values]
    if not all(map(math.isfinite, numbers)):
        raise AcquisitionError(f"{chunk.key}: PixelSize is {short(values)}; {_REMEDY}")
    return numbers[2], numbers[1], numbers[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _place(
    look: Look, chunk: _Chunk, spacing: tuple[float, float, float] | None
) -> tuple[float, float, float] | None:
    """Position (z, y, x) in micrometres."""
    rows = chunk.meta.get("ChunkTransformationMatrix")
    axes = chunk.meta.get("ChunkTransformationMatrixAxis")
    if rows is None or spacing is None:
        return None
    name = look.store.address(chunk.key)
    order = [str(a).upper() for a in axes] if isinstance(axes, (list, str)) else []
    good = isinstance(rows, list) and len(rows) == len(order) + 1
    good = good and all(isinstance(r, list) and len(r) == len(rows) for r in rows)
    if not good or not set(order) <= set("XYZ") or not {"X", "Y"} <= set(order):
        raise AcquisitionError(
            f"{name}: ChunkTransformationMatrix is {short(rows)} with the axes {short(axes)}; give "
            "a matrix of 4 x 4 and the axes X, Y, Z"
        )
    if not all(_is_number(v) and math.isfinite(v) for r in rows for v in r):
        raise AcquisitionError(
            f"{name}: ChunkTransformationMatrix has values that are not numbers; {_REMEDY}"
        )
    size = dict(zip("ZYX", spacing))
    unit = UM_PER[str(chunk.meta.get("PixelSizeUnits")).lower()]
    found = {"Z": 0.0}
    for k, axis in enumerate(order):
        scale, others = rows[k][k], [rows[k][j] for j in range(len(order)) if j != k]
        if abs(scale - 1) < _SAME:
            step = size[axis]
        elif abs(scale * unit / size[axis] - 1) < 1e-3:
            step = unit
        else:
            step = math.nan
        if any(abs(v) > _SAME for v in others) or math.isnan(step):
            raise AcquisitionError(
                f"{name}: its ChunkTransformationMatrix rotates or stretches the chunk along "
                f"{axis}; give a matrix that only translates it (1 in voxels, or PixelSize on the "
                "diagonal)"
            )
        found[axis] = float(rows[k][-1]) * step
    return found["Z"], found["Y"], found["X"]


def _labels(chunks: Sequence[_Chunk]) -> list[str]:
    """Channels: what tells images of one chunk apart."""
    kinds = [k for k in chunks[0].entities if k not in ("chunk", "sub", "ses", "sample")]
    several = [k for k in kinds if len({c.entities.get(k) for c in chunks}) > 1]
    several = several or (["stain"] if "stain" in kinds else [])
    return ["_".join(c.entities.get(k, "") for k in several) or "signal" for c in chunks]
