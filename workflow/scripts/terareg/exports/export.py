"""Exports from their source to their files: :func:`prepare_export` and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas, load_template
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.exports.files import Picture, Slabs
from terareg.exports.label_tables import LabelTable
from terareg.exports.settings import MAPS, ExportSettings, Origin
from terareg.exports.slabs import Boxes, VoxelBox, export_frame, export_slabs
from terareg.storage import nrrd
from terareg.storage.records import read_json
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


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes
    ----------
    name : str
    settings : ExportSettings
    source : Levels
    picture : Picture
        Its description.
    boxes : callable
        Makes the voxels of a grid, or of a box of it, as slabs of planes.
    workers : int
        Threads.
    """

    name: str
    settings: ExportSettings
    source: Levels
    picture: Picture
    boxes: Boxes
    workers: int

    @property
    def slabs(self) -> Slabs:
        """First plane and voxels of slabs of all planes, which are made when asked for."""
        return self.boxes(self.picture.frame, None)


def make_export(
    name: str,
    settings: ExportSettings,
    place: tuple[Store, str],
    files: Mapping[str, str],
    write: Callable[[Export], dict],
    workers: int = 1,
) -> dict:
    """Make an export.

    Parameters
    ----------
    name : str
    settings : ExportSettings
    place : tuple of Store and str
        Array store of the run, and the sample.
    files : mapping of str to str
        ``image``, the file that holds a map or an image of an atlas; ``complete``, the summary of a
        volume, with its display window; ``atlas``, a file of the prepared atlas, for regions.
    write : callable
        Writes an :class:`Export`; returns facts of the files for the record.
    workers : int
        Threads.

    Returns
    -------
    dict
        The record: source, grid, and facts of the files.
    """
    source = open_origin(settings.origin, *place, files.get("image"))
    settings = settings.settled(source.is_segmentation, source.dtype.name, f"export.{name}")
    table = label_table(settings, Path(files.get("atlas", ".")).parent)
    clipped: list[Clipped] = []
    picture, boxes = prepare_export(settings, source, table, name, workers, clipped)
    # asked by get: the inputs of a job are a list of files with names
    if table is None and (summary := files.get("complete")):
        shown = read_json(summary).get("window")
        picture = replace(picture, window=tuple(shown) if shown else None)
    facts = write(Export(name, settings, source, picture, boxes, workers))
    total = sum(clipped, Clipped())
    return {
        "from": settings.origin.text,
        "format": settings.format,
        "interpolation": settings.interpolation,
        "labels": settings.labels if settings.origin.is_segmentation else None,
        "frame": picture.frame.to_json(),
        "source_spacing_um": list(source.frame.spacing_um),
        "dtype": picture.dtype,
        **facts,
        "clipped_low": total.low,
        "clipped_high": total.high,
    }


def prepare_export(
    settings: ExportSettings,
    source: Levels,
    table: LabelTable | None,
    name: str,
    workers: int = 1,
    clipped: list[Clipped] | None = None,
) -> tuple[Picture, Boxes]:
    """What is to be written: a description, and what makes its voxels.

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
    aligned = settings.origin.kind in ("atlas_space", "atlases")

    def made(values: Callable[[np.ndarray], np.ndarray] | None = None) -> Boxes:
        def boxes(grid: Frame, box: VoxelBox | None) -> Iterator[tuple[int, np.ndarray]]:
            parts = export_slabs(source, grid, settings.interpolation, workers, box, clipped)
            return parts if values is None else ((first, values(slab)) for first, slab in parts)

        return boxes

    if table is None:
        labels = source.is_segmentation
        return Picture(name, frame, source.dtype.name, labels=labels, aligned=aligned), made()
    if settings.labels == "rgb":
        picture = Picture(name, frame, "uint8", aligned=aligned, colours=True)
        return picture, made(table.coloured)
    picture = Picture(name, frame, table.dtype, labels=True, aligned=aligned)
    if settings.labels == "ids":
        return picture, made()
    palette = table.palette() if table.dtype == "uint8" else None
    picture = Picture(name, frame, table.dtype, labels=True, aligned=aligned, palette=palette)
    return picture, made(table.renumbered)


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
        raise VolumeError(
            f"the annotation of atlas {settings.origin.atlas} contains no region; give another "
            "atlas"
        )
    return table
