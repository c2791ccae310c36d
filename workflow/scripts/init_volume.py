"""Plan the fused volume of a channel and write its metadata."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.placement import load_placement
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.fusion import FusionSettings, fused_frame
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    acquisition = load_acquisition(snakemake.input.acquisition)
    fusion = FusionSettings(**snakemake.params.fusion)
    origins = load_placement(snakemake.input.placement).origins(fusion.subpixel)
    frame, offset = fused_frame(acquisition, origins, fusion)
    settings = VolumeSettings(**snakemake.params.volume)
    plan = make_plan(f"{sample} {channel}", frame, acquisition.dtype, settings)
    store = Store(snakemake.params.store)
    init_volume(store, f"{sample}/fused/{channel}", plan, {"channel": channel}, replace=True)
    write_json(snakemake.output.plan, {"plan": plan.to_json(), "offset_vox": offset})


run_job(snakemake, main)
