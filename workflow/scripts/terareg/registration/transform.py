"""The transform between an atlas and a sample, in both directions, on points and on grids.

phi, a diffeomorphism of atlas space, is followed by the affine A::

    x_sample = A @ phi(x_atlas)            x_atlas = phi^-1(A^-1 @ x_sample)

Points are mapped forward. Images are pulled back with the inverse transform: the atlas image at the
sample voxel x is I(phi^-1(A^-1 x)). Every name says from where to where points are mapped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.storage import nrrd
from terareg.storage.records import read_json, write_json
from terareg.storage.store import write_atomic

PointMap = Callable[[np.ndarray], np.ndarray]

_NODES = 4  # per voxel of the deformation, along an axis: where fine grids are mapped exactly
_AFFINE_HEADER = (
    "# affine matrix, atlas micrometres -> sample micrometres, axis order z y x\n"
    "# x_sample = A @ phi(x_atlas); rows are z, y, x and the homogeneous row\n"
)


@dataclass(frozen=True)
class Transform:
    """Points of atlas space to points of sample space, and back.

    Attributes
    ----------
    affine : numpy.ndarray, float64, shape (4, 4)
        A, atlas um to sample um, axis order z, y, x, homogeneous.
    frame : Frame
        Grid of the deformation in atlas space, with a margin around the atlas.
    displacement : numpy.ndarray, float32, shape (3, z, y, x)
        phi(p) - p in um at the voxels of ``frame``, components z, y, x.
    inverse_displacement : numpy.ndarray, float32, shape (3, z, y, x)
        phi^-1(q) - q in um at the voxels of ``frame``.
    atlas_frame, sample_frame : Frame
        Working grids of the two images; grids of the exported displacement fields.
    velocity : numpy.ndarray, float32, optional
        v with phi = exp(v), shape (3, z, y, x), um per unit time, or (t, 3, z, y, x) for a
        flow of t steps in time.

    Notes
    -----
    Between voxels of ``frame`` displacements are interpolated linearly; outside they keep the
    value of the nearest face. Grids finer than a quarter of such a voxel are mapped at the nodes
    of a lattice of that spacing and interpolated linearly between them. Near the planes through
    voxel centres of ``frame``, where the slope of the displacement changes, this differs from the
    map of points by at most 3/16 of the second difference of the displacement (in the phantom brain
    0.03 um on average, 0.5 um at most).
    """

    affine: np.ndarray
    frame: Frame
    displacement: np.ndarray
    inverse_displacement: np.ndarray
    atlas_frame: Frame
    sample_frame: Frame
    velocity: np.ndarray | None = None

    def __post_init__(self) -> None:
        affine = check_affine(self.affine, "transform")
        object.__setattr__(self, "affine", affine)
        for name in ("displacement", "inverse_displacement"):
            value = np.ascontiguousarray(getattr(self, name), np.float32)
            words = name.replace("_", " ")
            if value.shape != (3, *self.frame.shape):
                raise RegistrationError(
                    f"{words} has shape {value.shape} but its grid needs "
                    f"{(3, *self.frame.shape)}; the files do not belong together"
                )
            if not np.isfinite(value).all():
                raise RegistrationError(
                    f"{words} holds values that are not numbers; run the registration again"
                )
            object.__setattr__(self, name, value)

    # ------------------------------------------------------------------ points
    def to_sample(self, points_um: np.ndarray) -> np.ndarray:
        """Map atlas points to sample points, A @ phi(p).

        Parameters
        ----------
        points_um : array_like, shape (n, 3)
            Micrometres, order z, y, x.

        Returns
        -------
        numpy.ndarray, float64, shape (n, 3)
        """
        p = _points(points_um)
        return _apply(self.affine, _displaced(self.displacement, self.frame, p)).T

    def to_atlas(self, points_um: np.ndarray) -> np.ndarray:
        """Map sample points to atlas points, phi^-1(A^-1 @ x); shapes as in :meth:`to_sample`."""
        q = _apply(np.linalg.inv(self.affine), _points(points_um))
        return _displaced(self.inverse_displacement, self.frame, q).T

    # ------------------------------------------------------------------ grids
    def to_atlas_grid(self, block: Frame) -> np.ndarray:
        """Atlas position of every voxel of a block of sample space.

        Parameters
        ----------
        block : Frame
            Any grid in sample space (micrometres of the sample), of any resolution.

        Returns
        -------
        numpy.ndarray, float32, shape (3, z, y, x)
            Atlas um, components z, y, x. The result of a block is bit-identical to the same voxels
            of the whole grid; working memory besides the result is bounded.
        """
        return _stacked(self.to_atlas_planes(block), block.shape)

    def to_atlas_planes(self, block: Frame) -> Iterator[np.ndarray]:
        """What :meth:`to_atlas_grid` returns plane by plane, float32 (3, y, x)."""
        return self._planes(block, np.linalg.inv(self.affine), None, self.inverse_displacement)

    def to_sample_grid(self, block: Frame) -> np.ndarray:
        """Sample position of every voxel of a block of atlas space, see :meth:`to_atlas_grid`."""
        return _stacked(self._planes(block, None, self.affine, self.displacement), block.shape)

    def _planes(
        self,
        block: Frame,
        before: np.ndarray | None,
        after: np.ndarray | None,
        displacement: np.ndarray,
    ) -> Iterator[np.ndarray]:
        step = min(self.frame.spacing_um) / _NODES
        if before is not None:
            step /= np.linalg.norm(before[:3, :3], axis=0).max()
        # axes rounded to a picometre, so that a block has exactly the positions of the whole grid
        z, y, x = (
            _Lattice.along(np.round(axis, 6), spacing, step)
            for axis, spacing in zip(block.axes_um(), block.spacing_um)
        )
        rows, columns = np.meshgrid(y.nodes, x.nodes, indexing="ij")

        def plane(node: int) -> np.ndarray:
            points = np.stack([np.full(rows.shape, z.nodes[node]), rows, columns]).reshape(3, -1)
            if before is not None:
                points = _apply(before, points)
            points = _displaced(displacement, self.frame, points)
            if after is not None:
                points = _apply(after, points)
            mapped = points.reshape(3, *rows.shape)
            if not x.exact:
                mapped = _between(mapped[..., x.below], mapped[..., x.below + 1], x.weights)
            if not y.exact:
                mapped = _between(mapped[:, y.below], mapped[:, y.below + 1], y.weights[:, None])
            return mapped

        if z.exact:
            yield from (plane(node).astype(np.float32) for node in range(len(z.nodes)))
            return
        held: dict[int, np.ndarray] = {}
        for low, weight in zip(z.below.tolist(), z.weights):
            held = {n: held[n] if n in held else plane(n) for n in (low, low + 1)}
            yield _between(held[low], held[low + 1], weight).astype(np.float32)

    # ------------------------------------------------------------------ quality
    def jacobian(self) -> np.ndarray:
        """Determinant of the derivative of phi on ``frame``, float32, without the affine.

        Above 1 phi expands the atlas locally; at or below 0 it would fold.
        """
        return jacobian_determinant(self.displacement, self.frame)

    def inverse_error_um(self) -> float:
        """Largest distance of phi^-1(phi(p)) from p over the voxels p of the atlas grid."""
        worst = 0.0
        z, y, x = self.atlas_frame.axes_um()
        for position in z:
            plane = np.stack(np.meshgrid([position], y, x, indexing="ij")).reshape(3, -1)
            there = _displaced(self.displacement, self.frame, plane)
            back = _displaced(self.inverse_displacement, self.frame, there)
            worst = max(worst, float(np.sqrt(((back - plane) ** 2).sum(0)).max()))
        return worst

    # ------------------------------------------------------------------ other tools
    def sample_to_atlas_displacement(self) -> np.ndarray:
        """phi^-1(A^-1 x) - x in um at the voxels x of ``sample_frame``, shape (3, z, y, x)."""
        place: np.ndarray = self.to_atlas_grid(self.sample_frame)
        place -= _positions(self.sample_frame)
        return place

    def atlas_to_sample_displacement(self) -> np.ndarray:
        """A phi(p) - p in um at the voxels p of ``atlas_frame``, shape (3, z, y, x)."""
        place: np.ndarray = self.to_sample_grid(self.atlas_frame)
        place -= _positions(self.atlas_frame)
        return place

    def itk_sample_to_atlas(self) -> sitk.Transform:
        """ITK composite (millimetres, x, y, z) that maps **sample points to atlas points**.

        ``SimpleITK.Resample(atlas, sample, ...)`` needs it to bring the atlas image onto the
        sample's grid. The displacement field is continued beyond its faces, so that the composite
        equals :meth:`to_atlas` everywhere in ``sample_frame``.
        """
        inverse = np.linalg.inv(self.affine)
        field = _itk_displacement(
            self.inverse_displacement, self.frame, _apply(inverse, _corners(self.sample_frame))
        )
        return sitk.CompositeTransform([field, _itk_affine(inverse)])

    def itk_atlas_to_sample(self) -> sitk.Transform:
        """ITK composite (millimetres, x, y, z) that maps **atlas points to sample points**.

        It resamples the image of the sample onto the grid of the atlas, and equals
        :meth:`to_sample` everywhere in ``atlas_frame``.
        """
        field = _itk_displacement(self.displacement, self.frame, _corners(self.atlas_frame))
        return sitk.CompositeTransform([_itk_affine(self.affine), field])

    # ------------------------------------------------------------------ inversion, composition
    def inverted(self) -> Transform:
        """The same transform with atlas and sample exchanged.

        Its ``to_sample`` is this one's ``to_atlas`` and vice versa. Its deformation,
        A phi^-1 A^-1, is sampled on a grid of sample space that is no coarser; within the box of
        ``frame`` the two transforms agree up to the error of linear interpolation.
        """
        stretch = np.linalg.norm(self.affine[:3, :3], axis=0)
        spacing = float((stretch * self.frame.spacing_um).min())
        box = _apply(self.affine, _corners(self.frame))
        frame = _frame_around(box, spacing, self.sample_frame.orientation)
        return _resampled(
            np.linalg.inv(self.affine), (self.to_atlas, self.to_sample), frame,
            (self.sample_frame, self.atlas_frame),
        )  # fmt: skip

    def then(self, second: Transform) -> Transform:
        """Composition: this transform, then another one whose atlas is this one's sample.

        ``first.then(second).to_sample(p)`` is ``second.to_sample(first.to_sample(p))``. With a
        common atlas, ``one.inverted().then(other)`` maps one sample to another.

        Parameters
        ----------
        second : Transform
            From the space of this one's sample to a third space.

        Returns
        -------
        Transform
            From this one's atlas to the second's sample, on a grid around both deformations that
            is no coarser than either; without velocity.
        """
        back = np.linalg.inv(self.affine)
        shrink = np.linalg.norm(back[:3, :3], axis=0)
        spacing = min(*self.frame.spacing_um, *(shrink * second.frame.spacing_um))
        box = np.concatenate([_corners(self.frame), _apply(back, _corners(second.frame))], axis=1)
        frame = _frame_around(box, spacing, self.frame.orientation)
        maps = (
            lambda points: second.to_sample(self.to_sample(points)),
            lambda points: self.to_atlas(second.to_atlas(points)),
        )
        return _resampled(
            second.affine @ self.affine, maps, frame, (self.atlas_frame, second.sample_frame)
        )

    # ------------------------------------------------------------------ files
    def save(self, folder: str | Path) -> None:
        """Write the transform into a folder.

        ``affine.txt`` (A, um), ``forward.nrrd`` and ``inverse.nrrd`` (displacements of phi and
        phi^-1), ``velocity.nrrd`` (if known), ``jacobian.nrrd``, ``transform.json`` (frames), and
        for other tools ``sample_to_atlas_displacement.nrrd`` (on the sample grid; ITK resamples
        the *atlas into the sample* with it) and ``atlas_to_sample_displacement.nrrd`` (on the
        atlas grid; resamples the *sample into the atlas*). Fields are in mm, components x, y, z.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_affine(folder / "affine.txt", self.affine)
        nrrd.write_field(folder / "forward.nrrd", self.displacement, self.frame)
        nrrd.write_field(folder / "inverse.nrrd", self.inverse_displacement, self.frame)
        if self.velocity is not None:
            nrrd.write_field(folder / "velocity.nrrd", self.velocity, self.frame)
        nrrd.write_scalar(folder / "jacobian.nrrd", self.jacobian(), self.frame)
        nrrd.write_field(
            folder / "sample_to_atlas_displacement.nrrd",
            self.sample_to_atlas_displacement(),
            self.sample_frame,
        )
        nrrd.write_field(
            folder / "atlas_to_sample_displacement.nrrd",
            self.atlas_to_sample_displacement(),
            self.atlas_frame,
        )
        frames = {
            "direction": "x_sample = affine @ phi(x_atlas); forward = phi - id, um, z y x",
            "frame": self.frame.to_json(),
            "atlas_frame": self.atlas_frame.to_json(),
            "sample_frame": self.sample_frame.to_json(),
        }
        write_json(folder / "transform.json", frames)

    @classmethod
    def load(cls, folder: str | Path) -> Transform:
        """Read what :meth:`save` wrote; needs affine, forward, inverse and transform.json."""
        folder = Path(folder)
        frames = read_json(folder / "transform.json")
        forward, _ = nrrd.read_field(folder / "forward.nrrd")
        inverse, _ = nrrd.read_field(folder / "inverse.nrrd")
        velocity = None
        if (folder / "velocity.nrrd").exists():
            velocity, _ = nrrd.read_field(folder / "velocity.nrrd")
        return cls(
            read_affine(folder / "affine.txt"),
            Frame.from_json(frames["frame"]),
            forward,
            inverse,
            Frame.from_json(frames["atlas_frame"]),
            Frame.from_json(frames["sample_frame"]),
            velocity,
        )

    @classmethod
    def from_affine(cls, affine: np.ndarray, atlas_frame: Frame, sample_frame: Frame) -> Transform:
        """Transform without deformation: phi is the identity."""
        frame = Frame(
            (2, 2, 2),
            tuple(max(e, s) for e, s in zip(atlas_frame.extent_um, atlas_frame.spacing_um)),
            atlas_frame.origin_um,
            atlas_frame.orientation,
        )
        zero = np.zeros((3, 2, 2, 2), np.float32)
        return cls(affine, frame, zero, zero, atlas_frame, sample_frame)


