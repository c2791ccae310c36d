"""Memory that rules ask for beside what the jobs of a finished run took.

    python tests/benchmarks/bench_requests.py sample.yaml [--folder DIR]

DIR is where the run was started. Peaks are those of the jobs' own records in the store; where a
run has none, those that Snakemake sampled (its samples miss the peaks of short jobs). "model" is
the peak that the stage's cost.py expects of the process, "size" the part of it that grows with the
data, "request" what the job asked for. Models should be within 25 % where the size dominates.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow" / "scripts")]

from workspaces import loaded_workflow  # noqa: E402

from terareg.core.extents import Extent, Sample, Size  # noqa: E402
from terareg.execution import requests, sizing  # noqa: E402
from terareg.execution.job import read_job_records  # noqa: E402
from terareg.execution.rule_table import RULES, jobs_of_rules  # noqa: E402
from terareg.storage.store import Store  # noqa: E402


def recorded(store: Store, jobs: dict[str, int]) -> dict[str, float]:
    """Largest peak of each rule's jobs, MB."""
    peaks: dict[str, float] = {}
    for record in read_job_records(store, jobs):
        peaks[record["rule"]] = max(peaks.get(record["rule"], 0), record["peak_mb"])
    return peaks


def sampled(folder: Path) -> dict[str, float]:
    """The same from Snakemake's benchmarks."""
    peaks: dict[str, float] = {}
    for path in folder.glob("**/*.tsv"):
        rule = path.relative_to(folder).with_suffix("").parts[0]
        with open(path, newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                if row["max_rss"] not in ("NA", "-", ""):
                    peaks[rule] = max(peaks.get(rule, 0), float(row["max_rss"]))
    return peaks


def without_data(brain: Sample) -> Sample:
    """The same sample of one voxel."""
    point = Extent((1, 1, 1), brain.grid.spacing_um)
    size = Size(1, 1, 1, (1, 1, 1), (1, 1, 1), brain.size.bytes_per_voxel)
    atlases = dict.fromkeys(brain.atlases, point)
    return replace(brain, size=size, grid=point, overlap=0.0, atlases=atlases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configfile")
    parser.add_argument("--folder", default=".")
    args = parser.parse_args()
    folder = Path(args.folder).absolute()
    with loaded_workflow(folder, folder / args.configfile) as workflow:
        run = workflow.globals["RUN"]
        brains = {name: sizing.sized(run, name) for name in run.samples}
    print(f"{'rule':24}{'model MB':>10}{'of it size':>11}{'peak MB':>9}{'ratio':>7}{'request':>9}")
    for name, brain in brains.items():
        jobs = jobs_of_rules(brain)
        address = Path(brain.option("store"))
        store = Store(str(folder / address if "://" not in str(address) else address))
        peaks = sampled(folder / brain.option("results") / name / "benchmarks")
        peaks |= recorded(store.child(name), jobs)
        for rule, peak in sorted(peaks.items()):
            if rule not in RULES or not peak:
                continue
            one = RULES[rule]
            threads = requests.threads_of(rule, brain)
            model = one.memory_mb(brain, threads)
            request = requests.granted_mb(requests.request_mb(rule, brain, threads), threads)
            size = model - one.memory_mb(without_data(brain), threads)
            print(f"{rule:24}{model:10.0f}{size:11.0f}{peak:9.0f}{model / peak:7.2f}{request:9d}")


if __name__ == "__main__":
    main()
