"""Evidence: gains, their change with depth and stripes are told apart, and chance from all."""

import numpy as np
import pytest
from intensity_truth import Scene, TruthSource

from terareg.acquisition.line_gains import load_line_gains, wanted_lines
from terareg.intensity.destriping import NO_STRIPES
from terareg.intensity.flatfield import estimate_flatfield
from terareg.intensity.lines import LineMeans, sum_no_lines
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.sums import sum_tiles
from terareg.storage.records import write_json
from terareg.storage.store import Store

EVEN = {"rows": 4, "columns": 4, "empty": (), "drift": 0.0}


def info_of(settings=None, **changes):
    source = TruthSource(Scene(**{**EVEN, **changes}))
    sums = sum_tiles(source, source.names, settings, source.origins)
    return estimate_flatfield([sums], settings)[1]


@pytest.mark.parametrize("seed", range(3))
def test_even_tiles_are_left_as_they_are(seed):
    info = info_of(seed=seed)
    assert info["tile_gains"] is False and info["stripes"] == "none"
    assert info["corrected"] == "nothing beside profile and background"
    assert max(v for k, v in info["step_percent"].items() if k != "unexplained") < 0.5
    assert not info["warnings"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, gains, stripes",
    [
        ({"drift": 0.1}, True, "none"),
        ({"drift": 0.1, "fade": 0.4}, "depth", "none"),
        ({"stripes": 0.08}, None, "rows"),
        ({"stripes": 0.08, "across": True}, None, "columns"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_differs_is_found_and_named(seed, changes, gains, stripes):
    info = info_of(seed=seed, **changes)
    assert info["stripes"] == stripes
    if gains is not None:
        assert info["tile_gains"] == gains
        assert info["seam_percent"]["after"] < 1
        left = info_of(FlatfieldSettings(tile_gains=False), seed=seed, **changes)
        assert left["tile_gains"] is False
        assert left["seam_percent"]["after"] > 3 * info["seam_percent"]["after"]
        assert any("gain of tiles" in text for text in left["warnings"])
    else:
        steps = info["step_percent"]
        assert steps["stripes of lines"] == max(steps.values())
        assert steps["stripes of lines"] == pytest.approx(100 * changes["stripes"], rel=0.5)


def test_gains_along_a_single_row_of_tiles_are_found_without_loops():
    row = {"rows": 1, "columns": 6}
    assert info_of(**row, drift=0.1)["tile_gains"] is True
    assert info_of(**row)["tile_gains"] is False


@pytest.mark.parametrize("seed", [11, 12])
def test_a_step_between_two_rows_of_tiles_is_not_lost_among_even_columns(seed):
    """Half of the overlaps, those along the rows, differ by nothing."""
    source = TruthSource(Scene(seed=seed, empty=(), drift=0.0))
    for tile in source.acquisition.tiles:
        if tile.row == 0:
            signal = source.data[tile.name] - source.scene.dark
            source.data[tile.name] = np.rint(source.scene.dark + 0.9 * signal).clip(0).astype("u2")
    _, info = estimate_flatfield([sum_tiles(source, source.names, None, source.origins)])
    assert info["tile_gains"] is True and info["step_percent"]["gain of tiles"] > 2
    assert info["seam_percent"]["beyond"] < 0.3


def test_every_tile_is_needed_for_gains():
    settings = FlatfieldSettings(tiles=2)
    source = TruthSource(Scene(**EVEN | {"drift": 0.1}))
    sums = sum_tiles(source, source.names[::2], settings, source.origins)
    assert estimate_flatfield([sums], settings)[1]["tile_gains"] is False


def test_without_overlaps_nothing_is_told():
    info = info_of(FlatfieldSettings(overlaps=False))
    assert "step_percent" not in info and info["tile_gains"] is False


def test_a_single_tile_keeps_a_flat_profile():
    source = TruthSource(Scene(rows=1, columns=1, empty=(), planes=4, pixels=48))
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names)])
    assert np.all(flatfield.profile == 1)
    assert "a single tile, so the profile is left" in info["warnings"][0]
    assert wanted_lines("auto", info) == "none"


def test_wanted_lines():
    assert wanted_lines("auto", {"stripes": "columns"}) == "columns"
    assert wanted_lines("auto", {}) == "none"
    assert wanted_lines("rows", {"stripes": "none"}) == "rows"


def test_files_of_a_channel_without_stripes(tmp_path):
    sum_no_lines(tmp_path / "a" / "0.npz")
    with LineMeans([tmp_path / "a" / "0.npz"]):
        pass
    write_json(tmp_path / "stripes.json", NO_STRIPES)
    assert load_line_gains(tmp_path / "stripes.json", Store(str(tmp_path))) is None
