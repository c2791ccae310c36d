"""Describe the images of a sample whose input is already a volume."""

import logging

from terareg.execution.job import run_job
from terareg.storage.records import write_json
from terareg.volumes.headers import check_channels, first_of_several, read_header
from terareg.volumes.importing import check_whole, describe_input


def main() -> None:
    settings = snakemake.params
    headers = {
        name: read_header(address, settings.spacing_um) for name, address in settings.images.items()
    }
    check_channels(headers, settings.orientation)
    for header in headers.values():
        if header.others:
            logging.getLogger("terareg").warning("%s: %s", header.name, first_of_several(header))
    absent = {
        name: check_whole(header, name in settings.fill_missing) for name, header in headers.items()
    }
    write_json(snakemake.output.index, describe_input(headers, settings.orientation, absent))


run_job(snakemake, main)
