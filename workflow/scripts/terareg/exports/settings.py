"""What is exported, as the configuration says it (standard library only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from terareg.core.errors import ConfigError

#: ending of the file of each format that is one file
ENDINGS = {"nifti": "nii.gz", "nrrd": "nrrd", "tiff": "ome.tif"}
#: ending of every plane of a format that is a folder of planes
PLANE_ENDINGS = {"tiff_series": "tif", "png_series": "png"}
#: 8-bit JPEG tiles with a page that shows them
TILES = "pyramid_8bit"
#: folders of blocks at several resolutions, of at most this many voxels (and one) along each axis
TERAFLY = "terafly"
TERAFLY_EDGE = 256
_OF_TILES = {
    "axis": "z", "planes": "middle", "clip_percent": [0.1, 99.9], "outlines": False,
    "common": False, "illumination": "none",
}  # fmt: skip
_OUTLINED = ("fused", "corrected_volume")
#: kinds of volumes in the store, and how many names follow
VOLUMES = {"fused": 1, "corrected_volume": 1, "derived": 1, "labels": 1, "atlas_space": 2}
#: maps of a registration: file, and component in it
MAPS = {
    "jacobian": ("jacobian.nrrd", 0),
    "match": ("posteriors.nrrd", 0),
    "artefact": ("posteriors.nrrd", 1),
    "missing": ("posteriors.nrrd", 2),
}
ATLAS_IMAGES = ("template", "annotation")
_PLACES = (
    "fused/CHANNEL, corrected_volume/CHANNEL, derived/NAME, labels/ATLAS, "
    f"atlas_space/ATLAS/CHANNEL, registration/ATLAS/{{{', '.join(MAPS)}}} "
    f"or atlases/ATLAS/{{{', '.join(ATLAS_IMAGES)}}}"
)
_SLAB_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Origin:
    """What an export is made from.

    Attributes
    ----------
    kind : str
        One of :data:`VOLUMES`, "registration" or "atlases".
    atlas, channel, derived, image : str
        As far as the kind has them; ``image`` is the name of a map or of an image of an atlas.
    """

    kind: str
    atlas: str = ""
    channel: str = ""
    derived: str = ""
    image: str = ""

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read ``fused/CHANNEL`` and the like; :class:`ConfigError` for anything else."""
        kind, *names = text.split("/")
        if kind in VOLUMES and len(names) == VOLUMES[kind]:
            if kind == "atlas_space":
                return cls(kind, atlas=names[0], channel=names[1])
            if kind == "labels":
                return cls(kind, atlas=names[0])
            if kind == "derived":
                return cls(kind, derived=names[0])
            return cls(kind, channel=names[0])
        for folder, images in (("registration", MAPS), ("atlases", ATLAS_IMAGES)):
            if kind == folder and len(names) == 2 and names[1] in images:
                return cls(kind, atlas=names[0], image=names[1])
        raise ConfigError(f"{text!r} cannot be exported; write {_PLACES}")

    @property
    def text(self) -> str:
        """As it is written in the configuration."""
        names = self.kind, self.atlas, self.channel, self.derived, self.image
        return "/".join(name for name in names if name)

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume of the store, rather than a file."""
        return self.kind in VOLUMES

    @property
    def is_segmentation(self) -> bool:
        """Whether voxels are ids of the regions of an atlas."""
        return self.kind == "labels" or self.image == "annotation"


@dataclass(frozen=True)
class ExportSettings:
    """One export.

    Attributes
    ----------
    origin : Origin
    format : str
        One of :data:`ENDINGS` or :data:`PLANE_ENDINGS`, :data:`TILES` or :data:`TERAFLY`.
    resolution_um : tuple of float or None
        Voxels (z, y, x) of the export; None for those of the source's finest level.
    isotropic : bool
        Whether voxels become cubes with the longest edge of the source's voxels.
    interpolation : str
        "mean" or "nearest" for images, "vote" or "nearest" for regions and labels; empty for the
        first of these where what a derived volume holds is not known yet, see :meth:`settled`.
    labels : str
        Voxels of regions: "ids" of the atlas, "consecutive" numbers, or "rgb" colours.
    axis : str
        Of tiles: "z", "y" or "x", the axis that planes are perpendicular to.
    planes : str or tuple of int
        Of tiles: "middle", "all", "max" or "mean" (projections), or numbers of planes.
    clip_percent : (float, float)
        Of tiles: percentiles of the shown voxels that become black and white.
    outlines : bool or str
        Of tiles: whether the page can show where the tiles of the microscope lie; or the table of
        the boxes that it can show, see :func:`terareg.exports.outlines.read_outlines`.
    common : bool
        Of tiles: whether only the box is shown that all channels have seen.
    illumination : str
        Of tiles: "none", or "log_statistics" for sites of a plate, see
        :mod:`terareg.exports.illumination`.
    """

    origin: Origin
    format: str = "nifti"
    resolution_um: tuple[float, float, float] | None = None
    isotropic: bool = False
    interpolation: str = "mean"
    labels: str = "ids"
    axis: str = "z"
    planes: str | tuple[int, ...] = "middle"
    clip_percent: tuple[float, float] = (0.1, 99.9)
    outlines: bool | str = False
    common: bool = False
    illumination: str = "none"

    @property
    def is_evened(self) -> bool:
        """Whether sites of a plate are corrected."""
        return self.illumination != "none"

    @property
    def table(self) -> str | None:
        """Table of the user of the boxes that are outlined."""
        return self.outlines if isinstance(self.outlines, str) else None

    @property
    def of_tiles(self) -> bool:
        """Whether the places of the tiles are needed."""
        return self.outlines is True or self.common or self.is_evened

    @classmethod
    def from_config(cls, entry: Mapping[str, Any], key: str = "export") -> ExportSettings:
        """Settings of an entry of the section ``export``.

        Raises
        ------
        ConfigError
            For a combination that makes no sense; ``key`` says which entry it is.
        """
        try:
            origin = Origin.parse(entry["from"])
        except ConfigError as error:
            raise ConfigError(f"{key}.from: {error}") from error
        form, wanted = entry["format"], entry["resolution_um"]
        size: tuple[float, float, float] | None = None
        if wanted is not None:
            size = tuple(map(float, wanted if isinstance(wanted, list) else [wanted] * 3))
        if size is not None and entry["isotropic"] and len(set(size)) > 1:
            raise ConfigError(
                f"{key}.isotropic: true contradicts resolution_um: {list(size)}; give one number "
                "as resolution_um, or isotropic: false"
            )
        chosen = entry["interpolation"] or ""
        if origin.kind != "derived":
            what = "regions" if origin.is_segmentation else "an image"
            chosen = _interpolation(chosen, what, key)
        labels = entry["labels"]
        if labels != "ids" and not origin.is_segmentation:
            raise ConfigError(
                f"{key}.labels: {labels} is for regions, and {origin.text} is an image; remove it"
            )
        if labels == "rgb" and form in ("nifti", "nrrd"):
            raise ConfigError(
                f"{key}.labels: rgb makes colour images, which are not written as {form}; use "
                "format: tiff, tiff_series or png_series"
            )
        if form == "png_series" and (
            origin.kind == "registration" or (origin.is_segmentation and labels == "ids")
        ):
            remedy = "labels: consecutive or rgb" if origin.is_segmentation else "tiff_series"
            raise ConfigError(
                f"{key}.format: PNG stores 8 or 16 bits, too few for {origin.text}; use {remedy}"
            )
        if form == TERAFLY and (
            origin.kind == "registration" or (origin.is_segmentation and labels != "consecutive")
        ):
            remedy = "labels: consecutive" if origin.is_segmentation else "format: tiff"
            raise ConfigError(
                f"{key}.format: {TERAFLY} stores one number of 8 or 16 bits for each voxel, too "
                f"few for {origin.text}; use {remedy}"
            )
        for name, usual in _OF_TILES.items():
            if form != TILES and entry[name] != usual:
                raise ConfigError(
                    f"{key}.{name}: {entry[name]} is for format: {TILES}, not for {form}; remove it"
                )
        if form == TILES and origin.is_segmentation:
            raise ConfigError(
                f"{key}.format: {TILES} is for images, and {origin.text} contains regions; use "
                "format: png_series with labels: rgb"
            )
        low, high = entry["clip_percent"]
        if not low < high:
            raise ConfigError(
                f"{key}.clip_percent: {[low, high]} is an empty range of grey values; give the "
                "lower percentage first"
            )
        for name in ("outlines", "common"):
            if entry[name] is True and origin.kind not in _OUTLINED:
                raise ConfigError(
                    f"{key}.{name}: {origin.text} is not on the grid of the tiles; export "
                    f"fused/CHANNEL or corrected_volume/CHANNEL, or remove {name}"
                )
        if entry["illumination"] != "none" and origin.kind != "fused":
            raise ConfigError(
                f"{key}.illumination: {origin.text} does not show the sites of a plate as they "
                "are; export fused/CHANNEL, or remove illumination"
            )
        planes = entry["planes"] if isinstance(entry["planes"], str) else tuple(entry["planes"])
        return cls(
            origin, form, size, entry["isotropic"], chosen, labels,
            entry["axis"], planes, (float(low), float(high)), entry["outlines"],
            entry["common"], entry["illumination"],
        )  # fmt: skip

    def settled(self, labels: bool, dtype: str, key: str = "export") -> ExportSettings:
        """Settings of a derived volume of which it is known what it holds; others as they are.

        Parameters
        ----------
        labels : bool
            Whether it holds labels, or else an image.
        dtype : str
            NumPy name of the type of its voxels.

        Raises
        ------
        ConfigError
            For a combination that makes no sense.
        """
        if self.origin.kind != "derived":
            return self
        what = "labels" if labels else "an image"
        chosen = _interpolation(self.interpolation, what, key)
        if self.format == TILES and labels:
            raise ConfigError(
                f"{key}.format: {TILES} is for images, and {self.origin.text} contains labels; "
                "use another format"
            )
        if self.format == "png_series" and dtype not in ("uint8", "uint16"):
            raise ConfigError(
                f"{key}.format: PNG stores 8 or 16 bits as integers, and {self.origin.text} is of "
                f"type {dtype}; use tiff_series"
            )
        if self.format == TERAFLY and dtype not in ("uint8", "uint16"):
            raise ConfigError(
                f"{key}.format: {TERAFLY} stores 8 or 16 bits as integers, and {self.origin.text} "
                f"is of type {dtype}; use format: tiff"
            )
        return replace(self, interpolation=chosen)

    @property
    def is_series(self) -> bool:
        """Whether the export is a folder of planes, tiles or blocks in the store."""
        return self.format not in ENDINGS


def _interpolation(given: str, what: str, key: str) -> str:
    """How an image, regions or labels are resampled; the first way where none is given."""
    possible = ("mean", "nearest") if what == "an image" else ("vote", "nearest")
    if given and given not in possible:
        raise ConfigError(
            f"{key}.interpolation: {given} is not for {what}; use {' or '.join(possible)}"
        )
    return given or possible[0]


def slab_planes(plane_bytes: float) -> int:
    """Planes of a source that are held at once, at least one."""
    return max(1, int(_SLAB_BYTES / max(1.0, plane_bytes)))


def bids_label(name: str) -> str:
    """A name as a label of BIDS: its letters and digits; :class:`ConfigError` if it has none."""
    label = "".join(c for c in name if c.isascii() and c.isalnum())
    if not label:
        raise ConfigError(
            f"{name!r} has no letter or digit, which a BIDS label needs; set bids.subject, or "
            "rename the channel"
        )
    return label
