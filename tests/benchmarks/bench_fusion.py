"""Fusion and its pyramid beside plain copying, tensorstore and dask, and the memory they take.

    python tests/benchmarks/bench_fusion.py [--tile 1024] [--planes 128] [--peer ENV/bin/python]

Tiles of 16 bit TIFF planes, 10 % overlap, in the page cache; each figure is the best of two runs in
one thread. MB are 10^6 bytes of fused voxels, seconds those of the processor. "plain" reads all
tiles into one buffer and writes as many bytes as the volume has. tensorstore and dask put the tiles
side by side without blending and make the levels with what they bring for it. With ``--peer``, the
Python of an environment with multiview-stitcher, that library fuses the same planes with its
defaults (blending, OME-Zarr 0.4, all levels), once, its imports not counted. Memory is the peak of
a process of its own, of 2 x 2 and of 8 x 8 tiles with half of the side.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from terareg.acquisition.colm import ColmLayout  # noqa: E402
from terareg.acquisition.indexing import IndexSettings, index_acquisition  # noqa: E402
from terareg.acquisition.layout import LayoutOptions  # noqa: E402
from terareg.acquisition.tiles import TileSource  # noqa: E402
from terareg.core.frames import Frame  # noqa: E402
from terareg.core.parallel import peak_memory_mb, share_heap  # noqa: E402
from terareg.storage.store import Store  # noqa: E402
from terareg.volumes.cost import fuse_job_mb  # noqa: E402
from terareg.volumes.fusion import (  # noqa: E402
    FusionSettings,
    RowFusion,
    fused_frame,
    fused_origins,
)
from terareg.volumes.ngff import array_json  # noqa: E402
from terareg.volumes.plan import VolumeSettings, make_plan, rows_of  # noqa: E402
from terareg.volumes.sides import Side  # noqa: E402
from terareg.volumes.writer import finish_pyramid, init_volume, write_rows  # noqa: E402

INI = """[Experiment Settings]
X Resolution = "{tile}"
Num in stack (Top Left Corner) = "{planes}"
[North Scan Region]
Num Horizontal = "{side}"
Num Vertical = "{side}"
Stack Step (mm) = "0.005"
[Objectives]
North = "10x"
"""
OVERLAP = 0.1


def write_tiles(root: Path, side: int, tile: int, planes: int) -> None:
    """Planes of a smooth object with shot noise; links to 16 different ones."""
    root.mkdir()
    (root / "Experiment.ini").write_text(INI.format(tile=tile, planes=planes, side=side))
    (root / "Scanned Cells.txt").write_text(("\t".join("1" * side) + "\n") * side)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:tile, :tile] * (12 / tile)
    object_ = 400 * (1 + np.sin(y) * np.cos(1.7 * x))
    for number in range(16):
        image = (rng.poisson(object_) + 100).astype(np.uint16)
        tifffile.imwrite(root / f"{number}.tif", image, photometric="minisblack")
    for location in range(side * side):
        folder = root / "VW0" / f"LOC{location:03d}"
        folder.mkdir(parents=True)
        for z in range(planes):
            os.link(root / f"{(z + 3 * location) % 16}.tif", folder / f"CHN00_PLN{z:04d}.tif")


class Mosaic:
    """An acquisition of a square of tiles at their nominal places."""

    def __init__(self, root: Path, block: int, formats: tuple[str, ...]) -> None:
        layout = ColmLayout(Store(str(root)), LayoutOptions(overlap=(OVERLAP, OVERLAP)))
        self.acquisition = index_acquisition(layout, IndexSettings("bench", "SAR"))
        tile = self.acquisition.tile_shape[1]
        self.step = tile - round(OVERLAP * tile)
        placed = {t.name: (0, t.row * self.step, t.column * self.step)
                  for t in self.acquisition.tiles}  # fmt: skip
        frame, offset = fused_frame(self.acquisition, placed, FusionSettings())
        self.origins = fused_origins(placed, offset, FusionSettings())
        cubes = Frame(frame.shape, (1.0, 1.0, 1.0))  # every level halves all axes
        self.plan = make_plan("v", cubes, "uint16", VolumeSettings(block=block, formats=formats))
        self.megabytes = float(np.prod(frame.shape)) * 2 / 1e6

    @property
    def files(self) -> list[Path]:
        """Planes of all tiles."""
        return sorted(Path(self.acquisition.raw).rglob("CHN*.tif"))

    def fuse(self, folder: Path, workers: int = 1) -> None:
        """Make the volume with all its levels."""
        source, store = TileSource(self.acquisition, "ch0"), Store(str(folder))
        init_volume(store, "v", self.plan)
        write_rows(
            store, "v", self.plan, rows_of(self.plan.blocks(), 16),
            lambda row: RowFusion([Side(source, self.origins)], self.plan, row, FusionSettings()),
            fingerprint="f", workers=workers,
        )  # fmt: skip
        finish_pyramid(store, "v", self.plan, workers)

    def plain(self, folder: Path) -> None:
        """Read all tiles, write the bytes of the voxels."""
        files = self.files
        buffer, voxels = bytearray(files[0].stat().st_size), bytes(1 << 24)
        left = int(self.megabytes * 1e6)
        for path in files:
            with open(path, "rb", buffering=0) as stream:
                stream.readinto(buffer)
        with open(folder / "plain", "wb", buffering=0) as stream:
            while left > 0:
                left -= stream.write(voxels[:left])
            os.fsync(stream.fileno())

    def beside(self, start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
        """Tiles without blending, each over those before it."""
        source = TileSource(self.acquisition, "ch0")
        out = np.empty([b - a for a, b in zip(start, stop)], np.uint16)
        for name, origin in self.origins.items():
            low = [max(int(o), a) for o, a in zip(origin, start)]
            high = [min(int(o) + n, b) for o, n, b in
                    zip(origin, self.acquisition.tile_shape, stop)]  # fmt: skip
            if all(a < b for a, b in zip(low, high)):
                box = [slice(a - int(o), b - int(o)) for a, b, o in zip(low, high, origin)]
                part = source.read(name, box[0].start, box[0].stop, box[1], box[2])
                out[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start))] = part
        return out

    def tensorstore(self, folder: Path) -> None:
        """The same levels and codec, written and downsampled by tensorstore."""
        import tensorstore as ts

        finer = None
        for level in range(len(self.plan.levels)):
            array = ts.open(
                {"driver": "zarr3", "kvstore": f"file://{folder}/{level}/",
                 "metadata": array_json(self.plan, level)}, create=True
            ).result()  # fmt: skip
            source = None if finer is None else ts.downsample(finer, [2, 2, 2], "mean")
            for box in self.plan.levels[level].shards():
                where = tuple(slice(a, b) for a, b in zip(box.start, box.stop))
                voxels = (self.beside(box.start, box.stop) if source is None
                          else source[where].read().result())  # fmt: skip
                with ts.Transaction() as transaction:
                    array.with_transaction(transaction)[where] = voxels
            finer = array

    def dask(self, folder: Path) -> None:
        """The same levels and codec, made by dask and written by zarr-python."""
        import dask
        import dask.array as da
        import zarr

        blosc = zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
        finer = None
        with dask.config.set(scheduler="synchronous"), zarr.config.set({"async.concurrency": 1}):
            for level in self.plan.levels:
                chunks = level.shard
                if finer is None:
                    edges = [list(range(0, n, s)) + [n] for n, s in zip(level.shape, chunks)]
                    lazy = da.map_blocks(
                        lambda block_info=None: self.beside(
                            *zip(*block_info[None]["array-location"])
                        ),
                        chunks=tuple(tuple(np.diff(e).tolist()) for e in edges), dtype=np.uint16,
                    )  # fmt: skip
                else:
                    even = da.pad(finer, [(0, n % 2) for n in finer.shape], mode="edge")
                    mean = da.coarsen(np.mean, even, {0: 2, 1: 2, 2: 2})
                    lazy = mean.round().astype(np.uint16).rechunk(chunks)
                array = zarr.create_array(
                    f"{folder}/{level.factor[0]}", shape=level.shape, shards=chunks,
                    chunks=self.plan.chunk, dtype="uint16", compressors=[blosc],
                )  # fmt: skip
                lazy.to_zarr(array)
                finer = da.from_zarr(array, chunks=chunks)


_PEER = """
import glob, json, sys, time
import dask
import dask.array as da
import numpy as np
import tifffile
from multiview_stitcher import fusion, spatial_image_utils as si

