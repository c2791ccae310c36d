"""Carry the atlas annotation into one batch of blocks of the sample."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.core.numeric import Clipped
from terareg.execution.job import run_job
from terareg.regions.labels import Vote, label_block
from terareg.registration.transform import Transform
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import write_blocks


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    files = ("affine", "forward", "inverse", "transform", "annotation", "plan")
    state = fingerprint(
        snakemake.params.code,
        snakemake.params.interpolation,
        [file_hash(snakemake.input[f]) for f in files],
    )

    vote = Vote(atlas) if snakemake.params.interpolation == "vote" else None

    def labels(block):
        frame = plan.frame.cropped(block.start, block.stop)
        found = vote.block(transform, frame) if vote else label_block(transform, atlas, frame)
        return found, Clipped()

    summary = write_blocks(
        Store(snakemake.params.store),
        f"{sample}/labels/{name}",
        plan,
        plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches),
        labels,
        fingerprint=state,
        workers=snakemake.threads,
    )
    write_json(snakemake.output.batch, summary)


run_job(snakemake, main)
