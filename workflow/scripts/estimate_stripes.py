"""Find the gains of the lines of all tiles of one channel, and write them into the store."""

from terareg.acquisition.line_gains import wanted_lines
from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.intensity.destriping import NO_STRIPES, estimate_stripes
from terareg.intensity.lines import LineLayout
from terareg.stitching.channel_shift import own_origins
from terareg.stitching.placement import load_placement
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import Store


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    lines = wanted_lines(snakemake.params.lines, read_json(snakemake.input.info))
    if lines == "none":
        write_json(snakemake.output.stripes, NO_STRIPES)
        return
    placed = load_placement(snakemake.input.placement).origins(subpixel=True)
    origins = own_origins(placed, snakemake.input, acquisition.tile_shape)
    own = acquisition.of_channel(snakemake.wildcards.channel)
    layout = LineLayout.of(own, origins, lines)
    sums = list(snakemake.input.lines)
    state = fingerprint(snakemake.params.code, layout.lines, origins, [file_hash(p) for p in sums])
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    key = f"intensity/{snakemake.wildcards.channel}/line_gains"
    write_json(snakemake.output.stripes, estimate_stripes(sums, layout, store, key, state))


run_job(snakemake, main)