def check_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """Return a 4 x 4 float64 affine, or raise :class:`RegistrationError` saying what is wrong.

    Mirrored matrices (negative determinant) are allowed: array axes may be left-handed.
    """
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise RegistrationError(
            f"{name}: an affine of shape {matrix.shape} with every entry a number was expected as "
            "4 x 4; correct the file"
        )
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise RegistrationError(
            f"{name}: the last row of the affine is {matrix[3].tolist()} instead of 0 0 0 1; "
            "correct the file"
        )
    sizes = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if sizes[-1] <= 1e-6 * max(sizes[0], 1e-300):
        raise RegistrationError(
            f"{name}: the affine is singular (scales {sizes[0]:.3g} to {sizes[-1]:.3g}); "
            "give an invertible matrix"
        )
    return matrix


def write_affine(path: str | Path, affine: np.ndarray) -> None:
    """Write a 4 x 4 matrix (atlas um to sample um, z y x) as text that reads back exactly."""
    rows = "\n".join(" ".join(f"{value:.17g}" for value in row) for row in affine)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (_AFFINE_HEADER + rows + "\n").encode())


def read_affine(path: str | Path) -> np.ndarray:
    """Read a text file of 4 x 4 numbers; lines that start with # are comments."""
    try:
        matrix = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise RegistrationError(
            f"{path} cannot be read as a matrix ({error}); write four lines of four numbers, "
            "atlas um to sample um in order z y x"
        ) from error
    return check_affine(matrix, str(path))


