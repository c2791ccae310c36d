"""Find the true step of the stage where the metadata's overlap may be wrong."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import open_tiles
from terareg.execution.job import run_job
from terareg.stitching.nominal import own_positions
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.steps import estimate_steps
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    acquisition = own_positions(load_acquisition(snakemake.input.acquisition), snakemake.input)
    channel = snakemake.params.channel
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    source = open_tiles(acquisition, channel, snakemake.input, store)
    settings = DisplacementSettings(**snakemake.params.settings)
    steps = estimate_steps(source, acquisition, settings, workers=snakemake.threads)
    write_json(snakemake.output.steps, steps.to_json())


run_job(snakemake, main)
