"""Plan the corrected volume of a channel, at a level of the fused one, and write its metadata."""

from terareg.core.levels import coarsest_level
from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan, make_plan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    source = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    level, resolution = 0, snakemake.params.volume_um
    if resolution is not None:
        spacings = [each.frame.spacing_um for each in source.levels]
        level = coarsest_level(spacings, (resolution,) * 3) or 0
    frame = source.levels[level].frame
    plan = make_plan(source.name, frame, source.dtype, source.settings)
    key = f"{sample}/corrected_volume/{channel}"
    store = Store(snakemake.params.store)
    init_volume(store, key, plan, {"channel": channel}, replace=True)
    write_json(snakemake.output.plan, {"plan": plan.to_json(), "source_level": level})


run_job(snakemake, main)
