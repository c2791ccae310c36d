"""Add up signal and its intensities in every region and hemisphere, in one batch of blocks."""

from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.core.parallel import map_items
from terareg.execution.job import run_job
from terareg.regions.labels import hemisphere_block
from terareg.regions.measure import RegionSums, save_sums
from terareg.regions.signal import SUMS, signal_sums, voxels_within
from terareg.regions.warp import LevelReader
from terareg.registration.transform import Transform
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.derived
    store = Store(snakemake.params.store)
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    labels = Volume(store, f"{sample}/labels/{snakemake.wildcards.atlas}")
    volumes = (f"derived/{name}", snakemake.params.entry["volume"])
    mask, channel = (LevelReader(Volume(store, f"{sample}/{key}"), 0) for key in volumes)
    factor = voxels_within(labels.frame, mask.frame, f"derived.{name}")

    def measure(block):
        part = RegionSums(atlas.ids, SUMS, mask.frame.voxel_volume_um3)
        counts, sums = signal_sums(mask, channel, (block.start, block.stop), factor)
        if counts.any():
            frame = labels.frame.cropped(block.start, block.stop)
            sides = hemisphere_block(transform, atlas, frame).astype(np.uint8)
            values = labels.read(0, block.start, block.stop)
            part.add_block(values, sides, dict(zip(SUMS, (counts, sums))))
        return part

    blocks = labels.plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches)
    total = RegionSums(atlas.ids, SUMS, mask.frame.voxel_volume_um3)
    for part in map_items(measure, blocks, workers=snakemake.threads, what="summed blocks"):
        total.merge(part)
    save_sums(snakemake.output.sums, total)


run_job(snakemake, main)
