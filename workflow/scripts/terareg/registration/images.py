"""Images that enter a registration: checks, robust normalisation, tissue mask, resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.core.threshold import tissue_threshold

_MINIMUM_VOXELS = 4
# ratio of the sides of a voxel that is told of; where the longest is more than this share of the
# tissue's size the second one: planes of 1 mm cost a mouse brain .03 Dice, planes of .6 mm .003
_STRONG_ANISOTROPY = 20.0
_ANISOTROPY = 2.0
_COARSE_SIDE = 0.1
_MANY_VOXELS = 320
_SURFACE_VOXELS = 1
# share of the voxels around the tissue with the same value, above which the image was masked; then
# standard deviation of the blur of its surface, and the depth of the blur, voxels
_CUT_SHARE = 0.9
# share of a face of the image above which tissue on it means that tissue was cut there
_CUT_FACE = 0.02
_CUT_BLUR = 1.0
_CUT_DEPTH = 1.5
#: intensity, in medians of the tissue, from which on a part is bright: templates and
#: autofluorescence have few voxels beyond it
BRIGHT = 2.5


@dataclass(frozen=True)
class Image:
    """A scalar volume with its grid.

    Attributes
    ----------
    data : numpy.ndarray, shape (z, y, x)
        Kept as float32. Not-a-number marks voxels without data.
    frame : Frame
        Grid in micrometres.
    mask : numpy.ndarray, shape (z, y, x), optional
        Weight between 0 and 1 of every voxel; 0 where nothing was imaged or the data cannot be
        trusted.
    name : str
        Name in messages.
    """

    data: np.ndarray
    frame: Frame
    mask: np.ndarray | None = None
    name: str = "image"

    def __post_init__(self) -> None:
        data = np.asarray(self.data, np.float32)
        object.__setattr__(self, "data", data)
        if data.shape != self.frame.shape:
            raise RegistrationError(
                f"{self.name}: the array has shape {data.shape} but its frame has "
                f"{self.frame.shape}; give the frame of this array"
            )
        if self.mask is not None:
            mask = np.asarray(self.mask, np.float32)
            if mask.shape != data.shape:
                raise RegistrationError(
                    f"{self.name}: the mask has shape {mask.shape} but the image has "
                    f"{data.shape}; resample the mask to the grid of the image"
                )
            if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
                raise RegistrationError(
                    f"{self.name}: the mask contains values outside 0 to 1; give weights between "
                    "0 (ignore) and 1 (use)"
                )
            object.__setattr__(self, "mask", mask)


@dataclass(frozen=True)
class WorkingImage:
    """An image ready for registration.

    Attributes
    ----------
    values : numpy.ndarray, float32, shape (z, y, x)
        Background 0, bright tissue (98th percentile) about 1; see :func:`prepare`.
    weight : numpy.ndarray, float32
        0 where there are no data, otherwise up to 1.
    tissue : numpy.ndarray of bool
        Voxels that hold tissue.
    frame : Frame
    warnings : tuple of str
        Warnings for the user, "name: sentence".
    """

    values: np.ndarray
    weight: np.ndarray
    tissue: np.ndarray
    frame: Frame
    warnings: tuple[str, ...] = ()

    @property
    def tissue_volume_um3(self) -> float:
        """Volume of the tissue."""
        return float(self.tissue.sum()) * self.frame.voxel_volume_um3

    @property
    def tissue_centre_um(self) -> np.ndarray:
        """Centre of mass of the tissue mask, shape (3,)."""
        return self.frame.to_um(np.array(ndimage.center_of_mass(self.tissue)))


def prepare(image: Image) -> WorkingImage:
    """Check an image, find its tissue and bring its intensities to a common scale.

    Background is the median of the outer faces. Bright-field images (tissue darker than its
    surroundings) work as well; they are inverted, so that tissue is positive. Beyond 2.5 times the
    median of the tissue intensities grow as their logarithm, so that a few bright parts, such as
    cerebellum and olfactory bulb in a nuclear stain, do not decide alone where the atlas lies.

    Raises
    ------
    RegistrationError
        If the image is too small, constant, without valid voxels, or all background.
    """
    data, frame, name = image.data, image.frame, image.name
    if min(frame.shape) < _MINIMUM_VOXELS:
        raise RegistrationError(
            f"{name}: {frame.shape} voxels are too few to register; give a volume of at least "
            f"{_MINIMUM_VOXELS} voxels along every axis"
        )
    valid = np.isfinite(data)
    weight = np.ones(data.shape, np.float32) if image.mask is None else image.mask.copy()
    weight[~valid] = 0
    warnings = []
    if not valid.all():
        share = 100 * (1 - valid.mean())
        if not valid.any():
            raise RegistrationError(f"{name}: all {data.size} voxels are NaN; check the file")
        warnings.append(
            f"not_a_number: {name} has {share:.3g} % of its voxels without a value (NaN); they are "
            "ignored"
        )
        data = np.where(valid, data, np.median(data[valid]))
    if not (weight > 0).any():
        raise RegistrationError(
            f"{name}: the mask leaves no voxels; give a mask that is positive on the tissue"
        )
    low, high = float(data.min()), float(data.max())
    if high - low <= 1e-6 * max(abs(low), abs(high), 1e-30):
        raise RegistrationError(
            f"{name}: every voxel has the value {low:g}; check the channel and its file"
        )
    background = _background(data)
    contrast = np.abs(data - background)
    tissue = tissue_mask(contrast)
    share = tissue.mean()
    warnings += _coarse_side(frame, int(tissue.sum()), name)
    if tissue.any() and (median := float(np.median(contrast[tissue]))) > 0:
        _compress(contrast, BRIGHT * median)
    scale = float(np.percentile(contrast[tissue], 98)) if tissue.sum() >= 32 else 0.0
    if not scale > 0:
        raise RegistrationError(
            f"{name}: no tissue stands out from the background ({background:g}); check the "
            "channel, or give an image with contrast"
        )
    if not (weight[tissue] > 0).any():
        raise RegistrationError(
            f"{name}: the mask leaves no tissue; give a mask that is positive on the tissue"
        )
    if share > 0.98:
        warnings.append(f"no_background: {name} has hardly any background ({share:.0%} tissue)")
    sign = 1.0 if np.median(data[tissue]) >= background else -1.0
    values = np.copysign(contrast, sign * (data - background)) / scale
    values = np.clip(values, -0.5, 2.0).astype(np.float32)
    values[weight == 0] = 0
    return WorkingImage(values, weight, tissue, frame, tuple(warnings))


def _coarse_side(frame: Frame, tissue: int, name: str) -> list[str]:
    """Warning of voxels with one side too long; ``tissue`` is the number of those of the tissue."""
    longest = max(frame.spacing_um)
    ratio = longest / min(frame.spacing_um)
    size = (tissue * float(np.prod(frame.spacing_um))) ** (1 / 3)
    coarse = ratio >= _ANISOTROPY and longest > _COARSE_SIDE * size > 0
    if ratio < _STRONG_ANISOTROPY and not coarse:
        return []
    return [
        f"anisotropy: {name} has voxels of {frame.spacing_um} um, {ratio:.0f}:1, for tissue of "
        f"about {size / 1000:.3g} mm; along the longest side borders may be off by a part of it"
    ]


def _compress(contrast: np.ndarray, knee: float) -> None:
    """Let contrast go on as a logarithm beyond the knee, with the same slope there; in place."""
    bright = contrast > knee
    contrast[bright] = knee * (1 + np.log(contrast[bright] / knee))


def reduced(image: Image, voxel_um: float | None = None) -> Image:
    """Average whole voxels to a size of at most ``voxel_um``, holding one output plane at a time.

    Without ``voxel_um``, until the longest side has at most 320 voxels, which is finer than any
    default needs.
    """
    if voxel_um is None:
        voxel_um = max(image.frame.extent_um) / _MANY_VOXELS
    factor = [max(1, math.floor(voxel_um / s + 1e-6)) for s in image.frame.spacing_um]
    factor = [min(f, max(1, n // _MINIMUM_VOXELS)) for f, n in zip(factor, image.frame.shape)]
    if max(factor) == 1:
        return image
    frame = image.frame.downsampled(factor)
    data, mask = np.empty(frame.shape, np.float32), np.empty(frame.shape, np.float32)
    for z in range(frame.shape[0]):
        planes = slice(z * factor[0], (z + 1) * factor[0])
        part = image.data[planes]
        weight = np.isfinite(part).astype(np.float32)
        if image.mask is not None:
            weight *= image.mask[planes]
        total = _block_sums(weight, factor)
        value = _block_sums(np.nan_to_num(part) * weight, factor)
        data[z] = np.where(total > 0, value / np.maximum(total, 1e-6), np.nan)
        mask[z] = total / _block_sums(np.ones_like(weight), factor)
    return Image(data, frame, np.clip(mask, 0, 1), image.name)


def _block_sums(planes: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Sum over z, and over blocks of y and x, including a partial block at the end."""
    sums = planes.sum(0)
    for axis in (0, 1):
        starts = np.arange(0, sums.shape[axis], factor[axis + 1])
        sums = np.add.reduceat(sums, starts, axis=axis)
    return sums


