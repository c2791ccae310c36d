"""Gather the tables of all samples of a comparison, and judge their registrations."""

from terareg.cohort.model import design_of
from terareg.cohort.table import read_cohort, sample_rows, used_cohort
from terareg.cohort.values import Measured, check_same_atlas, values_of, write_values
from terareg.execution.job import run_job
from terareg.storage.records import read_json, read_table, write_table
from terareg.views.cohort import verdict_of


def main() -> None:
    given, cells = snakemake.params.settings, snakemake.params.settings["cells"]
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    names = [member.sample for member in cohort.members]
    infos = dict(zip(names, map(read_json, snakemake.input.atlases)))
    check_same_atlas(infos, given["atlas"])
    summaries = zip(names, map(read_json, snakemake.input.summaries))
    verdicts = {name: verdict_of(summary, given["atlas"]) for name, summary in summaries}
    rows = sample_rows(cohort, verdicts, given["failed"] == "leave_out")
    design_of(used_cohort(cohort, rows))  # says at once what cannot be told apart

    def values():
        counts, signals = (iter(snakemake.input.get(k, ())) for k in ("counts", "signals"))
        for member, regions in zip(cohort.members, snakemake.input.regions):
            found = Measured(
                read_table(regions),
                {name: read_table(next(counts)) for name in cells},
                {name: read_table(next(signals)) for name in given["signals"]},
            )
            for row in values_of(found, given["channels"], given["min_coverage"]):
                yield {"sample": member.sample, "group": member.group, **row}

    write_values(snakemake.output.values, values())
    write_table(snakemake.output.samples, rows)


run_job(snakemake, main)
