"""Speed of fusion beside a plain copy, and the memory model beside the measured peak.

    PYTHONPATH=workflow/scripts python tests/benchmarks/bench_fusion.py [block]

Tiles of 600 x 600 pixels lie in a file, 60 pixels overlap. Memory is measured in a
process of its own per number of workers: fuse, downsample and write both formats.
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from terareg.core.parallel import peak_memory_mb
from terareg.storage.store import Store
from terareg.volumes.cost import fuse_job_mb
from terareg.volumes.fusion import (
    FusionSettings,
    fuse_row,
    fused_frame,
    fused_origins,
)
from terareg.volumes.plan import VolumeSettings, make_plan, rows_of
from terareg.volumes.writer import init_volume, write_rows

GRID = (2, 4)
EDGE, OVERLAP = 600, 60


class Planes:
    """Tiles in one file of raw planes, each read whole."""

    def __init__(self, path: Path, planes: int) -> None:
        self.path = path
        tiles = [
            SimpleNamespace(name=f"T{r}{c}", row=r, column=c)
            for r in range(GRID[0]) for c in range(GRID[1])
        ]  # fmt: skip
        self.acquisition = SimpleNamespace(
            tiles=tuple(tiles), tile_shape=(planes, EDGE, EDGE), dtype="uint16",
            spacing_um=(2.0, 2.0, 2.0), orientation="SAR", missing_planes="error",
        )  # fmt: skip

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        index = [t.name for t in self.acquisition.tiles].index(tile)
        planes = self.acquisition.tile_shape[0]
        out = np.empty((z1 - z0, *np.empty((EDGE, EDGE), bool)[y, x].shape), np.uint16)
        for z in range(z0, z1):
            offset = (index * planes + z) * EDGE * EDGE * out.itemsize
            plane = np.fromfile(self.path, np.uint16, EDGE * EDGE, offset=offset)
            out[z - z0] = plane.reshape(EDGE, EDGE)[y, x]
        return out


def job(path: Path, planes: int, block: int, workers: int, pipe) -> None:
    """Fuse and write a row of blocks; send model, measured peak and seconds."""
    source = Planes(path, planes)
    step = EDGE - OVERLAP
    origins = {t.name: (0, t.row * step, t.column * step) for t in source.acquisition.tiles}
    settings = FusionSettings()
    frame, offset = fused_frame(source.acquisition, origins, settings)
    relative = fused_origins(origins, offset, settings)
    plan = make_plan("v", frame, "uint16", VolumeSettings(block=block))
    folder = tempfile.mkdtemp(prefix="bench-fusion-")
    store = Store(folder)
    init_volume(store, "v", plan)
    row = rows_of(plan.blocks(), longest=99)[0]
    cpu, wall = time.process_time(), time.perf_counter()
    write_rows(
        store, "v", plan, [row],
        lambda blocks: fuse_row(source, relative, plan, blocks, settings, workers),
        fingerprint="f", workers=workers,
    )  # fmt: skip
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    voxels = sum(np.prod(b.shape) for b in row)
    shutil.rmtree(folder)
    model = fuse_job_mb(plan.block, len(row), EDGE, workers)
    pipe.send((model, peak_memory_mb(), voxels * 2 / 1e6 / seconds[0], seconds[1]))


def main() -> None:
    block = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    planes = block
    folder = Path(tempfile.mkdtemp(prefix="bench-fusion-"))
    path = folder / "tiles.raw"
    rng = np.random.default_rng(0)
    with open(path, "wb") as stream:
        for _ in range(GRID[0] * GRID[1] * planes):
            stream.write(rng.poisson(400, (EDGE, EDGE)).astype(np.uint16).tobytes())

    source = Planes(path, planes)
    step = EDGE - OVERLAP
    print(f"{'fusion alone':40}{'MB/cpu-s':>9}{'x copy':>8}")
    speeds = {}
    for name, options, shift in (
        ("copy", None, 0.0),
        ("whole voxels", FusionSettings(), 0.0),
        ("subpixel", FusionSettings(subpixel=True), 0.4),
    ):
        origins = {
            t.name: (shift, t.row * step + shift, t.column * step - shift)
            for t in source.acquisition.tiles
        }
        megabytes = cpu = 0.0
        if options is None:
            start = time.process_time()
            for tile in source.acquisition.tiles:
                megabytes += source.read(tile.name, 0, planes).nbytes / 1e6
            cpu = time.process_time() - start
        else:
            frame, offset = fused_frame(source.acquisition, origins, options)
            relative = fused_origins(origins, offset, options)
            plan = make_plan("v", frame, "uint16", VolumeSettings(block=block))
            for row in rows_of(plan.blocks(), longest=99):
                start = time.process_time()
                made = fuse_row(source, relative, plan, row, options)
                megabytes += sum(array.nbytes for array, _ in made) / 1e6
                cpu += time.process_time() - start
        speeds[name] = megabytes / cpu
        print(f"{name:40}{speeds[name]:9.0f}{speeds[name] / speeds['copy']:8.2f}")

    print(f"\n{'fuse + write, both formats':40}{'model MB':>9}{'peak MB':>9}{'ratio':>7}"
          f"{'MB/cpu-s':>10}{'wall s':>8}")  # fmt: skip
    context = multiprocessing.get_context("spawn")
    for workers in (1, 2):
        receive, send = context.Pipe(False)
        process = context.Process(target=job, args=(path, planes, block, workers, send))
        process.start()
        model, peak, speed, wall = receive.recv()
        process.join()
        name = f"block {block}, {workers} workers"
        print(f"{name:40}{model:9.0f}{peak:9.0f}{model / peak:7.2f}{speed:10.0f}{wall:8.1f}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
