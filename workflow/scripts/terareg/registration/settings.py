"""Options of a registration (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass

from terareg.core.errors import RegistrationError

FLOWS = ("stationary", "time_dependent")
AFFINES = ("affine", "rigid", "fixed")
DEVICES = ("auto", "cpu", "cuda")
REGIONS = ("auto", "none")


@dataclass(frozen=True)
class RegistrationSettings:
    """Options of :func:`terareg.registration.emlddmm.register`.

    Lengths left at None follow the atlas: its size is the cube root of its tissue volume (8 mm
    for an adult mouse brain), so that the same defaults serve any species and any unit.

    Attributes
    ----------
    resolution_um : float, optional
        Finest working voxel; None is size / 80 (100 um for the mouse). Never finer than the
        images themselves.
    levels : int, optional
        Number of resolutions, each twice as coarse as the next. None starts near size / 20. If
        ``kernel_um`` is None, a last pass at the finest follows; before it voxels are up to a sixth
        of the width of the kernel.
    flow : str
        "stationary" (one velocity, scaling and squaring) or "time_dependent".
    time_steps : int
        Number of velocities in unit time of the time-dependent flow.
    kernel_um : float, optional
        Width a of L = (1 - a^2 Laplacian)^power at the finest level. None is 0.15 of the
        size (1.2 mm) and then, in a last pass, 2.25 times the correlation length of the residuals,
        if that is less, but at least 0.1 of the size and six voxels.
    kernel_continuation : float
        Factor by which the kernel widens with every coarser level, at least 1; with 2 its width in
        voxels is the same at all levels.
    kernel_power : float
        Power p of L. Flows of finite energy are diffeomorphic above 5/4; a small power makes fine
        deformation cheaper relative to coarse deformation.
    velocity_um : float, optional
        Voxel of the velocity grid at the finest level; None is 0.45 of the kernel's width.
    margin_um : float, optional
        Room for the flow around the atlas tissue; None is size / 5.
    regularisation : float
        Weight of the flow's energy relative to the match term, dimensionless; larger is stiffer.
        Divided by up to 4 where the volumes of atlas and sample differ by more than a fifth, see
        :func:`terareg.registration.schedule.freedom`.
    affine : str
        "affine" (12 numbers), "rigid" (rotation and translation; keeps the initial scale), or
        "fixed".
    symmetric : bool
        At the last level the atlas is predicted from the sample as well; the directions are
        weighted by the noise of the images that they predict.
    contrast_order : int
        Degree of the polynomial that maps atlas to sample intensity. 1 is best if both were imaged
        in the same way: a higher degree can bend where the intensity fades at a sharp surface,
        which then lies up to a quarter of a voxel too far inside.
    contrast_window_um : float, optional
        Standard deviation of the window in which its coefficients are fitted; None is 0.15 of the
        size (1.2 mm). Infinity gives one polynomial for the whole brain.
    regions : str
        "auto": if the atlas has an annotation, every region has its own level in the sample in
        addition to the prediction from the template, see :mod:`terareg.registration.regions`;
        "none": the template alone.
    priors : tuple of float
        Expected shares of matching, artefact and missing voxels; sum 1.
    sigma_floor : float
        Smallest standard deviation of the match at the last level, in units of the bright
        tissue's intensity; three times that at the others.
    iterations : int
        Largest number of minimiser steps per level.
    tolerance : float
        A level ends when a round of eight steps lowers the energy by less (nats per tissue voxel).
    missing_data_correction : bool
        Sample voxels that are exactly 0 hold no data.
    grid_correction : bool
        Divide the sample by its column pattern (stitching grid), see images.correct_grid.
    device : str
        "auto" (CUDA where there is one), "cpu" or "cuda".
    threads : int
        CPU threads of PyTorch. The result is reproducible bit by bit for the same number.
    """

    resolution_um: float | None = None
    levels: int | None = None
    flow: str = "stationary"
    time_steps: int = 5
    kernel_um: float | None = None
    kernel_continuation: float = 2.0
    kernel_power: float = 1.5
    velocity_um: float | None = None
    margin_um: float | None = None
    regularisation: float = 0.012
    affine: str = "affine"
    symmetric: bool = True
    contrast_order: int = 3
    contrast_window_um: float | None = None
    regions: str = "auto"
    priors: tuple[float, float, float] = (0.79, 0.01, 0.2)
    sigma_floor: float = 0.04
    iterations: int = 80
    tolerance: float = 0.002
    missing_data_correction: bool = False
    grid_correction: bool = False
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("flow", FLOWS), ("affine", AFFINES), ("device", DEVICES), ("regions", REGIONS),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise RegistrationError(
                    f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}"
                )
        positive = ("resolution_um", "kernel_um", "velocity_um", "margin_um", "contrast_window_um")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RegistrationError(
                    f"{name} {value} is impossible; give a positive length in micrometres"
                )
        if not self.regularisation > 0:
            raise RegistrationError(
                f"regularisation {self.regularisation} is impossible; give a positive number "
                "(0.012 is the default, larger is stiffer)"
            )
        if not self.kernel_continuation >= 1:
            raise RegistrationError(
                f"kernel_continuation {self.kernel_continuation} is out of range; give at least 1"
            )
        if not 0 <= self.contrast_order <= 5:
            raise RegistrationError(
                f"contrast_order {self.contrast_order} is out of range; choose 0 to 5"
            )
        if len(self.priors) != 3 or min(self.priors) <= 0 or abs(sum(self.priors) - 1) > 1e-6:
            raise RegistrationError(
                f"priors {self.priors} are not probabilities; give three positive numbers (match, "
                "artefact, missing) that sum to 1"
            )
        for name, least in (("iterations", 1), ("time_steps", 2), ("threads", 1)):
            if getattr(self, name) < least:
                raise RegistrationError(
                    f"{name} {getattr(self, name)} is out of range; give at least {least}"
                )
        if self.levels is not None and not 1 <= self.levels <= 8:
            raise RegistrationError(f"levels {self.levels} is out of range; choose 1 to 8")
