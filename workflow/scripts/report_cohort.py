"""Make the page of a comparison."""

from pathlib import Path

from terareg.cohort.table import read_cohort
from terareg.execution.job import run_job
from terareg.storage.records import read_table
from terareg.views.cohort import ComparisonFiles, gather_page, map_title, write_page


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    reference, other = cohort.groups
    pictures = {
        snakemake.input.volcano: f"Regions with all their parts: to the right, {other} has more "
        f"than {reference}; regions above the dashed line, in colour, are significant.",
        snakemake.input.heat_map: "Regions with the smallest p-values, sample by sample; red is "
        "more than the mean of all samples.",
    }
    for path in snakemake.input.maps:
        pictures[path] = (
            f"{map_title(Path(path).stem)}, in slices of the atlas through the clearest "
            f"difference: mean of {reference}, mean of {other}, standard deviation, Cohen's d."
        )
    files = ComparisonFiles(
        read_table(snakemake.input.statistics),
        read_table(snakemake.input.samples),
        {Path(path): text for path, text in pictures.items()},
    )
    name = snakemake.wildcards.comparison
    write_page(snakemake.output.report, gather_page(name, files, given, cohort.groups))


run_job(snakemake, main)
