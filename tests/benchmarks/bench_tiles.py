"""Throughput of reading, correcting and keeping tiles, relative to reading the same files.

    python tests/benchmarks/bench_tiles.py [--size 2048] [--planes 64] [--threads 1]

Everything runs from the page cache, so that the figures are costs of processor and memory; the
disk is the same for all. MB are 10^6 bytes of pixels; CPU seconds are those of this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from terareg.acquisition.colm import IndexSettings, index_colm  # noqa: E402
from terareg.acquisition.tiles import (  # noqa: E402
    Flatfield,
    TileSource,
    corrected_key,
    write_corrected,
)
from terareg.parallel import peak_memory_mb  # noqa: E402
from terareg.storage.store import Store  # noqa: E402

INI = """[Experiment Settings]
X Resolution = "{size}"
Num in stack (Top Left Corner) = "{planes}"
[North Scan Region]
Num Horizontal = "1"
Num Vertical = "1"
Stack Step (mm) = "0.005"
[Objectives]
North = "10x"
"""


def write_raw(root: Path, size: int, planes: int, compression: str | None) -> None:
    """One tile of noisy planes of a smooth object, as a camera would give."""
    folder = root / "VW0" / "LOC000"
    folder.mkdir(parents=True)
    (root / "Experiment.ini").write_text(INI.format(size=size, planes=planes))
    (root / "Scanned Cells.txt").write_text("1\n")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] * (12 / size)
    object_ = 400 * (1 + np.sin(y) * np.cos(1.7 * x))
    for plane in range(planes):
        image = rng.poisson(object_).astype("uint16") + 100
        path = folder / f"CHN00_PLN{plane:04d}.tif"
        tifffile.imwrite(path, image, photometric="minisblack", compression=compression)


def measure(name: str, megabytes: float, work, reference: float | None = None) -> float:
    """Print MB per second of wall time and of processor time; returns the latter."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    relative = "" if reference is None else f"{megabytes / cpu / reference:8.2f}"
    print(f"{name:34s}{megabytes / wall:10.0f}{megabytes / cpu:10.0f}{relative}", flush=True)
    return megabytes / cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of a tile")
    parser.add_argument("--planes", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    megabytes = args.size**2 * args.planes * 2 / 1e6
    y = np.linspace(-1, 1, args.size)
    profile = np.exp(-(y[:, None] ** 2 + y**2) / 2)
    flatfield = Flatfield(profile / profile.mean(), 100.0)
    starts = range(0, args.planes, 16)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.threads) as pool:

        def in_slabs(source: TileSource, y=slice(None), x=slice(None)) -> None:
            list(
                pool.map(lambda z: source.read("LOC000", z, min(z + 16, args.planes), y, x), starts)
            )

        print(f"{megabytes:.0f} MB, {args.threads} threads".ljust(34) + "   MB/s  MB/cpu-s  / file")
        for compression in (None, "zlib"):
            root = Path(folder) / str(compression)
            write_raw(root, args.size, args.planes, compression)
            acquisition = index_colm(Store(str(root)), IndexSettings("bench", "SAR"))
            files = sorted((root / "VW0" / "LOC000").iterdir())
            label = compression or "plain"

            def read_files(files=files) -> None:
                list(pool.map(lambda path: len(path.read_bytes()), files))

            read_files()
            file_mb = sum(path.stat().st_size for path in files) / 1e6
            base = measure(f"{label}: files as bytes", file_mb, read_files)
            raw = TileSource(acquisition, "ch0")
            measure(f"{label}: TileSource raw", megabytes, lambda s=raw: in_slabs(s), base)
            stream = TileSource(acquisition, "ch0", flatfield=flatfield)
            measure(f"{label}: TileSource stream", megabytes, lambda s=stream: in_slabs(s), base)
            if compression:
                continue
            part = slice(0, args.size // 8)
            measure(
                "plain: an eighth of the rows", megabytes / 8, lambda: in_slabs(raw, part), base
            )
            store, key = Store(f"{folder}/store"), corrected_key("ch0", "LOC000")
            measure(
                "write_corrected",
                megabytes,
                lambda: write_corrected(stream, store, key, "LOC000", "f", args.threads),
                base,
            )
            kept = TileSource(acquisition, "ch0", corrected=store)
            measure("TileSource kept", megabytes, lambda: in_slabs(kept), base)
            measure(
                "kept: an eighth of the columns",
                megabytes / 8,
                lambda: in_slabs(kept, x=part),
                base,
            )
        print(f"peak memory {peak_memory_mb():.0f} MB")


if __name__ == "__main__":
    main()
