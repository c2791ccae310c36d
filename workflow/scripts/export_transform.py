"""Write the transform for ITK, ANTs and other programs."""

from pathlib import Path

from terareg.execution.job import run_job
from terareg.registration.export import write_itk
from terareg.registration.transform import Transform


def main() -> None:
    transform = Transform.load(Path(snakemake.input.transform).parent)
    write_itk(Path(snakemake.output.composite_to_atlas).parent, transform)


run_job(snakemake, main)
