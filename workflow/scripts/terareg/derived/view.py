"""What a tool reads: a box of one level of a volume of the sample, or of one elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError, changed
from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.derived.boxes import box_of
from terareg.derived.catalogue import IMAGE, LABELS
from terareg.derived.mask import Mask
from terareg.derived.section import Entry
from terareg.storage.foreign import boundary
from terareg.storage.store import Store
from terareg.storage.web import store_at
from terareg.volumes.headers import describe_image, image_state, nrrd_orientation, read_metadata
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.importing import check_whole
from terareg.volumes.reader import Levels, Volume

logger = logging.getLogger(__name__)

# of volumes whose orientation nobody states; no tool depends on it
_ANY_ORIENTATION = "SAR"


@dataclass(frozen=True)
class Place:
    """Where an entry is made: store, sample and name of the entry."""

    store: Store
    sample: str
    name: str

    @property
    def key(self) -> str:
        """Folder of the entry in the store."""
        return f"{self.sample}/derived/{self.name}"

    def volume(self, name: str) -> Volume:
        """Another volume of the sample, for example "fused/signal"."""
        return Volume(self.store, f"{self.sample}/{name}")


@dataclass(frozen=True)
class View:
    """A box of a level, read like an array of its own.

    Attributes
    ----------
    levels : Levels
        The source.
    level : int
    start, stop : tuple of int
        Its first voxel, and the one beyond the last, (z, y, x), in voxels of the level.
    kind : str
        "image" or "labels".
    offset_vox : tuple of int
        Where its first voxel lies in space, in whole voxels of the level.
    frame : Frame
        Its grid.
    place : Place, optional
        Where what is made of it lies, for tools that leave files of their own.
    within : str, optional
        Labels of the sample, for example "derived/tissue", outside of which voxels are read as
        zeros, see :class:`terareg.derived.mask.Mask`.
    """

    levels: Levels
    level: int
    start: Box
    stop: Box
    kind: str
    offset_vox: Box
    frame: Frame
    place: Place | None = None
    within: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.levels.name

    @cached_property
    def mask(self) -> Mask | None:
        """Where voxels are read."""
        return None if self.within is None else Mask(self.beside(self.within))

    @property
    def shape(self) -> Box:
        """Voxels along (z, y, x)."""
        return self.frame.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are read."""
        return self.levels.dtype

    @property
    def planes_together(self) -> int:
        """Planes that are decoded together; all, where the first lies within such planes."""
        planes = self.levels.planes_together(self.level)
        return self.shape[0] if self.start[0] % planes else planes

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Voxels ``start <= index < stop`` of the view, (z, y, x)."""
        first: Box = tuple(a + o for a, o in zip(start, self.start))
        last: Box = tuple(b + o for b, o in zip(stop, self.start))
        if any(b > n for b, n in zip(last, self.stop)):
            raise VolumeError(
                f"box {tuple(start)} to {tuple(stop)} reaches beyond the region of {self.name}"
            )
        if self.mask is None:
            return self.levels.read(self.level, first, last)
        frame = self.frame.cropped(start, stop)
        if self.mask.is_outside(frame):
            return np.zeros(frame.shape, self.dtype)
        return self.mask.keep(self.levels.read(self.level, first, last), frame)

    def is_outside(self, start: Sequence[int], stop: Sequence[int]) -> bool:
        """Whether a box is not read, because none of its voxels lies within :attr:`within`."""
        return self.mask is not None and self.mask.is_outside(self.frame.cropped(start, stop))

    def beside(self, name: str) -> Volume:
        """Another volume of the sample."""
        if self.place is None:
            raise VolumeError(
                f"{self.name}: there are no other volumes beside it; open it as a volume of a store"
            )
        return self.place.volume(name)

    def to_json(self) -> dict[str, Any]:
        """What was chosen, for the plan of the entry."""
        return {
            "level": self.level,
            "start": list(self.start),
            "stop": list(self.stop),
            "kind": self.kind,
            "dtype": self.dtype.name,
        }


def open_view(store: Store, sample: str, entry: Entry, address: str | None = None) -> View:
    """Open the source of an entry.

    Parameters
    ----------
    store : Store
        Of the volumes of the sample.
    sample : str
    entry : Entry
    address : str, optional
        Of a source elsewhere.

    Raises
    ------
    ConfigError, VolumeError
        If it is not there, cannot be read, or has no such level or region.
    """
    settings, level = entry.settings, entry.settings.get("level") or 0
    if address is None:
        volume = Volume(store, f"{sample}/{entry.volume}")
        levels: Levels = volume
        frame, offset = volume.level_frame(level), volume.plan.offset_vox(level)
        is_labels = volume.is_segmentation
    else:
        levels = _open(address, entry)
        offset = _offset_of(address, level)
        frame = levels.level_frame(level)
        moved = (o + n * s for o, n, s in zip(frame.origin_um, offset, frame.spacing_um))
        frame = replace(frame, origin_um=tuple(moved))
        is_labels = describe_image(address, believed=False).is_segmentation
    start, stop = box_of(settings, frame.shape, frame.spacing_um, f"derived.{entry.name}")
    if settings.get("labels") is not None:
        is_labels = settings["labels"]
    return View(
        levels,
        level,
        start,
        stop,
        LABELS if is_labels else IMAGE,
        tuple(a + o for a, o in zip(start, offset)),
        frame.cropped(start, stop),
        Place(store, sample, entry.name),
        entry.mask,
    )


def count_absent(entry: Entry, address: str | None) -> int | None:
    """Number of chunks of a source elsewhere that are absent and zeros; it is said in the log.

    None on the web, where chunks cannot be listed.

    Raises
    ------
    VolumeError
        If chunks are absent that the format does not define as zeros, unless the entry says so.
    """
    if address is None:
        return 0
    filled = bool(entry.settings.get("fill_missing"))
    absent = check_whole(describe_image(address, believed=False), filled)
    if absent:
        logger.warning("derived.%s: %d chunks of %s are absent: zeros", entry.name, absent, address)
    return absent


def check_unchanged(address: str | None, state: str) -> None:
    """Raise :class:`VolumeError` if a source elsewhere is not what it was when the job was planned.

    ``state`` is from :func:`terareg.volumes.headers.image_state`.
    """
    if address is not None and image_state(address) != state:
        raise VolumeError(changed(address))


def _open(address: str, entry: Entry) -> Levels:
    header = describe_image(address, believed=False)
    orientation = entry.settings.get("orientation")
    if orientation is None and entry.settings.get("spacing_um") is None:
        orientation = describe_image(address).orientation
        if orientation is None and header.form == "NRRD":
            orientation = nrrd_orientation(address)
    spacing = entry.settings.get("spacing_um")
    return open_image(
        address,
        ImageSettings(
            None if spacing is None else tuple(spacing),
            orientation or _ANY_ORIENTATION,
            entry.settings.get("channel") or 0,
            bool(entry.settings.get("fill_missing")),
        ),
    )


def _offset_of(address: str, level: int) -> Box:
    """Voxel offset (z, y, x) that a precomputed volume states for a level; zeros for all others."""
    if describe_image(address, believed=False).form != "precomputed":
        return (0, 0, 0)
    _, info = read_metadata(address, store_at(address))
    with boundary(f"{address}: its metadata", VolumeError, "check that the volume is complete"):
        offset = info["scales"][level].get("voxel_offset") or (0, 0, 0)
        z, y, x = (int(n) for n in reversed(offset))
        return z, y, x
