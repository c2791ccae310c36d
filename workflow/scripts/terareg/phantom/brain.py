"""A procedural mouse-like brain: atlas, ontology, and a deformed sample with known truth.

The atlas is built from implicit shapes (ellipsoids, layers by depth, sheets for ventricles) that
are mirrored at the midline and divided into regions by warped Voronoi cells. The sample is a
function: its value at any point of the sample frame is computed from the atlas at the point's
true anatomical position, so blocks of any size agree and no volume is ever held whole.

Directions: ``Sample.to_atlas`` maps sample points to atlas points by an explicit formula,
``p = A^-1 x + d(x)`` with a two-scale B-spline displacement ``d``; ``Sample.to_sample`` is its
inverse, found by iteration to less than 0.01 um.
"""

from __future__ import annotations

import colorsys
import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.errors import AtlasError
from terareg.frames import Frame, orientation_matrix
from terareg.phantom.fields import SplineField
from terareg.storage.records import to_json

logger = logging.getLogger(__name__)

ATLAS_ORIENTATION = "RIP"
_SIZE_MM = (8.0, 5.8, 10.8)
_LARGE_ID = 614454277
_BLUR_UM = 35.0


# ------------------------------------------------------------------ ontology
@dataclass(frozen=True)
class Structure:
    """One node of the hierarchy; ``parts`` > 0 divides its volume per hemisphere into cells."""

    acronym: str
    name: str
    parent: str
    hue: float
    level: float = 0.0
    parts: int = 0


# acronym, name, parent, hue of the colour, template intensity, number of Voronoi parts
_TREE = (
    Structure("root", "Phantom brain", "", 0.0),
    Structure("grey", "Grey matter", "root", 0.55),
    Structure("CH", "Cerebrum", "grey", 0.30),
    Structure("CTX", "Cortex", "CH", 0.33),
    Structure("SPF", "Superficial cortex", "CTX", 0.35, 0.62, 11),
    Structure("DEP", "Deep cortex", "CTX", 0.40, 0.76, 9),
    Structure("HPF", "Hippocampal formation", "CH", 0.27, 0.66, 4),
    Structure("VCX", "Ventral cortex", "CH", 0.22, 0.70, 7),
    Structure("STR", "Striatum", "CH", 0.52, 0.86, 6),
    Structure("OB", "Olfactory bulb", "CH", 0.42),
    Structure("OBo", "Olfactory bulb, outer layer", "OB", 0.43, 0.92),
    Structure("OBi", "Olfactory bulb, inner layer", "OB", 0.46, 0.64),
    Structure("BS", "Brain stem", "grey", 0.97),
    Structure("TH", "Thalamus", "BS", 0.98, 0.58, 8),
    Structure("HY", "Hypothalamus", "BS", 0.02, 0.74, 5),
    Structure("MB", "Midbrain", "BS", 0.84, 0.68, 8),
    Structure("HB", "Hindbrain", "BS", 0.07),
    Structure("P", "Pons", "HB", 0.08, 0.55, 4),
    Structure("MY", "Medulla", "HB", 0.11, 0.60, 5),
    Structure("CB", "Cerebellum", "grey", 0.15),
    Structure("CBX", "Cerebellar cortex", "CB", 0.16, 0.84, 7),
    Structure("CBN", "Cerebellar nuclei", "CB", 0.13, 0.62),
    Structure("fiber", "Fibre tracts", "root", 0.6),
    Structure("cc", "Callosal white matter", "fiber", 0.61, 0.36),
    Structure("arb", "Arbor vitae", "fiber", 0.63, 0.40),
    Structure("VS", "Ventricular system", "root", 0.68),
    Structure("VL", "Lateral ventricle", "VS", 0.69, 0.14),
    Structure("V3", "Third ventricle", "VS", 0.71, 0.15),
    Structure("V4", "Fourth ventricle", "VS", 0.73, 0.16),
)


@dataclass(frozen=True)
class BrainSettings:
    """What the phantom brain is like.

    Attributes
    ----------
    seed : int
        Of every random number.
    atlas_spacing_um : float
        Isotropic voxel size of the atlas files.
    smallest_region_mm3 : float
        No region of a hemisphere is smaller; structures get fewer parts instead.
    """

    seed: int = 0
    atlas_spacing_um: float = 50.0
    smallest_region_mm3: float = 0.35


