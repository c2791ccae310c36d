"""Intensity by region: every region of the atlas has its own intensity level in the sample.

The template shows how bright tissue is in the atlas. Other regions may be bright in the sample, and
no smooth function of the template predicts a region that is bright in one and dark in the other.
The annotation shows where intensity may change. The level of every region is estimated from the
sample voxels that match there, and painted into the atlas as an additional image from which the
sample is predicted.

Levels have a prior along the ontology: the level of a region is normally distributed around that of
its parent, up to the whole brain::

    y_r | m_r ~ N(m_r, c s^2 / n_r)        m_r | m_parent ~ N(m_parent, t_d^2)

with y_r the weighted median of n_r voxels, s their spread about it, c the number of voxels per
independent observation, and t_d the spread at depth d of the tree, estimated by
expectation-maximisation. The posterior is exact, in one pass up and one down the tree (Chou,
Willsky & Benveniste 1994): small or invisible regions take the level of their relatives; with large
voxels this holds for all but large regions.

References
----------
Chou, K. C., Willsky, A. S. & Benveniste, A. IEEE Trans. Autom. Control 39, 464 (1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.registration.images import WorkingImage

# voxels per independent observation: neighbours share blur, interpolation noise and errors of the
# map
_ALIKE = 8.0
# standard deviation of the blur of painted levels, voxels
_BLUR = 0.5
_ROUNDS = 25
# fewest voxels of a region that is judged
_JUDGED = 50
# standard errors beyond which a difference is not chance
_CHANCE = 2.0


@dataclass(frozen=True)
class Regions:
    """Annotation of an atlas, on the grid of its images.

    Attributes
    ----------
    labels : numpy.ndarray of integers, shape (z, y, x)
        Region of every voxel, 0 for none.
    parents : mapping of int to int or None
        Parent of every region; a region that is not in it, or has none, is a child of the whole.
    names : mapping of int to str
        Names of regions in messages; the id is used if there is none.
    """

    labels: np.ndarray
    parents: Mapping[int, int | None]
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
            raise RegistrationError(
                f"the annotation has shape {labels.shape} and type {labels.dtype}; give region "
                "ids as integers on the grid (z, y, x) of the template"
            )


@dataclass(frozen=True)
class RegionFit:
    """How well regions are explained; arrays of shape (regions,).

    Number of matching ``voxels``, median ``residual`` (prediction minus sample, units of the
    normalised channel), and ``gain`` of the deformation over the affine alone on voxels that it was
    not fitted to, nats per voxel, with its standard ``error``.
    """

    ids: np.ndarray
    voxels: np.ndarray
    residual: np.ndarray
    gain: np.ndarray
    error: np.ndarray

    @property
    def worse(self) -> np.ndarray:
        """Regions in which the affine alone is better by more than chance."""
        return self.gain < -_CHANCE * self.error

    def share(self, chosen: np.ndarray) -> float:
        """Percentage of the voxels that lie in the chosen regions."""
        return float(100 * self.voxels[chosen].sum() / max(self.voxels.sum(), 1e-6))


class Tree:
    """Regions that have voxels, and their ancestors, parents before children.

    Attributes
    ----------
    ids : numpy.ndarray of int64
        Regions with voxels of their own, ascending; 0 is tissue without a label.
    parent : numpy.ndarray
        Index of the parent of every node; the whole (node 0) is its own parent.
    own : numpy.ndarray
        Node of each of ``ids``.
    depth : numpy.ndarray
        Depth of every node, 0 for the whole.
    """

    def __init__(self, ids: np.ndarray, parents: Mapping[int, int | None]) -> None:
        self.ids = np.unique(ids).astype(np.int64)
        paths = {i: _path(i, parents) for i in self.ids.tolist()}
        children: dict[int | None, set[int]] = {}
        for path in paths.values():
            for above, below in zip([None, *path], path):
                children.setdefault(above, set()).add(below)
        # a node without voxels and with a single child adds nothing
        kept = {i for i in children if i is not None and len(children[i]) > 1} | set(paths)
        order = sorted({tuple(j for j in path[: n + 1] if j in kept)
                        for path in paths.values() for n in range(len(path))} - {()},
                       key=lambda path: (len(path), path))  # fmt: skip
        number = {path[-1]: n + 1 for n, path in enumerate(order)}
        self.parent = np.array([0, *(number[p[-2]] if len(p) > 1 else 0 for p in order)])
        self.depth = np.array([0, *(len(path) for path in order)])
        self.own = np.array([number[i] for i in self.ids.tolist()], int)

    def judged(
        self, voxels: np.ndarray, residual: np.ndarray, gain: np.ndarray, error: np.ndarray
    ) -> RegionFit:
        """Those of ``ids`` that have enough voxels, with their figures, each of shape (ids,)."""
        enough = (voxels >= _JUDGED) & (self.ids > 0)
        return RegionFit(self.ids[enough], *(a[enough] for a in (voxels, residual, gain, error)))

    def levels(self, medians: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Posterior mean of the level of each of ``ids``.

        Parameters
        ----------
        medians : numpy.ndarray, shape (ids,)
        variances : numpy.ndarray, shape (ids,)
            Variances of the medians; infinity where no voxel was seen.
        """
        n, deepest = len(self.parent), int(self.depth.max())
        own, data = np.zeros(n), np.zeros(n)
        own[self.own] = 1 / variances
        data[self.own] = np.where(np.isfinite(variances), medians, 0) / variances
        at = [np.flatnonzero(self.depth == d) for d in range(deepest + 1)]
        seen = own > 0
        for nodes in reversed(at[1:]):
            np.logical_or.at(seen, self.parent[nodes], seen[nodes])
        if not seen[0]:
            return np.zeros(len(self.ids))
        spread = np.full(deepest + 1, float(np.var(medians[np.isfinite(variances)])) + 1e-4)
        mean = np.zeros(n)
        for _ in range(_ROUNDS):
            precision, moment = own.copy(), data.copy()
            for d in range(deepest, 0, -1):
                nodes = at[d]
                passed = 1 / (1 + precision[nodes] * spread[d])
                np.add.at(precision, self.parent[nodes], precision[nodes] * passed)
                np.add.at(moment, self.parent[nodes], moment[nodes] * passed)
            mean[0], variance = moment[0] / precision[0], np.zeros(n)
            variance[0] = 1 / precision[0]
            for d in range(1, deepest + 1):
                nodes, up = at[d], self.parent[at[d]]
                total = precision[nodes] + 1 / spread[d]
                step = (moment[nodes] - precision[nodes] * mean[up]) / total
                mean[nodes] = mean[up] + step
                rest = (precision[nodes] / total) ** 2 * variance[up] + 1 / total
                variance[nodes] = (1 - precision[nodes] / total) ** 2 * variance[up] + 1 / total
                known = seen[nodes]
                if known.any():
                    spread[d] = max(float(np.mean((step**2 + rest)[known])), 1e-6)
        return mean[self.own]