folder, origins = sys.argv[1], json.loads(sys.argv[2])

def plane(path):
    return tifffile.imread(path)[None]

start = time.process_time()
sims = []
for name, origin in origins.items():
    paths = sorted(glob.glob(f"{folder}/**/{name}/CHN*.tif", recursive=True))
    shape = tifffile.imread(paths[0]).shape
    planes = [
        da.from_delayed(dask.delayed(plane)(path), (1, *shape), np.uint16)
        for path in paths
    ]
    tile = da.concatenate(planes).rechunk((64, *shape))
    sims.append(si.get_sim_from_array(
        tile[None, None], dims=list("tczyx"), scale=dict(z=1.0, y=1.0, x=1.0),
        translation=dict(zip("zyx", map(float, origin))), transform_key="stage"))
with dask.config.set(scheduler="synchronous"):
    fusion.fuse(sims, transform_key="stage", output_chunksize=256,
                output_zarr_url=sys.argv[3], zarr_options={"ome_zarr": True})
print(json.dumps(time.process_time() - start))
"""


def peer(python: str, mosaic: Mosaic, folder: Path) -> float:
    """Seconds of the processor that multiview-stitcher takes for the same volume."""
    origins = json.dumps({name: list(map(int, o)) for name, o in mosaic.origins.items()})
    command = [python, "-c", _PEER, mosaic.acquisition.raw, origins, str(folder / "fused.zarr")]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return float(done.stdout.splitlines()[-1])


def cpu_seconds(work: Callable[[Path], None]) -> float:
    """Best of two runs, each into a new folder."""
    best = np.inf
    for _ in range(2):
        folder = Path(tempfile.mkdtemp(prefix="bench-fusion-"))
        start = time.process_time()
        work(folder)
        best = min(best, time.process_time() - start)
        shutil.rmtree(folder)
    return best


def job(root: Path, block: int, workers: int, pipe) -> None:
    """Fuse an acquisition; send what is predicted of its memory, and what it took."""
    share_heap()
    mosaic = Mosaic(root, block, ("ome-zarr",))
    folder = Path(tempfile.mkdtemp(prefix="bench-fusion-"))
    before = peak_memory_mb()
    mosaic.fuse(folder, workers)
    shutil.rmtree(folder)
    row = rows_of(mosaic.plan.blocks(), 16)[0]
    tile = mosaic.acquisition.tile_shape[2]
    model = fuse_job_mb(mosaic.plan.block, len(row), tile, workers)
    pipe.send((mosaic.megabytes, before, model, peak_memory_mb()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tile", type=int, default=1024, help="rows and columns of a tile")
    parser.add_argument("--planes", type=int, default=128)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--peer", help="Python of an environment with multiview-stitcher")
    args = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="bench-fusion-"))
    write_tiles(top / "four", 2, args.tile, args.planes)
    zarr = Mosaic(top / "four", args.block, ("ome-zarr",))
    raw = Mosaic(top / "four", args.block, ("precomputed",))
    print(f"{zarr.megabytes:.0f} MB, 2 x 2 tiles, block {args.block}")
    print(f"{'':46}{'MB/cpu-s':>9}{'x plain':>9}")
    plain = cpu_seconds(zarr.plain)
    for name, work in {
        "plain: read all tiles, write the voxels": None,
        "terareg: fuse + pyramid, OME-Zarr blosc-zstd": zarr.fuse,
        "terareg: fuse + pyramid, precomputed raw": raw.fuse,
        "tensorstore: place + downsample, blosc-zstd": zarr.tensorstore,
        "dask + zarr-python: the same": zarr.dask,
    }.items():
        seconds = plain if work is None else cpu_seconds(work)
        print(f"{name:46}{zarr.megabytes / seconds:9.0f}{plain / seconds:9.3f}", flush=True)
    if args.peer:
        folder = Path(tempfile.mkdtemp(prefix="bench-fusion-"))
        seconds = peer(args.peer, zarr, folder)
        shutil.rmtree(folder)
        name = "multiview-stitcher: fuse + pyramid"
        print(f"{name:46}{zarr.megabytes / seconds:9.1f}{plain / seconds:9.4f}", flush=True)

    print(f"\n{'memory':34}{'MB fused':>9}{'start MB':>9}{'model MB':>9}{'peak MB':>9}")
    context = multiprocessing.get_context("spawn")
    for side in (2, 8):
        root = top / f"side{side}"
        write_tiles(root, side, args.tile // 2, args.planes)
        for workers in (1, 2):
            receive, send = context.Pipe(False)
            process = context.Process(target=job, args=(root, args.block // 2, workers, send))
            process.start()
            megabytes, before, model, peak = receive.recv()
            process.join()
            name = f"{side} x {side} tiles, {workers} workers"
            print(f"{name:34}{megabytes:9.0f}{before:9.0f}{model:9.0f}{peak:9.0f}", flush=True)
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