@dataclass(frozen=True)
class PhantomAtlas:
    """Atlas arrays and hierarchy.

    Attributes
    ----------
    template : numpy.ndarray, float32 (z, y, x)
        Intensity 0..1, seen with a blur.
    tissue : numpy.ndarray, float32 (z, y, x)
        The same before the blur: what a voxel is made of.
    annotation : numpy.ndarray, uint32 (z, y, x)
        Ids of leaf regions, 0 outside.
    frame : Frame
        Orientation ``RIP``, origin 0 at the centre of the first voxel.
    ontology : list of dict
        ``id, acronym, name, parent_id, color`` in depth-first order.
    """

    template: np.ndarray
    tissue: np.ndarray
    annotation: np.ndarray
    frame: Frame
    ontology: list[dict]

    def region_ids(self) -> np.ndarray:
        """Sorted ids that occur in the annotation, uint32, without 0."""
        ids = np.unique(self.annotation)
        return ids[ids > 0]

    def right_of_midline(self, atlas_um: np.ndarray) -> np.ndarray:
        """Whether points (..., 3) lie in the right hemisphere."""
        return np.asarray(atlas_um)[..., 0] > self.frame.centre_um[0]


def make_atlas(settings: BrainSettings) -> PhantomAtlas:
    """Build the atlas of a seed.

    Raises
    ------
    AtlasError
        If the grid is too coarse for a structure to appear at all.
    """
    rng = np.random.default_rng([settings.seed, 1])
    spacing_mm = settings.atlas_spacing_um / 1000
    shape = tuple(round(s / spacing_mm / 2) * 2 for s in _SIZE_MM)
    frame = Frame(shape, (settings.atlas_spacing_um,) * 3, (0, 0, 0), ATLAS_ORIENTATION)
    structures = _paint_structures(frame, rng)
    annotation, ontology, level = _divide(structures, frame, settings, rng)
    tissue = _tissue(annotation, level, frame, rng)
    return PhantomAtlas(_blurred(tissue, frame), tissue, annotation, frame, ontology)


