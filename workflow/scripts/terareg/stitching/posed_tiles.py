"""The tiles of a channel as fusion finds them: where they lie, and how each is transformed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from terareg.stitching.channel_shift import ChannelShift, channel_poses, channel_warps
from terareg.stitching.placement import Placement
from terareg.volumes.fusion import FusionSettings, fused_origins
from terareg.volumes.growths import Origin
from terareg.volumes.sides import Side

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader


def relative_origins(
    placement: Placement, offset_vox: Sequence[int], settings: FusionSettings
) -> dict[str, Origin]:
    """Origin (z, y, x) of every tile of the alignment channel in the fused volume, voxels.

    Whole ones unless ``settings.subpixel``; tiles that are distorted within themselves are
    interpolated within their planes anyway and keep fractions along y and x. ``offset_vox`` is the
    placement of the volume's first voxel.
    """
    origins = fused_origins(placement.origins(settings.subpixel), offset_vox, settings)
    return origins if settings.subpixel else origins | placement.warped_origins(offset_vox)


def posed_side(
    source: TileReader,
    placement: Placement,
    relative: Mapping[str, Origin],
    shifts: Sequence[ChannelShift] = (),
) -> Side:
    """A side of a channel with its tiles, as placed.

    Parameters
    ----------
    source : TileReader
        Of the side.
    placement : Placement
    relative : mapping
        See :func:`relative_origins`.
    shifts : sequence of ChannelShift
        See :func:`terareg.stitching.channel_shift.channel_poses`.
    """
    shape = source.acquisition.tile_shape
    there = {tile.name: relative[tile.name] for tile in source.acquisition.tiles}
    origins, matrices = channel_poses(there, placement, shifts, shape)
    warps = channel_warps(there, placement, shifts, shape)
    return Side(source, origins, matrices, placement.growths(there, shape), warps=warps)
