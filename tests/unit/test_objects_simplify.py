"""Simplified surfaces stay closed, near the original, and of its volume."""

import numpy as np
import pytest
from objects_helpers import ball, blocks_of, is_closed
from scipy import ndimage
from skimage.measure import marching_cubes

from terareg.objects.simplify import simplified, simplified_together
from terareg.objects.surfaces import STEPS, block_surfaces, enclosed_volume, with_volume


def surface(mask):
    (block,) = blocks_of(mask.shape, mask.shape)
    ((_, found),) = block_surfaces(mask.astype(np.uint32), block, mask.shape)
    return found.vertices / STEPS, found.faces


@pytest.mark.parametrize("radius", [6.0, 12.0])
def test_a_ball(radius):
    mask = ball(radius, (30, 30, 30))
    vertices, faces = surface(mask)
    fewer, triangles = simplified(vertices, faces, 0.4)
    assert len(triangles) < len(faces) / 4 and is_closed(triangles)
    assert len(fewer) - len(triangles) / 2 == 2, "not a sphere any more"
    assert np.abs(np.linalg.norm(fewer - 14.5, axis=1) - radius).max() < 1
    grown = with_volume(fewer, triangles, mask.sum())
    assert enclosed_volume(grown, triangles) == pytest.approx(mask.sum(), rel=0.005)
    assert np.abs(np.linalg.norm(grown - 14.5, axis=1) - radius).max() < 1


def test_a_box_needs_twelve_triangles():
    mask = np.zeros((14, 16, 18), bool)
    mask[2:12, 3:13, 4:14] = True
    # corners of voxels are cut by marching cubes, by less than the error
    vertices, faces = simplified(*surface(mask), 0.3)
    assert len(faces) == 12 and is_closed(faces)
    vertices = with_volume(vertices, faces, 1000)
    assert enclosed_volume(vertices, faces) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_stay_closed_and_keep_their_topology(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((26, 26, 26)), 1.5)
    mask = np.zeros(noise.shape, bool)
    mask[2:-2, 2:-2, 2:-2] = noise[2:-2, 2:-2, 2:-2] > np.median(noise)
    vertices, faces = surface(mask)
    fewer, triangles = simplified(vertices, faces, 0.5)
    assert len(triangles) < len(faces) / 2 and is_closed(triangles)
    assert len(fewer) - len(triangles) / 2 == len(vertices) - len(faces) / 2
    fewer = with_volume(fewer, triangles, mask.sum())
    assert enclosed_volume(fewer, triangles) == pytest.approx(mask.sum(), rel=0.02)


def test_many_surfaces_at_once_are_each_simplified():
    radii = (3, 5, 9, 4)
    surfaces = [surface(ball(r, (24, 24, 24))) for r in radii]
    for radius, (vertices, faces), (_, before) in zip(
        radii, simplified_together(surfaces, 0.3), surfaces
    ):
        assert is_closed(faces) and len(faces) < len(before) / 3
        assert np.array_equal(np.unique(faces), np.arange(len(vertices)))
        assert np.abs(np.linalg.norm(vertices - 11.5, axis=1) - radius).max() < 1
    assert simplified_together([], 0.3) == []


def test_fixed_vertices_and_borders_keep_their_place():
    mask = ball(9, (24, 24, 24))
    vertices, faces = surface(mask)
    half = faces[(vertices[faces][:, :, 0] <= 11.5).all(axis=1)]
    used = np.unique(half)
    vertices, half = vertices[used], np.searchsorted(used, half)
    rim = vertices[vertices[:, 0] == 11.5]
    fixed = np.zeros(len(vertices), bool)
    fixed[::50] = True
    fewer, triangles = simplified(vertices, half, 0.5, fixed)
    assert len(triangles) < len(half) / 3
    kept = {tuple(p) for p in np.round(fewer, 6)}
    assert {tuple(p) for p in np.round(np.concatenate([rim, vertices[fixed]]), 6)} <= kept


def test_place_and_unit_do_not_matter():
    """Digits that are lost far from the origin decide between equal edges, no more."""
    vertices, faces = surface(ball(7, (20, 20, 20)))
    small, triangles = simplified(vertices, faces, 0.4)
    large, same = simplified(vertices * 400 + 5e6, faces, 160)
    assert len(same) == pytest.approx(len(triangles), rel=0.1)
    volume = enclosed_volume((large - 5e6) / 400, same)
    assert volume == pytest.approx(enclosed_volume(small, triangles), rel=0.01)


def test_no_error_changes_nothing():
    vertices, faces, _, _ = marching_cubes(ball(4, (12, 12, 12)).astype(float), 0.5)
    fewer, triangles = simplified(vertices, faces, 0)
    assert np.array_equal(fewer, vertices) and np.array_equal(triangles, faces)


def test_triangles_without_extent_do_no_harm():
    """Vertices that were rounded onto a line leave such triangles."""
    vertices, faces = surface(ball(6, (18, 18, 18)))
    flat = np.where(vertices[:, :1] > 9, np.round(vertices / 2) * 2, vertices)
    fewer, triangles = simplified(flat, faces, 0.4)
    assert len(triangles) < len(faces) and is_closed(triangles)
    assert len(fewer) - len(triangles) / 2 == 2


def test_the_smallest_closed_surface_stays():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    _, faces = simplified(corners, tetrahedron, 100)
    assert np.array_equal(faces, tetrahedron)
    many = [(corners * size, tetrahedron) for size in (1, 2, 3)]
    assert [len(faces) for _, faces in simplified_together(many, 100)] == [4, 4, 4]
