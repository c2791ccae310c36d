"""Samples as plans see them, and runs of several: tiles of a usual light-sheet microscope."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from terareg.core.extents import Extent, Sample, Size
from terareg.execution.config import check, files_of
from terareg.execution.run import Run, load_run

ATLAS = Extent((528, 320, 456), (25.0, 25.0, 25.0))
SPACING = (5.0, 1.46, 1.46)


def brain(rows=5, columns=6, channels=2, atlas=ATLAS, **over) -> Sample:
    """Tiles of 2048 x 2048 x 2000 voxels that overlap by 15 %."""
    config = {
        "sample": "brain",
        "input": {"path": ".", "orientation": "SAR",
                  "channels": {f"ch{c}": c for c in range(channels)}},
    }  # fmt: skip
    config = check(config | over)
    volume = (2000, *(round(2048 * (0.85 * (n - 1) + 1)) for n in (rows, columns)))
    pairs = rows * (columns - 1) + columns * (rows - 1)
    size = Size(rows * columns, pairs, channels, (2000, 2048, 2048), volume)
    atlases = {} if atlas is None else {"mouse": atlas}
    return Sample(size, config, Extent(volume, SPACING), 0.15, atlases)


def run_of(workspace, *configs: dict, remote: str | None = None) -> Run:
    """The run of one or several configurations of a workspace.

    Files that they name are there, if empty, but for those below the results.
    """
    for config in configs:
        for _, path in files_of(check(config)):
            if path is not None and "://" not in path and not path.startswith("results/"):
                (workspace.folder / path).touch()
    names = [workspace.write(config, f"{config['sample']}.yaml") for config in configs]
    return load_run({"cohort": [str(name) for name in names]}, remote)


def scan(workspace, name: str = "scan", dtype=np.float32, **over) -> dict:
    """Configuration of a sample that is a volume of 3 x 4 x 5 voxels of 30 x 20 x 10 um."""
    config = workspace.sample(name, **over)
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype))
    image.SetSpacing((0.01, 0.02, 0.03))
    path = workspace.folder / f"{name}.nii"
    sitk.WriteImage(image, str(path))
    return config | {
        "input": {"kind": "volume", "orientation": "SAR", "channels": {"t1": str(path)},
                  "spacing_um": [30, 20, 10]},
    }  # fmt: skip
