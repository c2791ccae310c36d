"""Replace displacements that are not reliable by the nominal ones, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.terastitcher.exchange import check_fits
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.terastitcher.stages import threshold
from terareg.stitching.terastitcher.writing import write_xml


def main() -> None:
    if snakemake.input.get("own"):
        acquisition = load_acquisition(snakemake.input.acquisition)
        xml = read_xml(snakemake.input.own[0])
        check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        xml = read_xml(snakemake.input.xml)
        xml = threshold(xml, snakemake.params.reliability)
    write_xml(snakemake.output.xml, xml)


run_job(snakemake, main)
