"""Make the report of a sample."""

from pathlib import Path

from terareg.execution.job import read_job_records, run_job
from terareg.execution.measured_costs import cost_table
from terareg.execution.run_plan import Planned
from terareg.storage.store import Store
from terareg.views.report import gather_report, software_versions, write_report


def main() -> None:
    work = snakemake.params.work
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    records = read_job_records(store, work["jobs"])
    tiled = Path(snakemake.input.index).name == "acquisition.json"
    plan = [Planned(**stage) for stage in work["plan"]]
    data = gather_report(
        Path(snakemake.input.index).parent,
        sample=snakemake.wildcards.sample,
        provenance=dict(snakemake.params.provenance) | {"software": software_versions()},
        limits=snakemake.params.thresholds,
        store_url=snakemake.params.store,
        costs=cost_table(plan, records, work["raw_gb"], tiled=tiled),
        files=snakemake.input,
        settings=snakemake.params.settings,
    )
    write_report(snakemake.output.report, data)


run_job(snakemake, main)
