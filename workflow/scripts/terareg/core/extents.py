"""How large a sample is, as known before any file is made (standard library only).

Sizes come from the metadata at the time the workflow is loaded; they set the number of batches and
the requests for memory and time, never a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from terareg.core.levels import coarsest_level, level_factors


@dataclass(frozen=True)
class Size:
    """What the metadata say about one sample.

    Attributes
    ----------
    tiles, pairs, channels : int
        Counts.
    tile_shape : tuple of int
        (z, y, x) voxels of one tile.
    volume_shape : tuple of int
        Nominal (z, y, x) voxels of the fused volume.
    bytes_per_voxel : int
    held_gb : float
        What is held of the largest image file; 0 where tiles or volumes are read.
    passed_gb : float
        Voxels of an image file that every job goes through to reach its own; 0 for others.
    kept_gb : float
        Voxels of an image file that jobs decode into temporary files, those of their planes, or
        with ``passed_gb`` all before them too; 0 for others.
    raw_channels : int
        Channels with every side of a channel counted; as many as channels if not given.
    """

    tiles: int
    pairs: int
    channels: int
    tile_shape: tuple[int, int, int]
    volume_shape: tuple[int, int, int]
    bytes_per_voxel: int = 2
    held_gb: float = 0.0
    passed_gb: float = 0.0
    kept_gb: float = 0.0
    raw_channels: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw_channels", self.raw_channels or self.channels)

    @property
    def tile_gb(self) -> float:
        """One tile of one channel."""
        return math.prod(self.tile_shape) * self.bytes_per_voxel / 1e9

    @property
    def plane_mb(self) -> float:
        """One plane of one tile."""
        return self.tile_shape[1] * self.tile_shape[2] * self.bytes_per_voxel / 1e6

    @property
    def channel_gb(self) -> float:
        """All raw tiles of one side of a channel, or its image."""
        return self.tile_gb * self.tiles if self.tiles else self.volume_gb

    @property
    def volume_gb(self) -> float:
        """The fused volume of one channel at full resolution."""
        return math.prod(self.volume_shape) * self.bytes_per_voxel / 1e9


@dataclass(frozen=True)
class Extent:
    """Voxels along (z, y, x) and their size in micrometres."""

    shape: tuple[int, int, int]
    spacing_um: tuple[float, float, float]

    @property
    def megavoxels(self) -> float:
        """Number of voxels in millions."""
        return math.prod(self.shape) / 1e6

    @property
    def length_um(self) -> float:
        """Longest side."""
        return max(n * s for n, s in zip(self.shape, self.spacing_um))

    def at(self, resolution_um: float) -> float:
        """Millions of voxels after averaging to ``resolution_um``."""
        return self.megavoxels / math.prod(max(1.0, resolution_um / s) for s in self.spacing_um)


def sides_of(config: Mapping[str, Any], channel: str) -> list[str]:
    """Names, under ``input.channels``, of the sides of a channel: its own if it has one side."""
    return list(config["input"].get("sides", {}).get(channel) or (channel,))


def channels_of(config: Mapping[str, Any]) -> list[str]:
    """Names of the channels of a sample; sides of one channel are named by it."""
    sides = config["input"].get("sides", {})
    whole = {side: channel for channel, own in sides.items() for side in own}
    return list(dict.fromkeys(whole.get(name, name) for name in config["input"]["channels"]))


def aligned_channel(config: Mapping[str, Any]) -> str:
    """The channel whose tiles are compared, those of its first side."""
    channel: str = config["stitching"]["channel"] or channels_of(config)[0]
    return channel


def measured_sides(config: Mapping[str, Any]) -> list[str]:
    """The sides of the alignment channel on which displacements are measured."""
    sides, options = sides_of(config, aligned_channel(config)), config["stitching"]
    both = options["side"] == "better" and options["displacement"]["engine"] == "ncc"
    return sides if both else sides[:1]


def registered_channels(config: Mapping[str, Any]) -> list[str]:
    """The channels that are registered together; the first one finds the pose."""
    chosen = config["registration"]["channel"] or aligned_channel(config)
    return [chosen] if isinstance(chosen, str) else list(chosen)


def channel_image(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Image of a channel of an input of kind volume.

    Its address ``path``, the number ``channel`` in it, and ``fill_missing``.
    """
    image = config["input"]["channels"][name]
    given = {"path": image} if isinstance(image, str) else image
    return {"fill_missing": False, **given, "channel": given.get("channel") or 0}


