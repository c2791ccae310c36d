"""Estimate the flat-field and the dark offset of one channel."""

from terareg.intensity.flatfield import (
    FlatfieldSettings,
    estimate_flatfield,
    load_sums,
    save_flatfield,
)
from terareg.job import run_job


def main() -> None:
    sums = [load_sums(path) for path in snakemake.input.sums]
    flatfield, info = estimate_flatfield(sums, FlatfieldSettings(**snakemake.params.settings))
    save_flatfield(snakemake.output.profile, snakemake.output.info, flatfield, info)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
