"""Add up voxels and intensities of every region and hemisphere in one batch of blocks."""

from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.core.parallel import map_items
from terareg.execution.job import run_job
from terareg.regions.labels import hemisphere_block
from terareg.regions.measure import RegionSums, save_sums
from terareg.registration.transform import Transform
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    store = Store(snakemake.params.store)
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    labels = Volume(store, f"{sample}/labels/{name}")
    channels = {
        channel: Volume(store, f"{sample}/{snakemake.params.source}/{channel}")
        for channel in snakemake.params.channels
    }
    level = read_json(snakemake.input.labels)["source_level"]

    def measure(block):
        values = labels.read(0, block.start, block.stop)
        part = RegionSums(atlas.ids, list(channels), labels.frame.voxel_volume_um3)
        if values.any():
            frame = labels.frame.cropped(block.start, block.stop)
            sides = hemisphere_block(transform, atlas, frame)
            images = {c: v.read(level, block.start, block.stop) for c, v in channels.items()}
            part.add_block(values, sides.astype(np.uint8), images)
        return part

    blocks = labels.plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches)
    sums = RegionSums(atlas.ids, list(channels), labels.frame.voxel_volume_um3)
    for part in map_items(measure, blocks, workers=snakemake.threads, what="measured blocks"):
        sums.merge(part)
    save_sums(snakemake.output.sums, sums)


run_job(snakemake, main)
