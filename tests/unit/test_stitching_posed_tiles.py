"""Tiles as fusion finds them."""

from types import SimpleNamespace

import numpy as np

from terareg.stitching.channel_shift import ChannelShift
from terareg.stitching.placement import PlacedTile, Placement
from terareg.stitching.posed_tiles import posed_side, relative_origins
from terareg.volumes.fusion import FusionSettings

SHAPE = (5, 40, 50)
NODES = tuple(tuple((0.5,) * 3 for _ in range(3)) for _ in range(2))


def placed() -> Placement:
    """Two tiles, of which B is distorted within itself and C leans."""
    tiles = {
        "A": PlacedTile(0, 0, (0.4, 1.6, 2.2), (0, 2, 2), "linked", 2),
        "B": PlacedTile(0, 1, (0.6, 1.3, 42.7), (1, 1, 43), "linked", 2, field_vox=NODES),
        "C": PlacedTile(1, 0, (0.0, 33.0, 2.0), (0, 33, 2), "linked", 2, (0.0, 2.0, 0.0)),
    }
    return Placement(tiles)


def test_only_tiles_that_are_interpolated_anyway_keep_fractions():
    found = relative_origins(placed(), (0, 1, 2), FusionSettings())
    assert found == {"A": (0, 1, 0), "B": (1, 1.3 - 1, 42.7 - 2), "C": (0, 32, 0)}
    found = relative_origins(placed(), (0, 1, 2), FusionSettings(subpixel=True))
    assert found["A"] == (0.4, 1.6 - 1, 2.2 - 2) and found["B"] == (0.6, 1.3 - 1, 42.7 - 2)


def test_a_side_has_the_poses_of_its_own_tiles():
    tiles = [SimpleNamespace(name=name) for name in "BC"]
    source = SimpleNamespace(acquisition=SimpleNamespace(tiles=tiles, tile_shape=SHAPE))
    placement = placed()
    relative = relative_origins(placement, (0, 0, 0), FusionSettings())
    side = posed_side(source, placement, relative)
    assert side.source is source and set(side.origins) == {"B", "C"} and not side.growths
    assert side.origins["B"] == relative["B"] and set(side.warps) == {"B"}
    np.testing.assert_array_equal(side.warps["B"].nodes, NODES)
    assert set(side.matrices) == {"C"} and side.matrices["C"][1, 0] != 0
    shift = ChannelShift("ch1", "ch0", "given", shift_vox=(1.0, -2.0, 3.0))
    moved = posed_side(source, placement, relative, [shift])
    np.testing.assert_allclose(np.subtract(moved.origins["B"], side.origins["B"]), (1, -2, 3))
    assert moved.warps["B"].moved == (1.0, -2.0, 3.0)
