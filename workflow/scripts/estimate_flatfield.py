"""Estimate the flat-field and the dark offset of one channel."""

from terareg.execution.job import run_job
from terareg.intensity.flatfield import estimate_flatfield, save_flatfield
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.sums import load_sums


def main() -> None:
    sums = [load_sums(path) for path in snakemake.input.sums]
    options = dict(snakemake.params.settings)
    if snakemake.input.get("image"):  # on remote storage it is not where the key says
        options["image"] = str(snakemake.input.image)
    flatfield, info = estimate_flatfield(sums, FlatfieldSettings(**options))
    save_flatfield(snakemake.output.profile, snakemake.output.info, flatfield, info)


run_job(snakemake, main)
