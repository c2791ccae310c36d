"""Plan the volume of a channel in the atlas and write its metadata."""

from pathlib import Path

from terareg.atlas.prepare import load_frame
from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan, VolumeSettings, make_plan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    name = snakemake.wildcards.atlas
    frame = load_frame(Path(snakemake.input.atlas).parent)
    if snakemake.params.resolution_um is not None:
        frame = frame.resampled((snakemake.params.resolution_um,) * 3)
    settings = VolumeSettings(**snakemake.params.volume)
    source = VolumePlan.from_json(read_json(snakemake.input.source)["plan"])
    # 16 bits keep some decimals of averaged integers
    dtype = "float32" if source.dtype == "float32" else "uint16"
    plan = make_plan(f"{sample} {channel} in {name}", frame, dtype, settings)
    key = f"{sample}/atlas_space/{name}/{channel}"
    init_volume(Store(snakemake.params.store), key, plan, {"channel": channel}, replace=True)
    write_json(snakemake.output.plan, {"plan": plan.to_json()})


run_job(snakemake, main)
