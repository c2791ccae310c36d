"""Smooth brightness field of a whole volume: N4 at low resolution, evaluated anywhere.

``image = true * exp(log_field)``. The field is found by N4 (Tustison et al., "N4ITK: improved N3
bias correction", IEEE TMI 29, 2010) on a low-resolution image inside a mask of tissue, and kept as
samples of its logarithm; :meth:`BiasField.evaluate` interpolates them with a cubic spline at the
voxels of any block, so that correcting a volume block by block gives the same values as correcting
it as a whole.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from terareg.core.errors import ConfigError, IntensityError, last_line
from terareg.core.frames import Frame
from terareg.storage import nrrd

logger = logging.getLogger(__name__)

_MINIMUM_TISSUE = 200  # voxels at the working resolution
_MINIMUM_SIZE = 4
_DIALECT = nrrd.Dialect(
    "NRRD0005",
    "natural logarithm of the bias field",
    number="",
    states_unit=False,
    whole_frame=True,
    level=6,
)


@dataclass(frozen=True)
class BiasSettings:
    """How the bias field is found.

    Attributes
    ----------
    resolution_um : float
        Voxel size at which N4 runs; a finer image is averaged over whole voxels to this size, a
        coarser one used as it is. 200 is no more accurate and eight times slower.
    spline_distance_mm : float
        Distance between B-spline knots on the coarsest level; every further level halves it. With
        more than two levels the field begins to follow the anatomy.
    iterations : tuple of int
        Largest number of iterations on each level, coarsest first.
    convergence : float
        A level ends when the coefficient of variation of the change falls below this.
    threshold : float or None
        Intensity above which a voxel is tissue; None takes Otsu's threshold of the logarithm.
    """

    resolution_um: float = 400.0
    spline_distance_mm: float = 8.0
    iterations: tuple[int, ...] = (50, 50)
    convergence: float = 3e-3
    threshold: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", tuple(self.iterations))
        for name in ("resolution_um", "spline_distance_mm", "convergence"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"bias {name} {value} is impossible; give a positive number")
        if not self.iterations or min(self.iterations) < 1:
            raise ConfigError(
                f"bias iterations {list(self.iterations)} are impossible; give one number from 1 "
                "per level"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"bias threshold {self.threshold} is not finite; give an intensity")


@dataclass(frozen=True)
class BiasField:
    """A smooth multiplicative field.

    Attributes
    ----------
    frame : Frame
        Grid of the samples.
    log_field : numpy.ndarray of float32, shape (z, y, x)
        Natural logarithm of the field, mean 0 over tissue.
    """

    frame: Frame
    log_field: np.ndarray

    def __post_init__(self) -> None:
        field = np.ascontiguousarray(self.log_field, np.float32)
        if field.shape != self.frame.shape:
            raise IntensityError(
                f"bias field of shape {field.shape} does not fit its frame {self.frame.shape}; "
                "estimate it again"
            )
        if not np.isfinite(field).all():
            raise IntensityError("bias field has values that are not finite; estimate it again")
        object.__setattr__(self, "log_field", field)

    @cached_property
    def _coefficients(self) -> np.ndarray:
        return ndimage.spline_filter(
            self.log_field.astype(np.float64), order=3, output=np.float64, mode="mirror"
        )

    def evaluate(self, frame: Frame) -> np.ndarray:
        """Field at the voxel centres of ``frame``, float32 (z, y, x), all positive.

        ``corrected = image / field``. Outside the samples the value at the nearest edge is used.
        Blocks of a volume give the same bytes as the whole; besides the result a few planes are
        held in memory.
        """
        if frame.orientation != self.frame.orientation:
            raise IntensityError(
                f"bias field has orientation {self.frame.orientation} but the volume has "
                f"{frame.orientation}; estimate it on that volume"
            )
        axes = [
            _taps(points, size, spacing, origin)
            for points, size, spacing, origin in zip(
                frame.axes_um(), self.frame.shape, self.frame.spacing_um, self.frame.origin_um
            )
        ]
        (index_z, weight_z), (index_y, weight_y), (index_x, weight_x) = axes
        field = np.empty(frame.shape, np.float32)
        # only the samples that the block needs, one output plane at a time, added in a fixed order
        low_x, high_x = int(index_x.min()), int(index_x.max()) + 1
        near = self._coefficients[:, :, low_x:high_x]
        index_x = index_x - low_x
        for plane in range(frame.shape[0]):
            image = sum(w * near[i] for i, w in zip(index_z[:, plane], weight_z[:, plane]))
            rows = sum(w[:, None] * image[i] for i, w in zip(index_y, weight_y))
            log = sum(w * rows[:, i] for i, w in zip(index_x, weight_x))
            field[plane] = np.exp(log)
        return field

    def save(self, path: str | os.PathLike) -> None:
        """Write the log field as NRRD (float32, millimetres, gzip), deterministic bytes."""
        nrrd.write_scalar(path, self.log_field, self.frame, _DIALECT)

    @classmethod
    def load(cls, path: str | os.PathLike) -> BiasField:
        """Read what :meth:`save` wrote, bit-equal."""
        field, frame = nrrd.read_scalar(path)
        return cls(frame, field)


def estimate_bias(
    image: np.ndarray,
    frame: Frame,
    settings: BiasSettings | None = None,
    mask: np.ndarray | None = None,
) -> BiasField:
    """Estimate the bias field of a volume.

    Parameters
    ----------
    image : numpy.ndarray of float, shape (z, y, x)
        Intensities after subtraction of the dark offset, so that empty space is near 0.
    frame : Frame
        Grid of ``image``.
    settings : BiasSettings, optional
    mask : numpy.ndarray of bool, shape (z, y, x), optional
        Tissue, used instead of the threshold.

    Returns
    -------
    BiasField
        On a grid of about ``settings.resolution_um``.

    Raises
    ------
    IntensityError
        An image that is constant, not finite, without tissue, or too small.
    """
    settings = settings or BiasSettings()
    image = np.asarray(image, np.float32)
    if image.shape != frame.shape:
        raise IntensityError(
            f"image of shape {image.shape} does not fit its frame {frame.shape}; give the frame "
            "of the image"
        )
    if mask is not None and mask.shape != image.shape:
        raise IntensityError(
            f"tissue mask of shape {mask.shape} does not fit the image {image.shape}; give one "
            "with the shape of the image"
        )
    if not np.isfinite(image).all():
        raise IntensityError(
            f"image has {int(np.count_nonzero(~np.isfinite(image)))} voxels that are not finite; "
            "repair the volume, then estimate the bias field"
        )
    if image.min() == image.max():
        raise IntensityError(
            f"image is constant ({float(image.min()):g}); check the channel, or set "
            "intensity.bias.enabled: false"
        )
    factor = tuple(max(1, round(settings.resolution_um / s)) for s in frame.spacing_um)
    factor = tuple(min(f, n) for f, n in zip(factor, frame.shape))
    low_frame = frame.downsampled(factor)
    low = _block_means(image, factor)
    if min(low.shape) < _MINIMUM_SIZE:
        thin = min(image.shape) < _MINIMUM_SIZE
        smaller = "a smaller intensity.bias.resolution_um"
        remedy = "intensity.bias.enabled: false" if thin else smaller
        raise IntensityError(
            f"image has {low.shape} voxels of {settings.resolution_um:g} um but N4 needs at least "
            f"{_MINIMUM_SIZE} along each axis; set {remedy}"
        )
    if mask is None:
        tissue = _tissue(low, settings.threshold)
    else:
        part = _block_means(mask.astype(np.float32), factor)
        low = _block_means(np.where(mask, image, 0), factor) / np.maximum(part, 1e-6)
        tissue = (part > 0.5) & (low > 0)
    if np.count_nonzero(tissue) < _MINIMUM_TISSUE:
        raise IntensityError(
            f"image has {np.count_nonzero(tissue)} voxels of tissue at {settings.resolution_um:g} "
            f"um but the bias field needs {_MINIMUM_TISSUE}; lower the threshold or resolution_um "
            "of intensity.bias"
        )
    log_field = _n4(low, tissue, low_frame, settings)
    log_field -= log_field[tissue].mean(dtype=np.float64)
    if not np.isfinite(log_field).all():
        raise IntensityError(
            f"N4 diverged on {np.count_nonzero(tissue)} voxels of tissue; raise "
            "intensity.bias.spline_distance_mm"
        )
    logger.info(
        "bias field on %s voxels, tissue %.1f %%, standard deviation %.1f %%",
        low.shape, 100 * tissue.mean(), 100 * float(log_field[tissue].std()),
    )  # fmt: skip
    return BiasField(low_frame, log_field.astype(np.float32))


def _n4(image: np.ndarray, tissue: np.ndarray, frame: Frame, settings: BiasSettings) -> np.ndarray:
    spacing_mm = [s / 1000 for s in reversed(frame.spacing_um)]
    # values outside the mask are not used, but N4 takes their logarithm
    picture = sitk.GetImageFromArray(np.where(tissue, image, image[tissue].mean()))
    picture.SetSpacing(spacing_mm)
    mask = sitk.GetImageFromArray(tissue.astype(np.uint8))
    mask.CopyInformation(picture)
    order = 3
    meshes = [
        max(1, math.ceil(extent / 1000 / settings.spline_distance_mm))
        for extent in reversed(frame.extent_um)
    ]
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    # with several threads the sums depend on how many there are
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetNumberOfThreads(1)
        n4.SetSplineOrder(order)
        n4.SetNumberOfControlPoints([mesh + order for mesh in meshes])
        n4.SetMaximumNumberOfIterations(list(settings.iterations))
        n4.SetConvergenceThreshold(settings.convergence)
        n4.Execute(picture, mask)
        return sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(picture)).astype(np.float64)
    except RuntimeError as error:
        raise IntensityError(
            f"N4 failed on {np.count_nonzero(tissue)} voxels of tissue ({last_line(error)}); "
            "raise intensity.bias.spline_distance_mm"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _tissue(image: np.ndarray, threshold: float | None) -> np.ndarray:
    """Voxels above the threshold, without the rim of voxels that are partly empty space."""
    if threshold is None:
        threshold = _otsu_of_log(image)
    tissue = image > max(threshold, 0.0)
    inner = ndimage.binary_erosion(tissue, border_value=1)
    # thin tissue would not survive the erosion
    return inner if np.count_nonzero(inner) > 0.5 * np.count_nonzero(tissue) else tissue


def _otsu_of_log(image: np.ndarray, bins: int = 256) -> float:
    """Threshold between empty space and tissue, from the voxels above 1 % of the bright end."""
    bright = float(np.quantile(image, 0.995))
    if bright <= 0:
        return 0.0
    low, high = np.log(0.01 * bright), np.log(bright)
    log = np.log(np.clip(image, 0.01 * bright, bright))
    count, edges = np.histogram(log, bins, (low, high))
    centre = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(count)[:-1].astype(np.float64)
    above = log.size - below
    moment = np.cumsum(count * centre)
    mean_below = moment[:-1] / np.maximum(below, 1)
    mean_above = (moment[-1] - moment[:-1]) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (mean_above - mean_below) ** 2))
    if mean_above[best] - mean_below[best] < np.log(2):
        # one class only: tissue fills the volume
        return 0.01 * bright
    return float(np.exp(edges[best + 1]))


def _block_means(image: np.ndarray, factor: tuple[int, ...]) -> np.ndarray:
    """Means over blocks; a partial block at the end is averaged over the voxels that it has."""
    for axis, step in enumerate(factor):
        if step > 1:
            size = image.shape[axis]
            starts = np.arange(0, size, step)
            shape = [1] * image.ndim
            shape[axis] = -1
            lengths = np.diff(np.append(starts, size)).reshape(shape)
            image = (np.add.reduceat(image, starts, axis=axis, dtype=np.float64) / lengths).astype(
                np.float32
            )
    return image


def _taps(
    points_um: np.ndarray, size: int, spacing_um: float, origin_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights, both (4, n), of the cubic B-spline at points clamped to the samples."""
    # rounded, because coordinates differ in their last bits with the block they are computed for
    place = np.clip(np.round((points_um - origin_um) / spacing_um, 6), 0, size - 1)
    base = np.floor(place).astype(np.int64)
    t = place - base
    weights = np.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
    )
    index = np.abs(base + np.arange(-1, 3)[:, None])
    last = size - 1
    return np.where(index > last, 2 * last - index, index), weights
