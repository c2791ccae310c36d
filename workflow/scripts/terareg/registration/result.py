"""What a registration leaves behind: transform, posteriors, contrast, energy table, summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from terareg.frames import Frame
from terareg.registration import fields
from terareg.registration.contrast import CLASSES
from terareg.registration.transform import Transform
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
    contrast : numpy.ndarray, float32, shape (order + 2, z, y, x)
        Chebyshev coefficients of the contrast transform on ``contrast_frame``, and last that of
        the fraction of tissue in a voxel.
    contrast_frame : Frame
        Grid of the coefficients, sample um.
    predicted : numpy.ndarray, float32, shape (z, y, x)
        Atlas in the sample's place and contrast, on ``transform.sample_frame``, in units of the
        normalised sample.
    energy : list of dict
        One row per minimiser step, keys :data:`ENERGY_COLUMNS`, and ``landmarks`` where there
        were any.
    summary : dict
        Deterministic facts: ``stopped`` (reason), ``kept`` ("deformation" or "affine"), ``levels``
        (per level: voxel, velocity grid, evaluations, Jacobian range, energies), ``mixture``,
        ``match_affine`` and ``match_deformed`` (nats per tissue voxel), ``inverse_error_um``,
        ``warnings``; with landmarks ``landmarks`` (how many, ``sigma_um``, mean distance in the
        sample after the affine alone and in the end) and ``landmark_um`` (distances by name).
    """

    transform: Transform
    posteriors: np.ndarray
    contrast: np.ndarray
    contrast_frame: Frame
    predicted: np.ndarray
    energy: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write everything into a folder.

        Files of :meth:`terareg.registration.transform.Transform.save`, and ``posteriors.nrrd``
        (three components: match, artefact, missing), ``predicted.nrrd``, ``contrast.nrrd`` and
        ``contrast.json``, ``energy.tsv``, ``summary.json``.
        """
        folder = Path(folder)
        self.transform.save(folder)
        frame = self.transform.sample_frame
        fields.write_scalar(folder / "posteriors.nrrd", self.posteriors, frame)
        fields.write_scalar(folder / "predicted.nrrd", self.predicted, frame)
        fields.write_scalar(folder / "contrast.nrrd", self.contrast, self.contrast_frame)
        basis = {
            "basis": "Chebyshev polynomials of t = 2 I / 1.2 - 1, I = normalised atlas in 0..1.2; "
            "last the fraction of tissue in the voxel",
            "order": len(self.contrast) - 2,
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
