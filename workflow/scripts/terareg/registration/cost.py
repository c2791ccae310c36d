"""What the rules of registration need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math
from collections.abc import Callable

from terareg.core.cost import (
    TORCH_MB,
    Count,
    Load,
    Memory,
    RuleCost,
    atlases_given,
    composed_atlases,
    for_each,
    one,
)
from terareg.core.extents import Extent, Sample, registered_channels
from terareg.registration.resolution import finest_voxel_um
from terareg.volumes.cost import level_gb

PerAtlas = Callable[[Sample, str], float]  # takes a sample and the name of one of its atlases

_TISSUE_SHARE = 0.42  # of the box of an atlas
_USUAL_SUMS = 17  # with one image on each side and the default order


# ------------------------------------------------------------------ sizes
def channels_registered(sample: Sample) -> int:
    """Number of channels that are registered together."""
    return len(registered_channels(sample.config))


def _contrast_sums(sample: Sample, atlas: str) -> int:
    """Number of windowed sums that the contrast transform computes at every voxel.

    Moments of every image, products of every two, images times channels, and those with the
    fraction of tissue (:meth:`terareg.registration.contrast.LocalContrast.fit`). With regions there
    is a painted image for every channel, and polynomials are straight lines. The larger of the two
    numbers, with and without regions, is returned.
    """
    order = sample.option("registration.contrast_order")
    count, channels = sample.atlas_images(atlas), channels_registered(sample)

    def sums(order: int, count: int) -> int:
        terms = order * count + 1
        pairs = count * (count - 1) // 2
        return 2 * order * count + order**2 * pairs + (terms + 1) * (channels + 1) + 1

    if sample.option("registration.regions") == "none":
        return sums(order, count)
    return max(sums(order, count), sums(min(1, order), count + channels))


def _working_mvox(sample: Sample, atlas: Extent) -> float:
    """Millions of voxels of the sample at the finest level of its registration."""
    box_um3 = math.prod(n * s for n, s in zip(atlas.shape, atlas.spacing_um))
    chosen = sample.option("registration.resolution_um")
    voxel_um = chosen or finest_voxel_um((_TISSUE_SHARE * box_um3) ** (1 / 3))
    return sample.grid.at(max(voxel_um, *atlas.spacing_um))


# ------------------------------------------------------------------ work
def of_atlases(cpu_per_mvox: float, channels: Count, sums: float = 0.0) -> Callable[[Sample], Load]:
    """Work for each registration, in proportion to the sample at the registration's finest voxel.

    ``channels`` of the sample are read. The fraction ``sums`` of the processor time is in
    proportion to the number of sums of the contrast transform.
    """

    def load(sample: Sample) -> Load:
        read, cpu = 0.0, 5.0 * len(sample.registered)
        for name, atlas in sample.registered.items():
            working = _working_mvox(sample, atlas)
            voxel_um = (sample.grid.megavoxels / working) ** (1 / 3) * min(sample.grid.spacing_um)
            read += channels(sample) * level_gb(sample, voxel_um) + 6e-3 * atlas.megavoxels
            more = sums * (_contrast_sums(sample, name) / _USUAL_SUMS - 1)
            cpu += cpu_per_mvox * working * (1 + more)
        return Load(len(sample.registered), read, cpu_s=cpu)

    return load


def errors_estimated(sample: Sample) -> int:
    """Number of registrations whose error bars are estimated."""
    return len(sample.registered) if sample.option("registration.error_bars") else 0


def shifts_mb(sample: Sample) -> float:
    """What a job holds of the draws of an error, 36 numbers on voxels twice as large, twice."""
    if not errors_estimated(sample):
        return 0.0
    return 36 * max(_working_mvox(sample, atlas) for atlas in sample.registered.values())


def _errors(sample: Sample) -> Load:
    if not errors_estimated(sample):
        return Load(0)
    return of_atlases(40.0, channels_registered, sums=0.4)(sample)


def _exported(sample: Sample) -> int:
    return len(sample.atlases) if sample.option("registration.export") else 0


# ------------------------------------------------------------------ memory
def registered(per_voxel: PerAtlas, per_atlas: PerAtlas) -> Memory:
    """Memory of a job that holds an atlas, and the sample at the registration's finest voxel.

    Both arguments are bytes, per voxel of the sample and of the atlas; both depend on the atlas.
    """

    def memory(sample: Sample, threads: int) -> float:
        needs = (
            per_voxel(sample, name) * _working_mvox(sample, atlas)
            + per_atlas(sample, name) * atlas.megavoxels
            + 12 * atlas.at(atlas.length_um / 320)
            for name, atlas in sample.atlases.items()
        )
        return TORCH_MB + max(needs, default=0)

    return memory


def _one_image(per_voxel: float, per_atlas: float) -> Memory:
    return registered(lambda sample, name: per_voxel, lambda sample, name: per_atlas)


def _composed(sample: Sample, threads: int) -> float:
    """A known field on the voxels of an atlas, and grids of some 320 nodes along its length."""
    needs = (
        28 * atlas.megavoxels + 480 * atlas.at(atlas.length_um / 320)
        for atlas in sample.atlases.values()
    )
    return TORCH_MB + max(needs, default=0)


RULES = {
    "pair_landmarks": RuleCost(
        "registration", load=for_each(atlases_given("registration.landmarks"))
    ),
    "find_pose": RuleCost("registration", _one_image(0, 15), of_atlases(2.0, one), heavy=True),
    "preview_alignment": RuleCost("registration", _one_image(0, 15), of_atlases(0.2, one)),
    "register": RuleCost(
        "registration",
        registered(
            lambda sample, name: 377 + 19 * _contrast_sums(sample, name),
            lambda sample, name: 6.5 + 6 * sample.atlas_images(name),
        ),
        of_atlases(155.0, channels_registered, sums=0.4),
        heavy=True,
        least_minutes=240,
    ),
    "estimate_errors": RuleCost(
        "registration",
        registered(
            lambda sample, name: 377 + 19 * _contrast_sums(sample, name),
            lambda sample, name: 6.5 + 6 * sample.atlas_images(name),
        ),
        _errors,
        heavy=True,
        least_minutes=120,
    ),
    "compose_transforms": RuleCost(
        "registration", _composed, for_each(composed_atlases, 90.0), heavy=True
    ),
    "export_transform": RuleCost("registration", _one_image(60, 0), for_each(_exported, 5.0)),
}
