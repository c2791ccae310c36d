"""What pictures and the report need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math

from terareg.core.cost import (
    Load,
    RuleCost,
    atlas,
    atlases,
    atlases_given,
    composed_atlases,
    flat,
    for_each,
    planes,
    raw_channels,
    whole,
)
from terareg.core.extents import Sample
from terareg.derived.catalogue import TOOLS
from terareg.intensity.cost import BIAS_RESOLUTION, bias_fields
from terareg.registration.cost import (
    channels_registered,
    errors_estimated,
    of_atlases,
    registered,
)
from terareg.volumes.cost import image_volumes


def _gains_of_a_tile(sample: Sample, threads: int) -> float:
    """A plane in several copies, and the gains of all lines of a tile, float32 and float64."""
    depth, *sides = sample.size.tile_shape
    return planes(24)(sample, threads) + 32e-6 * depth * max(sides)


def _drawn_stripes(sample: Sample) -> int:
    known = sample.option("intensity.destriping") in ("rows", "columns")
    return sample.size.raw_channels if known else 0


def _two_sided(sample: Sample) -> int:
    return len(sample.option("input.sides"))


def _counted_cells(sample: Sample) -> int:
    return len(sample.option("cells")) * len(sample.atlases)


def _browsed(sample: Sample, threads: int) -> float:
    """The atlas, the maps of damage, and the voxels of the slice browser in several copies."""
    return registered(lambda sample, name: 24, lambda sample, name: 5)(sample, threads) + 120


def _looked_at(sample: Sample, threads: int) -> float:
    """An atlas, and raw planes on every thread, or parts of an image or a plane of its file."""
    made = 60 + atlas(12)(sample, threads) + 8 * threads * sample.size.plane_mb
    if sample.tiled:
        return made
    _, y, x = sample.grid.shape
    return made + (24e-6 * y * x if sample.size.held_gb else 150 * threads)


def _first_look(sample: Sample) -> Load:
    """A plane of every tile, and 64 planes of every tile of the middle row and column.

    Of an image three planes, of a file all that is stored before the last of 512 planes.
    """
    size, n = sample.size, len(sample.registered)
    if sample.tiled:
        crossed = 64 * 2 * math.sqrt(size.tiles)
        gb = 1e-3 * size.plane_mb * (size.tiles + crossed)
    elif size.held_gb:
        gb = size.volume_gb
    else:
        # in chunks of 64 voxels, at full resolution at worst
        z, y, x = sample.grid.shape
        planes_mvox = 64e-6 * (z * y + z * x + y * x)
        gb = min(size.volume_gb, 1e-3 * size.bytes_per_voxel * planes_mvox)
    return Load(n, n * gb, cpu_s=n * (8.0 + 4.0 * gb))


def _states(sample: Sample) -> Load:
    """One state, unless there are only tables to see."""
    drawn = (d.kind or TOOLS[d.tool].shards for d in sample.derived.values())
    return Load(1 if sample.size.channels or any(drawn) else 0)


RULES = {
    "first_look": RuleCost("views", _looked_at, _first_look, heavy=True),
    "draw_flatfield": RuleCost("views", planes(24), for_each(raw_channels, 3.0), needs="tiles"),
    "draw_sides": RuleCost("views", load=for_each(_two_sided), needs="tiles"),
    "draw_stripes": RuleCost("views", _gains_of_a_tile, for_each(_drawn_stripes), needs="tiles"),
    "draw_stitching": RuleCost("views", planes(8), needs="tiles"),
    "draw_volume": RuleCost("views", flat(230), for_each(image_volumes, 4.0)),
    "draw_bias_field": RuleCost("bias", whole(BIAS_RESOLUTION, 32), for_each(bias_fields, 2.0)),
    "assess_registration": RuleCost(
        "registration",
        registered(
            lambda sample, name: 110 + 25 * channels_registered(sample), lambda sample, name: 15
        ),
        of_atlases(2.0, channels_registered),
    ),
    "assess_composition": RuleCost(
        "registration",
        registered(
            lambda sample, name: 110 + 25 * channels_registered(sample), lambda sample, name: 15
        ),
        for_each(composed_atlases, 10.0),
    ),
    "draw_error_bars": RuleCost(
        "registration",
        registered(lambda sample, name: 40, lambda sample, name: 4),
        for_each(errors_estimated, 4.0),
    ),
    "draw_brain": RuleCost("views", flat(700), for_each(atlases, 10.0)),
    "make_slices": RuleCost("views", _browsed, for_each(atlases, 25.0)),
    "draw_regions": RuleCost("views", load=for_each(atlases)),
    "draw_cells": RuleCost("views", load=for_each(_counted_cells)),
    "draw_fiducials": RuleCost("views", load=for_each(atlases_given("fiducials"))),
    "write_neuroglancer_state": RuleCost("views", load=_states),
    "make_report": RuleCost("views"),
}
