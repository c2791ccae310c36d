"""A known transform between two atlases, from a registration's folder or files of ITK and ANTs.

The result is a :class:`~terareg.registration.transform.Transform` like that of a registration: its
atlas is the one that is reached, its sample the one that it is reached through.

ITK and ANTs map points of physical space, in the axes left, posterior, superior and the unit of the
images' headers. Where a voxel lies there is read from the header of the template's file; a file
without (TIFF, OME-Zarr) has identity direction, origin 0 and millimetres, its axes x, y, z being
those of the array. Fields hold vectors x, y, z that are added to the points; between voxels they
are interpolated linearly. Beyond its faces a field goes on as its affine part, with what is left
of it at the face.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from terareg.core.errors import RegistrationError, last_line
from terareg.core.frames import Frame
from terareg.registration.flow import SamplingGrid, cpu_threads, inverse_displacement
from terareg.registration.known_files import (
    FIELD_ENDINGS,
    check_described,
    check_matlab,
    ending_of,
    is_folder,
)
from terareg.registration.transform import PointMap, Transform, check_affine
from terareg.storage.foreign import boundary
from terareg.storage.records import read_json
from terareg.volumes.itk_files import nan_in_nifti, read_itk

_HEADERS = FIELD_ENDINGS  # of images whose headers say where ITK puts them
# nodes along the longest side of the grid on which a field is held: at first, and at most
_NODES = (160, 320)
# largest error of that, in voxels of the atlas; margin of the grid, in lengths of the atlas
_MOST_ERROR = 0.1
_MARGIN = 0.1
# share of the brain that a field may leave out: it ends at the outermost voxels' centres
_MOST_OUTSIDE = 0.01
_TRIED = 4000
_CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class KnownAtlas:
    """One of the two atlases.

    Attributes
    ----------
    name : str
    frame : Frame
        Of the prepared atlas.
    brain_um : numpy.ndarray, float64, shape (n, 3)
        Places of the brain, um (z, y, x).
    template : path, optional
        The user's image, whose header says where ITK puts the voxels.
    """

    name: str
    frame: Frame
    brain_um: np.ndarray
    template: str | os.PathLike[str] | None = None


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A known transform and what was found of it.

    Attributes
    ----------
    transform : Transform
        From the reached atlas to the one it is reached through.
    facts : dict
        ``kind`` ("registration", "displacement field" or "affine"), ``jacobian_min``,
        ``jacobian_max`` (of phi, in the atlas), ``inverse_error_um``, ``outside_percent`` (of the
        brain, beyond the field) and ``sampling_error_um`` (99th percentile of what the grid of the
        transform changes).
    """

    transform: Transform
    facts: dict = field(default_factory=dict)


def read_known(
    transform: str | Sequence[str], reached: KnownAtlas, through: KnownAtlas, points_from: str
) -> KnownTransform:
    """Read and check a known transform.

    Parameters
    ----------
    transform : str or list of str
        Folder of a registration of terareg, or one or several files of ITK and ANTs in the order in
        which they act on points (that of ``-t`` of antsApplyTransforms).
    reached, through : KnownAtlas
    points_from : str
        Name of the atlas whose points the files map to the other one; for a folder, of the atlas
        that was registered.

    Raises
    ------
    RegistrationError
        If a file cannot be read or holds another kind of transform; the frames are not those of the
        atlases; a field ends within the brain; or the transform folds.
    """
    source, target = (reached, through) if points_from == reached.name else (through, reached)
    where = f"atlases.{reached.name}.through.transform"
    if is_folder(transform):
        found = _of_folder(str(transform), source, target, where)
    else:
        paths = [transform] if isinstance(transform, str) else list(transform)
        found = _of_itk(paths, source, target, where)
    known, facts = found.transform, found.facts
    jacobian = _in_box(known)
    facts |= {"jacobian_min": float(jacobian.min()), "jacobian_max": float(jacobian.max())}
    if source is through and facts["kind"] == "affine":
        back = np.linalg.inv(known.affine)
        known = Transform.from_affine(back, reached.frame, through.frame)
    elif source is through:
        known = known.inverted()
    facts["inverse_error_um"] = known.inverse_error_um()
    return KnownTransform(known, facts)


