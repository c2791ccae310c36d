"""Regions by quality: a torn, a stained, a swollen and a misfit region are found and named."""

import numpy as np
import pytest

from terareg.atlas.ontology import Ontology, Structure
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.regions.quality import (
    LIMITS,
    FitMaps,
    judged_sides,
    region_quality,
    volume_ratio_on,
)
from terareg.registration.transform import Transform

SHAPE = (8, 10, 24)
FRAME = Frame(SHAPE, (100.0, 50.0, 50.0), (1000.0, 0.0, -25.0), "SAR")
HUGE = 614454277
ONTOLOGY = Ontology(
    [Structure(1, "root", "Brain"), Structure(2, "A", "Region A", 1),
     Structure(HUGE, "B", "Region B", 1), Structure(4, "C", "Region C", 1)]
)  # fmt: skip


@pytest.fixture
def brain():
    """Labels in three slabs along x, two sides along y, and maps of a perfect registration."""
    labels = np.zeros(SHAPE, np.uint32)
    labels[..., 1:8], labels[..., 8:16], labels[..., 16:23] = 2, HUGE, 4
    sides = np.ones(SHAPE, np.uint8)
    sides[:, 5:] = 2
    ones, zeros = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    residual = np.random.default_rng(0).normal(0, 0.02, (2, *SHAPE)).astype(np.float32)
    return labels, sides, FitMaps(residual, ones, zeros, zeros.copy(), ones.copy())


def table(brain):
    labels, sides, maps = brain
    return region_quality(labels, sides, FRAME, maps, ONTOLOGY)


def test_nothing_is_found_where_nothing_is_wrong(brain):
    rows = table(brain)
    assert {(r["id"], r["hemisphere"]) for r in rows} == {
        (i, side) for i in (2, HUGE, 4) for side in ("left", "right")
    }
    assert max(r["score"] for r in rows) < 0.5
    left = next(r for r in rows if r["id"] == HUGE and r["hemisphere"] == "left")
    assert left["name"] == "Region B"
    assert left["volume_mm3"] == pytest.approx(8 * 5 * 8 * 0.1 * 0.05 * 0.05)
    assert left["volume_ratio"] == 1 and left["missing_percent"] == 0


@pytest.mark.parametrize("what", ["missing", "artefact", "fit", "volume"])
def test_the_spoilt_region_comes_first_with_its_reason_and_place(brain, what):
    labels, _, maps = brain
    spot = (slice(2, 6), slice(5, 9), slice(9, 14))
    if what == "fit":
        spot = (slice(None), slice(5, None), slice(8, 16))
        maps.residual[1][spot] -= 0.3
    elif what == "volume":
        maps.volume_ratio[spot] = 0.3
    else:
        getattr(maps, what)[spot] = 0.95
        maps.match[spot] = 0.05
    rows = table(brain)
    first = rows[0]
    assert (first["id"], first["hemisphere"], first["reason"]) == (HUGE, "right", what)
    assert first["score"] >= 1
    assert sum(r["score"] >= 1 for r in rows) == 1
    if what in ("missing", "artefact"):
        share = 100 * 0.95 * 80 / (8 * 5 * 8)
        assert first[f"{what}_percent"] == pytest.approx(share, rel=1e-3)
    index = FRAME.to_index(np.array([first[k] for k in ("z_um", "y_um", "x_um")]))
    assert all(s.start <= i < s.stop for s, i in zip(spot[1:], index[1:]) if s.stop)
    assert labels[tuple(np.rint(index).astype(int))] == HUGE


def test_a_region_without_match_has_no_fit_but_is_missing(brain):
    labels, _, maps = brain
    maps.missing[labels == 4] = 1
    maps.match[labels == 4] = 0
    rows = [r for r in table(brain) if r["id"] == 4]
    assert all(r["fit_percent"] is None and r["missing_percent"] == 100 for r in rows)
    assert all(r["score"] == pytest.approx(100 / LIMITS["missing_percent"]) for r in rows)


def test_small_regions_are_not_judged_and_none_at_all_is_an_error(brain):
    labels, sides, maps = brain
    labels[labels == 4] = 0
    labels[0, 0, 20:22] = 4
    assert {r["id"] for r in region_quality(labels, sides, FRAME, maps, ONTOLOGY)} == {2, HUGE}
    with pytest.raises(VolumeError, match="no region of the atlas has 20 voxels"):
        region_quality(labels * 0, sides, FRAME, maps, ONTOLOGY)


def test_volume_ratios_are_those_of_the_atlas_at_each_voxel():
    """The sample is the atlas moved by a known shift: a ramp of ratios moves along."""
    affine = np.eye(4)
    affine[:3, 3] = 1000.0, 0.0, 100.0
    atlas = Frame((20, 12, 30), (100.0, 50.0, 50.0), (-200.0, 0.0, -300.0), "SAR")
    transform = Transform.from_affine(affine, atlas, FRAME)
    ramp = np.broadcast_to(1 + atlas.axes_um()[2] / 1000, atlas.shape).astype(np.float32)
    found = volume_ratio_on(FRAME, transform, ramp, atlas)
    wanted = np.broadcast_to(1 + (FRAME.axes_um()[2] - 100) / 1000, SHAPE)
    assert np.abs(found - wanted).max() < 1e-5


def test_a_sliver_beyond_the_middle_plane_is_judged_with_its_region(brain):
    """Ids of one side each, as in atlases with left and right regions; the plane cuts off a row."""
    labels, sides, maps = brain
    labels[:, :6][labels[:, :6] == 2] = 5  # one sixth of region 5 lies beyond the plane
    ontology = Ontology([*ONTOLOGY, Structure(5, "D", "Region D left", 1)])
    maps.missing[:, 5][labels[:, 5] == 5] = 1
    rows = region_quality(labels, sides, FRAME, maps, ontology)
    found = {(r["id"], r["hemisphere"]): r for r in rows}
    assert (5, "right") not in found
    whole = found[5, "left"]
    assert whole["voxels"] == 8 * 6 * 7
    assert whole["volume_mm3"] == pytest.approx(whole["voxels"] * 0.1 * 0.05 * 0.05)
    assert whole["missing_percent"] == pytest.approx(100 / 6), "nothing of it is forgotten"
    assert all(r["score"] < 1 for r in rows)
    assert {(HUGE, "left"), (HUGE, "right"), (2, "right")} <= found.keys()


def test_only_slivers_change_sides():
    labels = np.repeat(np.array([[7, 7, 7, 7, 7, 7], [3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 4]]), 2, 1)
    sides = np.array([[1] * 10 + [2] * 2, [2] * 3 + [1] * 9, [1] * 11 + [0]], np.uint8)
    wanted = sides.copy()
    wanted[0] = 1
    assert np.array_equal(judged_sides(labels.astype(np.uint32), sides), wanted)
