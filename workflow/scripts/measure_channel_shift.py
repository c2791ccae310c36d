"""Measure the shift of a channel against the alignment channel, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, open_shading
from terareg.execution.job import run_job
from terareg.stitching.channel_shift import given_shift, measure_channel_shift, save_shift
from terareg.storage.store import Store

SHADING = ("profile", "info", "stripes")


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    names = (snakemake.params.against, snakemake.wildcards.channel)
    given = snakemake.params.given
    if given is not None:
        shift = given_shift(names, given, acquisition.spacing_um)
    else:
        store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
        sources = []
        for channel, prefix in zip(names, ("against_", "")):
            files = {key: snakemake.input.get(prefix + key) for key in SHADING}
            sources.append(TileSource(acquisition, channel, flatfield=open_shading(files, store)))
        search_um = snakemake.params.search_um
        shift = measure_channel_shift(*sources, names, search_um, snakemake.threads)
    save_shift(snakemake.output.shift, shift)


run_job(snakemake, main)
