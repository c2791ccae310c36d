"""The volume tools of igneous, run by its own command, and the same by terareg.

    python -m venv /tmp/igneous && /tmp/igneous/bin/pip install igneous-pipeline==4.37.0
    PYTHONPATH=workflow/scripts:tests/unit .venv/bin/python tests/benchmarks/bench_igneous.py \
        /tmp/igneous/bin/igneous [--edge 256] [--times 1] [--cores 1 2] \
        [--only transfer downsample ...]

Noise of 16 bits in uncompressed precomputed chunks of 64^3 voxels, and blobs and tubes as labels of
32 bits. Where igneous can write nothing but gzip, both do; terareg then writes shards, since it has
gzip in them only. Where igneous says how many levels it makes, terareg makes as many. Seconds are
processor time of processes of their own, less what the same takes for a tiny volume: the least of
some runs, between which the programs take turns. With two cores each program has two processes
(igneous by its option --parallel, terareg one for each half of the blocks), and seconds by the
clock say more. Beside the transfer, a copy of the source's files, and one that waits until they are
on the disk, as terareg does.
Results are compared: level 1 with level 0, numbers of components, volumes of meshes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from cloudvolume import CloudVolume
from derived_helpers import entry_of
from scipy import ndimage

from terareg.core.parallel import batch_range
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import open_view
from terareg.storage.records import write_table
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

VOLUME = {"chunk": 64, "block": 256, "formats": ["precomputed"], "codec": "none",
          "precomputed": "raw"}  # fmt: skip
PLAIN = {"codec": "raw", "format": "precomputed", "sharded": False}
PACKED = {"codec": "gzip", "format": "precomputed", "sharded": True}
AS_MANY = {"levels": None, "halved": "yx"}  # levels as igneous makes
THRESHOLD = 1500
TUBES = 36
#: what tools are made of that are not made of the image
SOURCES = {"mesh": "labels", "count": "labels", "skeletonize": "tubes"}
#: {name: (what, command of igneous, tool of terareg, its settings)}
RUNS = {
    "transfer": (
        "transfer, 6 levels by 2x2x1",
        [["image", "xfer", "SOURCE/image", "DEST", "--compress", "none"]],
        "convert", PLAIN | {"halved": "yx", "levels": 6},
    ),
    "downsample": (
        "2 levels more by 2x2x2",
        [["image", "downsample", "SOURCE/image", "--volumetric", "--num-mips", "2", "--compress",
          "none"]],
        "downsample", PLAIN | {"factor": (2, 2, 2), "halved": "zyx", "levels": 2},
    ),
    "components": (
        "components, 6 neighbours",
        [["image", "ccl", "auto", "SOURCE/image", "DEST", "--threshold-gte", str(THRESHOLD),
          "--encoding", "raw", "--shape", "256,256,256"]],
        "components", PLAIN | {"low": THRESHOLD, "connectivity": 6, "levels": 1},
    ),
    "sharded": (
        "transfer into shards, gzip",
        [["image", "xfer", "SOURCE/image", "DEST", "--sharded"]],
        "convert", PACKED | {"levels": 1},
    ),
    "equalize": (
        "equalize, all voxels counted",
        [["image", "contrast", "histogram", "SOURCE/image", "--coverage", "1.0"],
         ["image", "contrast", "equalize", "SOURCE/image", "DEST", "--clip-fraction", "0.001"]],
        "equalize", PACKED | AS_MANY | {"clip_percent": 99.9},
    ),
    "sampled": (
        "equalize, igneous counts 1 %",
        [["image", "contrast", "histogram", "SOURCE/image"],
         ["image", "contrast", "equalize", "SOURCE/image", "DEST", "--clip-fraction", "0.001"]],
        "equalize", PACKED | AS_MANY | {"clip_percent": 99.9},
    ),
    "clahe": (
        "CLAHE, regions of 64 pixels",
        [["image", "contrast", "clahe", "SOURCE/image", "DEST", "--shape", "512,512,64",
          "--tile-grid-size", "GRID,GRID"]],
        "equalize", PACKED | {"levels": 1, "local_um": 64.0},
    ),
    "reorder": (
        "planes in the reverse order",
        [["image", "reorder", "SOURCE/image", "DEST", "--mapping-file", "ORDER", "--compress",
          "none"]],
        "reorder", PLAIN | AS_MANY | {"order": "ORDER"},
    ),
    "count": (
        "voxels of labels",
        [["image", "voxels", "count", "SOURCE/labels"],
         ["image", "voxels", "sum", "SOURCE/labels"]],
        "count", {},
    ),
    "skeletons": (
        "skeletons of tubes",
        [["skeleton", "forge", "SOURCE/tubes", "--shape", "256,256,256", "--dust-threshold", "0"],
         ["skeleton", "merge", "SOURCE/tubes", "--min-cable-length", "0"]],
        "skeletonize", {"sharded": False},
    ),
    "simplified": (
        "meshes, 2 levels, in shards",
        [["mesh", "forge", "SOURCE/labels", "--shape", "256,256,256", "--sharded",
          "--max-error", "500"],
         ["mesh", "merge-sharded", "SOURCE/labels", "--nlod", "2"]],
        "mesh", {"error_nm": 500.0, "details": 2},
    ),
    "legacy": (
        "legacy meshes, simplified",
        [["mesh", "forge", "SOURCE/labels", "--shape", "256,256,256", "--max-error", "500"],
         ["mesh", "merge", "SOURCE/labels"]],
        "mesh", {"error_nm": 500.0, "multiresolution": False, "sharded": False},
    ),
    "meshes": (
        "meshes, not simplified",
        [["mesh", "forge", "SOURCE/labels", "--skip-simplify", "--shape", "256,256,256"],
         ["mesh", "merge", "SOURCE/labels"]],
        "mesh", {"multiresolution": False, "sharded": False},
    ),
}  # fmt: skip


def cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def of_command(command: list[str]) -> np.ndarray:
    """Processor time of a command, and time by the clock."""
    before = cpu_s(resource.RUSAGE_CHILDREN), time.perf_counter()
    # igneous has its own environment, and must not find packages of this one
    own = command[0] == sys.executable
    env = {n: v for n, v in os.environ.items() if own or n != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    after = cpu_s(resource.RUSAGE_CHILDREN), time.perf_counter()
    return np.subtract(after, before)


def write(path: str, array: np.ndarray, kind: str) -> None:
    """An array (z, y, x) as an uncompressed precomputed volume of micrometres."""
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": kind, "data_type": array.dtype.name, "num_channels": 1},
        "scale_metadata": {"size": list(array.shape[::-1]), "encoding": "raw",
                           "chunk_size": [64] * 3, "resolution": [1000] * 3},
    }  # fmt: skip
    ts.open(spec).result()[...].write(array.transpose(2, 1, 0)[..., None]).result()


def opened(folder: str, do: str, settings: dict) -> tuple[Store, Entry, Any, VolumePlan]:
    """Store, entry, tool and plan of what it makes."""
    source = f"{folder}/{SOURCES.get(do, 'image')}"
    store, entry = Store(f"{folder}/store"), entry_of(do, address=source, **settings)
    tool = make_tool(open_view(store, "brain", entry, source), entry)
    return store, entry, tool, plan_of(tool, entry, VOLUME, "made")


def step(job: tuple[str, tuple[str, str, dict], dict, int, int]) -> Any:
    """A step of a tool, over one of some batches."""
    name, place, measured, batch, count = job
    store, entry, tool, plan = opened(*place)
    blocks = plan.blocks()
    chosen = [blocks[n] for n in batch_range(len(blocks), batch, count)]
    if name == "measure":
        return tool.gathered(map(tool.measure, chosen)) if chosen else None
    if name == "objects":
        where = store, f"brain/{entry.key}/{tool.folder}"
        return tool.write_objects(measured, where, batch_range(tool.shards.count, batch, count))
    write_blocks(
        store, f"brain/{entry.key}", plan, chosen, lambda block: tool.make(block, measured),
        layers=lambda block: tool.layers(block, plan.chunk[0]), fingerprint="g",
    )  # fmt: skip
    return None


def by_terareg(folder: str, do: str, settings: dict, cores: int) -> None:
    """A tool of terareg, all of its steps, in this process and one for each further core."""
    place = folder, do, settings
    store, entry, tool, plan = opened(*place)
    key = f"brain/{entry.key}"
    pool = ProcessPoolExecutor(cores - 1, get_context("spawn")) if cores > 1 else None

    def all_of(name: str, measured: dict) -> list:
        jobs = [(name, place, measured, n, cores) for n in range(cores)]
        others = [pool.submit(step, job) for job in jobs[1:]] if pool else []
        return [step(jobs[0]), *(other.result() for other in others)]

    if entry.facts.makes:
        init_volume(store, key, plan, replace=True)
    measured = {}
    if entry.measures:
        measured = tool.finish([part for part in all_of("measure", {}) if part is not None])
    if entry.facts.makes:
        all_of("make", measured)
        finish_pyramid(store, key, plan)
        finalize_volume(store, key, plan, fingerprint="g")
    elif do == "count":
        for number, rows in enumerate(tool.tables(measured)):
            write_table(f"{folder}/made/{number}.tsv", rows)
    else:
        tool.finish_objects(all_of("objects", measured), (store, f"{key}/{tool.folder}"))
    if pool:
        pool.shutdown()


def by_copying(folder: str, *, durable: bool) -> np.ndarray:
    """Times of copying the source's files, in this process."""
    before = cpu_s(resource.RUSAGE_SELF), time.perf_counter()
    made = []
    for path in Path(folder, "image").rglob("*"):
        if path.is_file():
            made.append(Path(folder, "made", path.name))
            made[-1].write_bytes(path.read_bytes())
    for path in made if durable else ():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    return np.subtract((cpu_s(resource.RUSAGE_SELF), time.perf_counter()), before)


