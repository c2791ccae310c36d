"""Tiles with a known profile, dark offset and tissue, as a stand-in for a tile source."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Scene:
    """What is imaged, and how."""

    seed: int = 0
    pixels: int = 80
    planes: int = 8
    rows: int = 3
    columns: int = 4
    empty: tuple[tuple[int, int], ...] = ((0, 0), (2, 3))
    overlap: float = 0.16
    jitter: int = 1
    vignetting: float = 0.35
    fixed_lines: float = 0.0  # relative, the same in every tile, constant along x
    stripes: float = 0.0  # relative, new in every tile
    drift: float = 0.02  # relative brightness of a tile
    bleaching: float = 0.0  # relative, by which every tile is darker than the last one, in rows
    fade: float = 0.0  # by which it changes, up or down, from the first plane to the last
    dark: float = 150.0
    medium: float = 30.0
    tissue: float = 2500.0
    glow: float = 0.0  # counts of stray light in a corner of the camera
    across: bool = False  # stripes are of columns instead of rows


class TruthSource:
    """Looks like a raw ``TileSource`` at the stage's positions.

    ``profile``, ``gains`` and ``fades`` (by row, column), ``scene.dark`` and ``origins`` (z, y, x
    by name) are the truth.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.bytes_read = 0
        rng = np.random.default_rng(scene.seed)
        self.profile = _profile(scene, rng)
        step = round(scene.pixels * (1 - scene.overlap))
        cells = [
            (row, column)
            for row in range(scene.rows)
            for column in range(scene.columns)
            if (row, column) not in scene.empty
        ]
        self.additive = scene.dark + scene.glow * _corner(scene.pixels)
        self.gains = {cell: 1 + scene.drift * rng.standard_normal() for cell in cells}
        for n, cell in enumerate(cells):
            self.gains[cell] *= (1 - scene.bleaching) ** n
        signs = np.random.default_rng([scene.seed, 1]).uniform(-1, 1, len(cells))
        self.fades = dict(zip(cells, scene.fade * signs))
        places = {cell: rng.integers(-scene.jitter, scene.jitter + 1, 2) for cell in cells}
        size = [
            step * (n - 1) + scene.pixels + 2 * scene.jitter for n in (scene.rows, scene.columns)
        ]
        self.data, self.origins = {}, {}
        brain = list(_brain(scene, size, rng))
        tiles = []
        for row, column in cells:
            name = f"LOC{column + row * scene.columns:03d}"
            y, x = (np.array((row, column)) * step + scene.jitter + places[row, column]).tolist()
            self.origins[name] = (0, y, x)
            stripes = ndimage.gaussian_filter1d(rng.standard_normal(scene.pixels), 1.5)
            stripes = 1 + scene.stripes * stripes / stripes.std()
            planes = []
            for z, plane in enumerate(brain):
                tissue = plane[y : y + scene.pixels, x : x + scene.pixels]
                lines = stripes[None] if scene.across else stripes[:, None]
                signal = tissue * self.profile * self.gain((row, column), z) * lines
                noise = rng.standard_normal(signal.shape) * np.sqrt(9 + 0.6 * signal)
                planes.append(np.clip(np.rint(self.additive + signal + noise), 0, 65535))
            self.data[name] = np.array(planes, np.uint16)
            origin = (0.0, float(row * step), float(column * step))
            tiles.append(SimpleNamespace(name=name, row=row, column=column, origin_vox=origin))
        self.acquisition = SimpleNamespace(
            tiles=tuple(tiles),
            tile_shape=(scene.planes, scene.pixels, scene.pixels),
            dtype="uint16",
            tile=lambda name: next(tile for tile in tiles if tile.name == name),
        )

    @property
    def names(self) -> list[str]:
        return [tile.name for tile in self.acquisition.tiles]

    def gain(self, cell: tuple[int, int], z: int) -> float:
        """Relative brightness of plane ``z`` of the tile in a cell."""
        return self.gains[cell] * (1 + self.fades[cell] * (z / max(1, self.scene.planes - 1) - 0.5))

    def blank(self, name: str, z: int = 0) -> np.ndarray:
        """A plane of a tile in which all of the tissue is as bright as ``scene.tissue``."""
        tile = self.acquisition.tile(name)
        gain = self.gain((tile.row, tile.column), z)
        return np.rint(self.scene.dark + self.scene.tissue * gain * self.profile).astype(np.uint16)

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        self.bytes_read += self.data[tile][z0:z1, y, x].nbytes
        return self.data[tile][z0:z1, y, x]


def profile_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square of estimate / truth - 1, percent, both scaled to mean 1."""
    ratio = (estimate / estimate.mean()) / (truth / truth.mean()) - 1
    return 100 * float(np.sqrt(np.mean(ratio**2)))


def _profile(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    y, x = np.meshgrid(*[np.linspace(-1, 1, scene.pixels)] * 2, indexing="ij")
    cy, cx = rng.uniform(-0.15, 0.15, 2)
    profile = 1 - scene.vignetting / 2 * ((y - cy) ** 2 + 0.9 * (x - cx) ** 2)
    lines = ndimage.gaussian_filter1d(rng.standard_normal(scene.pixels), 1.0)
    profile = profile * (1 + scene.fixed_lines * lines / lines.std())[:, None]
    return profile / profile.mean()


def _corner(pixels: int) -> np.ndarray:
    """A spot in a corner, 1 in its middle, and another at an edge."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, pixels)] * 2, indexing="ij")
    spots = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.25) for a, b in ((0.8, 0.8), (-0.2, -1))]
    return spots[0] + 0.5 * spots[1]


def _brain(scene: Scene, size: list[int], rng: np.random.Generator):
    """Planes of an ellipsoid of regions, bright in the middle, with texture; medium outside."""
    height, width = size
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    coarse = _smooth(rng, (scene.planes, height, width), (3, height / 12, height / 12))
    regions = 0.6 + 0.25 * np.sign(coarse) + 0.15 * np.sign(coarse - 0.8)
    texture = _smooth(rng, (scene.planes, height, width), (1, 1.3, 1.3))
    for plane in range(scene.planes):
        z = 1.6 * (plane + 0.5) / scene.planes - 0.8
        radius = np.sqrt((y / 0.92) ** 2 + (x / 0.92) ** 2 + z * z)
        inside = np.clip((1 - radius) * 15, 0, 1)
        bright = regions[plane] * np.clip(1 + 0.12 * texture[plane], 0.2, None) * (1.2 - radius)
        yield scene.medium + scene.tissue * inside * np.clip(bright, 0, None)


def _smooth(rng: np.random.Generator, shape: tuple, sigma: tuple) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return field / field.std()
