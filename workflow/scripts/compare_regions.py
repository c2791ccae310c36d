"""Compare the regions of two groups: effect sizes, p-values, false discovery rates."""

from terareg.cohort.model import design_of
from terareg.cohort.regions import Inference, compare_regions, side_by_side
from terareg.cohort.table import read_cohort, used_cohort
from terareg.cohort.values import read_values
from terareg.execution.job import run_job
from terareg.storage.records import read_table, write_table


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    cohort = used_cohort(cohort, read_table(snakemake.input.samples))
    names = [member.sample for member in cohort.members]
    values = side_by_side(read_values(snakemake.input.values), names)
    settings = Inference(given["test"], given["permutations"], given["seed"])
    write_table(snakemake.output.table, compare_regions(values, design_of(cohort), settings))


run_job(snakemake, main)
