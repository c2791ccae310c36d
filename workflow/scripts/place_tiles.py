"""Solve the placement of all tiles, or take over the user's."""

from dataclasses import replace

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.nominal import own_positions
from terareg.stitching.pairs import load_pairs
from terareg.stitching.placement import PlacementSettings, save_placement
from terareg.stitching.solver import place
from terareg.stitching.terastitcher.exchange import check_fits, to_pairs, to_placement
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.terastitcher.stages import with_placement
from terareg.stitching.terastitcher.writing import write_xml


def main() -> None:
    acquisition = own_positions(load_acquisition(snakemake.input.acquisition), snakemake.input)
    settings = PlacementSettings(**snakemake.params.settings)
    if snakemake.input.get("own"):
        xml = read_xml(snakemake.input.own[0])
        check_fits(xml, acquisition, snakemake.input.own[0])
        placement = to_placement(xml, acquisition)
    else:
        xml = read_xml(snakemake.input.xml)
        measured = bool(snakemake.input.get("pairs"))
        pairs = load_pairs(snakemake.input.pairs) if measured else []
        if not measured or any(pair.engine == "mip_ncc" for pair in pairs):
            # TeraStitcher's reliability is thresholded axis by axis and is not a probability
            pairs = to_pairs(xml, acquisition)
            settings = replace(settings, min_reliability=settings.min_reliability_xml)
        placement = place(acquisition, pairs, settings, snakemake.params.model)
        xml = with_placement(xml, placement)
    write_xml(snakemake.output.xml, xml)
    save_placement(snakemake.output.placement, placement)


run_job(snakemake, main)
