"""Tiles that are distorted within themselves: fields are found, and only where there are any."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from seams import acquisition_of

from terareg.stitching.cells import CellGrid
from terareg.stitching.channel_shift import ChannelShift, channel_poses, channel_warps
from terareg.stitching.elastic import NODES, field_basis, interpolation, solve_elastic
from terareg.stitching.pairs import PairResult, SeamPoint, neighbours
from terareg.stitching.placement import load_placement, save_placement
from terareg.stitching.seam_tables import seam_table
from terareg.stitching.solver import place
from terareg.volumes.warps import on_lattice

SIZE = (60, 200, 200)
STEP = 165


class World:
    """Tiles with fields of smoothed noise, and what their seams would measure."""

    def __init__(self, acquisition, sd, smooth=40.0, seed=0):
        rng = np.random.default_rng(seed)
        self.acquisition = acquisition
        self.origins, self.fields = {}, {}
        for tile in acquisition.tiles:
            jitter = rng.uniform(-3, 3, 3)
            self.origins[tile.name] = np.array(tile.origin_vox) + jitter
            nodes = ndimage.gaussian_filter(
                rng.standard_normal((2, 160, 160)), (0, smooth / 2, smooth / 2), mode="wrap"
            )[:, :101, :101]
            nodes -= nodes.mean(axis=(1, 2), keepdims=True)
            self.fields[tile.name] = sd * nodes / nodes.std()

    def field(self, name, at):
        found = np.zeros_like(at)
        found[:, 1:] = on_lattice(self.fields[name], SIZE[1:], at[:, 1], at[:, 2]).T
        return found

    def shared(self, a, b, number, seed=0):
        """Indices of both tiles that show the same places."""
        rng = np.random.default_rng(seed)
        first = rng.uniform(0, 1, (number, 3)) * (np.array(SIZE) - 1)
        place = self.origins[a] + first + self.field(a, first)
        second = place - self.origins[b]
        for _ in range(20):
            second = place - self.origins[b] - self.field(b, second)
        inside = np.all((second >= 0) & (second <= np.array(SIZE) - 1), axis=1)
        return first[inside], second[inside]

    def pairs(self, noise=0.1, outliers=0, number=24):
        rng = np.random.default_rng(5)
        found = []
        for a, b, direction in neighbours(self.acquisition):
            first, second = (i[:number] for i in self.shared(a, b, 2000))
            displ = first - second + rng.normal(0, noise, first.shape)
            if outliers:
                displ[rng.choice(len(displ), outliers, replace=False)] += 4 * rng.choice((-1, 1), 3)
            points = tuple(SeamPoint(tuple(i), tuple(d)) for i, d in zip(first, displ))
            nominal = (0.0, 0.0, float(STEP)) if direction == "EAST" else (0.0, float(STEP), 0.0)
            found.append(
                PairResult(
                    a, b, direction, "ok", tuple(np.median(displ, axis=0)), (0.1,) * 3, 1.0, 0.8,
                    6, 6, nominal, (10, 20, 20), points=points, fall_vox=(2.5,) * 3,
                )
            )  # fmt: skip
        return found

    def misfit(self, placement):
        """Mean distance, over all seams, of the places at which two tiles show the same."""
        warps = placement.warps(SIZE)
        away = []
        for a, b, _ in neighbours(self.acquisition):
            places = [
                np.array(placement.tiles[name].origin_vox)
                + (warps[name].bend(index) if name in warps else index)
                for name, index in zip((a, b), self.shared(a, b, 3000, 7))
            ]
            away.append(np.linalg.norm(places[0] - places[1], axis=1).mean())
        return float(np.mean(away))


@pytest.mark.slow
def test_seams_of_distorted_tiles_fit_and_the_report_says_how_much(tmp_path):
    world = World(acquisition_of(3, 3, SIZE, STEP), 1.0)
    pairs = world.pairs()
    straight = place(world.acquisition, pairs, tile_model="translation")
    placement = place(world.acquisition, pairs, tile_model="auto")
    assert world.misfit(straight) > 1 and straight.summary["seam_misfit_vox"] > 1.5
    assert world.misfit(placement) < 0.25 * world.misfit(straight)
    told = placement.summary
    assert told["tiles_distorted"] == 9 and told["links_kept"] == 12
    assert told["field_sd_vox"] == pytest.approx(1.0, rel=0.35)
    assert 20 < told["field_length_px"] < 70
    assert told["field_misfit_after_vox"] < 0.2 * told["field_misfit_before_vox"]
    assert told["field_held_out_after_vox"] < 0.5 * told["field_held_out_before_vox"]
    (text,) = [text for text in placement.warnings if "distorted within themselves" in text]
    assert "9 of 9 tiles" in text and "take them as straight" in text
    save_placement(tmp_path / "p.json", placement)
    assert load_placement(tmp_path / "p.json") == placement
    assert place(world.acquisition, pairs, tile_model="elastic") == placement


@pytest.mark.slow
def test_straight_tiles_stay_so_whatever_the_noise():
    world = World(acquisition_of(2, 3, SIZE, STEP), 0.0)
    for noise in (0.1, 1.5):
        pairs = world.pairs(noise)
        assert place(world.acquisition, pairs, tile_model="auto") == place(
            world.acquisition, pairs, tile_model="translation"
        )


@pytest.mark.slow
def test_points_that_are_off_bend_no_tile():
    straight, bent = (World(acquisition_of(2, 3, SIZE, STEP), sd) for sd in (0.0, 1.0))
    wrong = place(straight.acquisition, straight.pairs(outliers=5), tile_model="auto")
    assert not wrong.warps(SIZE)
    found = place(bent.acquisition, bent.pairs(outliers=5), tile_model="auto")
    assert bent.misfit(found) < 0.35 * bent.misfit(
        place(bent.acquisition, bent.pairs(), tile_model="translation")
    )


@pytest.mark.slow
def test_tiles_without_links_have_no_field_and_fields_fade_away_from_seams():
    world = World(acquisition_of(1, 3, SIZE, STEP), 1.0)
    pairs = world.pairs()[:1]
    grid = CellGrid(world.acquisition)
    start = np.array([world.origins[name] for name in sorted(world.origins)])
    found = solve_elastic(grid, pairs, np.ones(1, bool), start, {})
    assert sorted(found.fields) == ["T00", "T01"]
    far, near = found.fields["T00"][:, :, 0], found.fields["T00"][:, :, -1]
    assert np.abs(far).mean() < 0.25 * np.abs(near).mean()
    assert abs(found.fields["T00"].mean()) < 0.05
    bare = [replace(pairs[0], points=())]
    assert solve_elastic(grid, bare, np.ones(1, bool), start, {}) is None
    placement = place(world.acquisition, bare, tile_model="elastic")
    assert not placement.warps(SIZE) and "no seam has points" in placement.warnings[-1]


@pytest.mark.slow
def test_a_pair_without_points_counts_with_its_displacement():
    world = World(acquisition_of(2, 2, SIZE, STEP), 1.0)
    pairs = world.pairs()
    pairs[1] = replace(pairs[1], points=())
    grid = CellGrid(world.acquisition)
    start = np.array([world.origins[name] for name in sorted(world.origins)])
    table = seam_table(pairs, SIZE)
    own = table.of_pair(1)
    assert own.stop - own.start == 4 and np.ptp(table.first[own], axis=0).max() == 0
    found = solve_elastic(grid, pairs, np.ones(4, bool), start, {})
    assert len(found.fields) == 4 and np.isfinite(found.residuals).all()


@pytest.mark.slow
def test_samples_of_the_basis_have_the_variance_and_mean_of_their_law():
    basis = field_basis(0.3, (100, 200))
    drawn = basis @ np.random.default_rng(0).standard_normal((basis.shape[1], 400))
    assert drawn.var() == pytest.approx(1, rel=0.05)
    assert np.abs(drawn.mean(axis=0)).max() < 1e-6
    nodes = np.random.default_rng(1).standard_normal((2, NODES, NODES))
    at = np.array([[0.0, 0.0], [99.0, 199.0], [33.3, 150.1], [120.0, -4.0]])
    dense = on_lattice(nodes, (100, 200), at[:, 0], at[:, 1])
    np.testing.assert_allclose(
        interpolation(at, (100, 200)) @ nodes.reshape(2, -1).T, dense.T, atol=1e-12
    )


def test_channels_find_the_field_at_the_pixels_that_show_the_same():
    """A channel that is shifted and magnified: voxels lead to the index that shows their place."""
    world = World(acquisition_of(1, 2, SIZE, STEP), 1.0)
    straight = place(world.acquisition, world.pairs(), tile_model="translation")
    nodes = tuple(tuple(map(tuple, axis)) for axis in world.fields["T01"].tolist())
    tiles = {**straight.tiles, "T01": replace(straight.tiles["T01"], field_vox=nodes)}
    placement = replace(straight, tiles=tiles)
    bent = np.eye(3)
    bent[1, 1], bent[2, 1] = 1.004, 0.003
    shift = SimpleNamespace(applied=lambda shape: ((0.0, 3.2, -4.1), bent))
    assert hasattr(ChannelShift, "applied")
    origins = placement.origins(subpixel=True)
    places, matrices = channel_poses(origins, placement, [shift], SIZE)
    (warp,) = channel_warps(origins, placement, [shift], SIZE).values()
    index = np.array([[5.0, 40.0, 60.0], [30.0, 120.5, 100.25], [59.0, 150.0, 20.0]])
    shown = (index + warp.bend(index) - index) @ np.linalg.inv(matrices["T01"]).T + places["T01"]
    aligned = index @ np.linalg.inv(bent).T + (0.0, 3.2, -4.1)
    expected = origins["T01"] + aligned + world.field("T01", aligned)
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    back = warp.straighten(*((shown - places["T01"]) @ matrices["T01"].T).T)
    np.testing.assert_allclose(np.transpose(back), index, atol=0.02)