def tissue_mask(contrast: np.ndarray, fill: bool = True) -> np.ndarray:
    """Voxels whose contrast with the background is above :func:`tissue_threshold`, cleaned.

    Holes are filled if ``fill`` is true, and pieces smaller than 2 % of the largest are dropped.
    """
    smooth = ndimage.gaussian_filter(contrast, 0.7)
    mask = smooth > tissue_threshold(smooth)
    if fill:
        mask = ndimage.binary_fill_holes(mask)
    labels, n = ndimage.label(mask)
    if n > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        mask = (sizes >= 0.02 * sizes.max())[labels]
    return mask


def soften_cut(image: WorkingImage) -> WorkingImage:
    """Blur the surface of an image that was cut out with a mask, such as a skull-stripped one.

    A mask removes the sub-voxel position of the surface: the intensity falls from tissue to a
    constant within one voxel, and a polynomial of interpolated intensities would bend to fit this
    step. Within about two voxels of the cut the image is replaced by itself blurred by one voxel.
    An image with a gradual surface is returned unchanged.
    """
    tissue = image.tissue
    around = ndimage.binary_dilation(tissue) & ~tissue & (image.weight > 0)
    beside = image.values[around]
    if beside.size == 0 or np.mean(beside == np.median(beside)) < _CUT_SHARE:
        return image
    distance = np.where(
        tissue, ndimage.distance_transform_edt(tissue), ndimage.distance_transform_edt(~tissue)
    )
    near = np.exp(-0.5 * (np.maximum(distance - _CUT_DEPTH, 0) / _CUT_DEPTH) ** 2)
    weight = ndimage.gaussian_filter(image.weight, _CUT_BLUR)
    blurred = ndimage.gaussian_filter(image.values * image.weight, _CUT_BLUR)
    blurred /= np.maximum(weight, 1e-6)
    values = image.values + near.astype(np.float32) * (blurred - image.values)
    values[image.weight == 0] = 0
    return replace(image, values=values)