# ---------------------------------------------------------------------- terareg
def _of_folder(folder: str, source: KnownAtlas, target: KnownAtlas, where: str) -> KnownTransform:
    given = [
        {"name": a.name, "orientation": a.frame.orientation, "shape": a.frame.shape,
         "spacing_um": a.frame.spacing_um}
        for a in (source, target)
    ]  # fmt: skip
    name = f"{where}: {folder}"
    check_described(name, read_json(Path(folder) / "transform.json"), *given)
    known = Transform.load(folder)
    outside = 100 * float(np.mean(~known.frame.contains(source.brain_um)))
    _check_covered(outside, name, source)
    _check_folding(known, name)
    return KnownTransform(known, {"kind": "registration", "outside_percent": outside})


# ---------------------------------------------------------------------- ITK
@dataclass(frozen=True, eq=False)
class _Field:
    """A map of points: an affine, and vectors x, y, z at the voxels of a grid, (3, z, y, x)."""

    affine: np.ndarray
    vectors: np.ndarray
    to_index: np.ndarray  # physical x, y, z to indices x, y, z, homogeneous
    step: float  # smallest voxel, in the header's unit

    def index(self, points: np.ndarray) -> np.ndarray:
        """Indices z, y, x of points (3, n), x, y, z."""
        return _moved(self.to_index, points)[::-1]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        index = self.index(points)
        added = [
            ndimage.map_coordinates(v, index, order=1, mode="nearest", output=np.float64)
            for v in self.vectors
        ]
        return _moved(self.affine, points) + np.stack(added)

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Whether points lie inside the outer faces."""
        size = np.array(self.vectors.shape[1:])[:, None]
        index = self.index(points)
        inside: np.ndarray = np.all((index >= -0.5) & (index <= size - 0.5), axis=0)
        return inside


_Step = _Field | np.ndarray


def _of_itk(
    paths: Sequence[str], source: KnownAtlas, target: KnownAtlas, where: str
) -> KnownTransform:
    steps = [step for path in paths for step in _steps_of(path, where)]
    first, last = (itk_space(a) for a in (source, target))
    name = f"{where}: {', '.join(map(str, paths))}"
    outside = _outside_percent(steps, first, source.brain_um)
    _check_covered(outside, name, source)
    fields = [step for step in steps if isinstance(step, _Field)]
    if not fields:
        matrix = np.eye(4)
        for step in steps:
            assert not isinstance(step, _Field)
            matrix = step @ matrix
        affine = check_affine(np.linalg.inv(last) @ matrix @ first, name)
        known = Transform.from_affine(affine, source.frame, target.frame)
        return KnownTransform(known, {"kind": "affine", "outside_percent": outside})
    there = _point_map(steps, first, np.linalg.inv(last))
    # voxels of the finest field in the source's micrometres
    unit = np.cbrt(abs(np.linalg.det(first[:3, :3])))
    finest = min(step.step for step in fields) / unit
    longest = max(source.frame.extent_um)
    tried = np.random.default_rng(0).permutation(len(source.brain_um))[:_TRIED]
    points = source.brain_um[tried]
    true = there(points)
    for nodes in _NODES:
        spacing = max(finest, longest / nodes)
        known = _sampled(there, source.frame, target.frame, spacing, name)
        error = float(np.percentile(np.linalg.norm(known.to_sample(points) - true, axis=1), 99))
        if error <= _MOST_ERROR * min(target.frame.spacing_um) or spacing == finest:
            break
    facts = {"kind": "displacement field", "outside_percent": outside, "sampling_error_um": error}
    return KnownTransform(known, facts)


def itk_space(atlas: KnownAtlas) -> np.ndarray:
    """Matrix (4, 4) from micrometres z, y, x of an atlas to where ITK reads its template's voxels.

    Raises
    ------
    RegistrationError
        If the template has another shape than the prepared atlas, or no header that ITK reads.
    """
    flip = np.eye(4)
    flip[:3, :3] = np.eye(3)[::-1]
    if atlas.template is None or not str(atlas.template).lower().endswith(_HEADERS):
        return flip @ np.diag([1e-3, 1e-3, 1e-3, 1])
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(atlas.template))
    try:
        reader.ReadImageInformation()
    except (RuntimeError, UnicodeError) as error:
        raise RegistrationError(
            f"{atlas.template} has no header that ITK reads ({last_line(error)}), without which "
            "files of ITK cannot be placed; give a registration of terareg, or the template as NRRD"
        ) from error
    if reader.GetSize()[::-1] != atlas.frame.shape:
        raise RegistrationError(
            f"{atlas.template} has {reader.GetSize()[::-1]} voxels (z, y, x), but the prepared "
            f"atlas {atlas.name} {atlas.frame.shape}; run prepare_atlas again"
        )
    direction = np.array(reader.GetDirection()).reshape(3, 3)
    physical = np.eye(4)
    physical[:3, :3] = direction * np.array(reader.GetSpacing())
    physical[:3, 3] = reader.GetOrigin()
    index = np.diag([*(1 / s for s in atlas.frame.spacing_um), 1])
    index[:3, 3] = -np.array(atlas.frame.origin_um) / atlas.frame.spacing_um
    return physical @ flip @ index


def _steps_of(path: str, where: str) -> list[_Step]:
    """Linear maps (4 x 4) and fields of a file, in the order in which they act on points."""
    name = f"{where}: {path}"
    with boundary(name, RegistrationError, "give a file that ITK or ANTs wrote"):
        return _steps_in(path, name)


def _steps_in(path: str, name: str) -> list[_Step]:
    if ending_of(str(path)) in FIELD_ENDINGS:
        reader, vectors = read_itk(path, RegistrationError, name)
        if vectors.ndim != 4 or vectors.shape[-1] != 3:
            raise RegistrationError(
                f"{name} is an image without vectors; give a displacement field (three components, "
                "x, y, z) or a file of ITK's transforms"
            )
        if nan_in_nifti(path):
            raise RegistrationError(
                f"{name} contains values that are not finite; write the field again"
            )
        image = (reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
        return [_field(vectors, *image, name)]
    check_matlab(path)
    if ending_of(str(path)) in (".h5", ".hdf5"):
        _check_hdf5(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ValueError(last_line(error)) from error
    return _parts_of(transform, name)


def _check_hdf5(path: str) -> None:
    """Raise :class:`ValueError` if reading a file ends the process, as damaged HDF5 does in ITK."""
    code = "import sys, SimpleITK; SimpleITK.ReadTransform(sys.argv[1])"
    command = [sys.executable, "-c", code, os.path.abspath(path)]
    tried = subprocess.run(command, capture_output=True, check=False)
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1].strip() if said and tried.returncode > 0 else "it is damaged"
        raise ValueError(f"{why.rstrip('.')}; copy it again")


def _parts_of(transform: sitk.Transform, name: str) -> list[_Step]:
    if transform.GetDimension() != 3:
        raise RegistrationError(
            f"{name} is a transform of {transform.GetDimension()} dimensions; give one of three"
        )
    kind = transform.GetTransformEnum()
    if kind == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        count = composite.GetNumberOfTransforms()
        # in a composite of ITK the last one acts first
        parts = (composite.GetNthTransform(n) for n in reversed(range(count)))
        return [step for part in parts for step in _parts_of(part, name)]
    if kind == sitk.sitkDisplacementField:
        image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        vectors = sitk.GetArrayFromImage(image)
        return [_field(vectors, image.GetSpacing(), image.GetOrigin(), image.GetDirection(), name)]
    if not transform.IsLinear():
        raise RegistrationError(
            f"{name} contains a {transform.GetName()}, which is neither linear nor a displacement "
            "field; convert it with SimpleITK.TransformToDisplacementField"
        )
    matrix = np.eye(4)
    start = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, 3] = start
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - start
    return [check_affine(matrix, name)]


def _field(
    vectors: np.ndarray,
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: Sequence[float],
    name: str,
) -> _Field:
    if not np.isfinite(vectors).all():
        raise RegistrationError(
            f"{name} contains values that are not finite; write the field again"
        )
    physical = np.eye(4)
    physical[:3, :3] = np.array(direction).reshape(3, 3) * np.array(spacing)
    physical[:3, 3] = origin
    field_vectors = np.moveaxis(vectors, -1, 0)
    affine = _affine_of_field(field_vectors, physical)
    # what is left of the vectors: (affine - identity) of a voxel is affine in its indices
    rest = (affine - np.eye(4)) @ physical
    z, y, x = (np.arange(n) for n in field_vectors.shape[1:])
    left = np.empty(field_vectors.shape, np.float32)
    for vector, row, out in zip(field_vectors, rest, left):
        plane = row[0] * x + row[1] * y[:, None] + row[3]
        for n in z:
            out[n] = vector[n] - (plane + row[2] * n)
    return _Field(affine, left, np.linalg.inv(physical), float(min(spacing)))


def _affine_of_field(vectors: np.ndarray, physical: np.ndarray) -> np.ndarray:
    """Affine nearest to a field, by least squares over nodes that span it; 4 x 4, physical."""
    nodes = [np.unique(np.linspace(0, n - 1, 9).astype(int)) for n in vectors.shape[1:]]
    index = np.stack(np.meshgrid(*nodes, indexing="ij")).reshape(3, -1)
    points = _moved(physical, index[::-1])
    moved = points + vectors[(slice(None), *index)]
    known = np.column_stack([points.T, np.ones(points.shape[1])])
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(known, moved.T, rcond=None)[0].T
    return matrix


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    a, b, c = points
    return np.stack([row[0] * a + row[1] * b + row[2] * c + row[3] for row in matrix[:3]])


def _one_step(step: _Step, points: np.ndarray) -> np.ndarray:
    return step(points) if isinstance(step, _Field) else _moved(step, points)


def _point_map(steps: Sequence[_Step], first: np.ndarray, last: np.ndarray) -> PointMap:
    """Points (n, 3), um z y x, through all steps."""

    def there(points_um: np.ndarray) -> np.ndarray:
        out = np.empty((len(points_um), 3))
        for start in range(0, len(points_um), _CHUNK):
            points = _moved(first, np.asarray(points_um[start : start + _CHUNK], float).T)
            for step in steps:
                points = _one_step(step, points)
            out[start : start + _CHUNK] = _moved(last, points).T
        return out

    return there


def _sampled(
    there: PointMap, source: Frame, target: Frame, spacing_um: float, name: str
) -> Transform:
    """Transform that holds a map of points on a grid around the source, and its inverse."""
    low = np.array(source.origin_um) - np.array(source.spacing_um) / 2
    extent = np.array(source.extent_um)
    margin = _MARGIN * extent
    shape: tuple[int, int, int] = tuple(
        int(n) + 1 for n in np.maximum(2, np.ceil((extent + 2 * margin) / spacing_um))
    )
    frame = Frame(shape, (spacing_um,) * 3, tuple(low - margin), source.orientation)
    affine = _nearest_affine(there, source, name)
    back = np.linalg.inv(affine)
    forward = np.empty((3, *shape), np.float32)
    z, y, x = frame.axes_um()
    for n, height in enumerate(z):
        plane = np.stack(np.meshgrid([height], y, x, indexing="ij")).reshape(3, -1)
        forward[:, n] = (_moved(back, there(plane.T).T) - plane).reshape(3, *shape[1:])
    found = Transform(affine, frame, forward, np.zeros_like(forward), source, target)
    _check_folding(found, name)
    with cpu_threads(1), torch.no_grad():
        grid = SamplingGrid(shape, frame.spacing_um, frame.origin_um)
        displacement = torch.from_numpy(forward)
        inverse = inverse_displacement(grid, displacement, -displacement).numpy()
    return Transform(affine, frame, forward, inverse, source, target)


def _nearest_affine(there: PointMap, source: Frame, name: str) -> np.ndarray:
    """Least squares over the box of the source."""
    axes = [np.linspace(a[0], a[-1], 9) for a in source.axes_um()]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).T
    known = np.column_stack([points, np.ones(len(points))])
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(known, there(points), rcond=None)[0].T
    return check_affine(matrix, name)


# ---------------------------------------------------------------------- checks
def _outside_percent(steps: Sequence[_Step], first: np.ndarray, brain_um: np.ndarray) -> float:
    """Share of the brain that some field does not reach."""
    points = _moved(first, brain_um.T)
    outside = np.zeros(len(brain_um), bool)
    for step in steps:
        if isinstance(step, _Field):
            outside |= ~step.holds(points)
        points = _one_step(step, points)
    return 100 * float(outside.mean())


def _check_covered(percent: float, name: str, atlas: KnownAtlas) -> None:
    if percent > 100 * _MOST_OUTSIDE:
        raise RegistrationError(
            f"{name} does not reach {percent:.0f} % of the brain of {atlas.name}, whose points it "
            f"should map; check points_from, and that it was made with the template of {atlas.name}"
        )


def _in_box(transform: Transform) -> np.ndarray:
    """Jacobian determinants of phi within the box of the atlas."""
    jacobian = transform.jacobian()
    box = []
    for axis, limits in zip(transform.frame.axes_um(), zip(*_box(transform.atlas_frame))):
        inside = np.flatnonzero((axis >= limits[0]) & (axis <= limits[1]))
        box.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(None))
    return jacobian[tuple(box)]


def _box(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    low = np.array(frame.origin_um) - np.array(frame.spacing_um) / 2
    return low, low + np.array(frame.extent_um)


def _check_folding(transform: Transform, name: str) -> None:
    jacobian = _in_box(transform)
    least = float(jacobian.min())
    if least <= 0:
        raise RegistrationError(
            f"{name} folds: {100 * float((jacobian <= 0).mean()):.2g} % of it have a volume of "
            f"zero or less (least {least:.2g}), so points have no unique position; give a "
            "transform that can be inverted"
        )
