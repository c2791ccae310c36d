"""A generated acquisition whose tiles are distorted within themselves: known scene and fields."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

SPACING_UM = (4.0, 2.0, 2.0)
_MARGIN = 12  # voxels of the scene around the tiles, which jitter and fields move into
_BACKGROUND = 100


@dataclass(frozen=True)
class Distorted:
    """What the microscope does.

    Attributes
    ----------
    grid : tuple of int
        Rows and columns.
    shape : tuple of int
        Voxels of a tile (z, y, x).
    step : int
        Pixels from one tile to the next.
    sd_vox, length_px : float
        Standard deviation of the distortion, and the sigma of the Gaussian that smooths it.
    jitter_vox : tuple of int
        Largest error of the stage (z, y, x).
    seed : int
    """

    grid: tuple[int, int] = (2, 2)
    shape: tuple[int, int, int] = (10, 256, 256)
    step: int = 196
    sd_vox: float = 1.2
    length_px: float = 40.0
    jitter_vox: tuple[int, int, int] = (1, 3, 3)
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """What there is to be seen.

    Attributes
    ----------
    image : numpy.ndarray, float32, (z, y, x)
    origins : dict
        Place (z, y, x) in it of the first voxel of every tile, if it were straight.
    """

    image: np.ndarray
    origins: dict[str, tuple[float, float, float]]


def write_distorted(folder: Path, settings: Distorted) -> tuple[dict, Scene]:
    """Write tiles as stacks with a table below ``folder``; return configuration and truth.

    Pixel (y, x) of a tile shows the scene at its origin and (y, x) plus its field there.
    """
    rng = np.random.default_rng([settings.seed, 7])
    depth, *size = settings.shape
    wide = [2 * _MARGIN + settings.step * (n - 1) + s for n, s in zip(settings.grid, size)]
    image = _texture((depth + 2 * settings.jitter_vox[0], *wide), rng)
    light = 1 - 0.3 * sum((np.linspace(-1, 1, n) ** 2).reshape(s)
                          for n, s in zip(size, ((-1, 1), (1, -1)))) / 2  # fmt: skip
    raw = folder / "raw"
    raw.mkdir(parents=True)
    lines, origins = ["path\tchannel\tx_um\ty_um"], {}
    for row, column in itertools.product(*map(range, settings.grid)):
        jitter = [int(rng.integers(-j, j + 1)) for j in settings.jitter_vox]
        start = np.add((settings.jitter_vox[0], _MARGIN, _MARGIN), jitter)
        start += (0, row * settings.step, column * settings.step)
        places = np.mgrid[: size[0], : size[1]] + start[1:, None, None]
        places = places + _field(size, settings, rng)
        planes = image[start[0] : start[0] + depth]
        seen = np.stack([ndimage.map_coordinates(p, places, order=3) for p in planes])
        seen = _BACKGROUND + light * seen + rng.normal(0, 20, seen.shape)
        name = f"{row}_{column}.tif"
        tifffile.imwrite(raw / name, np.clip(np.rint(seen), 0, 65535).astype(np.uint16),
                         photometric="minisblack")  # fmt: skip
        x, y = (n * settings.step * s for n, s in zip((column, row), SPACING_UM[:0:-1]))
        lines.append(f"{name}\t1\t{x}\t{y}")
        origins[name] = tuple(map(float, start))
    (raw / "tiles.tsv").write_text("\n".join([*lines, ""]))
    source = {
        "kind": "table", "path": str(raw), "table": "tiles.tsv", "channels": {"signal": 1},
        "spacing_um": list(SPACING_UM), "orientation": "SAR",
    }  # fmt: skip
    return {
        "sample": "bent", "input": source, "volume": {"chunk": 32, "block": 64},
        "intensity": {"bias": {"enabled": False}},
        "stitching": {"model": "elastic", "displacement": {"search_um": [8, 16, 16]}},
    }, Scene(image, origins)  # fmt: skip


def _field(size, settings: Distorted, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((2, *size))
    field: np.ndarray = ndimage.gaussian_filter(noise, (0, *[settings.length_px] * 2))
    field -= field.mean(axis=(1, 2), keepdims=True)
    return settings.sd_vox * field / field.std()


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Texture of several sizes about a slowly changing brightness, float32."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    parts = [ndimage.gaussian_filter(noise, (0.6 * s, s, s)) for s in (1.2, 3.0, 12.0)]
    texture = sum(w * part / part.std() for w, part in zip((0.16, 0.12, 0.15), parts))
    image: np.ndarray = 3000 * np.clip(1 + texture, 0.1, None)
    return image.astype(np.float32)