def tissue_fraction(image: WorkingImage) -> np.ndarray:
    """Fraction of every voxel that is bright tissue, float32 in 0..1.

    Inside bright tissue it is 1. Where the image fades over a voxel or two (at the surface, at the
    walls of ventricles) and in dark parts, it is the intensity relative to the nearest bright
    tissue.
    """
    half = 0.5 * np.median(image.values[image.tissue])
    bright = image.tissue & (image.values > half)
    core = ndimage.binary_erosion(bright, iterations=_SURFACE_VOXELS, border_value=1)
    if not core.any():
        core = bright
    share = ndimage.gaussian_filter(core.astype(np.float32), _SURFACE_VOXELS)
    mean = ndimage.gaussian_filter(image.values * core, _SURFACE_VOXELS) / np.maximum(share, 1e-6)
    nearest = ndimage.distance_transform_edt(
        ~core, image.frame.spacing_um, return_distances=False, return_indices=True
    )
    level = np.maximum(mean[tuple(nearest)], 1e-3)
    return np.where(core, 1, np.clip(image.values / level, 0, 1)).astype(np.float32)


def cut_faces(image: WorkingImage) -> tuple[tuple[int, int], ...]:
    """Faces (axis, -1 or 1) at which tissue runs out of the image: it was cut there."""
    return tuple(
        (axis, sign)
        for axis in range(3)
        for sign, plane in ((-1, 0), (1, -1))
        if image.tissue.take(plane, axis).mean() > _CUT_FACE
    )


def noise(image: WorkingImage) -> float:
    """Standard deviation of voxel-wise independent noise, inside tissue.

    From the median absolute value of the mixed difference along all three axes: the difference
    removes smooth structure, and the median is robust to edges. 0 if the tissue is too small.
    """
    inside = ndimage.binary_erosion(image.tissue & (image.weight > 0), iterations=2)
    if not inside.any():
        return 0.0
    difference = image.values
    for axis in range(3):
        difference = ndimage.convolve1d(difference, np.sqrt([0.5, 0.5]) * [1, -1], axis=axis)
    return float(np.median(np.abs(difference[inside])) / 0.6745)


def resample(image: WorkingImage, spacing_um: float | Sequence[float]) -> WorkingImage:
    """Bring an image to another spacing: area mean where coarser, linear where finer.

    The new grid covers the same outer faces (:meth:`terareg.core.frames.Frame.resampled`). Voxels
    without data do not contribute to the means.
    """
    spacing = tuple(float(s) for s in np.broadcast_to(spacing_um, 3))
    if np.allclose(spacing, image.frame.spacing_um, rtol=1e-6):
        return image
    frame = image.frame.resampled(spacing)
    matrices = [
        _resampling_matrix(image.frame, frame, axis).astype(np.float32) for axis in range(3)
    ]
    weight = _along_axes(image.weight, matrices)
    values = _along_axes(image.values * image.weight, matrices) / np.maximum(weight, 1e-6)
    tissue = _along_axes(image.tissue.astype(np.float32), matrices) >= 0.5
    values[weight < 1e-3] = 0
    return replace(image, values=values, weight=weight, tissue=tissue, frame=frame)


