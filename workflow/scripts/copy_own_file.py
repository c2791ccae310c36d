"""Copy a file of the user whose path Snakemake cannot follow."""

from terareg.core.errors import StoreError
from terareg.execution.job import run_job
from terareg.storage.foreign import boundary, copy_file


def main() -> None:
    path = snakemake.params.path
    with boundary(path, StoreError, "correct the path or its permissions"):
        copy_file(path, snakemake.output.file)


run_job(snakemake, main)
