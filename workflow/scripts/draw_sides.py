"""Draw both sides of a channel and where each counts."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.stitching.sides import load_match
from terareg.storage.store import write_atomic
from terareg.views.figures.sides import sides_map


def main() -> None:
    spacing_um = load_acquisition(snakemake.input.acquisition).spacing_um
    match = load_match(snakemake.input.match).to_json()
    write_atomic(snakemake.output.sides, sides_map(match, spacing_um))


run_job(snakemake, main)