class Painter:
    """Levels of regions, painted on one working grid of the atlas.

    Parameters
    ----------
    regions : Regions
        On the grid ``frame`` (that of the atlas's images as given).
    frame : Frame
    atlas : WorkingImage
        Grid and tissue to paint on.
    tree : Tree
        Of the regions, see :func:`tree_of`.
    """

    def __init__(self, regions: Regions, frame, atlas: WorkingImage, tree: Tree) -> None:
        self.tree, self.shape = tree, atlas.frame.shape
        self.shares = _shares(regions.labels, frame, atlas, tree)
        # region with more than half of the voxel, -1 if there is none
        entries = self.shares.tocoo()
        most = entries.data > 0.5
        self.dominant = np.full(atlas.values.size, -1, np.int64)
        self.dominant[entries.row[most]] = entries.col[most]

    def paint(self, levels: np.ndarray) -> np.ndarray:
        """Image of levels, shape (channels, z, y, x), from (channels, ids)."""
        images = np.stack([(self.shares @ one).reshape(self.shape) for one in levels])
        return ndimage.gaussian_filter(images, (0, _BLUR, _BLUR, _BLUR)).astype(np.float32)

    def estimate(self, at: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Levels, shape (channels, ids), from the sample's voxels.

        Parameters
        ----------
        at : numpy.ndarray of int64, shape (n,)
            Atlas voxel in which each sample voxel lies, -1 outside.
        targets : numpy.ndarray, shape (channels, n)
        weight : numpy.ndarray, shape (n,)
            Probability that the voxel matches.
        """
        use, region, weight = self._seen(at, weight)
        count = np.bincount(region, weight, minlength=len(self.tree.ids))
        levels = []
        for target in targets:
            values = target[use].astype(np.float64)
            medians = _medians(region, values, weight, len(count))
            away = np.abs(values - medians[region])
            # spread within a region, as of a normal distribution with the same median deviation
            spread = _medians(region, away, weight, len(count)) / 0.6745
            typical = float(np.average(spread, weights=count)) if count.sum() else 1.0
            with np.errstate(divide="ignore"):
                variances = _ALIKE * max(typical, 1e-3) ** 2 / count
            variances[count < 1] = np.inf
            levels.append(self.tree.levels(medians, variances))
        return np.stack(levels)

    def medians(self, at: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Sum of the weights and weighted median of every region, shape (2, ids).

        ``at`` and ``weight`` as in :meth:`estimate`; ``values`` has shape (n,).
        """
        use, region, weight = self._seen(at, weight)
        n = len(self.tree.ids)
        count = np.bincount(region, weight, minlength=n)
        return np.stack([count, _medians(region, values[use].astype(np.float64), weight, n)])

    def means(self, at: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weighted mean of every region and its standard error, shape (2, ids)."""
        use, region, weight = self._seen(at, weight)
        values, n = values[use].astype(np.float64), len(self.tree.ids)
        count = np.maximum(np.bincount(region, weight, minlength=n), 1e-6)
        mean = np.bincount(region, weight * values, minlength=n) / count
        square = np.bincount(region, weight * (values - mean[region]) ** 2, minlength=n) / count
        return np.stack([mean, np.sqrt(square * _ALIKE / count)])

    def _seen(self, at: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """Voxels that are used, their regions and their weights."""
        region = np.where(at >= 0, self.dominant[at], -1)
        use = (region >= 0) & (weight > 1e-3)
        return use, region[use], weight[use].astype(np.float64)


def tree_of(regions: Regions) -> Tree:
    """Tree of the regions that have voxels, and of tissue without a label."""
    found = [np.unique(plane) for plane in regions.labels]
    return Tree(np.unique(np.concatenate([*found, [0]])), regions.parents)


def _path(region: int, parents: Mapping[int, int | None]) -> list[int]:
    """Path through the tree from the top to a region."""
    path = [region]
    while (above := parents.get(path[-1])) and above not in path:
        path.append(above)
    return path[::-1]


def _medians(group: np.ndarray, values: np.ndarray, weight: np.ndarray, n: int) -> np.ndarray:
    """Weighted median of every group 0 to n - 1; 0 for an empty one."""
    order = np.lexsort((values, group))
    group, values, weight = group[order], values[order], weight[order]
    total = np.cumsum(weight)
    last = np.searchsorted(group, np.arange(n), side="right")
    first = np.searchsorted(group, np.arange(n), side="left")
    bounds = np.concatenate([[0.0], total])
    half = (bounds[first] + bounds[last]) / 2
    found = np.zeros(n)
    filled = last > first
    at = np.clip(np.searchsorted(total, half), first, np.maximum(last - 1, first))
    found[filled] = values[at[filled]]
    return found


def _shares(labels: np.ndarray, frame, atlas: WorkingImage, tree: Tree) -> scipy.sparse.csr_array:
    """Share of every region in every voxel of the working grid, (voxels, ids).

    Tissue without a label is region 0; voxels without tissue and label have no share.
    """
    out = atlas.frame
    axes = [np.rint((um - o) / s).astype(np.int64) for um, o, s in
            zip(frame.axes_um(), out.origin_um, out.spacing_um)]  # fmt: skip
    if any(s < f * (1 - 1e-6) for s, f in zip(out.spacing_um, frame.spacing_um)):
        # finer than the annotation: every voxel takes the annotation voxel in which it lies
        look = [np.clip(np.rint((um - o) / s).astype(np.int64), 0, n - 1) for um, o, s, n in
                zip(out.axes_um(), frame.origin_um, frame.spacing_um, frame.shape)]  # fmt: skip
        labels = labels[np.ix_(*look)]
        axes = [np.arange(n) for n in out.shape]
    inside = [(a >= 0) & (a < n) for a, n in zip(axes, out.shape)]
    keys, counts = [], []
    width = len(tree.ids)
    for z in np.flatnonzero(inside[0]):
        plane = labels[z][np.ix_(inside[1], inside[2])]
        region = np.searchsorted(tree.ids, plane)
        voxel = np.ravel_multi_index(
            (axes[0][z], *np.ix_(axes[1][inside[1]], axes[2][inside[2]])), out.shape
        )
        key, count = np.unique(voxel * width + region, return_counts=True)
        keys.append(key)
        counts.append(count)
    key, back = np.unique(np.concatenate(keys), return_inverse=True)
    count = np.bincount(back, np.concatenate(counts))
    voxel, region = np.divmod(key, width)
    size = int(np.prod(out.shape))
    share = count / np.bincount(voxel, count, minlength=size)[voxel]
    # neither label nor tissue: no share, so the level is 0
    share = np.where((tree.ids[region] == 0) & ~atlas.tissue.reshape(-1)[voxel], 0, share)
    return scipy.sparse.csr_array((share, (voxel, region)), (size, width))
