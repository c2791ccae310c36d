"""Cutting volumes into COLM acquisitions: pixels, names, metadata and truth fit together."""

import configparser
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import yaml

from terareg.core.errors import AcquisitionError, ConfigError
from terareg.phantom import cli, colm
from terareg.phantom.colm import ColmSettings

QUIET = ColmSettings(
    rows=2,
    columns=3,
    tile_pixels=(40, 52),
    planes=9,
    overlap=0.25,
    step_um=7.5,
    empty=((0, 2),),
    jitter_vox=(2, 3, 3),
    vignetting=(0.0,),
    dark=(100.0, 150.0),
    stripes=0.0,
    counts_per_electron=0.0,
    read_noise=0.0,
    saturated_spots=0,
    seed=5,
)


def random_volume(settings, channels=2):
    shape = colm.place_tiles(settings).shape
    return np.random.default_rng(0).integers(0, 5000, (channels, *shape)).astype(np.float32)


def write(tmp_path, settings, volume=None, **more):
    volume = random_volume(settings) if volume is None else volume
    truth = colm.write_colm(
        colm.from_array(volume), tmp_path / "raw", tmp_path / "truth", settings, **more
    )
    return volume, truth


def read_tile(tmp_path, settings, name, channel):
    folder = tmp_path / "raw" / "VW0" / name
    pattern = colm.NAME_SCHEMES[settings.names]
    return np.stack(
        [
            tifffile.imread(folder / pattern.format(tile=name, channel=channel, plane=z))
            for z in range(settings.planes)
        ]
    )


@pytest.mark.parametrize("names", ["long", "short"])
def test_noiseless_tiles_are_the_volume_at_their_true_origin(tmp_path, names):
    settings = replace(QUIET, names=names)
    volume, truth = write(tmp_path, settings)
    assert sorted(truth["tiles"]) == ["LOC000", "LOC001", "LOC003", "LOC004", "LOC005"]
    # without vignetting a slight slope remains in the profile: divide it out
    for name, tile in truth["tiles"].items():
        z, y, x = tile["origin_vox"]
        for channel, dark in enumerate((100, 150)):
            profile = tifffile.imread(tmp_path / "truth" / f"profile_ch{channel}.tif")
            expected = volume[channel, z : z + 9, y : y + 40, x : x + 52] * profile + dark
            found = read_tile(tmp_path, settings, name, channel)
            assert found.dtype == np.uint16
            assert np.abs(found - expected).max() <= 0.5 + 1e-2


def test_origins_start_at_zero_and_stay_near_the_stage():
    placement = colm.place_tiles(QUIET)
    origins = np.array(list(placement.true.values()))
    nominal = np.array([placement.nominal[name] for name in placement.true])
    assert origins.min(axis=0).tolist() == [0, 0, 0]
    difference = origins - nominal
    assert np.ptp(difference, axis=0).max() <= 2 * 3 + 3 * 1.5 + 1
    assert placement.nominal["LOC004"] == (0.0, 30.0, 39.0)
    assert placement.shape == tuple(origins.max(axis=0) + (9, 40, 52))


def test_metadata_are_quoted_and_complete(tmp_path):
    write(tmp_path, QUIET)
    parser = configparser.ConfigParser()
    parser.read(tmp_path / "raw" / "Experiment.ini")
    assert parser["North Scan Region"]["Num Horizontal"] == '"3"'
    assert parser["North Scan Region"]["Num Vertical"] == '"2"'
    assert parser["North Scan Region"]["Stack Step (mm)"] == '"0.0075"'
    assert parser["Experiment Settings"]["Num in stack (Top Left Corner)"] == '"9"'
    assert parser["Experiment Settings"]["X Resolution"] == '"52"'
    assert parser["Experiment Settings"]["Y Resolution"] == '"40"'
    assert parser["Experiment Settings"]["Num Enabled Channels"] == '"2"'
    assert parser["North Scan Region Stats"]["Actual Vertical Overlap (%)"] == '"25"'
    assert parser["Objectives"]["North"] == '"04x"'
    assert (tmp_path / "raw" / "Scanned Cells.txt").read_text() == "1,1,0\n1,1,1\n"