def jacobian_determinant(displacement_um: np.ndarray, frame: Frame) -> np.ndarray:
    """Determinant of id + D u by central differences (one-sided at the faces), float32."""
    rows = [
        [
            np.gradient(component, frame.spacing_um[axis], axis=axis)
            if frame.shape[axis] > 1
            else np.zeros_like(component)
            for axis in range(3)
        ]
        for component in displacement_um
    ]
    for axis in range(3):
        rows[axis][axis] = rows[axis][axis] + 1.0
    (a, b, c), (d, e, f), (g, h, i) = rows
    determinant: np.ndarray = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return determinant.astype(np.float32)


@dataclass(frozen=True)
class _Lattice:
    """Nodes along an axis (um), and for every voxel the node below and the weight of the next."""

    nodes: np.ndarray
    below: np.ndarray
    weights: np.ndarray
    exact: bool = False  # the nodes are the voxels

    @classmethod
    def along(cls, axis_um: np.ndarray, spacing_um: float, step_um: float) -> _Lattice:
        """Nodes at multiples of a step, or at the voxels themselves if these are no finer."""
        if spacing_um >= step_um:
            return cls(axis_um, np.arange(len(axis_um)), np.zeros(len(axis_um)), exact=True)
        place = axis_um / step_um
        below = np.floor(place).astype(np.int64)
        first = int(below[0])
        nodes = step_um * np.arange(first, int(below[-1]) + 2)
        return cls(nodes, below - first, place - below)


