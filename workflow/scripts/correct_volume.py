"""Divide one batch of blocks of a channel by its bias field."""

from terareg.execution.job import run_job
from terareg.intensity.bias import BiasField
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.correction import correct_block
from terareg.volumes.plan import VolumePlan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import write_blocks


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    store = Store(snakemake.params.store)
    source = Volume(store, f"{sample}/fused/{channel}")
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    bias = BiasField.load(snakemake.input.field)
    complete = read_json(snakemake.input.complete)
    of = (complete["sha256"], file_hash(snakemake.input.field), planned["source_level"])
    state = fingerprint(snakemake.params.code, *of)
    summary = write_blocks(
        store,
        f"{sample}/corrected_volume/{channel}",
        plan,
        plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches),
        lambda block: correct_block(source, planned["source_level"], bias.evaluate, block),
        fingerprint=state,
        workers=snakemake.threads,
    )
    write_json(snakemake.output.batch, summary)


run_job(snakemake, main)
