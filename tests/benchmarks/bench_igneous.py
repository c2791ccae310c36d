"""The volume tools of igneous, run by its own command, and the same by terareg.

    python -m venv /tmp/igneous && /tmp/igneous/bin/pip install igneous-pipeline==4.37.0
    PYTHONPATH=workflow/scripts:tests/unit .venv/bin/python tests/benchmarks/bench_igneous.py \
        /tmp/igneous/bin/igneous [EDGE]

Noise of 16 bits in uncompressed precomputed chunks of 64^3 voxels, and blobs as labels of 32 bits.
Seconds are processor time of processes of their own, without what they take to start. Results are
compared: voxels of level 0 and 1 with the source, numbers of components, volumes of meshes.
EDGE is the edge of the source in voxels (256 by default).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorstore as ts
from cloudvolume import CloudVolume
from derived_helpers import entry_of, run_entry
from scipy import ndimage

from terareg.core.parallel import batch_range
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import open_view
from terareg.storage.store import Store

VOLUME = {"chunk": 64, "block": 256, "formats": ["precomputed"], "codec": "none",
          "precomputed": "raw"}  # fmt: skip
PLAIN = {"codec": "raw", "format": "precomputed", "sharded": False}
THRESHOLD = 1500
#: {what: (command of igneous, tool of terareg, its settings)}
RUNS = {
    "transfer, 6 levels by 2x2x1": (
        [["image", "xfer", "SOURCE/image", "DEST", "--compress", "none"]],
        "convert", PLAIN | {"halved": "yx", "levels": 6},
    ),
    "downsample, 2 levels by 2x2x2": (
        [["image", "downsample", "SOURCE/image", "--volumetric", "--num-mips", "2", "--compress",
          "none"]],
        "convert", PLAIN | {"halved": "zyx", "levels": 3},
    ),
    "components, 6 neighbours": (
        [["image", "ccl", "auto", "SOURCE/image", "DEST", "--threshold-gte", str(THRESHOLD),
          "--encoding", "raw", "--shape", "256,256,256"]],
        "components", PLAIN | {"low": THRESHOLD, "connectivity": 6, "levels": 1},
    ),
    "meshes, not simplified": (
        [["mesh", "forge", "SOURCE/labels", "--skip-simplify", "--shape", "256,256,256"],
         ["mesh", "merge", "SOURCE/labels"]],
        "mesh", {"multiresolution": False, "sharded": False},
    ),
}  # fmt: skip


def cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def of_command(command: list[str]) -> float:
    """Processor time of a command."""
    before = cpu_s(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return cpu_s(resource.RUSAGE_CHILDREN) - before


def write(path: str, array: np.ndarray, kind: str) -> None:
    """An array (z, y, x) as an uncompressed precomputed volume of micrometres."""
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": kind, "data_type": array.dtype.name, "num_channels": 1},
        "scale_metadata": {"size": list(array.shape[::-1]), "encoding": "raw",
                           "chunk_size": [64] * 3, "resolution": [1000] * 3},
    }  # fmt: skip
    ts.open(spec).result()[...].write(array.transpose(2, 1, 0)[..., None]).result()


def by_terareg(folder: str, do: str, settings: dict) -> None:
    """A tool of terareg, all of its steps, in this process."""
    source = f"{folder}/{'labels' if do == 'mesh' else 'image'}"
    store, entry = Store(f"{folder}/store"), entry_of(do, address=source, **settings)
    if do != "mesh":
        run_entry(store, entry, volume=VOLUME)
        return
    tool = make_tool(open_view(store, "brain", entry, source), entry)
    blocks = plan_of(tool, entry, VOLUME, "made").blocks()
    measured = tool.finish([tool.gather([tool.measure(block) for block in blocks])])
    where = store, f"brain/{entry.key}/{tool.folder}"
    summary = tool.write_objects(measured, where, batch_range(tool.shards.count, 0, 1))
    tool.finish_objects([summary], where)


def facts(what: str, path: str, mesh: str) -> str:
    """What can be compared of a result."""
    if what.startswith("meshes"):
        volume = CloudVolume(f"file://{path}", mesh_dir=mesh, progress=False)
        volumes, faces = [], 0
        for label in (1, 2, 3):
            found = volume.mesh.get(label)
            found = found[label] if isinstance(found, dict) else found
            a, b, c = (found.vertices[found.faces[:, i]].astype(float) / 1000 for i in range(3))
            volumes.append(abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6))
            faces += len(found.faces)
        return f"volumes of labels 1 to 3 {[round(v) for v in volumes]}, {faces} triangles"
    array = np.asarray(CloudVolume(f"file://{path}", progress=False, fill_missing=True)[:])
    if what.startswith("components"):
        return f"{len(np.unique(array)) - 1} components"
    finer = np.asarray(CloudVolume(f"file://{path}", mip=1, progress=False)[:])[..., 0]
    step = [round(n / m) for n, m in zip(array.shape, finer.shape)]
    even = array[..., 0].astype(float).reshape(
        finer.shape[0], step[0], finer.shape[1], step[1], finer.shape[2], step[2]
    )  # fmt: skip
    difference = finer - even.mean(axis=(1, 3, 5))
    return f"level 1 is {difference.mean():+.3f} grey values from the mean of its voxels"


def main() -> None:
    program, edge = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 256
    rng = np.random.default_rng(0)
    noise = rng.gamma(2, 300, (edge,) * 3).astype(np.uint16)
    smooth = ndimage.gaussian_filter(rng.standard_normal((edge,) * 3).astype(np.float32), 6)
    labels = ndimage.label(smooth > 1.5 * smooth.std())[0].astype(np.uint32)
    start = {"igneous": of_command([program, "--help"]),
             "terareg": of_command([sys.executable, __file__, "--nothing"])}  # fmt: skip
    print(f"{2 * edge**3 / 1e6:.0f} MB of noise, {labels.max()} labels; seconds to start: {start}")
    for what, (commands, do, settings) in RUNS.items():
        for name in ("igneous", "terareg"):
            with tempfile.TemporaryDirectory() as folder:
                write(f"{folder}/image", noise, "image")
                write(f"{folder}/labels", labels, "segmentation")
                os.makedirs(f"{folder}/made")
                if name == "igneous":
                    places = {"SOURCE": folder, "DEST": f"file://{folder}/made"}
                    filled = [[_filled(word, places) for word in each] for each in commands]
                    used = sum(of_command([program, *each]) - start[name] for each in filled)
                    made = f"{folder}/made" if "DEST" in commands[0] else None
                    made = made or f"{folder}/{'labels' if do == 'mesh' else 'image'}"
                    mesh = ""
                else:
                    job = json.dumps([folder, do, settings])
                    used = of_command([sys.executable, __file__, "--job", job]) - start[name]
                    made = f"{folder}/store/brain/derived/made/precomputed"
                    mesh = f"{folder}/store/brain/derived/made/mesh"
                    made = f"{folder}/labels" if do == "mesh" else made
                try:
                    told = facts(what, made, mesh)
                except Exception as error:  # what cannot be read back is a result as well
                    told = f"not read back: {type(error).__name__}: {str(error)[:80]}"
                print(f"{what:32}{name:9}{used:8.2f} s  {told}", flush=True)


def _filled(word: str, places: dict[str, str]) -> str:
    for key, value in places.items():
        if word.startswith(key):
            return ("file://" if key == "SOURCE" else "") + word.replace(key, value)
    return word


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        by_terareg(*json.loads(sys.argv[2]))
    elif sys.argv[1:2] != ["--nothing"]:
        if not Path(sys.argv[1]).is_file():
            raise SystemExit(f"there is no program {sys.argv[1]}")
        main()
