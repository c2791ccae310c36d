"""Draw the bias field of a channel and its effect."""

from terareg.execution.job import run_job
from terareg.intensity.bias import BiasField
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.volume import bias_field
from terareg.volumes.reader import Volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    field = BiasField.load(snakemake.input.field)
    volume = Volume(Store(snakemake.params.store), f"{sample}/fused/{channel}")
    before, frame = volume.resampled(field.frame, snakemake.threads)
    info = read_json(snakemake.input.info)
    picture = bias_field(before, field.evaluate(frame), frame, info, channel=channel)
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
