"""A generated acquisition with two sides: known tissue, known shift, known halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from terareg.phantom.colm import ColmSettings, from_array, place_tiles, write_colm
from terareg.phantom.demo import sample_config

SIDES = {"left": "-x", "right": "+x"}
SPACING_UM = (4.0, 2.0, 2.0)
_MARGIN = 12  # voxels around the tiles, so that a moved side has something to show there


@dataclass(frozen=True)
class TwoSides:
    """What the sides see.

    Attributes
    ----------
    shift_vox : tuple of float
        origin(right) - origin(left), (z, y, x).
    gain : float
        Brightness of the right side over that of the left.
    blur_px, dim : float
        At the far end of a side: sigma of the blur, and the share of its light that is lost.
    empty : tuple of (row, column)
        Cells that were never scanned.
    seed : int
    """

    shift_vox: tuple[float, float, float] = (1.0, -2.4, 3.3)
    gain: float = 0.7
    blur_px: float = 3.0
    dim: float = 0.5
    empty: tuple[tuple[int, int], ...] = ()
    seed: int = 0


def write_two_sides(folder: Path, settings: TwoSides, **colm) -> tuple[dict, np.ndarray, dict]:
    """Write ``raw/`` and ``truth/``; return configuration, tissue in the fused frame, and truth.

    Half of the volume that lies away from a side's light is blurred and dimmed, more and more.
    """
    own = ColmSettings(
        **{
            "rows": 2, "columns": 3, "tile_pixels": (128, 128), "planes": 24, "overlap": 0.2,
            "step_um": SPACING_UM[0], "jitter_vox": (1, 3, 3), "empty": settings.empty,
            "saturated_spots": 0, "stripes": 0.0, "seed": settings.seed, "names": "short",
            "counts_per_electron": 0.5, "drift_row_vox": (0, 0, 0), "drift_column_vox": (0, 0, 0),
        } | colm
    )  # fmt: skip
    shape = place_tiles(own).frame(own, "SAR").shape
    wide = tuple(n + 2 * _MARGIN for n in shape)
    tissue = _tissue(wide, settings.seed)
    inner = tuple(slice(_MARGIN, _MARGIN + n) for n in shape)
    seen = []
    for side in range(2):
        # voxel v of this side shows the tissue at v + shift
        image = tissue
        if side:
            image = ndimage.shift(tissue, [-s for s in settings.shift_vox], order=3)
        far = np.linspace(-1, 1, wide[2]) * (1 - 2 * side)
        far = np.clip(far, 0, 1).astype(np.float32)
        levels = [ndimage.gaussian_filter(image, (0, s, s)) for s in (0, settings.blur_px)]
        mixed = levels[0] + np.clip(2 * far, 0, 1) * (levels[1] - levels[0])
        seen.append(mixed * (1 - settings.dim * far) * (settings.gain if side else 1.0))
    volume = from_array(np.array([image[inner] for image in seen]))
    truth = write_colm(volume, folder / "raw", folder / "truth", own, tuple(SIDES), 0)
    config = sample_config(folder, "sides", "SAR", tuple(SIDES), SPACING_UM)
    config["input"]["sides"] = {"signal": dict(SIDES)}
    config["volume"] = {"chunk": 32, "block": 64}
    config["intensity"] = {"bias": {"enabled": False}}
    config["stitching"] = {"displacement": {"search_um": [12, 16, 16]}}
    return config, tissue[inner], truth


def _tissue(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Texture of several sizes about a slowly changing brightness, float32."""
    rng = np.random.default_rng([seed, 31])
    noise = rng.standard_normal(shape, dtype=np.float32)
    parts = [ndimage.gaussian_filter(noise, (0.6 * s, s, s)) for s in (1.2, 3.0, 12.0)]
    texture = sum(w * part / part.std() for w, part in zip((0.16, 0.12, 0.15), parts))
    result: np.ndarray = 3000 * np.clip(1 + texture, 0.1, None)
    return result.astype(np.float32)
