"""Plan of a registration: prepared images, resolutions, and the energy at each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.checkpoint import State
from terareg.registration.flow import Kernel
from terareg.registration.images import (
    Image,
    WorkingImage,
    correct_grid,
    crop_to_tissue,
    cut_faces,
    prepare,
    reduced,
    resample,
    soften_cut,
    tissue_fraction,
)
from terareg.registration.landmarks import Landmarks
from terareg.registration.problem import (
    Contrast,
    Held,
    ImageSet,
    LandmarkTerm,
    Model,
    Problem,
    Space,
    velocity_grid,
)
from terareg.registration.regions import Painter, Regions, tree_of
from terareg.registration.resolution import finest_voxel_um
from terareg.registration.search import presence
from terareg.registration.settings import RegistrationSettings
from terareg.storage.records import content_hash, fingerprint

# times that all levels are done if the atlas has regions
_PASSES = 3
# factor on the smallest sigma of the match at all levels but the last: residuals there are due to
# misplaced tissue, and a sigma that became as small as they do would freeze the first match found
# (deterministic annealing, Ueda & Nakano, Neural Netw. 11, 271, 1998)
ANNEALING = 3.0
# bounds of the kernel width, relative to the size of the atlas; between them, in the last pass, the
# width relative to the correlation length of the residuals (finer deformation would follow noise,
# or texture that only one side has); and the smallest width in voxels
_KERNELS = (0.1, 0.15)
_KERNEL_OF_RESIDUALS = 2.25
_KERNEL_VOXELS = 6
# logarithms of the ratio of the volumes of two brains: up to the first they are of one age and
# preparation; the second one beyond it, twice the energy of the deformation is expected
_SAME_SIZE = 0.2
_OTHER_SIZE = 0.3
_LOOSEST = 4.0
# share of a doubling that is forgiven in a ratio of lengths
_NEARLY = 0.05
# standard deviation of the contrast window relative to the size of the atlas, without and with
# regions, which leave less for the contrast to explain
_WINDOW = 0.15
_REGION_WINDOW = 0.05
# smallest standard deviation of that window, voxels of the finest level
_WINDOW_VOXELS = 2


@dataclass(frozen=True)
class Hints:
    """Prior information besides the images.

    Attributes
    ----------
    extent : str
        Part of the atlas that the sample shows: "whole", "left" or "right".
    landmarks : Landmarks, optional
        Points that are matched in addition to the images. Without them only the images are matched.
    regions : Regions, optional
        Annotation of the atlas on the grid of its images; shows where intensity may change.
    """

    extent: str = "whole"
    landmarks: Landmarks | None = None
    regions: Regions | None = None


class Plan:
    """Images, resolutions and energies of one registration.

    Parameters
    ----------
    atlas, sample : sequence of Image
        Images of the atlas, its template first, and channels of the sample; those of one side
        share a grid.
    settings : RegistrationSettings
    affine : numpy.ndarray, shape (4, 4)
        Start, atlas um to sample um.
    hints : Hints

    Attributes
    ----------
    names : dict of str to list of str
        Of the images on either side ("atlas", "sample").
    size : float
        Cube root of the atlas tissue's volume, um.
    voxels_um : list of float
        Working voxel of every level, coarse to fine, with regions in three passes. If the kernel of
        the last level is found from residuals, the others take no smaller voxels than it allows.
    passes : list of int
        Levels at which another pass begins; none without regions.
    doublings : list of int
        Of the kernel's width at every level, relative to that at the last.
    regularisation : float
        Weight of the energy of the deformation, see :func:`freedom`.
    fingerprint : str
        Hash of images, settings and start.
    """

    def __init__(
        self,
        atlas: Sequence[Image],
        sample: Sequence[Image],
        settings: RegistrationSettings,
        affine: np.ndarray,
        hints: Hints,
    ) -> None:
        if settings.missing_data_correction:
            sample = [_without_zeros(channel) for channel in sample]
        if settings.grid_correction:
            sample = [correct_grid(channel) for channel in sample]
        self.names = {"atlas": [i.name for i in atlas], "sample": [i.name for i in sample]}
        self.settings, self.affine = settings, affine
        self.regularisation = settings.regularisation / freedom(affine)
        self.extent, self.landmarks = hints.extent, hints.landmarks
        wanted = settings.regions == "auto"
        self.regions = check_regions(hints.regions, atlas[0]) if wanted else None
        self.annotated = atlas[0].frame
        self.tree = None if self.regions is None else tree_of(self.regions)
        self.device = choose_device(settings.device)

        def ready(image: Image) -> WorkingImage:
            return soften_cut(prepare(reduced(image, settings.resolution_um)))

        self.atlases, self.samples = (
            _joint([ready(image) for image in check_grids(side)]) for side in (atlas, sample)
        )
        self.atlas, self.sample = self.atlases[0], self.samples[0]
        self.fractions = tuple(
            replace(image, values=tissue_fraction(image)) for image in (self.atlas, self.sample)
        )
        self.warnings = [text for i in (*self.atlases, *self.samples) for text in i.warnings]
        self.cut = cut_faces(self.atlas)
        self.size = self.atlas.tissue_volume_um3 ** (1 / 3)
        self.space = Space(
            self.size / 10,
            self.atlas.tissue_centre_um,
            self.sample.tissue_centre_um,
            radius=5.0,
            device=self.device,
        )
        finest = max(
            settings.resolution_um or finest_voxel_um(self.size),
            min(self.atlas.frame.spacing_um),
            min(self.sample.frame.spacing_um),
        )
        count = settings.levels
        if count is None:
            count = 1 + max(0, round(math.log2(self.size / 20 / finest)))
        self.doublings = list(reversed(range(count)))
        # a first pass with the template alone gives the match from which levels of regions are
        # estimated, a second one better levels, from which a third begins
        passes = range(1, 1 if self.regions is None else _PASSES)
        self.passes = [count * number for number in passes]
        self.doublings += self.doublings * len(self.passes)
        self.voxels_um = [finest * 2**n for n in self.doublings]
        if settings.kernel_um is None:
            # only the last pass needs voxels that are small against the kernel
            spare = _KERNELS[1] * self.size / (_KERNEL_VOXELS * finest)
            enough = finest * 2 ** max(0, math.floor(math.log2(spare) + _NEARLY))
            self.voxels_um = [max(voxel, enough) for voxel in self.voxels_um]
            self.voxels_um.append(finest)
            self.doublings.append(0)
        self.fingerprint = fingerprint(
            {k: repr(v) for k, v in asdict(settings).items() if k != "device"},
            [content_hash(a) for i in self.atlases for a in (i.values, i.weight)],
            [content_hash(a) for i in self.samples for a in (i.values, i.weight)],
            [self.atlas.frame.to_json(), self.sample.frame.to_json()],
            [affine.tolist(), self.extent, str(self.device)],
            *([] if self.landmarks is None else [self.landmarks.to_json()]),
            *(
                []
                if self.regions is None
                else [
                    content_hash(self.regions.labels),
                    sorted((k, v or 0) for k, v in self.regions.parents.items()),
                ]
            ),
        )

    def kernel_um(self, level: int, residual_um: float | None) -> float:
        """Kernel width at a level; ``residual_um``: correlation length of the residuals before."""
        given, finest = self.settings.kernel_um, self.voxels_um[-1]
        narrowest, widest = (share * self.size for share in _KERNELS)
        last = level == len(self.voxels_um) - 1
        if last and given is None and residual_um is not None:
            followed = _KERNEL_OF_RESIDUALS * residual_um
            return min(max(followed, narrowest, _KERNEL_VOXELS * finest), widest)
        return (given or widest) * self.settings.kernel_continuation ** self.doublings[level]

    def contrasts(self) -> list[Contrast]:
        """Contrast transforms to choose from: the template alone, then with regions, stiff first.

        Stiff ones are preferred, because a flexible polynomial may fit misplaced tissue.
        """
        s, unit = self.settings, self.space.length
        local = max(_REGION_WINDOW * self.size, _WINDOW_VOXELS * self.voxels_um[-1])
        wide, narrow = (
            (s.contrast_window_um or length) / unit for length in (_WINDOW * self.size, local)
        )
        found = [Contrast((s.contrast_order,) * len(self.atlases), wide)]
        if self.regions is not None:
            painted = (1,) * len(self.samples)
            for order in sorted({min(1, s.contrast_order), s.contrast_order}):
                found.append(Contrast((order,) * len(self.atlases) + painted, narrow))
        return found

    def model(self, level: int, state: State) -> Model:
        """Settings of one level in internal units."""
        s, unit = self.settings, self.space.length
        coarser = len(self.voxels_um) - 1 - level
        kernel = self.kernel_um(level, state.residual_um) / unit
        velocity = s.velocity_um / unit if s.velocity_um else 0.45 * kernel
        return Model(
            kernel=Kernel((kernel,), (1.0,), s.kernel_power),
            velocity_spacing=velocity,
            times=1 if s.flow == "stationary" else s.time_steps,
            contrast=self.contrasts()[state.contrast],
            backward_order=self.contrasts()[state.contrast].orders[0],
            regularisation=self.regularisation * state.stiffness,
            affine=s.affine,
            prior=s.priors,
            sigma_floor=s.sigma_floor,
            annealing=ANNEALING if coarser else 1.0,
            # earlier levels need not be accurate
            symmetric=s.symmetric and not coarser,
            prior_window=0.06 * self.size / unit,
            landmarks=self._landmark_term(),
        )

    def _landmark_term(self) -> LandmarkTerm | None:
        marks, space = self.landmarks, self.space
        if marks is None:
            return None
        return LandmarkTerm(
            (marks.atlas_um - space.atlas_centre).T / space.length,
            (marks.sample_um - space.sample_centre).T / space.length,
            marks.sigma_um / space.length,
        )

    def start(self, state: State) -> np.ndarray:
        """B of the affine alone: from the affine stage, or as given."""
        if state.first_inverse_affine is None:
            return self.space.inverse_affine(self.affine)
        return state.first_inverse_affine

    def working(self, image: WorkingImage, voxel_um: float) -> WorkingImage:
        """Image at a level: as isotropic as the data allow, at least four voxels along an axis."""
        spacing = [
            min(max(voxel_um, s), max(s, e / 4))
            for s, e in zip(image.frame.spacing_um, image.frame.extent_um)
        ]
        return resample(image, spacing)

    def problem(
        self, level: int, state: State | None = None, **changes: Any
    ) -> tuple[Problem, WorkingImage]:
        """Energy at a level after ``state``, and the part of the sample that it uses.

        ``changes`` replace fields of the level's :class:`~terareg.registration.problem.Model`.
        """
        state = state or State(np.eye(4))
        voxel, model = self.voxels_um[level], replace(self.model(level, state), **changes)
        near = 0.15 * self.size
        atlas, sample = (
            [crop_to_tissue(self.working(image, voxel), near) for image in (*images, fraction)]
            for images, fraction in zip((self.atlases, self.samples), self.fractions)
        )
        margin = (self.settings.margin_um or 0.2 * self.size) / self.space.length
        # the box is computed from the atlas as given, so that it is the same at every level
        grid = velocity_grid(self.atlas, self.space, model.velocity_spacing, margin)
        painter = None
        if self.regions is not None:
            painter = Painter(self.regions, self.annotated, atlas[0], self.tree)
        sides = (ImageSet(tuple(atlas[:-1]), atlas[-1].values, painter, self.cut),
                 ImageSet(tuple(sample[:-1]), sample[-1].values))  # fmt: skip
        there = presence(atlas[0], self.extent)
        problem = Problem(*sides, there, self.space, model, grid)
        if state.contrast:
            problem.set_levels(state.levels)
        if state.held is not None:
            finest = crop_to_tissue(self.working(self.sample, self.voxels_um[-1]), near).frame
            problem.hold(Held(state.held, self.space.grid(finest, self.space.sample_centre)))
        return problem, sample[0]


def freedom(affine: np.ndarray) -> float:
    """Factor, 1 to 4, by which the energy of a deformation counts less than between equal brains.

    Brains of different size differ in shape too: a young brain is no small adult one, and tissue
    that shrinks or swells does not do so evenly. The expected energy grows with the square of the
    logarithm of the ratio of the volumes beyond a fifth.

    Parameters
    ----------
    affine : numpy.ndarray, shape (4, 4)
        Atlas to sample.
    """
    other = abs(math.log(abs(float(np.linalg.det(affine[:3, :3])))))
    return min(1 + (max(0.0, other - _SAME_SIZE) / _OTHER_SIZE) ** 2, _LOOSEST)


def check_grids(images: Sequence[Image]) -> Sequence[Image]:
    """Return the images unchanged, if there are any and all lie on one grid.

    Raises
    ------
    RegistrationError
        If there is none, one has another grid, or two have the same name.
    """
    if not images:
        raise RegistrationError(
            "there is no image to register; give at least one for the atlas and one for the sample"
        )
    first = images[0]
    for number, image in enumerate(images[1:], 1):
        if image.name in [earlier.name for earlier in images[:number]]:
            raise RegistrationError(
                f"{image.name} is given twice; give every image and channel once"
            )
        if not same_grid(first.frame, image.frame):
            raise RegistrationError(
                f"{image.name} has {image.frame.shape} voxels of {image.frame.spacing_um} um at "
                f"{image.frame.origin_um} but {first.name} has {first.frame.shape} of "
                f"{first.frame.spacing_um} um at {first.frame.origin_um}; images that are "
                "registered together need the same grid, so resample one of them"
            )
    return images


def check_regions(regions: Regions | None, template: Image) -> Regions | None:
    """Return the regions unchanged, if they lie on the template's grid."""
    if regions is not None and regions.labels.shape != template.frame.shape:
        raise RegistrationError(
            f"the annotation has {regions.labels.shape} voxels but {template.name} has "
            f"{template.frame.shape}; give the annotation on the grid of the template"
        )
    return regions


