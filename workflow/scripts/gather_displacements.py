"""Gather all measured displacements into xml_displcomp.xml, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.pairs import load_pairs
from terareg.stitching.terastitcher.exchange import check_fits
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.terastitcher.stages import with_displacements
from terareg.stitching.terastitcher.writing import write_xml


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    if snakemake.input.get("own"):
        xml = read_xml(snakemake.input.own[0])
        check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        xml = read_xml(snakemake.input.xml)
        pairs = load_pairs(snakemake.input.pairs) if snakemake.input.get("pairs") else []
        xml = with_displacements(xml, pairs, acquisition)
    write_xml(snakemake.output.xml, xml)


run_job(snakemake, main)
