"""Cells: found with known centres, once each, whatever the boxes; not in what is no cell."""

import itertools

import numpy as np
import pytest
from cell_truth import Held, cell_volume, matched

from terareg.core.frames import Frame
from terareg.signal.blobs import BLOB, BlobSettings, boxes, find_blobs, join_blobs
from terareg.signal.search import box_vox, reach_vox, read_mvox, step_vox, three, working_um

DIAMETER = 9.0
SETTINGS = BlobSettings((DIAMETER,) * 3)


def cells_of(image, frame, settings=SETTINGS, edge=10**6):
    held = Held(image, frame)
    parts = [find_blobs(held, a, b, settings) for a, b in boxes(frame.shape, (edge,) * 3)]
    return join_blobs(np.concatenate(parts), settings, frame)


@pytest.mark.parametrize(
    ("contrast", "count", "least"), [(2, 100, 0.8), (4, 100, 0.98), (4, 400, 0.95), (10, 400, 0.97)]
)
def test_cells_of_known_centres_are_found_with_sub_voxel_centres(contrast, count, least):
    image, truth, frame = cell_volume((60, 84, 90), count=count, contrast=contrast, seed=contrast)
    found = cells_of(image, frame)
    precision, recall, f1, distance_um = matched(
        found["centre_vox"], truth, frame.spacing_um, DIAMETER / 2
    )
    assert f1 >= least, (precision, recall)
    assert np.mean(distance_um) < (0.8 if contrast == 2 else 0.5), "voxels are 2, 1.5, 1.5 um"
    assert abs((found["centre_vox"] - truth.mean(0)).mean()) < 5


def test_centres_have_no_offset():
    image, truth, frame = cell_volume((60, 84, 90), count=100, contrast=10, seed=5)
    found = cells_of(image, frame)["centre_vox"]
    near = [found[np.argmin(np.linalg.norm(found - t, axis=1))] - t for t in truth]
    assert np.abs(np.mean(near, axis=0)).max() < 0.05


def test_half_of_the_cells_touch_another_and_are_split():
    image, truth, frame = cell_volume(
        (60, 84, 90), count=160, contrast=4, touching=0.5, seed=7, diameter_um=11.0
    )
    found = cells_of(image, frame, BlobSettings((11.0,) * 3))
    assert matched(found["centre_vox"], truth, frame.spacing_um, 5.5)[2] >= 0.97


@pytest.mark.parametrize("edge", [17, 32, 45])
def test_boxes_of_any_size_give_the_same_cells_bit_by_bit(edge):
    image, _, frame = cell_volume((50, 61, 67), count=120, contrast=4, seed=3)
    whole, parts = cells_of(image, frame), cells_of(image, frame, edge=edge)
    assert len(whole) > 100
    assert whole.tobytes() == parts.tobytes()


def test_memory_follows_the_box_and_not_the_volume():
    image, _, frame = cell_volume((50, 61, 67), count=10, seed=3)
    held = Held(np.tile(image, (1, 3, 3)), Frame((50, 183, 201), frame.spacing_um))
    find_blobs(held, (0, 60, 60), (30, 90, 90), SETTINGS)
    sizes = SETTINGS.diameter_um, frame.spacing_um
    margins = [r + 2 * 4 * t for r, t in zip(reach_vox(*sizes), step_vox(*sizes))]
    assert held.largest <= np.prod([min(50, 30 + margins[0]), *(30 + 2 * m for m in margins[1:])])


def test_brightness_and_offset_change_nothing_but_the_counts():
    image, _, frame = cell_volume((40, 50, 60), count=40, contrast=6, dtype=np.float32, seed=2)
    one, other = cells_of(image, frame), cells_of(4 * image + 256, frame)
    assert np.array_equal(one["voxel"], other["voxel"])
    assert np.allclose(one["contrast"], other["contrast"], rtol=1e-3)
    assert np.allclose(4 * one["intensity"] + 256, other["intensity"], rtol=1e-4)


def test_intensity_and_background_are_those_of_a_cell():
    image, _, frame = cell_volume((40, 50, 60), count=20, contrast=10, noise=20, seed=2)
    found = cells_of(image, frame)
    rise = np.median(found["intensity"] - found["background"])
    assert 100 < rise < 200, "a cell is 200 counts above the tissue, and blurred by the filter"
    assert np.median(found["roundness"]) > 0.6


# ------------------------------------------------------------------ what is no cell
def tissue(shape=(40, 80, 90), seed=0, noise=20.0):
    rng = np.random.default_rng(seed)
    return 400 + noise * rng.standard_normal(shape), Frame(shape, (2.0, 1.5, 1.5))


def counted(image, frame):
    image = np.clip(np.rint(image), 0, 65535).astype(np.uint16)
    return len(cells_of(image, frame))


def test_tissue_without_cells_gives_none():
    assert sum(counted(*tissue(seed=n)) for n in range(3)) <= 1, "of 900 000 voxels"


def test_noise_that_is_cut_off_at_zero_has_no_cells_at_the_faces_of_the_volume():
    image, frame = tissue(seed=6)
    assert counted(0.3 * (image - 400), frame) <= 1


@pytest.mark.parametrize("value", [0, 777, 65535])
def test_a_constant_image_has_no_cells(value):
    shape = (30, 40, 40)
    found = cells_of(np.full(shape, value, np.uint16), Frame(shape, (2.0, 1.5, 1.5)))
    assert found.dtype == BLOB and len(found) == 0


def slab(image, z, y, x):
    image[12:20] += 400


def oblique_edge(image, z, y, x):
    image[z * 2 + y * 1.5 * 0.7 + x * 1.5 * 0.4 > 90] *= 3


