"""Draw effect sizes against p-values, and the clearest regions sample by sample."""

from terareg.cohort.regions import side_by_side
from terareg.cohort.values import KEYS, read_values
from terareg.execution.job import run_job
from terareg.storage.records import read_table
from terareg.storage.store import write_atomic
from terareg.views.cohort import measure_title
from terareg.views.figures.cohort import heat_map, value_key, volcano


def main() -> None:
    rows = read_table(snakemake.input.table)
    samples = [row for row in read_table(snakemake.input.samples) if row["used"] == "yes"]
    measures = {row["measure"]: measure_title(row["measure"]) for row in rows}
    found = side_by_side(read_values(snakemake.input.values), [row["sample"] for row in samples])
    named = (value_key(dict(zip(KEYS, key))) for key in found.keys)
    values = dict(zip(named, found.array.T))
    groups = [(row["sample"], row["group"]) for row in samples]
    fdr = snakemake.params.settings["fdr"]
    write_atomic(snakemake.output.volcano, volcano(rows, measures, fdr))
    write_atomic(snakemake.output.heat_map, heat_map(rows, values, measures, groups))


run_job(snakemake, main)
