"""Write the nominal grid as xml_import.xml, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.nominal import own_positions
from terareg.stitching.terastitcher.exchange import check_fits
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.terastitcher.stages import from_acquisition
from terareg.stitching.terastitcher.writing import write_xml


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    if snakemake.input.get("own"):
        xml = read_xml(snakemake.input.own[0])
        check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        acquisition = own_positions(acquisition, snakemake.input)
        xml = from_acquisition(acquisition, snakemake.params.channel)
    write_xml(snakemake.output.xml, xml)


run_job(snakemake, main)