def test_same_seed_same_bytes(tmp_path):
    settings = replace(QUIET, read_noise=5.0, counts_per_electron=1.5, stripes=0.03)
    for run in "ab":
        write(tmp_path / run, settings)
    first = sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(first) == 2 + 5 * 9 * 2 + 4
    for path in first:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_profiles_have_mean_one_dark_corners_and_differ_by_channel():
    settings = ColmSettings(vignetting=(0.35, 0.4))
    profiles = [colm.vignetting_profile(settings, k) for k in range(2)]
    for profile in profiles:
        assert profile.mean() == pytest.approx(1, abs=1e-6)
        corners = np.array([profile[0, 0], profile[0, -1], profile[-1, 0], profile[-1, -1]])
        assert 0.2 < 1 - corners.mean() / profile.max() < 0.5
    assert np.abs(profiles[0] - profiles[1]).max() > 0.02


def test_noise_follows_its_model(tmp_path):
    settings = replace(
        QUIET, read_noise=6.0, counts_per_electron=2.0, tile_pixels=(64, 64), empty=()
    )
    shape = colm.place_tiles(settings).shape
    _, _ = write(tmp_path, settings, np.full((2, *shape), 1000.0, np.float32))
    tile = read_tile(tmp_path, settings, "LOC000", 0).astype(float)
    mean = tifffile.imread(tmp_path / "truth" / "profile_ch0.tif") * 1000
    residual = tile - 100 - mean
    assert residual.mean() == pytest.approx(0, abs=0.5)
    assert residual.var() == pytest.approx(36 + 2 * mean.mean(), rel=0.05)


def test_stripes_run_along_x_and_differ_between_tiles(tmp_path):
    settings = replace(QUIET, stripes=0.05)
    shape = colm.place_tiles(settings).shape
    write(tmp_path, settings, np.full((2, *shape), 2000.0, np.float32))
    profile = tifffile.imread(tmp_path / "truth" / "profile_ch0.tif")
    tiles = [
        (read_tile(tmp_path, settings, name, 0) - 100.0) / (2000 * profile)
        for name in ("LOC000", "LOC001")
    ]
    assert np.ptp(tiles[0], axis=2).max() < 2e-3
    assert 0.02 < tiles[0].std() < 0.09
    assert abs(np.corrcoef(tiles[0].ravel(), tiles[1].ravel())[0, 1]) < 0.5


def test_spots_saturate_where_the_truth_says(tmp_path):
    settings = replace(QUIET, saturated_spots=3)
    _, truth = write(tmp_path, settings)
    spots = truth["saturated_spots_vox"]
    assert len(spots) == 6
    for spot in spots:
        seen = 0
        for name, tile in truth["tiles"].items():
            place = np.array(spot["position"]) - tile["origin_vox"]
            if np.all(place >= 0) and np.all(place < (9, 40, 52)):
                seen += read_tile(tmp_path, settings, name, spot["channel"])[tuple(place)] == 65535
        assert seen >= 1


def test_clean_planes_are_the_volume(tmp_path):
    volume, truth = write(tmp_path, QUIET, clean_stride=4)
    clean = tifffile.imread(tmp_path / "truth" / truth["channels"][1]["clean"])
    assert np.array_equal(clean, volume[1, ::4])


def test_outside_of_an_array_is_zero():
    array = np.arange(24.0).reshape(2, 3, 4)
    volume = colm.from_array(array, offset=(1, 0, 0))
    block = volume((0, -1, 2), (4, 2, 6))
    assert block.shape == (1, 4, 3, 4)
    assert not block[0, 0].any() and not block[0, 3].any() and not block[0, :, 0].any()
    assert block[0, 1, 1].tolist() == [2, 3, 0, 0]


def test_no_block_is_larger_than_a_tile_by_32_planes(tmp_path):
    settings = replace(QUIET, planes=70)
    asked = []

    def volume(start, stop):
        size = [b - a for a, b in zip(start, stop)]
        asked.append(size)
        return np.zeros((1, *size), np.float32)

    colm.write_colm(
        volume, tmp_path / "raw", tmp_path / "truth", settings, channels=("a",), clean_stride=0
    )
    assert max(asked) <= [32, 40, 52]