def _stacked(planes: Iterator[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    out = np.empty((3, *shape), np.float32)
    for index, plane in enumerate(planes):
        out[:, index] = plane
    return out


def _between(low: np.ndarray, high: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    mixed: np.ndarray = high - low
    mixed *= weight
    mixed += low
    return mixed


def _points(points_um: np.ndarray) -> np.ndarray:
    points = np.asarray(points_um, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise RegistrationError(
            f"points have shape {points.shape}; give n rows of z, y, x in micrometres"
        )
    return points.T


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    # sums are written out, because a matrix product may round differently for other block sizes
    z, y, x = points
    return np.stack([row[0] * z + row[1] * y + row[2] * x + row[3] for row in matrix[:3]])


def _displaced(displacement: np.ndarray, frame: Frame, points: np.ndarray) -> np.ndarray:
    index = np.stack([(p - o) / s for p, o, s in zip(points, frame.origin_um, frame.spacing_um)])
    moved = np.array(points, copy=True)
    for axis in range(3):
        moved[axis] += ndimage.map_coordinates(
            displacement[axis], index, order=1, mode="nearest", output=np.float64
        )
    return moved


def _positions(frame: Frame) -> np.ndarray:
    return np.stack(np.meshgrid(*frame.axes_um(), indexing="ij")).astype(np.float32)


def _corners(frame: Frame) -> np.ndarray:
    """Outermost voxel centres widened to the outer faces, shape (3, 8)."""
    ends = [(-0.5, n - 0.5) for n in frame.shape]
    return frame.to_um(np.array(list(itertools.product(*ends)))).T


def _frame_around(points: np.ndarray, spacing_um: float, orientation: str) -> Frame:
    """Isotropic grid whose voxel centres enclose points, shape (3, n)."""
    low, high = points.min(1), points.max(1)
    shape: tuple[int, int, int] = tuple(
        int(n) + 1 for n in np.maximum(1, np.ceil((high - low) / spacing_um))
    )
    return Frame(shape, (spacing_um,) * 3, tuple(low), orientation)


def _resampled(
    affine: np.ndarray,
    maps: tuple[PointMap, PointMap],
    frame: Frame,
    frames: tuple[Frame, Frame],
) -> Transform:
    """Transform that represents two point maps, forward and inverse, (n, 3) to (n, 3)."""
    there, back = maps
    inverted = np.linalg.inv(affine)
    forward, inverse = (np.empty((3, *frame.shape), np.float32) for _ in maps)
    z, y, x = frame.axes_um()
    for n, height in enumerate(z):
        plane = np.stack(np.meshgrid([height], y, x, indexing="ij")).reshape(3, -1)
        shape = (3, *frame.shape[1:])
        forward[:, n] = (_apply(inverted, there(plane.T).T) - plane).reshape(shape)
        inverse[:, n] = (back(_apply(affine, plane).T).T - plane).reshape(shape)
    return Transform(affine, frame, forward, inverse, *frames)


def _itk_affine(matrix: np.ndarray) -> sitk.AffineTransform:
    flip = np.eye(3)[::-1]
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((flip @ matrix[:3, :3] @ flip).ravel().tolist())
    affine.SetTranslation((matrix[:3, 3][::-1] / 1000.0).tolist())
    return affine


def _itk_displacement(
    field_um: np.ndarray, frame: Frame, points: np.ndarray
) -> sitk.DisplacementFieldTransform:
    """ITK displacement field, extended so that it encloses points, shape (3, n).

    ITK has displacement 0 outside a field; here the values at the faces are continued.
    """
    index = frame.to_index(points.T)
    before = np.maximum(0, np.ceil(-index.min(0))).astype(int)
    after = np.maximum(0, np.ceil(index.max(0) - np.array(frame.shape) + 1)).astype(int)
    wider = frame.cropped(-before, np.array(frame.shape) + after)
    field_um = np.pad(field_um, [(0, 0), *zip(before, after)], mode="edge")
    return sitk.DisplacementFieldTransform(itk_vectors(field_um, wider, np.float64))


def itk_vectors(field_um: np.ndarray, frame: Frame, dtype: type) -> sitk.Image:
    """Field (3, z, y, x), components z, y, x in um, as an ITK image of vectors x, y, z in mm."""
    # rounded to a nanometre, because composites are written as text
    data: np.ndarray = np.moveaxis(field_um[::-1], 0, -1).astype(np.float64) / 1000
    data = np.round(data, 6).astype(dtype)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data), isVector=True)
    image.SetSpacing([s / 1000.0 for s in frame.spacing_um[::-1]])
    image.SetOrigin([o / 1000.0 for o in frame.origin_um[::-1]])
    return image
