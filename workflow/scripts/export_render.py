"""Write tilespecs, point matches and the stack for Render, and Fiji's tile configurations."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.nominal import own_positions
from terareg.stitching.pairs import load_pairs
from terareg.stitching.placement import load_placement
from terareg.stitching.render import write_point_matches, write_stack, write_tilespecs
from terareg.stitching.tile_configuration import write_tile_configuration


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    placement = load_placement(snakemake.input.placement)
    pairs = load_pairs(snakemake.input.pairs) if snakemake.input.get("pairs") else []
    channel = snakemake.params.channel
    write_tilespecs(snakemake.output.tilespecs, acquisition, placement, channel)
    write_point_matches(snakemake.output.matches, acquisition, placement, channel, pairs)
    write_stack(snakemake.output.stack, acquisition, placement)
    nominal = own_positions(acquisition, snakemake.input)
    for path, origins in (
        (snakemake.output.nominal, {t.name: t.origin_vox for t in nominal.tiles}),
        (snakemake.output.registered, {n: t.origin_vox for n, t in placement.tiles.items()}),
    ):
        write_tile_configuration(path, origins)


run_job(snakemake, main)
