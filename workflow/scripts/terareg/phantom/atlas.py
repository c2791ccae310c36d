"""A procedural mouse-like brain: atlas and ontology.

Built from implicit shapes (ellipsoids, layers by depth, sheets for ventricles) that are mirrored at
the midline and divided into regions by warped Voronoi cells.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.core.errors import AtlasError
from terareg.core.frames import Frame
from terareg.phantom.fields import SplineField
from terareg.storage import nrrd
from terareg.storage.records import to_json

ATLAS_ORIENTATION = "RIP"
_SIZE_MM = (8.0, 5.8, 10.8)
_LARGE_ID = 614454277
_BLUR_UM = 35.0


# ------------------------------------------------------------------ ontology
@dataclass(frozen=True)
class PhantomStructure:
    """One node of the ontology; ``parts`` > 0 divides its volume per hemisphere into cells."""

    acronym: str
    name: str
    parent: str
    hue: float
    level: float = 0.0
    parts: int = 0


# acronym, name, parent, hue of the colour, template intensity, number of Voronoi parts
_TREE = (
    PhantomStructure("root", "Phantom brain", "", 0.0),
    PhantomStructure("grey", "Grey matter", "root", 0.55),
    PhantomStructure("CH", "Cerebrum", "grey", 0.30),
    PhantomStructure("CTX", "Cortex", "CH", 0.33),
    PhantomStructure("SPF", "Superficial cortex", "CTX", 0.35, 0.62, 11),
    PhantomStructure("DEP", "Deep cortex", "CTX", 0.40, 0.76, 9),
    PhantomStructure("HPF", "Hippocampal formation", "CH", 0.27, 0.66, 4),
    PhantomStructure("VCX", "Ventral cortex", "CH", 0.22, 0.70, 7),
    PhantomStructure("STR", "Striatum", "CH", 0.52, 0.86, 6),
    PhantomStructure("OB", "Olfactory bulb", "CH", 0.42),
    PhantomStructure("OBo", "Olfactory bulb, outer layer", "OB", 0.43, 0.92),
    PhantomStructure("OBi", "Olfactory bulb, inner layer", "OB", 0.46, 0.64),
    PhantomStructure("BS", "Brain stem", "grey", 0.97),
    PhantomStructure("TH", "Thalamus", "BS", 0.98, 0.58, 8),
    PhantomStructure("HY", "Hypothalamus", "BS", 0.02, 0.74, 5),
    PhantomStructure("MB", "Midbrain", "BS", 0.84, 0.68, 8),
    PhantomStructure("HB", "Hindbrain", "BS", 0.07),
    PhantomStructure("P", "Pons", "HB", 0.08, 0.55, 4),
    PhantomStructure("MY", "Medulla", "HB", 0.11, 0.60, 5),
    PhantomStructure("CB", "Cerebellum", "grey", 0.15),
    PhantomStructure("CBX", "Cerebellar cortex", "CB", 0.16, 0.84, 7),
    PhantomStructure("CBN", "Cerebellar nuclei", "CB", 0.13, 0.62),
    PhantomStructure("fiber", "Fibre tracts", "root", 0.6),
    PhantomStructure("cc", "Callosal white matter", "fiber", 0.61, 0.36),
    PhantomStructure("arb", "Arbor vitae", "fiber", 0.63, 0.40),
    PhantomStructure("VS", "Ventricular system", "root", 0.68),
    PhantomStructure("VL", "Lateral ventricle", "VS", 0.69, 0.14),
    PhantomStructure("V3", "Third ventricle", "VS", 0.71, 0.15),
    PhantomStructure("V4", "Fourth ventricle", "VS", 0.73, 0.16),
)


@dataclass(frozen=True)
class BrainSettings:
    """Settings of the phantom brain.

    Attributes
    ----------
    seed : int
        Seed of all random numbers.
    atlas_spacing_um : float
        Isotropic voxel size of the atlas files.
    smallest_region_mm3 : float
        Smallest region of a hemisphere; structures have fewer parts if necessary.
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
        Intensity 0..1, blurred.
    tissue : numpy.ndarray, float32 (z, y, x)
        The same before the blur.
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


def make_atlas(settings: BrainSettings) -> PhantomAtlas:
    """Build the atlas of a seed.

    Raises
    ------
    AtlasError
        If the grid is too coarse for a structure to appear at all.
    """
    rng = np.random.default_rng([settings.seed, 1])
    spacing_mm = settings.atlas_spacing_um / 1000
    shape: tuple[int, int, int] = tuple(round(s / spacing_mm / 2) * 2 for s in _SIZE_MM)
    frame = Frame(shape, (settings.atlas_spacing_um,) * 3, (0, 0, 0), ATLAS_ORIENTATION)
    structures = _paint_structures(frame, rng)
    annotation, ontology, level = _divide(structures, frame, settings, rng)
    tissue = _tissue(annotation, level, frame, rng)
    return PhantomAtlas(blurred(tissue, frame), tissue, annotation, frame, ontology)


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

    # coordinates below the centre of the cerebrum are scaled up, which flattens its ventral side
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
        # neighbouring parts should differ, so the factors are spread evenly, then shuffled
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
    """Voronoi cells of nearly equal size (Lloyd); the smallest is merged if below the limit."""
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
    # computed on one side and mirrored, because the other side could differ in the last bit
    axes[0] = axes[0][: len(axes[0]) // 2]
    extent = np.array(frame.extent_um) / 1000
    fine = SplineField.random(rng, extent, (0.28, 0.28, 0.28)).grid(axes)[0]
    coarse = SplineField.random(rng, extent, (1.1, 1.1, 1.1)).grid(axes)[0]
    depth = ndimage.distance_transform_edt(annotation > 0, frame.spacing_um) / 1000
    gradient = 1 + 0.08 * np.tanh(depth - 0.8)
    texture = 0.06 * fine + 0.05 * coarse
    image = level * (1 + np.concatenate([texture, texture[::-1]])) * gradient
    return np.clip(image, 0, 1.3).astype(np.float32)


def blurred(image: np.ndarray, frame: Frame) -> np.ndarray:
    """Blur of a microscope: contrast is formed first, then tissues mix within the focus."""
    return ndimage.gaussian_filter(image, _BLUR_UM / frame.spacing_um[0])


def write_atlas(atlas: PhantomAtlas, folder: Path) -> dict[str, str]:
    """Write ``template.nrrd`` (uint16), ``annotation.nrrd`` (uint32, mm) and ``ontology.json``.

    Returns the file names by role.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    template = np.rint(np.clip(atlas.template * 800, 0, 65535)).astype(np.uint16)
    nrrd.write_image(folder / "template.nrrd", template, atlas.frame)
    nrrd.write_image(folder / "annotation.nrrd", atlas.annotation, atlas.frame)
    (folder / "ontology.json").write_bytes(to_json(atlas.ontology))
    return {
        "template": "template.nrrd",
        "annotation": "annotation.nrrd",
        "ontology": "ontology.json",
    }