def facts(name: str, path: str, finer: str | None, objects: str | None) -> str:
    """What can be compared of a result; ``finer`` has the level before its first, if it is so."""
    if name in ("count", "sharded"):
        return ""
    if name == "skeletons":
        # igneous writes gzip, which cloud-volume finds by itself
        volume = CloudVolume(f"file://{path}", skel_dir=objects, progress=False)
        lengths = [volume.skeleton.get(n).cable_length() / 1000 for n in range(1, TUBES + 1)]
        return f"{sum(lengths):.0f} um of lines"
    if name in ("meshes", "legacy", "simplified"):
        volume = CloudVolume(f"file://{path}", mesh_dir=objects, progress=False)
        volumes, faces = [], 0
        for label in (1, 2, 3):
            found = volume.mesh.get(label)
            found = found[label] if isinstance(found, dict) else found
            a, b, c = (found.vertices[found.faces[:, i]].astype(float) / 1000 for i in range(3))
            volumes.append(abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6))
            faces += len(found.faces)
        return f"volumes of labels 1 to 3 {[round(v) for v in volumes]}, {faces} triangles"
    if name == "components":
        array = np.asarray(CloudVolume(f"file://{path}", progress=False, fill_missing=True)[:])
        return f"{len(np.unique(array)) - 1} components"
    if name in ("equalize", "sampled", "clahe", "reorder"):
        plane = np.asarray(CloudVolume(f"file://{path}", progress=False)[:64, :64, 5])[..., 0, 0]
        return f"plane 5 begins with {plane[:3, 0].tolist()}, its mean is {plane.mean():.1f}"
    # a corner is enough, and the same of all sizes
    mips = [(finer or path, 0), (path, 0 if finer else 1)]
    first, second = (CloudVolume(f"file://{p}", mip=m, progress=False) for p, m in mips)
    step = [round(n / m) for n, m in zip(first.shape[:3], second.shape[:3])]
    wide = [128 // s * s for s in step]
    even = np.asarray(first[: wide[0], : wide[1], : wide[2]])[..., 0].astype(float)
    even = even.reshape([n for w, s in zip(wide, step) for n in (w // s, s)]).mean(axis=(1, 3, 5))
    coarse = np.asarray(second[tuple(slice(n) for n in even.shape)])[..., 0]
    difference = (coarse - even).mean()
    return f"a level is {difference:+.3f} grey values from the mean of the voxels before"


def make_tubes(edge: int) -> np.ndarray:
    """Helices of radius 4 along z, side by side, each a label of its own."""
    tubes = np.zeros((edge,) * 3, np.uint32)
    y, x = np.indices((edge, edge), sparse=True)
    across = math.isqrt(TUBES - 1) + 1
    step = edge / across
    for z in range(edge):
        for n in range(TUBES):
            turn = z / 20 + n
            row = (n // across + 0.5) * step + step / 4 * math.sin(turn)
            column = (n % across + 0.5) * step + step / 4 * math.cos(turn)
            tubes[z][(y - row) ** 2 + (x - column) ** 2 < 16] = n + 1
    return tubes


def make_source(folder: str, edge: int, *, with_labels: bool) -> int:
    """Write noise, and labels if they are needed; return their number."""
    rng = np.random.default_rng(0)
    noise = np.empty((edge,) * 3, np.uint16)
    for plane in noise:
        plane[...] = rng.gamma(2, 300, plane.shape)
    write(f"{folder}/image", noise, "image")
    if not with_labels:
        return 0
    smooth = ndimage.gaussian_filter(rng.standard_normal((edge,) * 3, np.float32), 6)
    labels = ndimage.label(smooth > 1.5 * smooth.std())[0].astype(np.uint32)
    write(f"{folder}/labels", labels, "segmentation")
    write(f"{folder}/tubes", make_tubes(edge), "segmentation")
    return int(labels.max())


def run(folder: str, name: str, igneous: str, levels: int, cores: int) -> tuple[np.ndarray, tuple]:
    """Times of a program, igneous or terareg, and what :func:`facts` needs to know.

    Where terareg is to make as many levels as igneous, these are ``levels``.
    """
    edge = json.loads(Path(folder, "image", "info").read_text())["scales"][0]["size"][0]
    _, commands, do, settings = RUNS[name]
    source = f"{folder}/{SOURCES.get(do, 'image')}"
    order = f"{folder}/order.json"
    if igneous:
        places = {"SOURCE": folder, "DEST": f"file://{folder}/made", "ORDER": order,
                  "GRID,GRID": f"{max(1, edge // 64)},{max(1, edge // 64)}"}  # fmt: skip
        Path(order).write_text(json.dumps({z: edge - 1 - z for z in range(edge)}))
        start = [igneous, "--parallel", str(cores)]
        used = sum(of_command([*start, *(_filled(w, places) for w in each)]) for each in commands)
        return used, (f"{folder}/made" if "DEST" in commands[-1] else source, None, None)
    if settings.get("order"):
        settings = settings | {"order": list(range(edge))[::-1]}
    if "levels" in settings and settings["levels"] is None:
        settings = settings | {"levels": levels}
    used = of_command(
        [sys.executable, __file__, "--job", json.dumps([folder, do, settings, cores])]
    )
    made = f"{folder}/store/brain/derived/made"
    if do in ("mesh", "skeletonize"):
        return used, (source, None, f"{made}/{'mesh' if do == 'mesh' else 'skeletons'}")
    return used, (f"{made}/precomputed", source if name == "downsample" else None, None)


def clear(folder: str) -> None:
    """Take away what a run made beside or in the source.

    The files are kept until the end, but empty: ext4 searches long for the number of a new file
    where thousands have just been removed, which would be a third of the processor time of the next
    run, and pages that a virtual machine touches for the first time cost several times as much.
    """
    aside = tempfile.mkdtemp(dir=folder, prefix="aside-")
    for name in ("store", "made"):
        for path in Path(folder, name).rglob("*"):
            if path.is_file():
                os.truncate(path, 0)
    for name in ("store", "made"):
        if os.path.exists(f"{folder}/{name}"):
            os.rename(f"{folder}/{name}", f"{aside}/{name}")
    os.makedirs(f"{folder}/made")
    for name in ("image", "labels", "tubes"):
        path = Path(folder, name, "info")
        if path.is_file():
            info = json.loads(path.read_text())
            keep = {info["scales"][0]["key"], "info"}
            shutil.rmtree(path.parent / info["scales"][0]["key"] / "stats", ignore_errors=True)
            for other in Path(folder, name).iterdir():
                if other.name not in keep:
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
            info["scales"] = info["scales"][:1]
            info.pop("mesh", None)
            info.pop("skeletons", None)
            path.write_text(json.dumps(info))


def compare(folder: str, name: str, program: str, cores: int, times: int) -> None:
    """Print a line for each program; the tiny volume is below ``folder``."""
    used: dict[str, list[np.ndarray]] = {}
    told: dict[str, str] = {}
    levels: dict[str, int] = {}
    for _ in range(times):
        for who in ("igneous", "terareg"):
            for where in (f"{folder}/tiny", folder):
                clear(where)
                its = program if who == "igneous" else ""
                try:
                    seconds, made = run(where, name, its, levels.get(where, 1), cores)
                except SystemExit as error:
                    told[who] = f"failed: {str(error).strip().splitlines()[-1]}"
                    break
                if its and Path(where, "made", "info").is_file():
                    info = json.loads(Path(where, "made", "info").read_text())
                    levels[where] = len(info["scales"])
                used.setdefault(f"{who} {where == folder}", []).append(seconds)
            if told.get(who, "").startswith("failed"):
                continue
            try:
                told[who] = facts(name, *made)
            except Exception as error:  # what cannot be read back is a result as well
                told[who] = f"not read back: {type(error).__name__}: {str(error)[:80]}"
        for copy in ("copy", "on disk") if name == "transfer" else ():
            clear(folder)
            seconds = by_copying(folder, durable=copy == "on disk")
            used.setdefault(f"{copy} True", []).append(seconds)
    least = {which: np.min(seconds, axis=0) for which, seconds in used.items()}
    for who in ("igneous", "terareg", "copy", "on disk"):
        if f"{who} True" in least:
            cpu, wall = least[f"{who} True"] - least.get(f"{who} False", 0)
            print(f"{RUNS[name][0]:30}{who:9}{cores} {cpu:8.2f} s CPU {wall:8.2f} s wall  "
                  f"{told.get(who, '')}", flush=True)  # fmt: skip
        elif who in told:
            print(f"{RUNS[name][0]:30}{who:9}{cores} {told[who]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--cores", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    given = parser.parse_args()
    if not Path(given.program).is_file():
        raise SystemExit(f"there is no program {given.program}")
    with tempfile.TemporaryDirectory() as folder:
        labels = any(RUNS[name][2] in SOURCES for name in given.only)
        make_source(f"{folder}/tiny", 64, with_labels=labels)
        count = make_source(folder, given.edge, with_labels=labels)
        print(f"{2 * given.edge**3 / 1e6:.0f} MB of noise, {count} labels")
        for name in given.only:
            for cores in given.cores:
                compare(folder, name, given.program, cores, given.times)


def _filled(word: str, places: dict[str, str]) -> str:
    for key, value in places.items():
        if word.startswith(key):
            return ("file://" if key == "SOURCE" else "") + word.replace(key, value)
    return word


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        by_terareg(*json.loads(sys.argv[2]))
    elif sys.argv[1:2] != ["--nothing"]:
        main()