def tube(image, z, y, x):
    image[((z - 20) * 2) ** 2 + ((y - 20 - 0.4 * x) * 1.5) ** 2 < 16] += 300


def outside(image, z, y, x):
    """The part of a fused volume that no tile covers."""
    image[:, 41:] = 0


@pytest.mark.parametrize("structure", [slab, oblique_edge, tube, outside])
def test_slabs_edges_tubes_and_the_border_of_the_tiles_are_no_cells(structure):
    image, frame = tissue(seed=4)
    structure(image, *np.meshgrid(*map(np.arange, frame.shape), indexing="ij"))
    assert counted(image, frame) <= 1


def test_a_saturated_slab_hides_its_cells_but_not_those_around():
    image, truth, frame = cell_volume((60, 70, 80), count=80, contrast=6, seed=6)
    image[25:36] = 65535
    found = cells_of(image, frame)
    away = (truth[:, 0] < 16) | (truth[:, 0] > 48)
    assert matched(found["centre_vox"], truth[away], frame.spacing_um, 4.5)[1] >= 0.95
    inside = (found["voxel"][:, 0] >= 24) & (found["voxel"][:, 0] <= 36)
    assert np.count_nonzero(inside) <= 1


def test_saturated_cells_are_found_and_marked():
    image, truth, frame = cell_volume((40, 60, 70), count=30, contrast=60, seed=8)
    image = np.where(image > 1000, 65535, image).astype(np.uint16)
    found = cells_of(image, frame)
    assert matched(found["centre_vox"], truth, frame.spacing_um, 4.5)[2] >= 0.95
    assert found["saturated"].mean() > 0.9


# ------------------------------------------------------------------ rules of the maxima
def test_equal_neighbours_are_one_cell_the_first():
    image = np.zeros((24, 40, 40), np.uint16)
    image[12, 20, 20:22] = 60000
    frame = Frame(image.shape, (2.0, 1.5, 1.5))
    found = find_blobs(Held(image, frame), (0, 0, 0), frame.shape, SETTINGS)
    assert found["voxel"].tolist() == [[12, 20, 20]]
    assert found["centre_vox"][0] == pytest.approx([12, 20, 20.5], abs=0.01)


def test_dense_cells_are_not_the_noise_of_one_another():
    """A tenth of the tissue is cells; nine of ten were found when they counted as noise."""
    image, centres, frame = cell_volume((60, 80, 90), count=500, contrast=4)
    precision, recall, _, _ = matched(
        cells_of(image, frame)["centre_vox"], centres, frame.spacing_um, 4.5
    )
    assert precision > 0.99 and recall > 0.96


def test_of_maxima_close_together_the_one_with_the_highest_contrast_stays():
    frame = Frame((9, 9, 9), (2.0, 1.5, 1.5))
    blobs = np.zeros(4, BLOB)
    blobs["voxel"] = blobs["centre_vox"] = [[1, 1, 1], [1, 1, 3], [1, 1, 5], [8, 8, 8]]
    blobs["contrast"] = [7, 8, 7.5, 6]
    for order in itertools.permutations(range(4)):
        kept = join_blobs(blobs[list(order)], SETTINGS, frame)
        assert kept["voxel"].tolist() == [[1, 1, 3], [8, 8, 8]]


# ------------------------------------------------------------------ size of the search
def test_a_level_with_five_voxels_across_a_cell_is_enough():
    settings = {"resolution_um": None, "diameter_um": [20, 10, 12]}
    assert working_um(settings) == 2.0
    assert working_um(settings | {"resolution_um": 1.5}) == 1.5
    assert three(9) == (9.0, 9.0, 9.0)


def test_a_box_reads_no_more_than_its_cost_says():
    frame = Frame((400, 500, 600), (2.0, 1.5, 1.5))
    sizes = SETTINGS.diameter_um, frame.spacing_um

    class Counted:
        frame = Frame((400, 500, 600), (2.0, 1.5, 1.5))
        voxels = 0

        def read(self, start, stop):
            shape = tuple(b - a for a, b in zip(start, stop))
            self.voxels = int(np.prod(shape))
            raise StopIteration

    most = 0
    for start, stop in boxes(frame.shape, box_vox(*sizes)):
        counted = Counted()
        with pytest.raises(StopIteration):
            find_blobs(counted, start, stop, SETTINGS)
        most = max(most, counted.voxels)
    assert 0.3 * read_mvox(*sizes) < most / 1e6 <= read_mvox(*sizes)


def test_noise_beside_what_no_tile_has_seen_is_no_cell():
    """Tiles end in the medium, as in fused volumes; of the zeros beyond them one plane is left."""
    rng = np.random.default_rng(0)
    spacing_um, diameter_um = (100.0, 23.36, 23.36), 160.0
    shape = (21, 120, 160)
    image = np.clip(rng.normal(27, 11, shape), 0, None)
    image[:8] += rng.normal(1000, 60, (8, *shape[1:]))
    centres = np.array([[4.0, 40, 40], [4, 90, 110], [14, 60, 100]])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    for centre in centres:
        far = np.linalg.norm((grid - centre) * spacing_um, axis=-1)
        image += np.clip((diameter_um / 2 - far) / 23 + 0.5, 0, 1) * 1000
    image[20] = 0
    frame = Frame(shape, spacing_um)
    settings = BlobSettings((diameter_um,) * 3)
    found = cells_of(np.rint(image).astype(np.uint16), frame, settings)["centre_vox"]
    assert len(found) == len(centres)
    assert np.abs(found - centres).max() < 1
