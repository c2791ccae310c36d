"""Meshes in cells: every level is closed once its cells are put together, and in its place."""

import itertools

import numpy as np
import pytest
from objects_helpers import TOP, ball, blocks_of, decoded, is_closed, together

from terareg.objects.multires import BITS, Cells, Detail, cells_of, decode_manifest, encode_object
from terareg.objects.simplify import simplified
from terareg.objects.surfaces import STEPS, block_surfaces, enclosed_volume


def details_of(mask, levels=3, spacing=(400.0, 300.0, 200.0)):
    """Details of a mask, finest first; spacing is that of z, y, x in nanometres."""
    (block,) = blocks_of(mask.shape, mask.shape)
    ((_, found),) = block_surfaces(mask.astype(np.uint32), block, mask.shape)
    vertices, faces = (found.vertices / STEPS + 0.5) * spacing, found.faces
    details = []
    for level in range(levels):
        vertices, faces = simplified(vertices, faces, 60.0 * 2**level)
        details.append(Detail(vertices[:, ::-1].copy(), faces, 200.0 * 2**level))
    return details


@pytest.mark.parametrize("triangles", [40, 300, 10**6])
def test_every_level_is_closed_of_the_right_volume_and_place(triangles):
    mask = ball(13, (32, 34, 36))
    # wider than half of its height, so that two cells are side by side along every axis
    details = details_of(mask, spacing=(400.0, 300.0, 260.0))
    cells = cells_of(details, triangles)
    manifest = decode_manifest(encode_object(details, cells)[0])
    levels = decoded(manifest, encode_object(details, cells)[1])
    assert [len(level) for level in levels] == sorted((len(v) for v in levels), reverse=True)
    assert len(levels[0]) == 1 if triangles > 1e5 else len(levels[0]) > 4
    for number, (level, detail) in enumerate(zip(levels, details)):
        points, faces = together(level)
        assert is_closed(faces)
        edge = manifest["chunk_shape"].astype(float) * 2**number / TOP
        place = points * edge + manifest["grid_origin"]
        wanted = enclosed_volume(detail.vertices_nm[:, ::-1], detail.faces)
        assert enclosed_volume(place[:, ::-1], faces) == pytest.approx(wanted, rel=1e-3)
        for end in (np.min, np.max):
            assert np.allclose(end(place, 0), end(detail.vertices_nm, 0), atol=edge.max())


def test_no_triangle_crosses_the_middle_of_a_cell_and_parents_are_there():
    details = details_of(ball(13, (32, 34, 36)))
    manifest, fragments = encode_object(details, cells_of(details, 40))
    levels = decoded(decode_manifest(manifest), fragments)
    half = 2 ** (BITS - 1)
    for level in levels[1:]:
        for _, steps, faces in level:
            corners = steps[faces]
            assert ((corners <= half).all(1) | (corners >= half).all(1)).all()
            assert steps.min() >= 0 and steps.max() <= TOP
    cells = [{tuple(c) for c in v} for v in decode_manifest(manifest)["fragment_positions"]]
    for fine, coarse in itertools.pairwise(cells):
        assert {(x // 2, y // 2, z // 2) for x, y, z in fine} <= coarse


def test_cells_are_in_the_order_of_the_z_curve():
    details = details_of(ball(13, (32, 34, 36)), levels=2)
    manifest, _ = encode_object(details, Cells((-5000.0,) * 3, (3000.0,) * 3))
    for cells in decode_manifest(manifest)["fragment_positions"]:
        bits = [(b, a) for b in range(8) for a in range(3)]
        codes = [sum(((c[a] >> b) & 1) << (3 * b + a) for b, a in bits) for c in cells.astype(int)]
        assert codes == sorted(set(codes)) and len(codes) > 4


def test_one_level_of_one_voxel():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    details = details_of(mask, levels=1)
    manifest, fragments = encode_object(details, cells_of(details, 1000))
    _, faces = together(decoded(decode_manifest(manifest), fragments)[0])
    assert is_closed(faces) and len(faces) >= 4
