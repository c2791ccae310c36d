"""The state of a registration between levels, as one npz file without pickle."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from terareg.storage.store import write_atomic

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """Everything that the next level needs, in the internal units of the registration.

    Attributes
    ----------
    inverse_affine : numpy.ndarray, float64, shape (3, 4)
        Sample to atlas, B = A^-1.
    level : int
        Levels done.
    first_inverse_affine : numpy.ndarray, optional
        B of the affine alone.
    velocity : numpy.ndarray, float32, shape (times, 3, z, y, x), optional
    sigma : sequence of float, optional
        Standard deviation of the match in every channel of the sample.
    levels : numpy.ndarray, float64, shape (channels, regions), optional
        Levels of the atlas's regions in the sample.
    held : numpy.ndarray, float32, shape (3, z, y, x), optional
        Posteriors of match, artefact and missing at the end of the first pass, on the part of the
        sample that the finest level uses.
    contrast : int
        Index of the contrast transform that was chosen, see
        :meth:`terareg.registration.schedule.Plan.contrasts`.
    stiffness : float
        Factor on the regularisation, above 1 if a deformation folded without it.
    energy, facts : list of dict
        Rows of the energy table and facts per level so far.
    """

    inverse_affine: np.ndarray
    level: int = 0
    first_inverse_affine: np.ndarray | None = None
    velocity: np.ndarray | None = None
    sigma: Sequence[float] | None = None
    levels: np.ndarray | None = None
    held: np.ndarray | None = None
    contrast: int = 0
    stiffness: float = 1.0
    energy: list[dict] = field(default_factory=list)
    facts: list[dict] = field(default_factory=list)

    @property
    def residual_um(self) -> float | None:
        """Correlation length of the residuals of the level before; None for the first."""
        return self.facts[-1]["residual_um"] if self.facts else None


def save(path: Path | None, fingerprint: str, state: State) -> None:
    """Write the state atomically; nothing happens without a path."""
    if path is None:
        return
    facts = {
        "fingerprint": fingerprint,
        "level": state.level,
        "sigma": state.sigma,
        "contrast": state.contrast,
        "stiffness": state.stiffness,
        "energy": state.energy,
        "facts": state.facts,
    }
    arrays: dict[str, Any] = {
        "inverse_affine": state.inverse_affine,
        "json": np.frombuffer(json.dumps(facts).encode(), "u1"),
    }
    if state.first_inverse_affine is not None:
        arrays["first_inverse_affine"] = state.first_inverse_affine
    if state.velocity is not None:
        arrays["velocity"] = state.velocity
    if state.levels is not None:
        arrays["levels"] = state.levels
    if state.held is not None:
        arrays["held"] = state.held
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def load(path: Path | None, fingerprint: str | None) -> State | None:
    """Read a state; None if there is none or it belongs to other images, settings or code.

    With the fingerprint None whatever lies there is read.
    """
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays["json"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        logger.warning("checkpoint %s cannot be read (%s); starting again", path, error)
        return None
    if fingerprint is not None and facts["fingerprint"] != fingerprint:
        logger.warning(
            "checkpoint %s belongs to other images, settings or code; starting again", path
        )
        return None
    if fingerprint is not None:
        logger.info("resuming at level %d from %s", facts["level"], path)
    return State(
        inverse_affine=arrays["inverse_affine"],
        level=facts["level"],
        first_inverse_affine=arrays.get("first_inverse_affine"),
        velocity=arrays.get("velocity"),
        sigma=facts["sigma"],
        levels=arrays.get("levels"),
        held=arrays.get("held"),
        contrast=facts["contrast"],
        stiffness=facts["stiffness"],
        energy=facts["energy"],
        facts=facts["facts"],
    )