def same_grid(a: Frame, b: Frame) -> bool:
    """Whether voxels coincide to a thousandth of their size."""
    step = 1e-3 * np.array(a.spacing_um)
    return (
        (a.shape, a.orientation) == (b.shape, b.orientation)
        and bool(np.all(np.abs(np.subtract(a.origin_um, b.origin_um)) <= step))
        and bool(np.allclose(a.spacing_um, b.spacing_um, rtol=1e-6))
    )


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into a device; "cuda" without one is an error."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RegistrationError(
            "device is cuda but PyTorch finds no CUDA device; set device: auto or cpu"
        )
    wanted = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if wanted == "auto" else wanted)


def _joint(images: Sequence[WorkingImage]) -> tuple[WorkingImage, ...]:
    """The images with a common weight (data in all of them) and a common tissue mask (union)."""
    if len(images) == 1:
        return tuple(images)
    weight = np.minimum.reduce([image.weight for image in images])
    tissue = np.logical_or.reduce([image.tissue for image in images])
    return tuple(replace(image, weight=weight, tissue=tissue) for image in images)


def _without_zeros(sample: Image) -> Image:
    mask = np.ones(sample.data.shape, np.float32) if sample.mask is None else sample.mask
    return replace(sample, mask=mask * (sample.data != 0))
