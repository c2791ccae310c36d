"""Carry a channel into the atlas."""

from pathlib import Path

from terareg.core.numeric import Clipped, to_integer
from terareg.execution.job import run_job
from terareg.regions.warp import LevelReader, channel_block
from terareg.registration.transform import Transform
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import write_blocks


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    store = Store(snakemake.params.store)
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    source = Volume(store, f"{sample}/{snakemake.params.source}/{channel}")
    reader = LevelReader(source, source.level_for(min(plan.frame.spacing_um)))
    transform = Transform.load(Path(snakemake.input.transform).parent)
    files = ("affine", "forward", "inverse", "transform", "plan")
    state = fingerprint(
        snakemake.params.code,
        read_json(snakemake.input.complete)["sha256"],
        [file_hash(snakemake.input[f]) for f in files],
    )

    def warped(block):
        frame = plan.frame.cropped(block.start, block.stop)
        values = channel_block(transform, reader, frame)
        return (values, Clipped()) if plan.dtype == "float32" else to_integer(values, plan.dtype)

    summary = write_blocks(
        store,
        f"{sample}/atlas_space/{snakemake.wildcards.atlas}/{channel}",
        plan,
        plan.blocks(),
        warped,
        fingerprint=state,
        workers=snakemake.threads,
    )
    write_json(snakemake.output.batch, summary)


run_job(snakemake, main)
