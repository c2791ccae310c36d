"""Volumes with cells of known centres in textured, noisy tissue."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.core.frames import Frame


class Held:
    """An array as the detector reads it; remembers the largest box that was asked for."""

    def __init__(self, array, frame):
        self.array, self.frame, self.largest = array, frame, 0

    def read(self, start, stop):
        box = self.array[tuple(slice(a, b) for a, b in zip(start, stop))]
        self.largest = max(self.largest, box.size)
        return box


def placed(shape, spacing_um, count, diameter_um, rng, touching=0.1):
    """Centres (voxels): apart by a diameter; a share of them has a neighbour that touches it."""
    spacing = np.array(spacing_um)
    extent = np.array(shape) * spacing
    chosen = np.empty((0, 3))
    while len(chosen) < count:
        trial = rng.uniform(0.6 * diameter_um, extent - 0.6 * diameter_um, (4 * count, 3))
        if len(chosen) < touching * count:
            step = rng.standard_normal(trial.shape)
            step *= 1.02 * diameter_um / np.linalg.norm(step, axis=1, keepdims=True)
            trial = np.stack([trial, trial + step], 1).reshape(-1, 3)
        for point in trial:
            if len(chosen) == count:
                break
            inside = (np.minimum(point, extent - point) > 0.6 * diameter_um).all()
            if inside and (np.linalg.norm(chosen - point, axis=1) >= diameter_um).all():
                chosen = np.vstack([chosen, point])
    return chosen / spacing - 0.5


def cell_volume(
    shape=(90, 110, 130), spacing_um=(2.0, 1.5, 1.5), *, count=300, diameter_um=9.0,
    contrast=4.0, noise=20.0, level=400.0, seed=0, touching=0.1, dtype=np.uint16,
):  # fmt: skip
    """A volume and the centres of its cells in voxels.

    Tissue has a shading of about a millimetre, texture of the size of a cell, a quarter of the
    noise, and noise of standard deviation ``noise`` (counts) whose variance grows with the
    brightness.
    A cell is a ball, blurred by half a voxel, ``contrast`` times the noise above the tissue.
    """
    rng = np.random.default_rng(seed)
    centres = placed(shape, spacing_um, count, diameter_um, rng, touching)
    image = np.zeros(shape, np.float32)
    radius = diameter_um / 2 / np.array(spacing_um)
    for centre in centres:
        low = np.maximum(np.floor(centre - radius - 1), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius + 2), shape).astype(int)
        fine = [np.arange(a - 1 / 3, b - 0.5, 1 / 3) for a, b in zip(low, high)]
        far = sum(
            (((f - c) / r) ** 2).reshape([-1 if i == a else 1 for i in range(3)])
            for a, (f, c, r) in enumerate(zip(fine, centre, radius))
        )
        ball = (far < 1).astype(np.float32)
        ball = ball.reshape([m for a, b in zip(low, high) for m in (b - a, 3)]).mean((1, 3, 5))
        box = tuple(slice(a, b) for a, b in zip(low, high))
        image[box] = np.maximum(image[box], ball)
    image = ndimage.gaussian_filter(image, 0.5) * contrast * noise
    z, y, x = np.meshgrid(*Frame(shape, spacing_um).axes_um(), indexing="ij")
    tissue = level * (1 + 0.3 * np.sin((z + y) / 240) + 0.2 * np.cos(x / 160))
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    tissue += 0.25 * noise * texture / texture.std()
    total = tissue + image
    total += noise * np.sqrt(np.maximum(total, 0) / level) * rng.standard_normal(shape)
    if np.dtype(dtype).kind == "u":
        total = np.clip(np.rint(total), 0, np.iinfo(dtype).max)
    return total.astype(dtype), centres, Frame(shape, spacing_um)


def matched(found, truth, spacing_um, within_um):
    """Precision, recall, F1 and the distances (um) of pairs, each point in one pair at most."""
    if not len(found) or not len(truth):
        return 0.0, 0.0, 0.0, np.empty(0)
    a, b = np.asarray(found) * spacing_um, np.asarray(truth) * spacing_um
    near = cKDTree(a).sparse_distance_matrix(cKDTree(b), within_um, output_type="coo_matrix")
    order = np.argsort(near.data, kind="stable")
    used_a, used_b, distances = set(), set(), []
    for n in order:
        i, j = int(near.row[n]), int(near.col[n])
        if i not in used_a and j not in used_b:
            used_a.add(i)
            used_b.add(j)
            distances.append(near.data[n])
    hits = len(distances)
    precision, recall = hits / len(a), hits / len(b)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1, np.array(distances)