def _anatomical_mm(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance to the right, anterior and superior of the centre, broadcastable, mm."""
    lr, si, ap = (a / 1000 - c / 1000 for a, c in zip(frame.axes_um(), frame.centre_um))
    return lr[:, None, None], -ap[None, None, :], -si[None, :, None]


def _ellipsoid(points, centre, radii) -> np.ndarray:
    """Level function: negative inside; roughly a distance in mm near the surface."""
    norm = np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii)))
    return (norm - 1) * min(radii)


def _paint_structures(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Index into _TREE of every voxel, int16, 0 outside the brain."""
    right, front, up = _anatomical_mm(frame)
    side = np.abs(right)
    # one smooth warp for both hemispheres, so that no surface is a plain ellipsoid
    extent = np.array(frame.extent_um) / 1000
    bend = SplineField.random(rng, extent, (1.6, 1.6, 1.6), components=3)
    offset = 0.13 * bend.grid(
        [np.abs(a / 1000 - c / 1000) if k == 0 else a / 1000
         for k, (a, c) in enumerate(zip(frame.axes_um(), frame.centre_um))]
    )  # fmt: skip
    side, front, up = side + offset[0] * np.tanh(side / 0.4), front + offset[2], up + offset[1]
    here = (side, front, up)

    # a flattened ventral side: heights below the cerebrum's centre count more
    cerebrum_up = np.where(up < 0.25, 0.25 + (up - 0.25) * 1.06, up)
    cerebrum = _ellipsoid((side, front, cerebrum_up), (1.1, -0.45, 0.2), (2.45, 3.45, 2.25))
    bulb = _ellipsoid(here, (0.62, 3.35, -0.15), (0.66, 1.3, 0.95))
    cerebellum = np.minimum(
        _ellipsoid(here, (1.1, -3.6, 0.75), (1.75, 1.0, 1.2)),
        _ellipsoid(here, (0.0, -3.65, 0.95), (0.95, 1.15, 1.35)),
    )
    stem = _ellipsoid(here, (0.0, -2.7, -1.05), (1.55, 2.2, 1.2))
    between = _ellipsoid(here, (0.0, -0.75, -0.45), (1.55, 1.75, 1.45))
    floor = _ellipsoid(here, (0.0, -0.55, -1.6), (1.25, 1.75, 0.95))
    tectum = _ellipsoid(here, (0.0, -2.45, -0.05), (1.5, 1.15, 1.35))

    index = {s.acronym: k for k, s in enumerate(_TREE)}
    paint = np.zeros(frame.shape, np.int16)

    def put(mask: np.ndarray, acronym: str) -> None:
        paint[mask] = index[acronym]

    put(bulb < 0, "OBo")
    put(bulb < -0.26, "OBi")
    put(stem < 0, "MY")
    put((stem < 0) & (front > -2.9), "P")
    put(floor < 0, "HY")
    inside = cerebrum < 0
    put(inside, "SPF")
    put(cerebrum < -0.42, "DEP")
    put(inside & (up < -0.75), "VCX")
    put((cerebrum < -0.9) & (up >= -0.75), "cc")
    core = cerebrum < -1.14
    put(core & (front > -0.9) & (up >= -0.95), "STR")
    put(core & (front <= -0.9) & (up >= -0.75), "HPF")
    put(tectum < 0, "MB")
    put((cerebellum < 0), "CBX")
    put((cerebellum < -0.5), "arb")
    put((cerebellum < -0.5) & (side > 0.55) & (up < 0.75), "CBN")
    put(between < 0, "TH")
    put((floor < 0) & (up < -1.05), "HY")
    # ventricles: a curved sheet in each hemisphere, slits on the midline
    sheet = np.abs(side - 1.05 - 0.25 * (front + 0.4) ** 2 * 0.3)
    put((sheet < 0.2) & (np.abs(front + 0.2) < 1.7) & (up > 0.1) & (up < 1.15) & core, "VL")
    put(
        (side < 0.16)
        & (np.abs(front + 0.7) < 1.3)
        & (up > -1.9)
        & (up < 0.55)
        & ((between < 0) | (floor < 0)),
        "V3",
    )
    put(_ellipsoid(here, (0.0, -3.7, -0.35), (0.85, 0.9, 0.36)) < 0, "V4")
    # the fissure between the hemispheres
    paint[(np.abs(right) < 0.09) & (up > 0.9) & (front > -2.2)] = 0
    return paint


def _divide(
    structures: np.ndarray, frame: Frame, settings: BrainSettings, rng: np.random.Generator
) -> tuple[np.ndarray, list[dict], np.ndarray]:
    """Voronoi parts, sparse ids; returns annotation, ontology, intensity per voxel."""
    voxel_mm3 = frame.voxel_volume_um3 / 1e9
    middle = frame.shape[0] // 2
    half = structures[middle:]
    wobble = SplineField.random(rng, np.array(frame.extent_um) / 1000, (0.9, 0.9, 0.9), 3)
    annotation_half = np.zeros(half.shape, np.uint32)
    level_half = np.zeros(half.shape, np.float32)
    taken: set[int] = {_LARGE_ID}
    nodes: list[dict] = []
    id_of: dict[str, int] = {}

    def new_id() -> int:
        while True:
            top = 10 ** rng.uniform(1.5, 3.2) if rng.random() < 0.6 else 6.0e8
            number = int(rng.integers(2, int(top) + 3))
            if number not in taken:
                taken.add(number)
                return number

    def add(acronym: str, name: str, parent: str, hue: float, shade: float) -> int:
        number = _LARGE_ID if acronym == "TH2" else new_id()
        rgb = colorsys.hsv_to_rgb(hue % 1, 0.35 + 0.4 * shade, 0.95 - 0.3 * shade)
        nodes.append(
            {
                "id": number,
                "acronym": acronym,
                "name": name,
                "parent_id": id_of.get(parent, ""),
                "color": "".join(f"{round(255 * c):02X}" for c in rgb),
            }
        )
        id_of[acronym] = number
        return number

    for index, structure in enumerate(_TREE):
        number = add(structure.acronym, structure.name, structure.parent, structure.hue, 0.5)
        if structure.level == 0:
            continue
        voxels = np.argwhere(half == index)
        volume = len(voxels) * voxel_mm3
        if volume < settings.smallest_region_mm3:
            raise AtlasError(
                f"phantom structure {structure.acronym} has {volume:.2f} mm3 per hemisphere at "
                f"{settings.atlas_spacing_um:g} um, less than {settings.smallest_region_mm3:g}; "
                "choose another seed or a finer atlas"
            )
        where = tuple(voxels.T)
        parts = max(1, min(structure.parts, int(volume / (2 * settings.smallest_region_mm3))))
        if parts == 1:
            annotation_half[where] = number
            level_half[where] = structure.level * (1 + 0.04 * rng.standard_normal())
            continue
        coords_um = frame.to_um(voxels + np.array([middle, 0, 0]))
        cells = _voronoi(
            coords_um / 1000 + 0.2 * wobble.points(coords_um / 1000).T,
            parts,
            settings.smallest_region_mm3 / voxel_mm3,
            rng,
        )
        # neighbouring parts should differ: spread the factors evenly, then shuffle
        factors = rng.permutation(np.linspace(-0.28, 0.28, parts)) + 0.01 * rng.standard_normal(
            parts
        )
        for part in range(parts):
            child = add(
                f"{structure.acronym}{part + 1}",
                f"{structure.name}, part {part + 1}",
                structure.acronym,
                structure.hue + 0.03 * (part / parts - 0.5),
                part / parts,
            )
            mine = tuple(voxels[cells == part].T)
            annotation_half[mine] = child
            level_half[mine] = structure.level * (1 + factors[part])
    annotation = np.concatenate([annotation_half[::-1], annotation_half])
    level = np.concatenate([level_half[::-1], level_half])
    return annotation, nodes, level


def _voronoi(
    points: np.ndarray, parts: int, smallest: float, rng: np.random.Generator
) -> np.ndarray:
    """Lloyd's cells of nearly equal size; the smallest is merged away if it is below the limit."""
    while True:
        seeds = points[rng.choice(len(points), parts, replace=False)]
        for _ in range(12):
            cells = cKDTree(seeds).query(points)[1]
            seeds = np.stack(
                [
                    points[cells == k].mean(0) if np.any(cells == k) else seeds[k]
                    for k in range(parts)
                ]
            )
        cells = cKDTree(seeds).query(points)[1]
        if parts == 1 or np.bincount(cells, minlength=parts).min() >= smallest:
            return cells
        parts -= 1


def _tissue(annotation, level, frame, rng) -> np.ndarray:
    """Region intensities, mirrored texture, gradients; float32 in 0..1.3."""
    axes = [a / 1000 for a in frame.axes_um()]
    axes[0] = np.abs(axes[0] - frame.centre_um[0] / 1000)
    extent = np.array(frame.extent_um) / 1000
    fine = SplineField.random(rng, extent, (0.28, 0.28, 0.28)).grid(axes)[0]
    coarse = SplineField.random(rng, extent, (1.1, 1.1, 1.1)).grid(axes)[0]
    depth = ndimage.distance_transform_edt(annotation > 0, frame.spacing_um) / 1000
    gradient = 1 + 0.08 * np.tanh(depth - 0.8)
    image = level * (1 + 0.06 * fine + 0.05 * coarse) * gradient
    return np.clip(image, 0, 1.3).astype(np.float32)


def _blurred(image: np.ndarray, frame: Frame) -> np.ndarray:
    """What a microscope makes of it: contrast comes first, then tissues mix within its focus."""
    return ndimage.gaussian_filter(image, _BLUR_UM / frame.spacing_um[0])


def write_atlas(atlas: PhantomAtlas, folder: Path) -> dict[str, str]:
    """Write ``template.nrrd`` (uint16), ``annotation.nrrd`` (uint32, mm) and ``ontology.json``.

    Returns the file names by role.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    template = np.rint(np.clip(atlas.template * 800, 0, 65535)).astype(np.uint16)
    write_nrrd(folder / "template.nrrd", template, atlas.frame)
    write_nrrd(folder / "annotation.nrrd", atlas.annotation, atlas.frame)
    (folder / "ontology.json").write_bytes(to_json(atlas.ontology))
    return {
        "template": "template.nrrd",
        "annotation": "annotation.nrrd",
        "ontology": "ontology.json",
    }


def write_nrrd(path: Path, array: np.ndarray, frame: Frame) -> None:
    """Write a volume as NRRD with millimetres and identity direction, as ITK tools expect."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in frame.spacing_um[::-1]])
    image.SetOrigin([o / 1000 for o in frame.origin_um[::-1]])
    sitk.WriteImage(image, str(path), useCompression=True)


# ------------------------------------------------------------------ sample
@dataclass(frozen=True)
class SampleSettings:
    """How the sample differs from the atlas.

    Attributes
    ----------
    seed : int
        Of every random number.
    rotation_deg, scale, shift_um : float
        Rotation angle about a random axis; largest deviation of the scale from 1 along an axis;
        largest translation along an axis, micrometres.
    coarse_um, fine_um : float
        Root mean square displacement of the two scales, beyond an affine map, micrometres.
    coarse_spacing_um, fine_spacing_um : float
        Distance of the lattice nodes of the two scales.
    region_factor : float
        Standard deviation of the log intensity factor of a region.
    bias : float
        Standard deviation of the log bias field.
    texture : float
        Relative amplitude of the voxel-scale texture.
    cells : int
        Bright cells in channel 1.
    tissue_counts : tuple of float
        Intensity that template value 1 has in either channel.
    """

    seed: int = 0
    rotation_deg: float = 5.0
    scale: float = 0.04
    shift_um: float = 150.0
    coarse_um: float = 200.0
    fine_um: float = 50.0
    coarse_spacing_um: float = 2400.0
    fine_spacing_um: float = 1000.0
    region_factor: float = 0.06
    bias: float = 0.15
    texture: float = 0.15
    cells: int = 6000
    tissue_counts: tuple[float, float] = (5000.0, 3500.0)


_MEDIUM_COUNTS = 25.0


def _without_affine_part(field: SplineField, extent: np.ndarray, size: float) -> SplineField:
    """Remove the best affine map over the middle of the volume; scale the rest to ``size`` rms.

    A cubic B-spline reproduces linear functions from their values at the nodes, so the affine part
    can be taken out of the nodes themselves, and pose and deformation stay two different things.
    """
    axes = [np.linspace(0, e, 25) for e in extent]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    middle = (((points / extent - 0.5) / 0.48) ** 2).sum(-1) < 1
    values = np.moveaxis(field.grid(axes), 0, -1)[middle]
    matrix = np.linalg.lstsq(_homogeneous(points[middle]), values, rcond=None)[0]
    nodes = [o + s * np.arange(n) for o, s, n in
             zip(field.origin, field.spacing, field.nodes.shape[1:])]  # fmt: skip
    places = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    affine = np.moveaxis(_homogeneous(places) @ matrix, -1, 0)
    rest = replace(field, nodes=(field.nodes - affine).astype(np.float32))
    values = np.moveaxis(rest.grid(axes), 0, -1)[middle]
    return rest.scaled(size / np.sqrt((values**2).sum(-1).mean()))


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


class Sample:
    """The deformed brain as a function of position, two channels.

    Parameters
    ----------
    atlas : PhantomAtlas
    frame : Frame
        Grid of the sample (origin 0 at the centre of the first voxel), with its orientation.
    settings : SampleSettings

    Notes
    -----
    ``sample.block(start, stop)`` gives float32 (2, z, y, x) counts above the camera's offset:
    tissue, texture, cells and bias, without anything that a microscope adds.
    """

    def __init__(self, atlas: PhantomAtlas, frame: Frame, settings: SampleSettings) -> None:
        self.atlas, self.frame, self.settings = atlas, frame, settings
        rng = np.random.default_rng([settings.seed, 2])
        self.affine = self._make_affine(rng)
        self._inverse_affine = np.linalg.inv(self.affine)
        extent = np.array(frame.extent_um)
        self._displacement = self._make_displacement(rng, extent)
        wide, middle = (2600.0,) * 3, (3000.0,) * 3
        self._contrast = SplineField.random(rng, extent, wide, 2)
        self._bias = SplineField.random(rng, extent, middle, 2).scaled(settings.bias)
        voxels = frame.shape
        self._texture = [
            SplineField.random(rng, voxels, (1.3, 1.8, 1.8), max_nodes=512),
            SplineField.random(rng, voxels, (1.3, 2.2, 2.2), max_nodes=512),
            SplineField.random(rng, voxels, (2.5, 7.0, 7.0)),
        ]
        self._images = self._make_images(rng)
        self._missing, self._artefact = self._make_damage(rng)
        self._ragged = SplineField.random(rng, extent, (420.0,) * 3)
        self._cells = self._make_cells(rng)

    # -------------------------------------------------------------- transform
    def _make_affine(self, rng: np.random.Generator) -> np.ndarray:
        s = self.settings
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        angle = np.deg2rad(s.rotation_deg)
        cross = np.cross(np.eye(3), axis)
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        scale = np.diag(1 + s.scale * rng.uniform(-1, 1, 3))
        matrix = (
            rotation
            @ scale
            @ orientation_matrix(self.atlas.frame.orientation, self.frame.orientation)
        )
        shift = s.shift_um * rng.uniform(-1, 1, 3)
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = self.frame.centre_um + shift - matrix @ self.atlas.frame.centre_um
        return affine

    def _make_displacement(self, rng, extent) -> tuple[SplineField, SplineField]:
        s = self.settings
        fields = tuple(
            _without_affine_part(SplineField.random(rng, extent, (spacing,) * 3, 3), extent, size)
            for spacing, size in (
                (s.coarse_spacing_um, s.coarse_um),
                (s.fine_spacing_um, s.fine_um),
            )
        )
        # keep clear of folding: the Jacobian of the map stays above 0.4 everywhere
        axes = [np.arange(0.0, e + 150, 150.0) for e in extent]
        inverse = self._inverse_affine[:3, :3]
        while True:
            total = sum(f.grid(axes) for f in fields).astype(float)
            gradient = np.stack(
                [np.stack(np.gradient(total[k], 150.0), -1) for k in range(3)], axis=-2
            )
            relative = np.linalg.det(inverse + gradient) / np.linalg.det(inverse)
            if relative.min() > 0.4:
                return fields
            fields = tuple(f.scaled(0.9) for f in fields)

    def to_atlas(self, sample_um: np.ndarray) -> np.ndarray:
        """Map points, shape (n, 3), sample micrometres to atlas micrometres."""
        points = np.asarray(sample_um, float)
        linear = points @ self._inverse_affine[:3, :3].T + self._inverse_affine[:3, 3]
        return linear + sum(f.points(points) for f in self._displacement).T

    def to_sample(self, atlas_um: np.ndarray) -> np.ndarray:
        """Map points, shape (n, 3), atlas micrometres to sample micrometres (inverse map)."""
        target = np.asarray(atlas_um, float)
        matrix, offset = self.affine[:3, :3], self.affine[:3, 3]
        points = target @ matrix.T + offset
        for _ in range(200):
            displacement = sum(f.points(points) for f in self._displacement).T
            step = (target - displacement) @ matrix.T + offset - points
            points = points + step
            if np.abs(step).max(initial=0) < 1e-3:
                return points
        raise AtlasError(
            "the phantom's deformation cannot be inverted by iteration; lower coarse_um or fine_um"
        )

    def atlas_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Atlas position of a grid of sample points, float32 (3, z, y, x), micrometres."""
        out = sum(f.grid(axes) for f in self._displacement)
        for row in range(3):
            for column, points in enumerate(axes):
                shape = [1, 1, 1]
                shape[column] = -1
                part = self._inverse_affine[row, column] * np.asarray(points, float)
                out[row] += part.reshape(shape).astype(np.float32)
            out[row] += np.float32(self._inverse_affine[row, 3])
        return out

    # -------------------------------------------------------------- appearance
    def _make_images(self, rng: np.random.Generator) -> np.ndarray:
        """Two looks of the atlas per channel, between which the sample varies in space."""
        ids, inverse = np.unique(self.atlas.annotation, return_inverse=True)
        t = self.atlas.tissue
        gate = np.clip((t - 0.2) / 0.15, 0, 1)
        gate = gate * gate * (3 - 2 * gate)
        looks = []
        for channel in range(2):
            factor = np.exp(self.settings.region_factor * rng.standard_normal(len(ids)))
            factor[ids == 0] = 1
            factor = factor[inverse].reshape(t.shape).astype(np.float32)
            direct = (t ** (0.9 if channel == 0 else 1.4)) * factor
            inverted = (gate * (1.38 - t) + (1 - gate) * 0.5 * t) * factor
            direct, inverted = (_blurred(look, self.atlas.frame) for look in (direct, inverted))
            looks += [direct, inverted] if channel == 0 else [inverted, direct]
        return np.stack(looks).astype(np.float32)

    def _make_damage(self, rng) -> tuple[tuple, tuple]:
        """Centre and radius (um, sample) of the missing patch and of the bright artefact."""
        centre = self.atlas.frame.centre_um
        side = rng.choice([-1, 1])
        missing = centre + 1000 * np.array([2.3 * side, -1.5, rng.uniform(0.2, 1.4)])
        artefact = centre + 1000 * np.array([-2.4 * side, rng.uniform(-0.6, 0.6), -0.8])
        points = self.to_sample(np.stack([missing, artefact]))
        return (points[0], rng.uniform(850, 1000)), (points[1], rng.uniform(350, 450))

    def _make_cells(self, rng: np.random.Generator) -> np.ndarray:
        """Rows z, y, x (voxels), amplitude (relative) of cells that lie in tissue."""
        count = self.settings.cells
        voxels = rng.uniform(0, 1, (8 * count, 3)) * np.array(self.frame.shape)
        points = self.frame.to_um(voxels)
        here = self.labels_at(points) > 0
        here &= ~self.damaged(points)
        voxels = voxels[here][:count]
        amplitude = rng.uniform(0.8, 3.0, len(voxels))
        cells = np.column_stack([voxels, amplitude])
        return cells[np.argsort(cells[:, 0], kind="stable")]

    def labels_at(self, sample_um: np.ndarray) -> np.ndarray:
        """True region ids at sample points (n, 3), uint32."""
        index = np.rint(self.atlas.frame.to_index(self.to_atlas(sample_um))).astype(int)
        return self._annotation_at(index.T)

    def labels_grid(self, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """True region ids (uint32) and right-hemisphere mask on a grid of sample points."""
        atlas_um = self.atlas_grid(axes)
        right = atlas_um[0] > self.atlas.frame.centre_um[0]
        spacing = np.array(self.atlas.frame.spacing_um, np.float32)[:, None, None, None]
        return self._annotation_at(np.rint(atlas_um / spacing).astype(np.int32)), right

    def _annotation_at(self, index) -> np.ndarray:
        shape = self.atlas.annotation.shape
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, shape)])
        clipped = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, shape))
        return np.where(inside, self.atlas.annotation[clipped], np.uint32(0))

    def bias_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Multiplicative bias field, float32 (2, z, y, x)."""
        return np.exp(self._bias.grid(axes))

    def damage_grid(self, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Missing tissue and artefact on a grid, float32 0..1 each (soft edges)."""
        soft = []
        ragged = self._ragged.grid(axes)[0]
        for (centre, radius), width in ((self._missing, 60.0), (self._artefact, 40.0)):
            squares = [(np.asarray(a, np.float32) - c) ** 2 for a, c in zip(axes, centre)]
            distance = np.sqrt(
                squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
            )
            distance += 0.12 * radius * ragged
            soft.append(np.clip((radius - distance) / width + 0.5, 0, 1).astype(np.float32))
        return soft[0], soft[1]

    def damaged(self, sample_um: np.ndarray) -> np.ndarray:
        """Whether points (n, 3) may lie in the missing patch or the artefact (with a margin)."""
        points = np.asarray(sample_um, float)
        out = np.zeros(len(points), bool)
        for centre, radius in (self._missing, self._artefact):
            out |= np.linalg.norm(points - centre, axis=1) < 1.35 * radius
        return out

    def block(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Counts above the dark offset of voxels ``start <= index < stop``, (2, z, y, x) float32.

        The block may reach beyond the frame.
        """
        voxels = [np.arange(a, b) for a, b in zip(start, stop)]
        axes = [v * s for v, s in zip(voxels, self.frame.spacing_um)]
        spacing = np.array(self.atlas.frame.spacing_um, np.float32)[:, None, None, None]
        index = self.atlas_grid(axes) / spacing
        looks = [
            ndimage.map_coordinates(image, index, order=1, mode="constant", output=np.float32)
            for image in self._images
        ]
        mix = 0.5 + 0.5 * np.tanh(1.8 * self._contrast.grid(axes) + 0.6)
        bias = self.bias_grid(axes)
        missing, artefact = self.damage_grid(axes)
        fine, other, blobs = (f.grid(voxels)[0] for f in self._texture)
        textures = (0.9 * fine + 0.4 * blobs, 0.65 * fine + 0.65 * other + 0.35 * blobs)
        cells = self._draw_cells(start, stop)
        out = np.empty((2, *missing.shape), np.float32)
        for channel in range(2):
            value = mix[channel] * looks[2 * channel] + (1 - mix[channel]) * looks[2 * channel + 1]
            value *= 1 - missing
            texture = np.clip(1 + self.settings.texture * textures[channel], 0.1, None)
            value *= texture
            if channel == 1:
                value += cells
            value += artefact * 2.6 * texture
            counts = self.settings.tissue_counts[channel]
            out[channel] = (value * counts + _MEDIUM_COUNTS) * bias[channel]
        return out

    def _draw_cells(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Gaussian cells, 0.7 planes and 1.1 pixels wide, in units of template intensity."""
        out = np.zeros([b - a for a, b in zip(start, stop)], np.float32)
        reach = np.array([3, 4, 4])
        near = np.all(
            (self._cells[:, :3] > np.array(start) - reach)
            & (self._cells[:, :3] < np.array(stop) + reach),
            axis=1,
        )
        for z, y, x, amplitude in self._cells[near]:
            window, profiles = [], []
            for centre, a, b, r, sd in zip((z, y, x), start, stop, reach, (0.7, 1.1, 1.1)):
                low, high = max(int(centre) - r, a), min(int(centre) + r + 1, b)
                window.append(slice(low - a, max(high, low) - a))
                offset = np.arange(low, max(high, low)) - centre
                profiles.append(np.exp(-0.5 * (offset / sd) ** 2))
            out[tuple(window)] += (
                amplitude
                * profiles[0][:, None, None]
                * profiles[1][None, :, None]
                * profiles[2][None, None, :]
            )
        return out


# ------------------------------------------------------------------ truth
@dataclass(frozen=True)
class TruthSettings:
    """What is written of the truth.

    Attributes
    ----------
    label_stride : tuple of int
        Every n-th voxel of the sample frame along (z, y, x) has a true label on file.
    volume_stride : tuple of int
        The same for counting region volumes.
    landmarks, fiducials : int
        Number of point pairs.
    """

    label_stride: tuple[int, int, int] = (2, 6, 6)
    volume_stride: tuple[int, int, int] = (1, 2, 2)
    landmarks: int = 2000
    fiducials: int = 24


def write_sample_truth(sample: Sample, folder: Path, settings: TruthSettings) -> dict:
    """Write what is known of the sample; returns the entries for ``truth.json``.

    ``labels.nrrd`` (uint32), ``tissue.nrrd`` (uint8: 0 outside, 1 tissue, 2 missing, 3 artefact)
    and ``bias_{channel}.nrrd`` (float32, multiplicative) lie on every n-th voxel of the sample
    frame, in millimetres; ``landmarks.csv`` holds point pairs; ``region_volumes.tsv`` volumes;
    ``affine.txt`` the 4 x 4 matrix from atlas to sample, micrometres, z y x.
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
    write_nrrd(folder / "labels.nrrd", labels, frame)
    write_nrrd(folder / "tissue.nrrd", tissue, frame)
    coarse = sample.frame.resampled((250.0,) * 3)
    bias = sample.bias_grid(coarse.axes_um())
    for channel in range(2):
        write_nrrd(folder / f"bias_ch{channel}.nrrd", bias[channel], coarse)
    _write_volumes(sample, folder / "region_volumes.tsv", settings.volume_stride)
    atlas_um, sample_um = _landmarks(sample, settings.landmarks)
    _write_pairs(folder / "landmarks.csv", atlas_um, sample_um)
    np.savetxt(folder / "affine.txt", sample.affine, fmt="%.9g")
    return {
        "atlas_frame": sample.atlas.frame.to_json(),
        "bias": ["bias_ch0.nrrd", "bias_ch1.nrrd"],
        "labels": "labels.nrrd",
        "label_stride": list(stride),
        "tissue": "tissue.nrrd",
        "landmarks": "landmarks.csv",
        "region_volumes": "region_volumes.tsv",
        "volume_stride": list(settings.volume_stride),
    }


def _write_volumes(sample: Sample, path: Path, stride: Sequence[int]) -> None:
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


def _landmarks(sample: Sample, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded atlas points in annotated tissue whose sample point lies in the frame, undamaged."""
    rng = np.random.default_rng([sample.settings.seed, 3])
    voxels = np.argwhere(sample.atlas.annotation > 0)
    chosen = voxels[rng.permutation(len(voxels))[: 2 * count]]
    atlas_um = sample.atlas.frame.to_um(chosen + rng.uniform(-0.5, 0.5, chosen.shape))
    sample_um = sample.to_sample(atlas_um)
    good = sample.frame.contains(sample_um) & ~sample.damaged(sample_um)
    return atlas_um[good][:count], sample_um[good][:count]


def _write_pairs(path: Path, atlas_um: np.ndarray, sample_um: np.ndarray) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([f"{w}_{a}_um" for w in ("atlas", "sample") for a in "zyx"])
        for pair in np.hstack([atlas_um, sample_um]):
            table.writerow([f"{v:.3f}" for v in pair])


def write_fiducials(sample: Sample, folder: Path, count: int) -> tuple[Path, Path]:
    """Write ``atlas.csv`` and ``sample.csv`` (name,z_um,y_um,x_um) of the same named points."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atlas_um, _ = _landmarks(sample, 2000)
    # far apart: start anywhere, then always take the point farthest from those taken
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
