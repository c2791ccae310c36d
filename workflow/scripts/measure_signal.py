"""Make the table of signal per region: share of the volume, intensity, roll-up."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.measure import load_sums
from terareg.regions.signal import signal_table
from terareg.storage.records import read_table, write_table


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    sums = load_sums(snakemake.input.sums)
    measured = read_table(snakemake.input.regions)
    rows = signal_table(sums, measured, atlas.ontology, sums.voxel_volume_um3 / 1e9)
    write_table(snakemake.output.table, rows)


run_job(snakemake, main)
