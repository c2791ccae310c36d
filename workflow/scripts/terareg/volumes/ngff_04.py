"""OME-Zarr 0.4, for programs that read no newer: where it differs from 0.5.

Zarr 2 has neither shards nor checksums: every chunk is an object of its own, and whether one was
damaged is found by ``verified_volumes``, not by whoever reads it.
Specification: https://ngff.openmicroscopy.org/0.4/ and
https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from terareg.volumes.plan import VolumePlan

#: attributes of a level: names of its axes, as xarray reads them from Zarr 2
ARRAY_ATTRIBUTES = {"_ARRAY_DIMENSIONS": ["z", "y", "x"]}
_BITSHUFFLE = 2


def group_files(ome: Mapping[str, Any]) -> dict[str, dict]:
    """Metadata files of the group by name, from the attribute ``ome`` of version 0.5."""
    version = {"version": "0.4"}
    attributes = {key: value for key, value in ome.items() if key != "version"}
    attributes["multiscales"] = [image | version for image in ome["multiscales"]]
    for key in ("omero", "image-label"):
        if key in ome:
            attributes[key] = ome[key] | version
    return {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}


def array_json(plan: VolumePlan, level: int, codec_level: int) -> dict:
    """Contents of ``.zarray`` of a level."""
    return {
        "zarr_format": 2,
        "shape": list(plan.levels[level].shape),
        "chunks": list(plan.chunk),
        "dtype": np.dtype(plan.dtype).newbyteorder("<").str,
        "compressor": _compressor(plan.settings.codec, codec_level),
        "fill_value": 0.0 if plan.dtype == "float32" else 0,
        "filters": None,
        "order": "C",
        "dimension_separator": "/",
    }


def _compressor(codec: str, level: int) -> dict | None:
    """Numcodecs' configuration of a codec."""
    name, _, inner = codec.partition("-")
    if name == "none":
        return None
    if name == "blosc":
        more = {"cname": inner, "clevel": level, "shuffle": _BITSHUFFLE, "blocksize": 0}
        return {"id": "blosc", **more}
    return {"id": name, "level": level}
