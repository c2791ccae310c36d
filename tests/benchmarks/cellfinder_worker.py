"""cellfinder's candidates for the benchmark of cells, run by an environment that has cellfinder.

    python cellfinder_worker.py volume.npz '[{"soma_diameter": 9}, ...]'

The volume is (z, y, x), with spacing_um. Settings are arguments of its detection, each of a search
of its own, which writes a line of JSON; all others keep their defaults. CPU seconds are those of
all of its processes, their start and the compiling of code in the first search included. Needs
nothing of this repository.
"""

from __future__ import annotations

import json
import resource
import sys

import numpy as np
from cellfinder.core.detect import detect


def cpu_s() -> float:
    """Seconds of this process and of those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    volume, settings = sys.argv[1:]
    with np.load(volume) as stored:
        image, spacing_um = stored["image"], tuple(stored["spacing_um"].tolist())
    for given in json.loads(settings):
        start = cpu_s()
        found = detect.main(
            image, voxel_sizes=spacing_um, torch_device="cpu", n_free_cpus=1, **given
        )
        # of its cells, x, y, z are voxels
        places = [[float(cell.z), float(cell.y), float(cell.x)] for cell in found]
        print("FOUND " + json.dumps({"places_vox": places, "cpu_s": cpu_s() - start}), flush=True)


if __name__ == "__main__":
    main()
