"""Check an image, plan the volume of its channel and write the metadata."""

from terareg.execution.job import run_job
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.headers import read_header
from terareg.volumes.importing import check_whole, describe_input, frame_of_input
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    params = snakemake.params
    header = read_header(params.address, params.spacing_um)
    absent = check_whole(header, params.image["fill_missing"])
    described = describe_input({channel: header}, params.orientation)
    source = described["channels"][channel] | {"absent_chunks": absent}
    settings = VolumeSettings(**params.volume)
    frame = frame_of_input(described)
    plan = make_plan(f"{sample} {channel}", frame, header.stored_dtype, settings)
    metadata = {"channel": channel, "source": source}
    init_volume(Store(params.store), f"{sample}/fused/{channel}", plan, metadata, replace=True)
    planned = {"plan": plan.to_json(), "offset_vox": (0, 0, 0), "source": source}
    write_json(snakemake.output.plan, planned)


run_job(snakemake, main)
