"""First look: raw voxels at their nominal places, few planes read, the atlas turned right."""

import io
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from terareg.core.frames import Frame
from terareg.views import first_look
from terareg.views.figures.first_look import first_look as draw
from terareg.views.first_look import Section
from terareg.volumes.headers import read_header
from terareg.volumes.importing import describe_input
from terareg.volumes.reader import Levels

STEP = (40, 50)
SHAPE = (130, 48, 60)


class Tiles:
    """A grid of tiles with a hole; voxels tell where they lie, and planes read are counted."""

    def __init__(self):
        tiles = [
            SimpleNamespace(name=f"T{r}{c}", origin_vox=(r, r * STEP[0], c * STEP[1] + 0.4))
            for r, c in itertools.product(range(3), range(4))
            if (r, c) != (0, 3)
        ]
        self.acquisition = SimpleNamespace(
            tiles=tiles, tile_shape=SHAPE, spacing_um=(10.0, 4.0, 4.0), orientation="ILA",
            dtype="uint16", rows=3, columns=4,
        )  # fmt: skip
        self.place = {tile.name: np.rint(tile.origin_vox).astype(int) for tile in tiles}
        self.planes = 0

    def read(self, tile, z0, z1, y=slice(None), x=slice(None)):
        self.planes += z1 - z0
        z, *rest = (self.place[tile][a] + np.arange(n) for a, n in enumerate(SHAPE))
        box = np.ix_(z[z0:z1], rest[0][y], rest[1][x])
        return (10 * box[0] + 3 * box[1] + box[2]).astype(np.uint16)


def test_every_plane_shows_the_voxels_of_its_place():
    source = Tiles()
    frame = first_look.whole_frame(source.acquisition)
    assert frame.shape == (132, 128, 210)
    for section in first_look.middle_sections(source, workers=2):
        axis = section.axis
        middle = frame.shape[axis] // 2
        bins = np.array(section.frame.spacing_um) / frame.spacing_um
        down, right = (a for a in range(3) if a != axis)
        assert section.frame.shape[axis] == 1 and section.frame.orientation == "ILA"
        rows, columns = (
            (np.arange(section.image.shape[n]) + 0.5) * bins[a] - 0.5
            for n, a in enumerate((down, right))
        )
        factor = np.array([10, 3, 1])
        wanted = factor[down] * rows[:, None] + factor[right] * columns + factor[axis] * middle
        seen = np.isfinite(section.image)
        assert seen.mean() > 0.8
        # half a bin at each side of a plane, and a tile's place to a voxel
        slack = (factor * (bins + 1)).sum()
        assert np.abs(section.image - wanted)[seen].max() <= slack


def test_tiles_of_few_planes_are_looked_at():
    source = Tiles()
    source.acquisition.tile_shape, source.acquisition.spacing_um = (2, *SHAPE[1:]), (0.2, 4.0, 4.0)
    for section in first_look.middle_sections(source):
        assert np.isfinite(section.image).any()


