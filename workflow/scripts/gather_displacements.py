"""Gather all measured displacements into xml_displcomp.xml, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.job import run_job
from terareg.stitching import terastitcher
from terareg.stitching.displacement import load_pairs


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    if snakemake.input.get("own"):
        xml = terastitcher.read_xml(snakemake.input.own[0])
        terastitcher.check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        xml = terastitcher.read_xml(snakemake.input.xml)
        pairs = load_pairs(snakemake.input.pairs) if snakemake.input.get("pairs") else []
        xml = terastitcher.with_displacements(xml, pairs, acquisition)
    terastitcher.write_xml(snakemake.output.xml, xml)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
