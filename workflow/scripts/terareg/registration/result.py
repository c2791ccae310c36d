"""Result of a registration: transform, posteriors, contrast, energy table, summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from terareg.core.frames import Frame
from terareg.registration.contrast import CLASSES
from terareg.registration.transform import Transform
from terareg.storage import nrrd
from terareg.storage.records import write_json
from terareg.storage.store import write_atomic

ENERGY_COLUMNS = (
    "level", "voxel_um", "round", "evaluation", "match", "regularisation", "total", "sigma",
)  # fmt: skip


@dataclass(frozen=True)
class RegistrationResult:
    """Result of :func:`terareg.registration.emlddmm.register`.

    Attributes
    ----------
    transform : Transform
        Atlas to sample and back.
    posteriors : numpy.ndarray, float32, shape (3, z, y, x)
        Probability of match, artefact and missing at the voxels of ``transform.sample_frame``.
    contrast : numpy.ndarray, float32, shape (channels, terms, z, y, x)
        Coefficients of the contrast transform on ``contrast_frame``, for every channel of the
        sample.
    contrast_frame : Frame
        Grid of the coefficients, sample um.
    terms : list of str
        Terms that the coefficients multiply: "T2(I1)" is the second Chebyshev polynomial of the
        first image of the atlas, "fraction" the fraction of tissue in a voxel.
    predicted : numpy.ndarray, float32, shape (channels, z, y, x)
        Atlas in the position and contrast of the sample, on ``transform.sample_frame``, in units of
        the normalised sample.
    energy : list of dict
        One row per minimiser step, keys :data:`ENERGY_COLUMNS`, ``landmarks`` where there were
        any, and ``sigma_2``, ... of further channels.
    summary : dict
        Deterministic facts: ``stopped`` (reason), ``kept`` ("deformation" or "affine"), ``levels``
        (per level: voxel, velocity grid, evaluations, Jacobian range, energies), ``images`` (names
        on either side), ``mixture`` (by channel, and the shares of the classes in the
        sample's tissue), ``expected_tissue`` (the same shares in the tissue that the atlas expects
        in the sample: how much of it is missing),
        with regions ``unexplained`` and ``worse_regions`` (names of regions that differ from the
        prediction by more than noise, and of those that the affine alone explains better on blocks
        held back) and their share of the tissue, ``unexplained_percent`` and ``worse_percent``,
        ``held_back_gain`` and its standard error ``held_back_error`` (nats per voxel, see
        :mod:`terareg.registration.held_back`),
        ``scale`` (length of the sample over that of the atlas, by the affine) and ``scale_ratio``
        (of the axis with the largest to that with the smallest scale),
        ``match_affine`` and ``match_deformed`` (nats per tissue voxel), ``inverse_error_um``,
        ``warnings``; with landmarks ``landmarks`` (number, ``sigma_um``, mean distance in the
        sample after the affine alone and at the end) and ``landmark_um`` (distances by name).
    """

    transform: Transform
    posteriors: np.ndarray
    contrast: np.ndarray
    contrast_frame: Frame
    terms: list[str]
    predicted: np.ndarray
    energy: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write everything into a folder.

        Files of :meth:`terareg.registration.transform.Transform.save`, and ``posteriors.nrrd``
        (three components: match, artefact, missing), ``predicted.nrrd`` (a component for every
        channel), ``contrast.nrrd`` (the terms of the first channel, then those of the next) and
        ``contrast.json``, ``energy.tsv``, ``summary.json``.
        """
        folder = Path(folder)
        self.transform.save(folder)
        frame = self.transform.sample_frame
        nrrd.write_scalar(folder / "posteriors.nrrd", self.posteriors, frame)
        predicted = self.predicted[0] if len(self.predicted) == 1 else self.predicted
        nrrd.write_scalar(folder / "predicted.nrrd", predicted, frame)
        listed = self.contrast.reshape(-1, *self.contrast_frame.shape)
        nrrd.write_scalar(folder / "contrast.nrrd", listed, self.contrast_frame)
        basis = {
            "basis": "Chebyshev polynomials of t = 2 I / 1.2 - 1, I = normalised image of the "
            "atlas in 0..1.2; last the fraction of tissue in the voxel",
            "terms": self.terms,
            "images": self.summary.get("images", {}),
            "frame": self.contrast_frame.to_json(),
            "classes": list(CLASSES),
            "mixture": self.summary.get("mixture", {}),
        }
        write_json(folder / "contrast.json", basis)
        columns = list(self.energy[0]) if self.energy else ENERGY_COLUMNS
        lines = ["\t".join(columns)]
        lines += ["\t".join(_text(row[name]) for name in columns) for row in self.energy]
        write_atomic(folder / "energy.tsv", ("\n".join(lines) + "\n").encode())
        write_json(folder / "summary.json", self.summary)


def _text(value) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