class Volume(Levels):
    """A volume in memory at full and half resolution; remembers what was read of it."""

    def __init__(self, values, frame):
        half = values.reshape([n for size in values.shape for n in (size // 2, 2)])
        self.arrays = [values, half.mean((1, 3, 5)).astype(values.dtype)]
        twice = tuple(2 * s for s in frame.spacing_um)
        self.frames = (frame, Frame(self.arrays[1].shape, twice, (0, 0, 0), frame.orientation))
        self.name, self.dtype, self.boxes = "v", values.dtype, []

    def _read(self, level, start, stop):
        self.boxes.append((level, np.subtract(stop, start)))
        return self.arrays[level][tuple(map(slice, start, stop))]


def ramp(shape):
    """Values that say where they are."""
    z, y, x = np.indices(shape, np.float32)
    return 50 * z + 3 * y + x


def check_sections(sections, frame):
    """Every pixel of three planes of a ramp has the mean of its place."""
    for axis, section in enumerate(sections):
        down, right = (a for a in range(3) if a != axis)
        assert section.axis == axis and section.frame.orientation == frame.orientation
        bins = np.array(section.frame.spacing_um) / frame.spacing_um
        rows, columns = (
            (np.arange(section.image.shape[n]) + 0.5) * bins[a] - 0.5
            for n, a in enumerate((down, right))
        )
        factor = np.array([50, 3, 1])
        wanted = factor[down] * rows[:, None] + factor[right] * columns
        wanted += factor[axis] * (frame.shape[axis] // 2)
        # a bin at the edge may reach beyond the image, a thick plane lies beside the middle
        error = np.abs(section.image - wanted)[:-1, :-1]
        assert error.max() <= (factor * bins).max() * 1.01 + 1e-3, axis


@pytest.mark.parametrize("part", [1 << 22, 500])
def test_planes_of_a_volume_come_from_the_coarsest_level_that_is_fine_enough(monkeypatch, part):
    monkeypatch.setattr(first_look, "_PIXELS", 20)
    monkeypatch.setattr(first_look, "_PART_VOXELS", part)
    frame = Frame((40, 60, 80), (10.0, 10.0, 10.0), (0, 0, 0), "RIP")
    volume = Volume(ramp(frame.shape), frame)
    check_sections(first_look.level_sections(volume, 2), frame)
    assert {level for level, _ in volume.boxes} == {1}
    # a bin of a line is the least that is read
    assert max(size.prod() for _, size in volume.boxes) <= max(part, 2 * 2 * 40)
    monkeypatch.setattr(first_look, "_PIXELS", 80)
    check_sections(first_look.level_sections(volume, 2), frame)
    assert volume.boxes[-1][0] == 0


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.tif"])
def test_planes_of_a_file_are_read_one_by_one(tmp_path, monkeypatch, name):
    frame = Frame((70, 24, 32), (10.0, 20.0, 20.0), (0, 0, 0), "SPL")
    path, values = str(tmp_path / name), ramp(frame.shape)
    values[:, 20:] = np.nan
    if name == "a.tif":
        tifffile.imwrite(path, values)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), path)
    monkeypatch.setattr(first_look, "_FILE_DEPTHS", 16)
    seen = []
    planes = first_look.image_planes

    def counted(*arguments):
        for number, plane in planes(*arguments):
            seen.append(number)
            yield number, plane

    monkeypatch.setattr(first_look, "image_planes", counted)
    sections = first_look.image_sections(path, frame, {"channel": 0, "fill_missing": False})
    assert len(seen) <= 16 and 35 in seen
    for section, edge in zip(sections, (np.s_[20:], np.s_[:0], np.s_[:, 20:])):
        assert np.isnan(section.image[edge]).all()
        assert section.image.shape == tuple(n for n in section.frame.shape if n > 1)
    kept = [Section(s.axis, s.image[rows], s.frame)
            for s, rows in zip(sections, (np.s_[:20], np.s_[:], np.s_[:, :20]))]  # fmt: skip
    check_sections(kept, frame)


def test_what_is_said_of_an_image(tmp_path):
    path = str(tmp_path / "a.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float64)), path)
    header = replace(read_header(path, (1000, 2000, 3000)), channels=1)
    index = describe_input({"t1": header, "t2": header}, "RIP")
    assert first_look.image_facts(index, "t2") == [
        "channel t2, NRRD", "4 x 5 x 6 voxels (z, y, x)", "voxel 1000 x 2000 x 3000 µm",
        "in total 4 x 10 x 18 mm", "raw data 1.92 kB", "orientation in its header: SPL",
    ]  # fmt: skip


def test_a_hole_in_the_grid_stays_empty_and_few_planes_are_read():
    source = Tiles()
    flat = first_look.middle_sections(source)[0]
    corner = flat.image[: int(30 / (flat.frame.spacing_um[1] / 4)), -5:]
    assert np.isnan(corner).all()
    assert np.isfinite(flat.image).mean() > 0.85
    # one plane of each tile, and at most 64 of those in the middle row and column
    assert source.planes <= 11 + 65 * (4 + 3 + 3)


@pytest.mark.slow
def test_the_picture_shows_sample_atlas_and_grid():
    source = Tiles()
    sections = first_look.middle_sections(source)
    rng = np.random.default_rng(0)
    template = rng.random((20, 30, 40))
    atlas = Frame(template.shape, (25.0,) * 3, (0, 0, 0), "ILA")
    boxes = first_look.tile_boxes_um(source.acquisition)
    assert boxes[1] == ("T01", 50.4 * 4, 0, 240, 192)
    notes = first_look.facts(source.acquisition, ["a", "b"])
    assert notes[0] == "11 tiles in 3 rows, 4 columns" and notes[-1] == "raw data 16.5 MB"
    planes = [(section.image, section.frame) for section in sections]
    picture = Image.open(io.BytesIO(draw(planes, template, template > 0.5, atlas, boxes, notes)))
    assert picture.format == "PNG" and picture.info == {} and 500 < picture.width <= 1000
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    coloured = np.ptp(pixels, axis=2) > 60
    third = picture.width // 3
    assert not coloured[80:, :third].any(), "the sample is grey"
    assert coloured[:, third : 2 * third].any() and coloured[:, 2 * third :].any()
