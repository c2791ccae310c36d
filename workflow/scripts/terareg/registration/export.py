"""Files of a transform for other programs: ITK composites and NIfTI displacement fields.

Every name says how **points** move. A resampler looks up, for every voxel of the output, its
position in the input, so ``sample_to_atlas`` brings the image of the atlas into the sample, and
``atlas_to_sample`` that of the sample into the atlas. Lengths are millimetres, axes and components
x, y, z along the arrays (ITK calls them L, P, S), as in the NRRD files.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from terareg.registration.transform import Transform, itk_vectors
from terareg.storage.store import write_atomic

# text, because the binary form contains the time of writing and would differ from run to run
COMPOSITES = ("sample_to_atlas_composite.tfm", "atlas_to_sample_composite.tfm")
FIELDS = ("sample_to_atlas_displacement.nii.gz", "atlas_to_sample_displacement.nii.gz")


def write_itk(folder: str | Path, transform: Transform) -> None:
    """Write a transform for ITK, ANTs and other tools.

    Parameters
    ----------
    folder : path
        Receives ``sample_to_atlas_composite.tfm`` and ``atlas_to_sample_composite.tfm`` (affine and
        deformation separately, see :meth:`~Transform.itk_sample_to_atlas`), and, on the working
        grid of the sample and of the atlas, ``sample_to_atlas_displacement.nii.gz`` and
        ``atlas_to_sample_displacement.nii.gz``: the whole transform as float32 vectors. All four
        are written atomically; equal transforms give equal bytes.
    transform : Transform
        Maps atlas points to sample points.
    """
    folder = Path(folder)
    composites = (transform.itk_sample_to_atlas(), transform.itk_atlas_to_sample())
    for name, composite in zip(COMPOSITES, composites):
        _write(folder / name, functools.partial(sitk.WriteTransform, composite))
    fields = (
        (transform.sample_to_atlas_displacement(), transform.sample_frame),
        (transform.atlas_to_sample_displacement(), transform.atlas_frame),
    )
    for name, (field, frame) in zip(FIELDS, fields):
        image = itk_vectors(field, frame, np.float32)
        _write(folder / name, functools.partial(sitk.WriteImage, image))


def _write(path: Path, write: Callable[[str], None]) -> None:
    """Let ITK write a temporary file, then move it into place atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        write(str(part))
        write_atomic(path, part.read_bytes())
