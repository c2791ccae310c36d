"""Tiles that are distorted within themselves, in the volume."""

from types import SimpleNamespace

import numpy as np
import pytest

from terareg.core.errors import StitchingError
from terareg.volumes.fusion import FusionSettings, RowFusion, fused_pair
from terareg.volumes.growths import Growth
from terareg.volumes.plan import Frame, VolumeSettings, make_plan, rows_of
from terareg.volumes.sides import Side
from terareg.volumes.tile_boxes import affine_box
from terareg.volumes.warps import Warp, on_lattice, resample_warped

SHAPE = (6, 64, 72)


class Tiles:
    """Tiles in memory as a source."""

    planes_at_once = 64

    def __init__(self, arrays):
        tiles = tuple(
            SimpleNamespace(name=n, row=0, column=k) for k, n in enumerate(sorted(arrays))
        )
        self.arrays = arrays
        self.acquisition = SimpleNamespace(
            tiles=tiles, tile_shape=SHAPE, dtype="uint16", missing_planes="error"
        )

    def read(self, tile, z0, z1, y=slice(None), x=slice(None), out=None):
        data = self.arrays[tile][z0:z1, y, x]
        if out is None:
            return data.copy()
        out[...] = data
        return out

    def missing_planes(self, tile):
        return ()


def smooth(seed, sd=1.0):
    """A field of a few waves, as nodes."""
    y, x = np.meshgrid(np.linspace(0, 1, 17), np.linspace(0, 1, 17), indexing="ij")
    a, b, c, d = np.random.default_rng(seed).uniform(-3, 3, 4)
    nodes = np.stack([np.sin(a + 4 * y + 3 * x), np.cos(b - 3 * y + 5 * x)])
    nodes += 0.5 * np.stack([np.sin(c + 6 * x), np.cos(d + 6 * y)])
    return sd * (nodes - nodes.mean(axis=(1, 2), keepdims=True)) / nodes.std()


def scene(z, y, x):
    return 2000 + 30.0 * z + 400 * np.sin(0.15 * y + 0.02 * x) + 400 * np.cos(0.13 * x)


