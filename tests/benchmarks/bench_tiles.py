"""Throughput of reading, correcting and keeping tiles, relative to reading and to copying files.

    python tests/benchmarks/bench_tiles.py [--size 2048] [--planes 64] [--threads 1]

Everything runs from the page cache, so that the figures are costs of processor and memory; the
disk is the same for all. MB are 10^6 bytes of pixels; CPU seconds are those of this process. The
last column is relative to reading the files as bytes; to copying them plane by plane as TIFF for
what is written.
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

from terareg.acquisition.colm import ColmLayout  # noqa: E402
from terareg.acquisition.indexing import IndexSettings, index_acquisition  # noqa: E402
from terareg.acquisition.layout import LayoutOptions  # noqa: E402
from terareg.acquisition.plane_files import read_rows  # noqa: E402
from terareg.acquisition.tile_correction import Flatfield  # noqa: E402
from terareg.acquisition.tiles import TileSource, corrected_key, write_corrected  # noqa: E402
from terareg.core.parallel import peak_memory_mb  # noqa: E402
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
    """Print MB per second of wall and of processor time, the best of three; returns the latter."""
    best = [np.inf, np.inf]
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        best[0] = min(best[0], time.perf_counter() - wall)
        best[1] = min(best[1], time.process_time() - cpu)
    rate = megabytes / best[1]
    relative = "" if reference is None else f"{rate / reference:8.2f}"
    print(f"{name:34s}{megabytes / best[0]:10.0f}{rate:10.0f}{relative}", flush=True)
    return rate


def bench_files(root: Path, label: str, flatfield: Flatfield, pool: ThreadPoolExecutor) -> float:
    """Raw and streamed reading of one set; returns the rate of reading its files as bytes."""
    acquisition = index_acquisition(
        ColmLayout(Store(str(root)), LayoutOptions()), IndexSettings("bench", "SAR")
    )
    files = sorted((root / "VW0" / "LOC000").iterdir())
    megabytes = np.prod(acquisition.tile_shape) * 2 / 1e6
    file_mb = sum(path.stat().st_size for path in files) / 1e6
    base = measure(
        f"{label}: files as bytes",
        file_mb,
        lambda: list(pool.map(lambda path: len(path.read_bytes()), files)),
    )
    raw = TileSource(acquisition, "ch0")
    measure(f"{label}: raw", megabytes, lambda: read_slabs(raw, pool), base)
    stream = TileSource(acquisition, "ch0", flatfield=flatfield)
    measure(f"{label}: stream", megabytes, lambda: read_slabs(stream, pool), base)
    part = slice(0, acquisition.tile_shape[1] // 8)
    measure(
        f"{label}: eighth of the rows", megabytes / 8, lambda: read_slabs(raw, pool, part), base
    )
    return base


def read_slabs(source: TileSource, pool: ThreadPoolExecutor, y=slice(None), x=slice(None)) -> None:
    """Read a tile 16 planes at a time."""
    depth = source.acquisition.tile_shape[0]
    starts = range(0, depth, 16)
    list(pool.map(lambda z: source.read("LOC000", z, min(z + 16, depth), y, x).shape, starts))


WRITERS = {
    "plain": {},
    "zlib, strips": {"compression": "zlib"},
    "LZW, strips of 2 rows": {"compression": "lzw", "rowsperstrip": 2},
    "zlib, tiles": {"compression": "zlib", "tile": (256, 256)},
    "zlib, one strip": {"compression": "zlib", "rowsperstrip": 2**16},
}


def bench_parts(folder: Path, size: int) -> None:
    """Reading a plane in five parts, as rows of blocks do, beside reading it once."""
    image = np.random.default_rng(0).poisson(300, (size, size)).astype("uint16")
    store, expected = Store(str(folder)), ((size, size), "uint16")
    parts = [slice(start, start + -(-size // 5)) for start in range(0, size, -(-size // 5))]
    for name, options in WRITERS.items():
        tifffile.imwrite(folder / "plane.tif", image, photometric="minisblack", **options)
        seconds = []
        for rows in ([slice(None)], parts):
            begin = time.process_time()
            for _ in range(8):
                for part in rows:
                    read_rows(store, "plane.tif", expected, part)
            seconds.append((time.process_time() - begin) / 8)
        print(f"{name:34s}{seconds[0]:10.4f}{seconds[1]:10.4f}{seconds[1] / seconds[0]:8.2f}")


def bench_kept(
    root: Path, flatfield: Flatfield, pool: ThreadPoolExecutor, threads: int, base: float
) -> None:
    """Writing and reading a corrected tile."""
    acquisition = index_acquisition(
        ColmLayout(Store(str(root)), LayoutOptions()), IndexSettings("bench", "SAR")
    )
    megabytes = np.prod(acquisition.tile_shape) * 2 / 1e6
    store, key = Store(f"{root}/store"), corrected_key("ch0", "LOC000")
    stream = TileSource(acquisition, "ch0", flatfield=flatfield)
    runs = iter("abc")
    copies = root / "copies"
    copies.mkdir()
    files = sorted((root / "VW0" / "LOC000").iterdir())

    def copy(path: Path) -> None:
        tifffile.imwrite(copies / path.name, tifffile.imread(path), photometric="minisblack")

    copied = measure("TIFF copy", megabytes, lambda: list(pool.map(copy, files)))
    measure(
        "write_corrected, of the copy",
        megabytes,
        lambda: write_corrected(stream, store, key, "LOC000", next(runs), threads),
        copied,
    )
    kept = TileSource(acquisition, "ch0", corrected=store)
    measure("kept", megabytes, lambda: read_slabs(kept, pool), base)
    part = slice(0, acquisition.tile_shape[2] // 8)
    measure(
        "kept: eighth of the columns", megabytes / 8, lambda: read_slabs(kept, pool, x=part), base
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of a tile")
    parser.add_argument("--planes", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    y = np.linspace(-1, 1, args.size)
    profile = np.exp(-(y[:, None] ** 2 + y**2) / 2)
    flatfield = Flatfield(profile / profile.mean(), 100.0)
    print(f"{args.threads} threads".ljust(34) + "   MB/s  MB/cpu-s  / file")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.threads) as pool:
        for compression in (None, "zlib"):
            root = Path(folder) / str(compression)
            write_raw(root, args.size, args.planes, compression)
            base = bench_files(root, compression or "plain", flatfield, pool)
            if compression is None:
                bench_kept(root, flatfield, pool, args.threads, base)
        print("one plane, CPU seconds".ljust(34) + "      once  in parts   ratio")
        bench_parts(Path(folder), args.size)
    print(f"peak memory {peak_memory_mb():.0f} MB")


if __name__ == "__main__":
    main()
