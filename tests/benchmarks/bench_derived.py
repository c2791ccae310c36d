"""Speed and memory of the tools of derived volumes, on a generated volume, beside plain copying.

    PYTHONPATH=workflow/scripts:tests/unit .venv/bin/python tests/benchmarks/bench_derived.py \
        [--edge 320] [--memory [TOOL ...] [--sizes "1 GB" ...]]

One thread. Each tool runs in a process of its own, as its jobs do; seconds are processor time for
reading, making, encoding, writing and all levels. Beside them the same copy by tensorstore and by
dask with zarr-python: one level, the same chunks in the same shards, no compression.
EDGE is the edge of the source in voxels of 16 bits.

With --memory instead: the largest memory of each step of some tools, over sources of 1, 4 and 17 GB
in blocks of 256 voxels, of which one in 32 holds balls and a tube, and all others have no object
in the store. Every step is one job in a process of its own, so that each looks at all blocks.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import tempfile
import time

import dask.array
import numpy as np
import tensorstore as ts
import zarr
from derived_helpers import entry_of, make_source, run_entry

from terareg.core.frames import Frame
from terareg.core.parallel import batch_range, map_items, peak_memory_mb, share_heap
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import open_view
from terareg.storage.array_files import read_arrays, write_arrays
from terareg.storage.records import read_json, write_json, write_table
from terareg.storage.store import Store
from terareg.volumes.cost import ITK_MB
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_block, write_blocks

VOLUME = {"chunk": 64, "block": 512, "formats": ["ome-zarr"], "codec": "blosc-zstd",
          "precomputed": "raw"}  # fmt: skip
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


def apart(function, *arguments):
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


# ---------------------------------------------------------------- memory
SPARSE = VOLUME | {"block": 256}
#: blocks along z, y, x
SIZES = {"1 GB": (2, 4, 4), "4 GB": (4, 4, 8), "17 GB": (8, 8, 8)}
CELLS = {"source": "derived/cells"}
#: {name: (tool, settings)}; components makes the cells that others take
TOOLS = {
    "convert": ("convert", {}),
    "downsample": ("downsample", {}),
    "quantize": ("quantize", {}),
    "equalize": ("equalize", {}),
    "equalize whole": ("equalize", {"per": "whole"}),
    "tissue": ("tissue", {}),
    "components": ("components", {"low": 500, "connectivity": 6, "name": "cells"}),
    "count": ("count", CELLS),
    "mesh": ("mesh", CELLS | {"error_nm": 500.0}),
    "skeletonize": ("skeletonize", CELLS),
}


def make_sparse(folder: str, blocks: tuple[int, int, int]) -> None:
    """Balls and a tube in one block of 32 and along one row; nothing is stored of the others."""
    edge, rng = SPARSE["block"], np.random.default_rng(0)
    places = np.indices((edge,) * 3, np.int16, sparse=True)
    shapes = sum((n - edge // 2) ** 2 for n in places[:2]) < 20**2
    shapes = np.repeat(shapes, edge, axis=2)
    for *centre, radius in rng.integers(
        (30, 30, 30, 5), (edge - 30, edge - 30, edge - 30, 12), (60, 4)
    ):
        shapes |= sum((n.astype(int) - c) ** 2 for n, c in zip(places, centre)) < radius**2
    part = (rng.gamma(2, 50, shapes.shape) + 900 * shapes).astype(np.uint16)
    frame = Frame(tuple(n * edge for n in blocks), (2.0, 2.0, 2.0))
    plan = make_plan("source", frame, "uint16", VolumeSettings(**SPARSE))
    init_volume(Store(folder), "sparse", plan)
    for number, block in enumerate(plan.blocks()):
        if number % 32 == 0 or block.index[:2] == (0, 0):
            write_block(Store(folder), "sparse", plan, block, part, fingerprint="f")


def step_of(folder: str, name: str, step: str) -> float:
    """One step of a tool over all blocks; the memory that it took at most."""
    share_heap()  # as jobs do
    do, settings = TOOLS[name]
    address = None if "source" in settings else f"{folder}/sparse/ome.zarr"
    entry = entry_of(do, **{"name": name.replace(" ", "_")} | settings, address=address)
    store, key = Store(folder), f"brain/{entry.key}"
    tool = make_tool(open_view(store, "brain", entry, address), entry)
    plan, found = plan_of(tool, entry, SPARSE, "brain"), f"{folder}/{entry.name}"
    if step == "measure":
        parts = tool.gathered(map_items(tool.measure, plan.blocks()))
        write_arrays(f"{found}.batch.npz", parts)
    elif step == "gather":
        write_arrays(f"{found}.npz", tool.finish([read_arrays(f"{found}.batch.npz")]))
    elif step == "make":
        init_volume(store, key, plan, replace=True)
        measured = read_arrays(f"{found}.npz") if entry.measures else {}
        write_blocks(
            store,
            key,
            plan,
            plan.blocks(),
            lambda b: tool.make(b, measured),
            layers=lambda b: tool.layers(b, plan.chunk[0]),
            fingerprint="f",
        )
    elif step == "finish":
        finish_pyramid(store, key, plan)
        finalize_volume(store, key, plan)
    elif step == "tables":
        for number, rows in enumerate(tool.tables(read_arrays(f"{found}.npz"))):
            write_table(f"{found}.{number}.tsv", rows)
    elif step == "write objects":
        where, measured = (store, f"{key}/{tool.folder}"), read_arrays(f"{found}.npz")
        summary = tool.write_objects(measured, where, batch_range(tool.shards.count, 0, 1))
        write_json(f"{found}.json", summary)
    else:
        rows, _ = tool.finish_objects([read_json(f"{found}.json")], (store, f"{key}/{tool.folder}"))
        write_table(f"{found}.tsv", rows)
    return peak_memory_mb()


def steps_of(name: str) -> list[str]:
    do, settings = TOOLS[name]
    entry = entry_of(do, **settings)
    steps = ["measure", "gather"] * entry.measures + ["make", "finish"] * bool(entry.facts.makes)
    steps += ["tables"] * (do == "count")
    return steps + ["write objects", "finish objects"] * bool(entry.facts.shards)


def memory(names: list[str], sizes: list[str]) -> None:
    """A line for each step of each tool, and of components where a tool takes its cells."""
    if any("source" in TOOLS[name][1] for name in names):
        names = ["components", *(name for name in names if name != "components")]
    peaks: dict[tuple[str, str], list[float]] = {}
    for blocks in (SIZES[size] for size in sizes):
        with tempfile.TemporaryDirectory() as folder:
            apart(make_sparse, folder, blocks)
            for name in names:
                for step in steps_of(name):
                    peaks.setdefault((name, step), []).append(apart(step_of, folder, name, step))
                    print(name, step, round(peaks[name, step][-1]), flush=True)
    print(f"{'largest memory in MB':32}" + "".join(f"{size:>8}" for size in sizes))
    for (name, step), found in peaks.items():
        print(f"{name + ', ' + step:32}" + "".join(f"{peak:8.0f}" for peak in found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge", type=int, default=320)
    parser.add_argument("--memory", nargs="*", choices=list(TOOLS))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = parser.parse_args()
    if given.memory is not None:
        memory(given.memory or list(TOOLS), given.sizes)
        return
    edge = given.edge
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


if __name__ == "__main__":
    main()
