"""Exports from their source to their files: :func:`prepare_export` and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas, load_template
from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.exports.files import Picture
from terareg.exports.label_tables import LabelTable
from terareg.exports.settings import MAPS, ExportSettings, Origin
from terareg.exports.slabs import export_frame, export_slabs
from terareg.storage import nrrd
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage
from terareg.volumes.reader import Levels, Volume


def open_origin(origin: Origin, store: Store, sample: str, file: str | None) -> Levels:
    """Open what an export is made from.

    Parameters
    ----------
    origin : Origin
    store : Store
        Array store of the run, for volumes.
    sample : str
        Folder of the sample in it.
    file : str or None
        For maps and images of an atlas, the file that holds them, in terareg's form; None for
        volumes.
    """
    if file is None:
        return Volume(store, f"{sample}/{origin.text}")
    if origin.kind == "registration":
        array, frame = nrrd.read_scalar(file)
        component = array if array.ndim == 3 else array[MAPS[origin.image][1]]
        return OpenedImage(origin.text, [frame], [np.ascontiguousarray(component)])
    folder = Path(file).parent
    if origin.is_segmentation:
        atlas = load_atlas(folder, template=False)
        image = OpenedImage(origin.text, [atlas.frame], [atlas.annotation])
        image.is_segmentation = True
        return image
    array, frame = load_template(folder)
    return OpenedImage(origin.text, [frame], [array])


def prepare_export(
    settings: ExportSettings,
    source: Levels,
    table: LabelTable | None,
    name: str,
    workers: int = 1,
    clipped: list[Clipped] | None = None,
) -> tuple[Picture, Iterator[tuple[int, np.ndarray]]]:
    """What is to be written: a description, and the slabs of planes, which are made when asked for.

    Parameters
    ----------
    settings : ExportSettings
    source : Levels
    table : LabelTable or None
        Of the atlas, for regions.
    name : str
        Of the export.
    workers : int
        Threads.
    clipped : list, optional
        See :func:`terareg.exports.slabs.export_slabs`.
    """
    frame = export_frame(source, settings.resolution_um, settings.isotropic)
    slabs = export_slabs(source, frame, settings.interpolation, workers, clipped=clipped)
    aligned = settings.origin.kind in ("atlas_space", "atlases")
    if table is None:
        return Picture(name, frame, source.dtype.name, aligned=aligned), slabs
    if settings.labels == "rgb":
        coloured = ((first, table.coloured(slab)) for first, slab in slabs)
        return Picture(name, frame, "uint8", aligned=aligned, colours=True), coloured
    picture = Picture(name, frame, table.dtype, labels=True, aligned=aligned)
    if settings.labels == "ids":
        return picture, slabs
    palette = table.palette() if table.dtype == "uint8" else None
    picture = Picture(name, frame, table.dtype, labels=True, aligned=aligned, palette=palette)
    return picture, ((first, table.renumbered(slab)) for first, slab in slabs)


def clipped_facts(clipped: list[Clipped]) -> dict[str, int]:
    """How many voxels of an export the type could not hold, for its record."""
    total = sum(clipped, Clipped())
    return {"clipped_low": total.low, "clipped_high": total.high}


def export_record(settings: ExportSettings, source: Levels, picture: Picture, facts: dict) -> dict:
    """What the record of an export says: its source, its grid, and facts of the files."""
    return {
        "from": settings.origin.text,
        "format": settings.format,
        "interpolation": settings.interpolation,
        "labels": settings.labels if settings.origin.is_segmentation else None,
        "frame": picture.frame.to_json(),
        "source_spacing_um": list(source.frame.spacing_um),
        "dtype": picture.dtype,
        **facts,
    }


def label_table(settings: ExportSettings, folder: Path) -> LabelTable | None:
    """Table of the regions of an export, None for images.

    Parameters
    ----------
    settings : ExportSettings
    folder : Path
        Of the prepared atlas.
    """
    if not settings.origin.is_segmentation:
        return None
    atlas = load_atlas(folder, template=False)
    table = LabelTable.of(atlas.ids.tolist(), atlas.ontology, settings.labels)
    if not table.regions:
        raise VolumeError(f"the annotation of atlas {settings.origin.atlas} holds no region")
    return table