@dataclass(frozen=True)
class DerivedVolume:
    """An entry of the section ``derived:`` as plans see it.

    Attributes
    ----------
    tool : str
    source : Extent
        What is read.
    source_dtype : str
        NumPy name of the type of its voxels.
    source_share : float
        Stored bytes that are read for each byte of its voxels.
    held_gb : float
        What is held of its image file; 0 for volumes.
    passed_gb : float
        Voxels of its image file that every job goes through to reach its own; 0 for others.
    kept_gb : float
        Voxels of its image file that jobs decode into temporary files, those of their planes, or
        with ``passed_gb`` all before them too; 0 for others.
    grid : Extent
        What is made; blocks are cut from it.
    dtype : str
        NumPy name of the type of what is made.
    kind : str
        "image" or "labels"; "" where no volume is made.
    output : mapping
        How it is laid out, see :func:`terareg.derived.section.output_options`.
    measured : bool
        Whether the source is read once more before anything is made.
    halo : tuple of int
        Voxels (z, y, x) of the source that a block is made of beyond its own, on each side.
    masked : bool
        Whether labels say where the source is read.
    """

    tool: str
    source: Extent
    source_dtype: str
    source_share: float
    held_gb: float
    passed_gb: float
    grid: Extent
    dtype: str
    kind: str
    output: Mapping[str, Any]
    measured: bool = False
    halo: tuple[int, int, int] = (0, 0, 0)
    masked: bool = False
    kept_gb: float = 0.0

    @property
    def source_gb(self) -> float:
        """What is read, uncompressed."""
        return math.prod(self.source.shape) * bytes_of(self.source_dtype) / 1e9

    @property
    def made_gb(self) -> float:
        """The finest level of what is made, uncompressed; 0 where no volume is made."""
        return math.prod(self.grid.shape) * bytes_of(self.dtype) / 1e9 if self.kind else 0.0

    @property
    def block(self) -> tuple[int, int, int]:
        """Voxels of the largest block."""
        return tuple(min(self.output["block"], n) for n in self.grid.shape)

    @property
    def rows_along(self) -> tuple[int, int]:
        """Rows of blocks along z and y."""
        edge: int = self.output["block"]
        return -(-self.grid.shape[0] // edge), -(-self.grid.shape[1] // edge)

    @property
    def rows(self) -> int:
        """Rows of blocks along x."""
        return math.prod(self.rows_along)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        edge: int = self.output["block"]
        return self.rows * -(-self.grid.shape[2] // edge)


def bytes_of(dtype: str) -> int:
    """Bytes of a voxel of a NumPy type, from its name."""
    bits = int("".join(c for c in dtype if c.isdigit()) or 8)
    return max(1, bits // 8)


@dataclass(frozen=True)
class Sample:
    """A sample as plans see it.

    Attributes
    ----------
    size : Size
    config : mapping
        Its complete configuration.
    grid : Extent
        Of the fused or imported volume.
    overlap : float
        Largest nominal overlap of neighbours, a fraction of the tile.
    atlases : mapping of str to Extent
        Grids of the atlases that are carried into it.
    derived : mapping of str to DerivedVolume
        Entries of its section ``derived:``, each after the one that it is made from.
    copies : int
        Files of the user that are copied first, because Snakemake cannot follow them.
    """

    size: Size
    config: Mapping[str, Any]
    grid: Extent
    overlap: float = 0.0
    atlases: Mapping[str, Extent] = field(default_factory=dict)
    derived: Mapping[str, DerivedVolume] = field(default_factory=dict)
    copies: int = 0

    def option(self, path: str) -> Any:
        """Value at a dotted path of the configuration."""
        found: Any = self.config
        for key in path.split("."):
            found = found[key]
        return found

    @property
    def raw_gb(self) -> float:
        """Raw data of all channels; of a sample without any, what derived volumes are made from."""
        if not self.size.channels:
            return sum(each.source_gb for each in self.derived.values())
        return self.size.raw_channels * self.size.channel_gb

    @property
    def most_sides(self) -> int:
        """Sides of the channel that has most of them."""
        sides = self.option("input.sides")
        return max(map(len, sides.values()), default=1)

    @property
    def measured_sides(self) -> int:
        """Sides of the alignment channel on which displacements are measured."""
        return len(measured_sides(self.config))

    @property
    def first_flatfields(self) -> int:
        """Flat-fields that are estimated before any tile is placed."""
        return self.measured_sides if self.measures_displacements else 0

    @property
    def input_kind(self) -> str:
        """What the sample is made from: "tiles", "volume", or "none" if only volumes elsewhere."""
        if not self.size.channels:
            return "none"
        return "tiles" if self.tiled else "volume"

    @property
    def tiled(self) -> bool:
        """Whether there are tiles to be stitched."""
        return self.size.tiles > 0

    @property
    def measures_displacements(self) -> bool:
        """Whether pairs of tiles are compared: the user gives no displacements and no positions."""
        return not set(self.option("stitching.xml")) - {"xml_import"}

    @property
    def streams(self) -> bool:
        """Whether tiles are corrected on the fly, each time they are read."""
        return bool(self.option("intensity.corrected_tiles") == "stream")

    @property
    def on_s3(self) -> bool:
        """Whether the store is a bucket, so that an object is held in memory until it is sent."""
        return str(self.option("store")).startswith("s3://")

    @property
    def held_gb(self) -> float:
        """Objects of a block held in memory while it is written: none for a folder, all for S3."""
        if not self.on_s3:
            return 0.0
        block_gb = self.block_mvox * self.size.bytes_per_voxel / 1e3
        return 1.15 * len(self.option("volume.formats")) * block_gb

    @property
    def corrects_bias(self) -> bool:
        """Whether there is a bias-corrected volume beside the fused one."""
        return bool(self.option("intensity.bias.enabled"))

    @property
    def block(self) -> tuple[int, int, int]:
        """Voxels of the largest block."""
        return tuple(min(self.option("volume.block"), n) for n in self.size.volume_shape)

    @property
    def block_mvox(self) -> float:
        """Millions of voxels of the largest block."""
        return math.prod(self.block) / 1e6

    @property
    def largest_atlas(self) -> Extent:
        """The atlas with the most voxels; a single voxel if there is no atlas."""
        return max(self.atlases.values(), key=lambda g: g.megavoxels, default=_POINT)

    @property
    def registered(self) -> dict[str, Extent]:
        """Atlases that it is registered to, without those that are reached through another one."""
        described = self.config.get("atlases", {})
        return {
            name: extent
            for name, extent in self.atlases.items()
            if described.get(name, {}).get("through") is None
        }

    def atlas_images(self, atlas: str) -> int:
        """Images of an atlas that are registered, including the template."""
        return 1 + len(self.config["atlases"].get(atlas, {}).get("images", ()))

    def level(self, resolution_um: float) -> Extent:
        """Grid of the coarsest level of the volume that is at least this fine."""
        shape, spacing = self.grid.shape, self.grid.spacing_um
        factors = level_factors(shape, spacing, self.option("volume.chunk"))
        spacings: list[tuple[float, float, float]] = [
            tuple(s * f for s, f in zip(spacing, factor)) for factor in factors
        ]
        level = coarsest_level(spacings, (resolution_um,) * 3) or 0
        sizes = (-(-n // f) for n, f in zip(shape, factors[level]))
        return Extent(tuple(sizes), spacings[level])

    @property
    def labels(self) -> Extent:
        """Grid of the labels."""
        return self.level(self.option("labels.resolution_um"))

    @property
    def corrected(self) -> Extent:
        """Grid of the bias-corrected volume."""
        resolution = self.option("intensity.bias.volume_um")
        return self.grid if resolution is None else self.level(resolution)

    @property
    def corrected_gb(self) -> float:
        """The bias-corrected volume of one channel, at its finest level."""
        return self.corrected.megavoxels * self.size.bytes_per_voxel / 1e3

    def atlas_space_mvox(self, atlas: Extent) -> float:
        """Millions of voxels of a channel that was carried into an atlas."""
        resolution = self.option("atlas_space.resolution_um")
        if resolution is None:
            return atlas.megavoxels
        return atlas.megavoxels * math.prod(s / float(resolution) for s in atlas.spacing_um)

    def blocks_along(self, extent: Extent) -> tuple[int, int, int]:
        """Blocks along (z, y, x) of a volume of the sample."""
        edge = self.option("volume.block")
        return tuple(-(-n // edge) for n in extent.shape)

    def block_count(self) -> int:
        """Blocks of one channel."""
        return math.prod(self.blocks_along(self.grid))


_POINT = Extent((1, 1, 1), (1.0, 1.0, 1.0))
