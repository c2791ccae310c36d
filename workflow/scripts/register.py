"""Register the atlas to the sample."""

from dataclasses import replace
from pathlib import Path

from terareg.execution.job import run_job
from terareg.regions.registered import RegistrationInput
from terareg.registration.emlddmm import register
from terareg.registration.pose import check_confirmed
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import read_affine
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic


def main() -> None:
    sample, files, params = snakemake.wildcards.sample, snakemake.input, snakemake.params
    check_confirmed(read_json(files.pose), sample, params.orientation_confirmed)
    settings = RegistrationSettings(**params.settings)
    given = RegistrationInput(
        Path(files.atlas).parent,
        dict(zip(params.images, files.images)),
        Store(params.store),
        {channel: f"{sample}/{source}" for channel, source in params.sources.items()},
        files.pose,
        files.get("landmarks"),
    )
    templates, channels, hints = given.read(settings.resolution_um, snakemake.threads)
    # beside the log, where a killed job's next attempt finds it
    checkpoint = Path(snakemake.log[0]).with_suffix(".checkpoint.npz")
    result = register(
        templates,
        channels,
        replace(settings, threads=params.threads),
        read_affine(files.affine),
        checkpoint=checkpoint,
        hints=hints,
        code=params.code,
    )
    result.save(Path(snakemake.output.affine).parent)
    # the state at the end of the last level
    write_atomic(snakemake.output.state, checkpoint.read_bytes())
    checkpoint.unlink()


run_job(snakemake, main)
