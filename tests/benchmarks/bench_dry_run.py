"""What planning a brain of terabytes costs: jobs, tracked files, seconds, memory.

    python tests/benchmarks/bench_dry_run.py [--work FOLDER] [--only "1 TB"]

Every acquisition is written as a user has it, with a file name for every plane (hard links, one
real plane per tile), so that finding and checking planes is part of the figures: 1 TB are 120 000
names. "index" is the rule index_acquisition, run; the rest are dry runs of the whole workflow.
CPU seconds are those of Snakemake and all its children.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow" / "scripts")]

from colm_stub import write_linked_planes  # noqa: E402
from running import tracked_files  # noqa: E402
from workspaces import Workspace  # noqa: E402

# name: rows, columns, channels of tiles of 2048 x 2048 x 2000 voxels, 16.8 GB each
SIZES = {
    "0.1 TB": (2, 3, 1),
    "1 TB": (6, 10, 1),
    "1 TB, 2 channels": (5, 6, 2),
    "1 TB, 4 channels": (3, 5, 4),
    "2 TB, 2 channels": (6, 10, 2),
    "2 TB, 4 channels": (5, 6, 4),
}


def snakemake(workspace: Workspace, arguments: tuple[str, ...], pipe) -> None:
    """Run in a process of its own, whose children are only these; send output, cost and memory."""
    start = time.monotonic()
    done = subprocess.run(
        workspace.command(*arguments), cwd=workspace.folder, env=workspace.environment(),
        text=True, capture_output=True,
    )  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = (used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1024)
    pipe.send((done.returncode, done.stdout + done.stderr, cost))


def run(workspace: Workspace, *arguments: str) -> tuple[str, tuple[float, float, float]]:
    """Output of snakemake, and its CPU seconds, seconds and MB."""
    context = get_context("fork")
    receive, send = context.Pipe(False)
    process = context.Process(target=snakemake, args=(workspace, arguments, send))
    process.start()
    status, text, cost = receive.recv()
    process.join()
    if status:
        sys.exit(text)
    return text, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default=None, help="where the links are made")
    parser.add_argument("--only", choices=SIZES, help="one size")
    args = parser.parse_args()
    os.environ["COLUMNS"] = "200"
    columns = (
        "planes",
        "jobs",
        "outputs",
        "with logs",
        "cpu s",
        "wall s",
        "peak MB",
        "index cpu s",
    )
    print(f"{'raw data':20}" + "".join(f"{c:>12}" for c in columns))
    for name in [args.only] if args.only else SIZES:
        rows, cols, channels = SIZES[name]
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            workspace = Workspace(Path(folder))
            config = workspace.sample(grid=(rows, cols))
            config["input"]["channels"] = {f"ch{c}": c for c in range(channels)}
            raw = Path(config["input"]["path"])
            write_linked_planes(raw, rows, cols, channels=channels)
            workspace.write(config)
            text, (cpu, wall, peak) = run(workspace, "-n", "--verbose")
            jobs = int(re.findall(r"^total +(\d+)$", text, re.MULTILINE)[-1])
            _, (index, _, _) = run(
                workspace,
                "--cores",
                "1",
                "--quiet",
                "rules",
                "--",
                "results/brain/acquisition.json",
            )
        values = (rows * cols * channels * 2000, jobs, *tracked_files(text), cpu, wall, peak, index)
        print(f"{name:20}" + "".join(f"{v:12.1f}" if v % 1 else f"{v:12.0f}" for v in values),
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
