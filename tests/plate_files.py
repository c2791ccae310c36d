"""Plates of OME-Zarr as microscopes' converters write them, of both versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr

SPACING_UM = (2.0, 0.5, 0.5)


def write_plate(
    path: Path,
    wells: Mapping[str, list[np.ndarray]],
    *,
    version: str = "0.5",
    axes: str = "czyx",
    places_um: Mapping[str, list[tuple[float, float]]] | None = None,
    chunk: int = 16,
) -> Path:
    """Write the images of the sites of each well ("B/3"), with translations (y, x) if given."""
    third = version == "0.5"
    top = zarr.open_group(str(path), mode="w", zarr_format=3 if third else 2)

    def state(group, key, value) -> None:
        if third:
            group.attrs["ome"] = {"version": version, key: value}
        else:
            group.attrs[key] = value

    rows, columns = ("A", "B", "C"), ("1", "2", "3", "4")
    state(top, "plate", {
        "name": "trial", "field_count": max(map(len, wells.values())),
        "rows": [{"name": n} for n in rows], "columns": [{"name": n} for n in columns],
        "wells": [{"path": well, "rowIndex": rows.index(well[0]),
                   "columnIndex": columns.index(well[2:])} for well in wells],
    })  # fmt: skip
    for well, sites in wells.items():
        group = top.require_group(well)
        state(group, "well", {"images": [{"path": str(n)} for n in range(len(sites))]})
        for n, image in enumerate(sites):
            site = group.create_group(str(n))
            shape = [min(chunk, size) for size in image.shape]
            site.create_array("0", data=image, chunks=shape)
            step = dict(zip("zyx", SPACING_UM))
            how: list[dict] = [{"type": "scale", "scale": [step.get(a, 1.0) for a in axes]}]
            if places_um is not None:
                at = dict(zip("yx", places_um[well][n]))
                how.append({"type": "translation", "translation": [at.get(a, 0.0) for a in axes]})
            kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
            space = {"type": "space", "unit": "micrometer"}
            named = [{"name": a, **kinds.get(a, space)} for a in axes]
            state(site, "multiscales", [
                {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": how}]}
            ])  # fmt: skip
    return path
