"""Files of the truth of a phantom sample: labels, damage, bias, volumes, point pairs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from terareg.phantom.sample import GeneratedSample
from terareg.storage import nrrd


@dataclass(frozen=True)
class TruthSettings:
    """Settings of the truth that is written.

    Attributes
    ----------
    label_stride : tuple of int
        True labels are written for every n-th voxel of the sample frame along (z, y, x).
    volume_stride : tuple of int
        The same for counting region volumes.
    landmarks, fiducials : int
        Number of point pairs.
    """

    label_stride: tuple[int, int, int] = (2, 6, 6)
    volume_stride: tuple[int, int, int] = (1, 2, 2)
    landmarks: int = 2000
    fiducials: int = 24


def write_sample_truth(sample: GeneratedSample, folder: Path, settings: TruthSettings) -> dict:
    """Write the truth of the sample; returns the entries for ``truth.json``.

    ``labels.nrrd`` (uint32), ``tissue.nrrd`` (uint8: 0 outside, 1 tissue, 2 missing, 3 artefact)
    and ``bias_{channel}.nrrd`` (float32, multiplicative) lie on every n-th voxel of the sample
    frame, in millimetres; ``landmarks.csv`` holds point pairs; ``region_volumes.tsv`` volumes;
    ``affine.txt`` the 4 x 4 matrix from atlas to sample, micrometres, z y x; ``cells.csv`` the
    counted cells, if there are any.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stride = settings.label_stride
    frame = replace(
        sample.frame,
        shape=tuple(-(-n // k) for n, k in zip(sample.frame.shape, stride)),
        spacing_um=tuple(s * k for s, k in zip(sample.frame.spacing_um, stride)),
    )
    axes = frame.axes_um()
    labels, _ = sample.labels_grid(axes)
    missing, artefact = sample.damage_grid(axes)
    tissue = (labels > 0).astype(np.uint8)
    tissue[(labels > 0) & (missing > 0.05)] = 2
    tissue[artefact > 0.05] = 3
    nrrd.write_image(folder / "labels.nrrd", labels, frame)
    nrrd.write_image(folder / "tissue.nrrd", tissue, frame)
    coarse = sample.frame.resampled((250.0,) * 3)
    bias = sample.bias_grid(coarse.axes_um())
    for channel in range(2):
        nrrd.write_image(folder / f"bias_ch{channel}.nrrd", bias[channel], coarse)
    _write_volumes(sample, folder / "region_volumes.tsv", settings.volume_stride)
    atlas_um, sample_um = _landmarks(sample, settings.landmarks)
    _write_pairs(folder / "landmarks.csv", atlas_um, sample_um)
    np.savetxt(folder / "affine.txt", sample.affine, fmt="%.9g")
    cells = {}
    if len(sample.counted_cells):
        _write_cells(sample, folder / "cells.csv")
        cells = {"cells": "cells.csv", "cell_um": sample.settings.counted_cell_um}
    return cells | {
        "atlas_frame": sample.atlas.frame.to_json(),
        "bias": ["bias_ch0.nrrd", "bias_ch1.nrrd"],
        "labels": "labels.nrrd",
        "label_stride": list(stride),
        "tissue": "tissue.nrrd",
        "landmarks": "landmarks.csv",
        "region_volumes": "region_volumes.tsv",
        "volume_stride": list(settings.volume_stride),
    }


def _write_volumes(sample: GeneratedSample, path: Path, stride: Sequence[int]) -> None:
    """Region volumes per hemisphere, counted in slabs."""
    axes = [a[::k] for a, k in zip(sample.frame.axes_um(), stride)]
    ids = sample.atlas.region_ids()
    count = np.zeros((2, len(ids)), np.int64)
    for first in range(0, len(axes[0]), 16):
        labels, right = sample.labels_grid([axes[0][first : first + 16], axes[1], axes[2]])
        for side, mask in enumerate((~right, right)):
            found = labels[mask & (labels > 0)]
            count[side] += np.bincount(np.searchsorted(ids, found), minlength=len(ids))
    unit = sample.frame.voxel_volume_um3 * np.prod(stride) / 1e9
    acronym = {node["id"]: node["acronym"] for node in sample.atlas.ontology}
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(["id", "acronym", "hemisphere", "volume_mm3"])
        for side, name in enumerate(("left", "right")):
            for number, voxels in zip(ids, count[side]):
                table.writerow([number, acronym[int(number)], name, f"{voxels * unit:.6f}"])


def _landmarks(sample: GeneratedSample, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded random points in annotated atlas tissue that map into the frame, away from damage."""
    rng = np.random.default_rng([sample.settings.seed, 3])
    voxels = np.argwhere(sample.atlas.annotation > 0)
    chosen = voxels[rng.permutation(len(voxels))[: 2 * count]]
    atlas_um = sample.atlas.frame.to_um(chosen + rng.uniform(-0.5, 0.5, chosen.shape))
    sample_um = sample.to_sample(atlas_um)
    good = sample.frame.contains(sample_um) & ~sample.damaged(sample_um)
    return atlas_um[good][:count], sample_um[good][:count]


def _write_cells(sample: GeneratedSample, path: Path) -> None:
    """Counted cells: place in the sample, contrast, true region and hemisphere."""
    places = sample.counted_cells[:, :3]
    ids = sample.labels_at(places).tolist()
    right = sample.to_atlas(places)[:, 0] > sample.atlas.frame.centre_um[0]
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["z_um", "y_um", "x_um", "contrast", "region_id", "hemisphere"])
        for (z, y, x, contrast), region, side in zip(sample.counted_cells, ids, right.tolist()):
            row = [f"{v:.3f}" for v in (z, y, x, contrast)]
            table.writerow([*row, region, "right" if side else "left"])


def _write_pairs(path: Path, atlas_um: np.ndarray, sample_um: np.ndarray) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([f"{w}_{a}_um" for w in ("atlas", "sample") for a in "zyx"])
        for pair in np.hstack([atlas_um, sample_um]):
            table.writerow([f"{v:.3f}" for v in pair])


def write_fiducials(sample: GeneratedSample, folder: Path, count: int) -> tuple[Path, Path]:
    """Write ``atlas.csv`` and ``sample.csv`` (name,z_um,y_um,x_um) of the same named points."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atlas_um, _ = _landmarks(sample, 2000)
    # spread out: start anywhere, then always take the point farthest from those taken
    chosen = [0]
    distance = np.full(len(atlas_um), np.inf)
    while len(chosen) < min(count, len(atlas_um)):
        distance = np.minimum(distance, np.linalg.norm(atlas_um - atlas_um[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    points = {"atlas": atlas_um[chosen], "sample": sample.to_sample(atlas_um[chosen])}
    paths = []
    for space, values in points.items():
        path = folder / f"{space}.csv"
        with open(path, "w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["name", "z_um", "y_um", "x_um"])
            for number, point in enumerate(values):
                table.writerow([f"F{number + 1:02d}", *(f"{v:.3f}" for v in point)])
        paths.append(path)
    return paths[0], paths[1]
