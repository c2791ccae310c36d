"""Neighbouring tiles with known displacements, as arrays in memory."""

from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from terareg.stitching.displacement import measure_pair
from terareg.stitching.settings import DisplacementSettings

SPACING = (4.0, 2.0, 2.0)


SMALL = DisplacementSettings(search_um=(16.0, 16.0, 16.0), windows=4, window_planes=16)


def acquisition_of(rows, columns, size, step):
    """A full grid of tiles of ``size`` (z, y, x), ``step`` voxels apart along y and x."""
    tiles = tuple(
        SimpleNamespace(name=f"T{r}{c}", row=r, column=c, origin_vox=(0.0, r * step, c * step))
        for r in range(rows)
        for c in range(columns)
    )
    return SimpleNamespace(
        tiles=tiles, rows=rows, columns=columns, tile_shape=size, spacing_um=(2.0, 2.0, 2.0),
        overlap=(1 - step / size[1],) * 2,
    )  # fmt: skip


class Memory:
    """A tile source whose tiles are arrays."""

    def __init__(self, tiles):
        self.tiles = tiles
        self.asked = []

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        part = self.tiles[tile][z0:z1, y, x]
        assert part.size, "nothing asked for"
        self.asked.append(part.nbytes)
        return part


def texture(shape, seed, fine=1.5):
    """Blobs on a smooth background, positive, about 300 counts."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 8, mode="wrap")
    detail = ndimage.gaussian_filter(rng.standard_normal(shape), fine, mode="wrap")
    return 300 + 60 * smooth / smooth.std() + 60 * detail / detail.std()


def camera(image, seed, noise=6.0):
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(image + rng.normal(0, noise, image.shape)), 0, 65535).astype(np.uint16)


def cut(canvas, origin, shape):
    """A tile at a fractional origin, by a Fourier shift of the periodic canvas."""
    whole = np.floor(origin).astype(int)
    part = np.asarray(origin) - whole
    if np.any(part):
        spectrum = ndimage.fourier_shift(np.fft.fftn(canvas), -part)
        canvas = np.fft.ifftn(spectrum).real
    return canvas[tuple(slice(o, o + n) for o, n in zip(whole, shape))]


def grid(tiles, shape, step, rows=1, columns=2):
    """Acquisition stand-in; names are "r,c"."""
    listed = tuple(
        SimpleNamespace(
            name=f"{r},{c}", row=r, column=c, origin_vox=(0.0, r * step[0], c * step[1])
        )
        for r in range(rows)
        for c in range(columns)
        if f"{r},{c}" in tiles
    )
    return SimpleNamespace(
        tiles=listed, tile_shape=shape, spacing_um=SPACING, rows=rows, columns=columns
    )


def pair_of(true, direction="EAST", shape=(48, 96, 96), step=72.0, seed=1, **image):
    """Two overlapping tiles with independent noise, displaced by ``true`` from the nominal."""
    size = np.array(shape)
    size[2 if direction == "EAST" else 1] *= 2
    canvas = texture(tuple(size + 24), seed, **image)
    nominal = np.array([0, 0, step] if direction == "EAST" else [0, step, 0])
    first = np.array([10.0, 10.0, 10.0])
    a = cut(canvas, first, shape)
    b = cut(canvas, first + nominal + true, shape)
    names = ("0,0", "0,1") if direction == "EAST" else ("0,0", "1,0")
    return dict(zip(names, (a, b))), names, nominal + true


def measure(tiles, names, direction, settings=SMALL, step=72.0, shape=None):
    shape = shape or next(iter(tiles.values())).shape
    rows, columns = (1, 2) if direction == "EAST" else (2, 1)
    acquisition = grid(tiles, shape, (step, step), rows, columns)
    return measure_pair(Memory(tiles), acquisition, *names, direction, settings)
