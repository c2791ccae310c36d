"""Tiles that are turned or larger: their shapes are found, and only theirs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from seams import Memory, acquisition_of, camera, texture

from terareg.core.errors import StitchingError
from terareg.stitching.bends import clear_shapes, solve_bends
from terareg.stitching.cells import CellGrid
from terareg.stitching.displacement import measure_batch
from terareg.stitching.pairs import PairResult, SeamPoint, load_pairs, neighbours, save_pairs
from terareg.stitching.placement import load_placement, save_placement
from terareg.stitching.seam_fits import doubtful
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.shapes import matrix_of
from terareg.stitching.solver import place

SIZE = (60, 200, 200)
STEP = 170


def turned(degrees, larger, size=SIZE):
    """Shape of a tile that lies turned (counterclockwise as shown) and shows things larger."""
    angle = np.deg2rad(degrees)
    slope = np.zeros((3, 3))
    slope[1:, 1:] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / (
        1 + larger / 100
    ) - np.eye(2)
    return slope * (np.array(size) - 1)


class World:
    """Places of tiles with shapes, and what their seams would measure."""

    def __init__(self, acquisition, shapes, seed=0, jitter=3.0, growth=0.0):
        rng = np.random.default_rng(seed)
        self.acquisition = acquisition
        self.size = np.array(acquisition.tile_shape)
        self.middle = (self.size - 1) / 2
        self.growth = growth
        self.origins = {
            t.name: np.array(t.origin_vox) + rng.uniform(-jitter, jitter, 3)
            for t in acquisition.tiles
        }
        self.matrices = {
            t.name: matrix_of(shapes.get(t.name, np.zeros((3, 3))), self.size)
            for t in acquisition.tiles
        }

    def place(self, name, index):
        """Where a tile shows what it has at an index."""
        back = np.linalg.inv(self.matrices[name])
        away = (index - self.middle) @ back.T
        return self.origins[name] + self.middle + away * self.factors(away)

    def index(self, name, place):
        away = place - self.origins[name] - self.middle
        return (away / self.factors(away)) @ self.matrices[name].T + self.middle

    def factors(self, away):
        """How much larger planes are, as columns for z, y and x."""
        grown = 1 + self.growth * away[:, :1] / (self.size[0] - 1)
        return np.concatenate([np.ones_like(grown), grown, grown], axis=1)

    def shared(self, a, b, number, seed=0):
        """Indices of both tiles that show the same places."""
        rng = np.random.default_rng(seed)
        first = rng.uniform(0, 1, (number, 3)) * (self.size - 1)
        second = self.index(b, self.place(a, first))
        inside = np.all((second >= 0) & (second <= self.size - 1), axis=1)
        return first[inside], second[inside]

    def pairs(self, noise=0.1, seed=1, number=24, tails=np.inf):
        rng = np.random.default_rng(seed)
        found = []
        for a, b, direction in neighbours(self.acquisition):
            first, second = (i[:number] for i in self.shared(a, b, 2000, seed - 1))
            off = rng.normal(0, noise, first.shape)
            if np.isfinite(tails):  # far more points are far off than of normal errors
                off /= np.sqrt(rng.chisquare(tails, (len(off), 1)) / tails)
            displ = first - second + off
            points = tuple(SeamPoint(tuple(i), tuple(d)) for i, d in zip(first, displ))
            nominal = (0.0, 0.0, float(STEP)) if direction == "EAST" else (0.0, float(STEP), 0.0)
            found.append(
                PairResult(
                    a, b, direction, "ok", tuple(displ.mean(axis=0)), (0.1,) * 3, 1.0, 0.8, 6, 6,
                    nominal, (10, 20, 20), points=points, fall_vox=(2.5,) * 3,
                )
            )  # fmt: skip
        return found

    def misfit(self, placement):
        """Largest distance, over all seams, of the places at which two tiles show the same."""
        found = placement.matrices(self.size)
        origins = placement.origins(subpixel=True)
        growths = placement.growths(origins, self.size)

        def placed(name, index):
            matrix = found.get(name, np.eye(3))
            moved = np.linalg.solve(matrix, (index - self.middle).T).T
            at = np.array(origins[name]) + self.middle + moved
            return growths[name].done(at) if growths else at

        worst = 0.0
        for a, b, _ in neighbours(self.acquisition):
            first, second = self.shared(a, b, 3000, 7)
            away = np.linalg.norm(placed(a, first) - placed(b, second), axis=1)
            worst = max(worst, float(away.max()))
        return worst


@pytest.mark.parametrize("which", ["T11", "T00", "T01"])
def test_one_turned_tile_is_found_wherever_it_lies_and_the_others_are_copied(which):
    world = World(acquisition_of(3, 3, SIZE, STEP), {which: turned(0.8, 1.5)})
    pairs = world.pairs()
    assert world.misfit(place(world.acquisition, pairs, tile_model="translation")) > 2
    for model in ("affine", "auto"):
        placement = place(world.acquisition, pairs, tile_model=model)
        assert world.misfit(placement) < 0.3
        (text,) = placement.warnings
        assert text.startswith(f"1 of 9 tiles are rotated, scaled or sheared: {which} (0.")
        assert "degrees counterclockwise, 1." in text and "% larger" in text
        assert "xml_merging.xml has only the positions of their middles" in text
        assert placement.summary["links_kept"] == 12
        assert placement.summary["closure_max_vox"] < 0.3
        assert placement.summary["tiles_bent"] == 1
    assert list(placement.matrices(SIZE)) == [which]


def test_every_tile_has_its_own_shape():
    rng = np.random.default_rng(3)
    acquisition = acquisition_of(3, 4, SIZE, STEP)
    shapes = {t.name: rng.uniform(-3, 3, (3, 3)) for t in acquisition.tiles}
    world = World(acquisition, shapes)
    placement = place(acquisition, world.pairs(), tile_model="auto")
    assert world.misfit(placement) < 0.3
    assert placement.summary["tiles_bent"] == 12


@pytest.mark.slow
def test_tiles_that_are_only_moved_stay_so_whatever_the_noise():
    world = World(acquisition_of(3, 3, SIZE, STEP), {})
    for noise in (0.0, 0.1, 1.0):
        pairs = world.pairs(noise)
        assert place(world.acquisition, pairs, tile_model="auto") == place(
            world.acquisition, pairs, tile_model="translation"
        )


def test_few_points_of_which_some_are_off_bend_no_tile():
    """Sparse tissue: five points a seam, two seams without, and one that is wrong at one end."""
    world = World(acquisition_of(3, 3, SIZE, STEP), {})
    pairs = [p for p in world.pairs(0.4, 4, 5, 3.0) if (p.a, p.b) != ("T01", "T11")]
    pairs = [p for p in pairs if (p.a, p.b) != ("T10", "T11")]
    for k, pair in enumerate(pairs):
        if (pair.a, pair.b) == ("T00", "T10"):
            off = [(-1.0, -4.0, 1.0) if p.at_vox[2] < 100 else (0, 0, 0) for p in pair.points]
            points = [
                replace(p, displ_vox=tuple(np.add(p.displ_vox, by)))
                for p, by in zip(pair.points, off)
            ]
            pairs[k] = replace(pair, points=tuple(points))
    placement = place(world.acquisition, pairs, tile_model="auto")
    assert not placement.matrices(SIZE)


def test_a_wrong_point_among_few_is_no_misfit_of_a_seam():
    """Near the border of the tissue parts of seams have two points, of which one is noise."""
    world = World(acquisition_of(3, 3, SIZE, STEP), {})
    pairs = []
    for pair in world.pairs(0.1, 1, 5):
        wrong = np.add(pair.points[0].displ_vox, (0, -5.0, 3.0))
        pairs.append(
            replace(
                pair,
                points=(replace(pair.points[0], displ_vox=tuple(wrong)), *pair.points[1:]),
            )
        )
    told = place(world.acquisition, pairs, tile_model="translation").summary
    assert told["seam_misfit_vox"] < 0.5
    turned_one = World(acquisition_of(3, 3, SIZE, STEP), {"T11": turned(1.5, 3)})
    told = place(world.acquisition, turned_one.pairs(), tile_model="translation").summary
    assert told["seam_misfit_vox"] > 1.5


def test_points_that_are_often_off_tell_a_tile_that_is_turned():
    world = World(acquisition_of(3, 3, SIZE, STEP), {"T11": turned(0.8, 1.5)})
    placement = place(world.acquisition, world.pairs(0.2, 1, 12, 3.0), tile_model="auto")
    assert list(placement.matrices(SIZE)) == ["T11"]


def test_a_tile_that_leans_and_one_that_is_turned():
    lean = np.zeros((3, 3))
    lean[:, 0] = 0, 5, -2
    world = World(acquisition_of(3, 3, SIZE, STEP), {"T11": turned(-0.5, -1.0), "T00": lean})
    placement = place(world.acquisition, world.pairs(), tile_model="affine")
    assert world.misfit(placement) < 0.3
    assert placement.tiles["T00"].lean_vox == pytest.approx((0, 5, -2), abs=0.2)
    assert "T11 (0.5" in placement.warnings[0] and "degrees clockwise" in placement.warnings[0]


@pytest.mark.parametrize("shapes", [{}, {"T11": turned(0.8, 1.5)}])
@pytest.mark.parametrize("growth", [-0.02, 0.01])
def test_magnification_that_changes_with_depth_is_told_and_undone(growth, shapes):
    world = World(acquisition_of(3, 3, SIZE, STEP), shapes, growth=growth)
    middle = (SIZE[0] - 1) / 2
    pairs = []
    for pair in world.pairs():
        depths = [(p.at_vox[0] - middle) / (SIZE[0] - 1) for p in pair.points]
        slopes = np.polyfit(depths, [p.displ_vox for p in pair.points], 1)[0]
        pairs.append(replace(pair, lean_vox=tuple(slopes.tolist()), lean_sigma_vox=(0.1, 0.1, 0.1)))
    placement = place(world.acquisition, pairs, tile_model="auto")
    assert placement.growth == pytest.approx(growth, rel=0.1)
    (text,) = [text for text in placement.warnings if "magnification of all tiles" in text]
    assert (
        f"the magnification of all tiles changes by {-100 * placement.growth:+.2f} % from the "
        "first plane"
    ) in text
    assert list(placement.matrices(SIZE)) == list(shapes)
    assert world.misfit(placement) < 0.5
    assert place(world.acquisition, pairs, tile_model="translation").growth == 0


def test_links_that_contradict_the_others_bend_no_tile():
    world = World(acquisition_of(4, 4, SIZE, STEP), {"T22": turned(0.8, 1.5)})
    pairs = world.pairs()
    (bad,) = (k for k, pair in enumerate(pairs) if (pair.a, pair.b) == ("T11", "T12"))
    wrong = pairs[bad]
    off = np.array([0, 9.0, -7.0])
    pairs[bad] = PairResult(**{
        **vars(wrong),
        "displ_vox": tuple(wrong.displ_vox + off),
        "points": tuple(SeamPoint(p.at_vox, tuple(p.displ_vox + off)) for p in wrong.points),
    })  # fmt: skip
    placement = place(world.acquisition, pairs, tile_model="auto")
    assert world.misfit(placement) < 0.3
    assert [link.state for link in placement.links].count("rejected") == 1
    assert placement.links[bad].state == "rejected" and placement.links[bad].seam_share < 0.01
    assert list(placement.matrices(SIZE)) == ["T22"]
    assert [(k.a, k.b) for k in doubtful(placement.links)] == [(wrong.a, wrong.b)]


def test_links_without_points_count_and_one_tile_has_none():
    world = World(acquisition_of(2, 2, SIZE, STEP), {"T01": turned(0.8, 1.5)})
    pairs = world.pairs()
    grid = CellGrid(world.acquisition)
    pairs[2] = PairResult(**{**vars(pairs[2]), "points": ()})
    start = np.array([world.origins[name] for name in sorted(world.origins)])
    free = dict.fromkeys(world.origins, (0, 1, 2))
    found = solve_bends(grid, pairs, np.ones(4, bool), start - start[0], free)
    assert "T01" in clear_shapes(found)
    assert np.abs(found.residuals).max() < 0.3
    assert place(acquisition_of(1, 1, SIZE, STEP), [], tile_model="affine").origins() == {
        "T00": (0, 0, 0)
    }
    bare = [PairResult(**{**vars(pair), "points": ()}) for pair in pairs]
    told = place(world.acquisition, bare, tile_model="auto")
    assert not told.matrices(SIZE)


def test_shapes_that_leave_the_overlap_are_told(tmp_path):
    """The overlap of 30 voxels is gone where a tile is sheared by 80 over its height."""
    shape = np.zeros((3, 3))
    shape[2, 1] = 80
    world = World(acquisition_of(2, 2, SIZE, STEP), {"T01": shape}, jitter=0.5)
    placement = place(world.acquisition, world.pairs(), tile_model="affine")
    (text,) = [text for text in placement.warnings if "leave gaps between neighbours" in text]
    assert (
        "gaps between neighbours, where the fused volume is black: T00-T01 (" in text
        and "set stitching.model: translation" in text
    )
    save_placement(tmp_path / "p.json", placement)
    again = load_placement(tmp_path / "p.json")
    assert again == placement and np.array_equal(
        again.matrices(SIZE)["T01"], placement.matrices(SIZE)["T01"]
    )
    shape[2, 1] = 300
    world = World(acquisition_of(2, 2, SIZE, STEP), {"T01": shape}, jitter=0.5)
    pairs = [pair for pair in world.pairs() if pair.points]
    with pytest.raises(
        StitchingError, match=(r"tile T01 of .* leans or is distorted so much that it fills no")
    ):
        place(world.acquisition, pairs, tile_model="affine")


@pytest.mark.slow
def test_turned_tiles_are_measured_and_placed_to_a_fraction_of_a_voxel(tmp_path):
    """From images: 2 x 2 tiles of which one is turned by 1.2 degrees and 2 % larger."""
    size = (20, 144, 144)
    acquisition = acquisition_of(2, 2, size, 108)
    world = World(acquisition, {"T10": turned(1.2, 2.0, size)}, seed=2)
    canvas = ndimage.spline_filter(texture((40, 280, 280), 1), output=np.float32)
    tiles = {}
    for k, (name, origin) in enumerate(world.origins.items()):
        back = np.linalg.inv(world.matrices[name])
        offset = origin + 10 + world.middle - back @ world.middle
        image = ndimage.affine_transform(canvas, back, offset, size, order=3, prefilter=False)
        tiles[name] = camera(image, k)
    settings = DisplacementSettings(search_um=(16.0, 16.0, 16.0), window_planes=10, points=True)
    pairs = measure_batch(Memory(tiles), acquisition, neighbours(acquisition), settings)
    save_pairs(tmp_path / "pairs.json", pairs)
    assert load_pairs(tmp_path / "pairs.json") == pairs
    assert world.misfit(place(acquisition, pairs, tile_model="translation")) > 1.5
    placement = place(acquisition, pairs, tile_model="auto")
    assert world.misfit(placement) < 0.5
    assert list(placement.matrices(size)) == ["T10"]
