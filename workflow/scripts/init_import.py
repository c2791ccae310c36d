"""Plan the volume of an imported channel and write its metadata."""

from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.importing import frame_of_input
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    index = read_json(snakemake.input.index)
    image = index["channels"][channel]
    settings = VolumeSettings(**snakemake.params.volume)
    plan = make_plan(f"{sample} {channel}", frame_of_input(index), image["dtype"], settings)
    store = Store(snakemake.params.store)
    metadata = {"channel": channel, "source": image}
    init_volume(store, f"{sample}/fused/{channel}", plan, metadata, replace=True)
    write_json(snakemake.output.plan, {"plan": plan.to_json(), "offset_vox": (0, 0, 0)})


run_job(snakemake, main)
