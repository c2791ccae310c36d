"""Sources for tools, and tools run as their rules run them, without Snakemake."""

from __future__ import annotations

import numpy as np

from terareg.core.frames import Frame
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import open_view
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_block, write_blocks

VOLUME = {"chunk": 4, "block": 8, "formats": ["ome-zarr"], "codec": "zstd", "precomputed": "raw"}


def make_source(store: Store, array: np.ndarray, volume=VOLUME, name="fused/signal", frame=None):
    """Write an array as a volume of a sample; integers of 32 and 64 bits are labels."""
    key, frame = f"brain/{name}", frame or Frame(array.shape, (2.0, 1.0, 1.0))
    kind = "segmentation" if array.dtype.itemsize >= 4 and array.dtype.kind == "u" else "image"
    settings = VolumeSettings(**volume | {"kind": kind, "formats": ("ome-zarr",)})
    plan = make_plan("source", frame, array.dtype.name, settings)
    init_volume(store, key, plan)
    for block in plan.blocks():
        part = array[tuple(slice(a, b) for a, b in zip(block.start, block.stop))]
        write_block(store, key, plan, block, np.ascontiguousarray(part), fingerprint="f")
    finish_pyramid(store, key, plan)
    finalize_volume(store, key, plan)


def entry_of(do: str, name="made", source="fused/signal", address=None, **settings) -> Entry:
    return Entry(name, do, None if address else source, address, settings)


def run_entry(store: Store, entry: Entry, *, order=None, files=(), volume=VOLUME, fails=()):
    """What the rules of an entry do; ``order`` of the blocks may be any. Returns the volume."""
    view = open_view(store, "brain", entry, entry.address)
    tool = make_tool(view, entry, files)
    plan = plan_of(tool, entry, volume, f"brain {entry.name}")
    key = f"brain/{entry.key}"
    init_volume(store, key, plan, {"derived": entry.to_json()}, replace=True)
    blocks, measured = plan.blocks(), {}
    if entry.measures:
        halves = (blocks[::2], blocks[1::2])
        measured = tool.finish(
            [tool.gathered(tool.gathered(map(tool.measure, h)) for h in halves if h)]
        )

    def make(block):
        if block.index in fails:
            raise KeyboardInterrupt
        return tool.make(block, measured)

    chosen = blocks if order is None else [blocks[i] for i in order.permutation(len(blocks))]
    notes = (lambda block: {"outside": tool.is_outside(block)}) if entry.mask else lambda _: {}

    def layers(block):
        return tool.layers(block, plan.chunk[0])

    write_blocks(store, key, plan, chosen, make, fingerprint="g", notes=notes, layers=layers)
    finish_pyramid(store, key, plan)
    finalize_volume(store, key, plan, fingerprint="g")
    return Volume(store, key)


def halved(array: np.ndarray, step, mode: str) -> np.ndarray:
    """One step of a pyramid, voxel by voxel of its definition."""
    out = np.zeros([-(-n // s) for n, s in zip(array.shape, step)], array.dtype)
    for index in np.ndindex(*out.shape):
        cell = array[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, step))]
        if mode == "mean":
            # the mean of the voxels that exist, rounded half up
            value = cell.astype(np.float64).mean()
            out[index] = np.floor(value + 0.5) if array.dtype.kind == "u" else value
        elif mode == "sparse":
            kept = cell[cell != 0].astype(np.float64)
            out[index] = np.floor(kept.mean() + 0.5) if kept.size else 0
        elif mode == "mode":
            values, counts = np.unique(cell, return_counts=True)
            out[index] = values[counts.argmax()]
        elif mode == "stride":
            out[index] = cell[0, 0, 0]
        else:
            out[index] = getattr(cell, mode)()
    return out