@pytest.mark.parametrize("shape", [(5, 100, 90), (3, 61, 222), (1, 33, 40)])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 2)])
def test_chosen_tiles_cover_a_volume(shape, grid):
    settings = colm.settings_for_volume(
        shape, ColmSettings(rows=grid[0], columns=grid[1], overlap=0.2, jitter_vox=(0, 0, 0))
    )
    for n, tiles, size in zip(shape[1:], grid, settings.tile_pixels):
        covered = size * (1 + (tiles - 1) * 0.8)
        assert n <= covered + 1e-9 and covered < n + size
    assert settings.planes == shape[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "odd"}, "names: 'odd' is unknown"),
        ({"overlap": 1.0}, "overlap: 1.0 is not in"),
        ({"planes": 0}, "nothing to cut"),
        ({"rows": 1, "columns": 1, "empty": ((0, 0),)}, "all cells are empty"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(QUIET, **change)


def test_an_acquisition_is_not_written_over(tmp_path):
    write(tmp_path, QUIET)
    with pytest.raises(AcquisitionError, match="already contains an acquisition; delete it or"):
        write(tmp_path, QUIET)


# ------------------------------------------------------------------ command line
def test_cut_command_places_a_volume_in_tiles(tmp_path, capsys):
    volume = np.random.default_rng(1).integers(0, 900, (6, 70, 64)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "v.tif", volume)
    status = cli.main(
        f"cut --volume {tmp_path}/v.tif --spacing 5,2,2 --grid 2 2 --overlap 0.3 --vignetting 0 "
        f"--orientation air --dark 50 --noise 0 --jitter 1,2,2 --out {tmp_path}/out".split()
    )
    assert status == 0
    assert "4 tiles of 6 x" in capsys.readouterr().out
    truth = json.loads((tmp_path / "out" / "truth" / "truth.json").read_text())
    assert truth["frame"]["spacing_um"] == [5.0, 2.0, 2.0]
    offset = np.array(truth["volume_offset_vox"])
    profile = tifffile.imread(tmp_path / "out" / "truth" / "profile_ch0.tif")
    origin = np.array(truth["tiles"]["LOC003"]["origin_vox"]) - offset
    plane = tifffile.imread(
        tmp_path / "out" / "raw" / "VW0" / "LOC003" / "VW0_LOC003D_CM0_CHN00_PLN0003.tif"
    )
    y, x = origin[1] + 20, origin[2] + 15
    expected = volume[origin[0] + 3, y, x] * profile[20, 15] + 50
    assert abs(plane[20, 15] - expected) <= 0.51
    config = yaml.safe_load((tmp_path / "out" / "sample.yaml").read_text())
    assert config["input"]["orientation"] == "AIR"
    assert config["input"]["spacing_um"] == [5.0, 2.0, 2.0]


def test_tiles2d_command_keeps_pixels_and_grid(tmp_path, capsys):
    folder = tmp_path / "tiles"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["# comment", "dim = 2"]
    images = {}
    for k, (x, y) in enumerate([(45.0, 0.0), (0.0, 0.0), (0.0, 45.0)]):
        images[x, y] = rng.integers(0, 60000, (50, 50)).astype(np.uint16)
        tifffile.imwrite(folder / f"t{k}.tif", images[x, y])
        lines.append(f"t{k}.tif; ; ({x}, {y})")
    (folder / "TileConfiguration.txt").write_text("\n".join(lines))
    arguments = f"tiles2d --folder {folder} --spacing 10,2.5,2.5 --out {tmp_path}/out".split()
    assert cli.main(arguments) == 0
    assert "3 tiles, 2 rows of 2, overlap 10.0 %" in capsys.readouterr().out
    raw = tmp_path / "out" / "raw"
    assert (raw / "Scanned Cells.txt").read_text() == "1,1\n1,0\n"
    for name, key in (("LOC000", (0.0, 0.0)), ("LOC001", (45.0, 0.0)), ("LOC002", (0.0, 45.0))):
        plane = tifffile.imread(raw / "VW0" / name / f"VW0_{name}D_CM0_CHN00_PLN0000.tif")
        assert np.array_equal(plane, images[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cut --volume none.tif --spacing 1,1,1 --out x", "none.tif does not exist"),
        ("cut --volume none.tif --spacing 1,1,1 --orientation AAR --out x", "one anatomical axis"),
        ("tiles2d --folder nowhere --spacing 1,1,1 --out x", "TileConfiguration.txt cannot be"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments.split()) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
