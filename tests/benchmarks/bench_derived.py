"""Speed and memory of the tools of derived volumes, on a generated volume, beside plain copying.

    PYTHONPATH=workflow/scripts:tests/unit .venv/bin/python tests/benchmarks/bench_derived.py [EDGE]

One thread. Each tool runs in a process of its own, as its jobs do; seconds are processor time for
reading, making, encoding, writing and all levels. Beside them the same copy by tensorstore and by
dask with zarr-python: one level, the same chunks in the same shards, no compression. Then memory:
tools over a source and over one of four times its size, in blocks of the same size.
EDGE is the edge of the source in voxels of 16 bits (320 by default).
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
import time

import dask.array
import numpy as np
import tensorstore as ts
import zarr
from derived_helpers import entry_of, make_source, run_entry

from terareg.core.parallel import peak_memory_mb
from terareg.derived.view import open_view
from terareg.storage.store import Store
from terareg.volumes.cost import ITK_MB

VOLUME = {"chunk": 64, "block": 512, "formats": ["ome-zarr"], "codec": "blosc-zstd",
          "precomputed": "raw"}  # fmt: skip
# what the memory of a job is measured with
SMALL = VOLUME | {"block": 128}
SHAPES = ((256, 256, 256), (1024, 256, 256))
OVER = (
    ("convert", {"codec": "raw"}),
    # nothing but pieces: one voxel in 30 is the first of one
    ("components", {"low": 1500, "connectivity": 6}),
)
RUNS = (
    ("convert", {"codec": "raw", "levels": 1}),
    ("convert", {"codec": "raw"}),
    ("convert", {"codec": "raw", "format": "precomputed"}),
    ("convert", {"codec": "raw", "format": "precomputed", "sharded": False}),
    ("convert", {}),
    ("downsample", {}),
    ("quantize", {}),
    ("equalize", {}),
    ("reorder", {"codec": "raw"}),
)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make(folder: str, edge: int) -> None:
    """Noise like that of a light-sheet microscope, in shards with chunks of 64 voxels."""
    noise = np.random.default_rng(0).gamma(2, 300, (edge,) * 3)
    make_source(Store(folder), noise.astype(np.uint16), volume=VOLUME)


def run(job: tuple[str, int, str, dict]) -> tuple[float, float, float]:
    """Processor time, wall time and peak memory of a tool."""
    folder, edge, do, more = job
    if do == "reorder":
        more = more | {"order": list(range(edge))[::-1]}
    cpu, wall = cpu_s(), time.perf_counter()
    run_entry(Store(folder), entry_of(do, **more), volume=VOLUME)
    return cpu_s() - cpu, time.perf_counter() - wall, peak_memory_mb()


def plain(job: tuple[str, int]) -> tuple[float, float, float]:
    """The same of reading all and writing it as one file."""
    folder, _ = job
    cpu, wall = cpu_s(), time.perf_counter()
    view = open_view(Store(folder), "brain", entry_of("convert"))
    view.read((0, 0, 0), view.shape).tofile(f"{folder}/plain")
    return cpu_s() - cpu, time.perf_counter() - wall, peak_memory_mb()


def by_tensorstore(job: tuple[str, int]) -> tuple[float, float, float]:
    """A copy by tensorstore, shard by shard."""
    folder, _ = job
    cpu, wall = cpu_s(), time.perf_counter()
    source = _source(folder)
    shards = {"chunk_shape": [512] * 3}
    inner = {"chunk_shape": [64] * 3, "codecs": [{"name": "bytes"}]}
    target = ts.open(
        {
            "driver": "zarr3",
            "kvstore": f"file://{folder}/tensorstore/",
            "metadata": {
                "shape": source.shape, "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": shards},
                "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            },
        },
        create=True, context=ts.Context({"cache_pool": {"total_bytes_limit": 0}}),
    ).result()  # fmt: skip
    for start in np.ndindex(*(-(-n // 512) for n in source.shape)):
        box = tuple(slice(512 * i, min(512 * (i + 1), n)) for i, n in zip(start, source.shape))
        target[box].write(source[box].read().result()).result()
    return cpu_s() - cpu, time.perf_counter() - wall, peak_memory_mb()


def by_dask(job: tuple[str, int]) -> tuple[float, float, float]:
    """A copy by dask, read and written by zarr-python, shard by shard."""
    folder, edge = job
    cpu, wall = cpu_s(), time.perf_counter()
    source = zarr.open_array(f"{folder}/brain/fused/signal/ome.zarr/0", mode="r")
    target = zarr.create_array(
        f"{folder}/dask", shape=source.shape, dtype="uint16", chunks=(64,) * 3,
        shards=(512,) * 3, compressors=None,
    )  # fmt: skip
    blocks = dask.array.from_array(source, chunks=(min(512, edge),) * 3)
    dask.array.store(blocks, target, lock=False, scheduler="sync")
    return cpu_s() - cpu, time.perf_counter() - wall, peak_memory_mb()


def _source(folder: str) -> ts.TensorStore:
    path = f"file://{folder}/brain/fused/signal/ome.zarr/0/"
    return ts.open({"driver": "zarr3", "kvstore": path}, read=True).result()


def make_shape(folder: str, shape: tuple[int, int, int]) -> None:
    """The same noise in blocks of 128 voxels."""
    noise = np.random.default_rng(0).gamma(2, 300, shape)
    make_source(Store(folder), noise.astype(np.uint16), volume=SMALL)


def run_small(folder: str, do: str, more: dict) -> float:
    """Peak memory of a tool in blocks of 128 voxels."""
    run_entry(Store(folder), entry_of(do, **more), volume=SMALL)
    return peak_memory_mb()


def apart(function, *arguments):
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    edge = int(sys.argv[1]) if len(sys.argv) > 1 else 320
    megabytes = 2 * edge**3 / 1e6
    block_mb = 2 * math.prod(min(512, edge) for _ in range(3)) / 1e6
    print(f"{megabytes:.0f} MB; a block {block_mb:.0f} MB, two and 2.75 of it with the interpreter "
          f"{ITK_MB + 4.75 * block_mb:.0f} MB")  # fmt: skip
    print(f"{'':62}{'CPU s':>8}{'MB/CPU-s':>10}{'wall s':>8}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        apart(make, folder, edge)
        rows = [("plain read + write", apart(plain, (folder, edge)))]
        rows += [("tensorstore, one level", apart(by_tensorstore, (folder, edge)))]
        rows += [("dask and zarr-python, one level", apart(by_dask, (folder, edge)))]
        rows += [(f"{do} {more}", apart(run, (folder, edge, do, more))) for do, more in RUNS]
    for name, (cpu, wall, peak) in rows:
        print(f"{name:62}{cpu:8.2f}{megabytes / cpu:10.0f}{wall:8.2f}{peak:9.0f}")
    peaks: dict[str, list[float]] = {}
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            apart(make_shape, folder, shape)
            for do, more in OVER:
                peaks.setdefault(do, []).append(apart(run_small, folder, do, more))
    for do, (once, four_times) in peaks.items():
        print(f"{do}: peak {once:.0f} MB, of four times as much {four_times:.0f} MB")


if __name__ == "__main__":
    main()
