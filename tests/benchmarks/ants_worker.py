"""ANTs for the benchmarks, run by the interpreter of an environment that has antspyx.

    python ants_worker.py register KIND pair.npz folder     # writes folder/found.json
    python ants_worker.py map folder points.npy mapped.npy  # sample points to atlas points

KIND is a ``type_of_transform`` of antspyx with its defaults, or a name of :data:`TUNED`. Arrays are
(z, y, x); their axes are handed to ANTs as they are, in millimetres, so the two images must run
alike. Needs nothing of this repository.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

import ants
import numpy as np
import pandas

#: settings that do better on 200 um voxels than the defaults, whose pyramid starts at 800 um
TUNED = {
    "SyN-MI-tuned": {
        "type_of_transform": "SyN", "syn_metric": "mattes", "syn_sampling": 32,
        "reg_iterations": (60, 30), "flow_sigma": 3, "total_sigma": 1,
    },
    "SyN-CC-tuned": {
        "type_of_transform": "SyN", "syn_metric": "CC", "syn_sampling": 2,
        "reg_iterations": (60, 40, 15), "flow_sigma": 3, "total_sigma": 0.5,
    },
}  # fmt: skip


def register(kind: str, pair: str, folder: str) -> None:
    """Register the atlas to the sample and keep the transforms, CPU seconds and peak memory."""
    with np.load(pair) as stored:
        images = {
            side: ants.from_numpy(
                stored[side].astype(np.float32),
                origin=(stored[f"{side}_origin_um"] / 1000).tolist(),
                spacing=(stored[f"{side}_spacing_um"] / 1000).tolist(),
            )
            for side in ("sample", "atlas")
        }
    start = time.process_time()
    settings = TUNED.get(kind, {"type_of_transform": kind})
    found = ants.registration(images["sample"], images["atlas"], **settings)
    seconds = time.process_time() - start
    files = []
    for number, path in enumerate(found["fwdtransforms"]):
        kept = Path(folder) / f"{number}_{Path(path).name}"
        shutil.move(path, kept)
        files.append(str(kept))
    # getrusage would count what the starting process held
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    facts = {"files": files, "cpu_s": seconds, "mb": int(peak[1]) / 1024}
    (Path(folder) / "found.json").write_text(json.dumps(facts))


def map_points(folder: str, points: str, mapped: str) -> None:
    """Map (n, 3) sample points to atlas points, micrometres."""
    files = json.loads((Path(folder) / "found.json").read_text())["files"]
    table = pandas.DataFrame(np.load(points) / 1000, columns=list("xyz"))
    moved = ants.apply_transforms_to_points(3, table, files)
    np.save(mapped, moved[list("xyz")].to_numpy() * 1000)


if __name__ == "__main__":
    {"register": register, "map": map_points}[sys.argv[1]](*sys.argv[2:])
