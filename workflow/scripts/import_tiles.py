"""Write the nominal grid as xml_import.xml, or take over the user's."""

from terareg.acquisition.model import load_acquisition
from terareg.job import run_job
from terareg.stitching import terastitcher
from terareg.stitching.nominal import own_positions


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    if snakemake.input.get("own"):
        xml = terastitcher.read_xml(snakemake.input.own[0])
        terastitcher.check_fits(xml, acquisition, snakemake.input.own[0])
    else:
        acquisition = own_positions(acquisition, snakemake.input)
        xml = terastitcher.from_acquisition(acquisition, snakemake.params.channel)
    terastitcher.write_xml(snakemake.output.xml, xml)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
