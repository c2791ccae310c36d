"""Reduce the displacements of each pair to one, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.job import run_job
from terareg.stitching import terastitcher


def main() -> None:
    if snakemake.input.get("own"):
        acquisition = load_acquisition(snakemake.input.acquisition)
        xml = terastitcher.read_xml(snakemake.input.own[0])
        terastitcher.check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        xml = terastitcher.project(terastitcher.read_xml(snakemake.input.xml))
    terastitcher.write_xml(snakemake.output.xml, xml)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
