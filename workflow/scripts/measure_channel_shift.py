"""Measure the shift of a channel against the alignment channel, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.execution.job import run_job
from terareg.stitching.channel_shift import given_shift, measure_channel_shift, save_shift


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    names = (snakemake.params.against, snakemake.wildcards.channel)
    given = snakemake.params.given
    if given is not None:
        shift = given_shift(names, given, acquisition.spacing_um)
    else:
        # raw: what is smooth or fixed in the tile is taken away before patches are compared
        reference, channel = (TileSource(acquisition, name) for name in names)
        search_um = snakemake.params.search_um
        shift = measure_channel_shift(reference, channel, names, search_um, snakemake.threads)
    save_shift(snakemake.output.shift, shift)


run_job(snakemake, main)
