"""Add up signal, its intensities and lengths of every region and hemisphere, in a batch."""

import logging
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.core.parallel import map_items
from terareg.execution.job import run_job
from terareg.regions.labels import hemisphere_block
from terareg.regions.measure import RegionSums, save_sums
from terareg.regions.signal import (
    SUMS,
    SUMS_AND_LENGTH,
    check_one_grid,
    signal_sums,
    voxels_within,
)
from terareg.regions.warp import LevelReader
from terareg.registration.transform import Transform
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

logger = logging.getLogger(__name__)


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.derived
    store = Store(snakemake.params.store)
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    labels = Volume(store, f"{sample}/labels/{snakemake.wildcards.atlas}")
    volumes = (f"derived/{name}", snakemake.params.channel)
    mask, channel = (LevelReader(Volume(store, f"{sample}/{key}"), 0) for key in volumes)
    check_one_grid(mask.frame, channel.frame, f"derived.{name}.image")
    factor = voxels_within(labels.frame, mask.frame, f"derived.{name}")
    thickest_um = snakemake.params.thickest_um
    names = SUMS if thickest_um is None else SUMS_AND_LENGTH

    def measure(block):
        part = RegionSums(atlas.ids, names, mask.frame.voxel_volume_um3)
        box = (block.start, block.stop)
        totals, thick = signal_sums(mask, channel, box, factor, thickest_um)
        if totals[0].any():
            frame = labels.frame.cropped(block.start, block.stop)
            sides = hemisphere_block(transform, atlas, frame).astype(np.uint8)
            values = labels.read(0, block.start, block.stop)
            part.add_block(values, sides, dict(zip(names, totals)))
        return part, thick

    blocks = labels.plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches)
    total, left = RegionSums(atlas.ids, names, mask.frame.voxel_volume_um3), 0
    for part, thick in map_items(measure, blocks, workers=snakemake.threads, what="summed blocks"):
        total.merge(part)
        left += thick
    if left:
        logger.warning(
            "%d voxels are the cores of what is thicker than thickest_um: %g, which has no length; "
            "look there whether it is signal, then give the diameter of the thickest fibres",
            left, thickest_um,
        )  # fmt: skip
    save_sums(snakemake.output.sums, total)


run_job(snakemake, main)