def tile(warp, origin):
    """What a tile shows of the scene."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    place = warp.bend(index.astype(float)) + origin
    return np.rint(scene(*place.T)).astype("uint16").reshape(SHAPE)


def test_bending_and_straightening_are_inverse():
    warp = Warp(smooth(1, 1.5), SHAPE[1:])
    index = np.random.default_rng(0).uniform(0, 1, (500, 3)) * (np.array(SHAPE) - 1)
    bent = warp.bend(index)
    assert np.abs(bent - index).max() > 2
    # a field this steep (a fifth of a pixel per pixel) has a kink at the edges of the tile
    found = np.transpose(warp.straighten(*bent.T))
    np.testing.assert_allclose(found, index, atol=0.05)
    assert np.median(np.abs(found - index)) < 1e-3
    corners = on_lattice(warp.nodes, SHAPE[1:], np.array([0, 63, 500]), np.array([0, 71, 500]))
    np.testing.assert_array_equal(corners[:, :2], warp.nodes[:, [0, -1], [0, -1]])
    np.testing.assert_array_equal(corners[:, 2], corners[:, 1])


def fused(source, warps, origins, longest, edges):
    plan = make_plan("v", Frame((6, 70, 130), (1.0,) * 3), "uint16", VolumeSettings(*edges))
    out = np.zeros(plan.frame.shape, "uint16")
    side = Side(source, origins, warps=warps)
    for row in rows_of(plan.blocks(), longest):
        layers = RowFusion([side], plan, row, FusionSettings(subpixel=True))
        for z in range(row[0].start[0], row[0].stop[0], 4):
            last = min(z + 4, row[0].stop[0])
            fill = layers(z, last)
            for block in row:
                box = tuple(slice(a, b) for a, b in zip(block.start[1:], block.stop[1:]))
                part = np.zeros((last - z, *block.shape[1:]), "uint16")
                fill(block, part)
                out[(slice(z, last), *box)] = part
    return out


def test_two_distorted_tiles_show_the_scene_as_it_is_whatever_the_blocks():
    origins = {"A": (0.0, 3.25, 2.5), "B": (0.0, 2.75, 54.4)}
    warps = {name: Warp(smooth(k), SHAPE[1:]) for k, name in enumerate(origins)}
    source = Tiles({name: tile(warps[name], origins[name]) for name in origins})
    expected = scene(*np.meshgrid(*map(np.arange, (6, 70, 130)), indexing="ij"))
    whole = fused(source, warps, origins, 99, (64, 256))
    there = whole > 0
    assert there.mean() > 0.75
    assert np.abs(whole[there] - expected[there]).mean() < 2.5
    straight = fused(source, {}, origins, 99, (64, 256))
    seen = there & (straight > 0)
    assert np.abs(straight[seen] - expected[seen]).mean() > 30
    for longest in (1, 99):
        np.testing.assert_array_equal(fused(source, warps, origins, longest, (16, 16)), whole)


def test_the_seam_of_two_distorted_tiles_is_shown_as_it_is_fused():
    origins = {"A": (0.0, 3.25, 2.5), "B": (0.0, 2.75, 54.4)}
    warps = {name: Warp(smooth(k), SHAPE[1:]) for k, name in enumerate(origins)}
    source = Tiles({name: tile(warps[name], origins[name]) for name in origins})
    settings = FusionSettings(subpixel=True)
    first, second = fused_pair(Side(source, origins, warps=warps), ("A", "B"), settings)
    assert first.shape == second.shape and min(first.shape) > 12
    assert np.abs(first - second).mean() < 5
    before, after = fused_pair(Side(source, origins), ("A", "B"), settings)
    assert np.abs(before - after).mean() > 30
    away = {"A": (0.0, 0.0, 0.0), "B": (0.0, 0.0, 80.0)}
    assert fused_pair(Side(source, away), ("A", "B"), settings) is None


@pytest.mark.parametrize("moved", [False, True])
def test_shapes_growth_and_another_channel_go_with_the_field(moved):
    bent = np.array([[1, 0, 0], [0, 1.01, 0.005], [0, -0.004, 0.99]]) if moved else None
    warp = Warp(smooth(3), SHAPE[1:], (0.0, 1.5, -2.25) if moved else (0.0,) * 3, bent)
    matrix = np.eye(3)
    matrix[1, 0], matrix[1, 1], matrix[2, 1] = 0.2, 1.01, -0.01
    growth = Growth((3.0, 40.0, 40.0), 0.004)
    origin = (1.0, 7.3, 5.6)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    place = growth.done(warp.bend(index.astype(float)) @ np.linalg.inv(matrix).T + origin)
    source = Tiles({"A": np.rint(scene(*place.T)).astype("uint16").reshape(SHAPE)})
    start, stop = affine_box("A", origin, matrix, SHAPE, growth, warp)
    ranges = list(zip(start, stop))
    found = resample_warped(source, "A", (origin, matrix, growth, warp), ranges)
    expected = scene(*np.meshgrid(*(np.arange(*r) for r in ranges), indexing="ij"))
    assert np.abs(found - expected).mean() < 2.5 and np.abs(found - expected).max() < 20
    part = [(low + 1, high - 2) for low, high in ranges]
    inner = tuple(slice(1, high - low - 2) for low, high in ranges)
    np.testing.assert_array_equal(
        resample_warped(source, "A", (origin, matrix, growth, warp), part), found[inner]
    )


def test_nothing_is_made_up_at_the_edges_and_a_field_larger_than_the_tile_is_an_error():
    nodes = np.zeros((2, 17, 17))
    nodes[0, 0, 8], nodes[1, 4, -1] = 2.5, -3.5
    warp = Warp(nodes, SHAPE[1:])
    assert affine_box("A", (0, 0, 0), np.eye(3), SHAPE, None, warp) == ((0, 3, 0), (6, 64, 68))
    nodes[0, 0] = 70
    with pytest.raises(StitchingError, match=r"tile A of .* fills no box"):
        affine_box("A", (0, 0, 0), np.eye(3), SHAPE, None, Warp(nodes, SHAPE[1:]))