def crop_to_tissue(image: WorkingImage, margin_um: float) -> WorkingImage:
    """Crop an image to the bounding box of its tissue with a margin of ``margin_um``."""
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        index = np.flatnonzero(image.tissue.any(axis=others))
        margin = math.ceil(margin_um / image.frame.spacing_um[axis])
        start.append(max(0, int(index[0]) - margin))
        stop.append(min(image.frame.shape[axis], int(index[-1]) + 1 + margin))
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    return replace(
        image,
        values=np.ascontiguousarray(image.values[box]),
        weight=np.ascontiguousarray(image.weight[box]),
        tissue=np.ascontiguousarray(image.tissue[box]),
        frame=image.frame.cropped(start, stop),
    )


def correct_grid(image: Image, sigma_um: float = 150.0) -> Image:
    """Divide out a pattern that is the same in every plane (a stitching grid).

    The pattern is the sum S over z divided by S blurred with ``sigma_um`` (Gaussian); the image
    is multiplied by blurred S / S.
    """
    data = np.nan_to_num(image.data)
    total = data.sum(0, dtype=np.float64)
    sigma = [sigma_um / s for s in image.frame.spacing_um[1:]]
    smooth = ndimage.gaussian_filter(total, sigma, mode="nearest")
    floor = 1e-3 * max(float(smooth.max()), 1e-30)
    factor = np.where(total > floor, smooth / np.maximum(total, floor), 1.0)
    return replace(image, data=(image.data * factor).astype(np.float32))


def check_overlap(atlas: Frame, sample: Frame, affine: np.ndarray) -> None:
    """Raise :class:`RegistrationError` if the transformed atlas does not overlap the sample.

    ``affine`` maps atlas um to sample um. Bounding boxes are compared, which finds only gross
    errors.
    """
    faces = np.array([[o - s / 2, o - s / 2 + e] for o, s, e in
                      zip(atlas.origin_um, atlas.spacing_um, atlas.extent_um)])  # fmt: skip
    corners = np.array(np.meshgrid(*faces, indexing="ij")).reshape(3, -1)
    moved = affine[:3, :3] @ corners + affine[:3, 3:]
    low = np.array(sample.origin_um) - np.array(sample.spacing_um) / 2
    high = low + np.array(sample.extent_um)
    if np.any(moved.max(1) <= low) or np.any(moved.min(1) >= high):
        raise RegistrationError(
            f"the initial affine puts the atlas at {np.rint(moved.min(1)).tolist()} to "
            f"{np.rint(moved.max(1)).tolist()} um, outside the sample ({np.rint(low).tolist()} to "
            f"{np.rint(high).tolist()} um); correct the translation or the initial affine"
        )


def _background(data: np.ndarray) -> float:
    faces = [data[0], data[-1], data[:, 0], data[:, -1], data[:, :, 0], data[:, :, -1]]
    return float(np.median(np.concatenate([face.ravel() for face in faces])))


def _resampling_matrix(source: Frame, target: Frame, axis: int) -> np.ndarray:
    """Matrix (target voxels, source voxels) whose rows sum to 1."""
    n, s, o = source.shape[axis], source.spacing_um[axis], source.origin_um[axis]
    m, t, p = target.shape[axis], target.spacing_um[axis], target.origin_um[axis]
    if t >= s * (1 - 1e-9):
        left = p + t * (np.arange(m)[:, None] - 0.5)
        cells = o + s * (np.arange(n) - 0.5)
        overlap = np.minimum(left + t, cells + s) - np.maximum(left, cells)
        matrix = np.maximum(overlap, 0.0)
        matrix[matrix < 1e-9 * s] = 0.0
    else:
        index = np.clip((p + t * np.arange(m) - o) / s, 0, n - 1)
        matrix = np.maximum(0.0, 1.0 - np.abs(index[:, None] - np.arange(n)))
    return matrix / matrix.sum(1, keepdims=True)


def _along_axes(array: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Multiply matrices (rows, n) onto the axes; same bytes with any number of threads.

    In a dense product, the sums of BLAS depend on the number of threads.
    """
    for axis, matrix in enumerate(matrices):
        moved = np.ascontiguousarray(np.moveaxis(array, axis, 0), np.float32)
        product = scipy.sparse.csr_array(matrix) @ moved.reshape(len(moved), -1)
        array = np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(array, np.float32)
