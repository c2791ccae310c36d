"""Layers of derived volumes, meshes and skeletons for the viewer's state."""

from __future__ import annotations

from collections.abc import Mapping

from terareg.derived.section import Entry
from terareg.storage.records import read_json, read_table
from terareg.views import neuroglancer
from terareg.volumes.plan import VolumePlan

_FOLDERS = {"mesh": "mesh", "skeletonize": "skeletons"}
# objects that are drawn at first, the largest ones
_MOST_DRAWN = 100


def derived_layer(
    entry: Entry,
    sample: str,
    files: tuple[str, str],
    colours: Mapping[str, Mapping[int, str]],
) -> dict:
    """Layer of what an entry of ``derived:`` made, not shown at first.

    Parameters
    ----------
    entry : Entry
        One that makes a volume, meshes or skeletons.
    sample : str
    files : tuple of str
        Its plan, and the last file of its tool.
    colours : mapping
        Colours "#rrggbb" of regions by id, for each "labels/ATLAS".
    """
    plan = VolumePlan.from_json(read_json(files[0])["plan"])
    name, offset_vox = f"derived {entry.name}", plan.offset_vox(0)
    form = plan.settings.formats[0]
    if form == "ome-zarr" and plan.settings.ngff == "0.4":
        form = "ome-zarr-0.4"
    source = neuroglancer.Source(f"{sample}/{entry.key}", form, plan.frame, offset_vox=offset_vox)
    known = colours.get(entry.volume or "")
    if entry.do in _FOLDERS:
        properties = f"{sample}/{entry.volume}/precomputed/segment_properties" if known else None
        return neuroglancer.object_layer(
            name, source, _FOLDERS[entry.do], segments=_largest(files[1]), colours=known,
            properties=properties,
        )  # fmt: skip
    if plan.is_segmentation:
        return neuroglancer.segmentation_layer(name, source, colours=known, visible=False)
    window = read_json(files[1])["window"]
    return neuroglancer.image_layer(name, source, window=window, visible=False)


def _largest(table: str) -> list[int]:
    """Labels of the largest objects of a table, ascending."""
    rows = read_table(table)
    size = "voxels" if "voxels" in rows[0] else "length_um"
    ordered = sorted(rows, key=lambda row: (-float(row[size]), int(row["label"])))
    return sorted(int(row["label"]) for row in ordered[:_MOST_DRAWN])
