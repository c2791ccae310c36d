"""Describe the images of a sample whose input is already a volume."""

import logging

from terareg.execution.job import run_job
from terareg.storage.records import write_json
from terareg.volumes.headers import check_channels, first_of_several, read_header
from terareg.volumes.importing import describe_input


def main() -> None:
    settings = snakemake.params
    headers = {
        name: read_header(address, settings.spacing_um) for name, address in settings.images.items()
    }
    check_channels(headers, settings.orientation)
    for header in headers.values():
        if header.others:
            logging.getLogger("terareg").warning("%s: %s", header.name, first_of_several(header))
    write_json(snakemake.output.index, describe_input(headers, settings.orientation))


run_job(snakemake, main)
