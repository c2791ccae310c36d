"""Estimate how far borders and volumes of a registration may be off."""

from dataclasses import replace
from pathlib import Path

from terareg.core.errors import RegistrationError
from terareg.core.numeric import Clipped
from terareg.execution.job import run_job
from terareg.regions.registered import RegistrationInput
from terareg.registration.checkpoint import load
from terareg.registration.error_bars import error_bars
from terareg.registration.flow import cpu_threads
from terareg.registration.schedule import Plan
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import read_affine
from terareg.storage.records import content_hash, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks


def write_volume(store: Store, key: str, bars, formats: list[str]) -> dict:
    """Write the map of deviations as a volume of the store; return its plan and summary."""
    name = "standard deviation of borders, um"
    plan = make_plan(name, bars.sample_frame, "float32", VolumeSettings(formats=formats))
    init_volume(store, key, plan, replace=True)
    state = content_hash(bars.deviation_um)

    def part(block):
        inside = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        return bars.deviation_um[inside], Clipped()

    write_blocks(store, key, plan, plan.batch(0, 1), part, fingerprint=state)
    finish_pyramid(store, key, plan)
    return {"plan": plan.to_json()} | finalize_volume(store, key, plan, fingerprint=state)


def main() -> None:
    sample, files, params = snakemake.wildcards.sample, snakemake.input, snakemake.params
    settings = RegistrationSettings(**params.settings)
    store = Store(params.store)
    given = RegistrationInput(
        Path(files.atlas).parent,
        dict(zip(params.images, files.images)),
        store,
        {channel: f"{sample}/{source}" for channel, source in params.sources.items()},
        files.pose,
        files.get("landmarks"),
    )
    templates, channels, hints = given.read(settings.resolution_um, snakemake.threads)
    with cpu_threads(params.threads):
        settings = replace(settings, threads=params.threads)
        plan = Plan(templates, channels, settings, read_affine(files.initial), hints)
        # of this registration, whatever device it ran on
        state = load(Path(files.state), None)
        if state is None:
            raise RegistrationError(f"{files.state} cannot be read; run the registration again")
        kept = read_json(files.summary)["kept"]
        bars = error_bars(plan, state, deformed=kept == "deformation")
    key = f"{sample}/registration/{snakemake.wildcards.atlas}/deviation"
    volume = write_volume(store, key, bars, params.formats)
    bars.save(Path(snakemake.output.deviation).parent)
    write_json(snakemake.output.volume, volume)


run_job(snakemake, main)
