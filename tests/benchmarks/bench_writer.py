"""What writing a pyramid costs beside writing the same bytes plainly.

    PYTHONPATH=workflow/scripts python tests/benchmarks/bench_writer.py [edge]

Prints, per format, megabytes of level-0 data per CPU-second and per wall second, the ratio to
``np.save`` and to a plain file copy in the same run, and the size and number of files. The best
of three runs counts.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from terareg.core.frames import Frame
from terareg.storage.store import Store
from terareg.volumes.downsample import downsample
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_block


def brain_like(edge: int) -> np.ndarray:
    """Smooth tissue over a dark background with shot noise and bright cells, uint16."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, edge, dtype=np.float32)] * 3, indexing="ij")
    tissue = np.where(z**2 + y**2 + x**2 < 0.9, 900 + 400 * np.sin(5 * y) * np.cos(7 * x), 0)
    noise = rng.standard_normal(tissue.shape, np.float32) * np.sqrt(tissue + 100)
    values = tissue + 110 + noise
    values[rng.random(tissue.shape, np.float32) < 2e-4] += 3000
    return values.clip(0, 65535).astype(np.uint16)


def timed(work, clean) -> tuple[float, float]:
    """Best CPU and wall seconds of three runs."""
    best = []
    for _ in range(3):
        clean()
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        best.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(c for c, _ in best), min(w for _, w in best)


def main() -> None:
    edge = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    array = brain_like(edge)
    megabytes = array.nbytes / 1e6
    root = Path(tempfile.mkdtemp(prefix="bench-writer-"))
    print(f"{megabytes:.0f} MB uint16, block {edge}, chunk 64, in {root}")
    print(f"{'':34}{'MB/cpu-s':>9}{'MB/s':>8}{'x save':>8}{'x copy':>8}{'size':>7}{'files':>7}")

    def row(name, seconds, folder=None):
        cpu, wall = (megabytes / max(s, 1e-6) for s in seconds)
        baseline.setdefault(name, cpu)
        line = f"{name:34}{cpu:9.0f}{wall:8.0f}"
        line += f"{cpu / baseline['np.save']:8.3f}"
        line += f"{cpu / baseline['file copy']:8.3f}" if "file copy" in baseline else " " * 8
        if folder is not None:
            files = [p for p in folder.rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files) / array.nbytes
            line += f"{size:7.2f}{len(files):7}"
        print(line)

    baseline: dict[str, float] = {}
    plain = root / "plain.npy"
    row("np.save", timed(lambda: np.save(plain, array), lambda: plain.unlink(missing_ok=True)))
    row(
        "file copy",
        timed(lambda: shutil.copyfile(plain, root / "copy.npy"),
              lambda: (root / "copy.npy").unlink(missing_ok=True)),
    )  # fmt: skip
    half = [array]
    row(
        "downsampling alone, 4 levels",
        timed(lambda: [half.append(downsample(half[-1], (2, 2, 2))) for _ in range(3)],
              lambda: half.__delitem__(slice(1, None))),
    )  # fmt: skip
    for name, options in {
        "ome-zarr blosc-zstd": {"formats": ("ome-zarr",)},
        "ome-zarr blosc-lz4": {"formats": ("ome-zarr",), "codec": "blosc-lz4"},
        "ome-zarr none": {"formats": ("ome-zarr",), "codec": "none"},
        "precomputed raw": {"formats": ("precomputed",)},
        "precomputed gzip": {"formats": ("precomputed",), "precomputed": "gzip"},
        "both (blosc-zstd, raw)": {},
    }.items():
        settings = VolumeSettings(block=edge, **options)
        plan = make_plan("v", Frame(array.shape, (1.0, 1.0, 1.0)), "uint16", settings)
        store = Store(str(root / "v"))

        def work(plan=plan, store=store):
            init_volume(store, "v", plan)
            for block in plan.blocks():
                write_block(store, "v", plan, block, array, fingerprint="f")
            finish_pyramid(store, "v", plan)

        row(name, timed(work, lambda: shutil.rmtree(root / "v", ignore_errors=True)), root / "v")
        volume = Volume(store, "v")
        row("  read back", timed(lambda v=volume: v.read(0), lambda: None))
        shutil.rmtree(root / "v")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
