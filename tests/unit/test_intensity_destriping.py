"""Gains of lines: stripes of known depth are found in overlaps, at any position of the tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from terareg.acquisition.line_gains import load_line_gains
from terareg.acquisition.tile_correction import Flatfield
from terareg.core.errors import IntensityError
from terareg.intensity import destriping as module
from terareg.intensity.destriping import estimate_stripes, shared_part
from terareg.intensity.lines import LineLayout, sum_lines
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store


@dataclass(frozen=True)
class Streaks:
    """Tiles of smooth tissue at fractional positions, each plane with stripes of its own."""

    lines: str = "rows"
    depth: float = 0.15
    seed: int = 0
    grid: tuple[int, int] = (3, 4)
    empty: tuple[int, int] = (0, 0)
    pixels: int = 120
    planes: int = 40
    overlap: float = 0.2
    heights: int = 3  # by which tiles are displaced along z, at most
    fine: int = 4  # positions in each line at which tiles may lie


def make(streaks: Streaks) -> SimpleNamespace:
    """A source of float pixels, with ``origins`` and ``gains`` (planes, lines) by tile."""
    rng = np.random.default_rng(streaks.seed)
    n, step = streaks.pixels, round(streaks.pixels * (1 - streaks.overlap))
    (rows, columns), fine = streaks.grid, streaks.fine
    height = streaks.planes + streaks.heights
    across, along = fine * (step * rows + n), step * columns + n
    tissue = ndimage.gaussian_filter(rng.standard_normal((across, along)), (2 * fine, 2))
    tissue = 800 * np.clip(1 + 0.3 * tissue / tissue.std(), 0.2, 3)
    tissue[:, : n // 3] = 2  # nothing but medium at one side
    fade = 1 + 0.2 * np.sin(np.arange(height) / 5)
    data, gains, origins, tiles = {}, {}, {}, []
    for row in range(rows):
        for column in range(columns):
            if (row, column) == streaks.empty:
                continue
            name = f"T{row}{column}"
            z = int(rng.integers(0, streaks.heights + 1))
            y = row * step * fine + int(rng.integers(0, 3 * fine))
            x = column * step + int(rng.integers(0, 3))
            view = tissue[y : y + n * fine : fine, x : x + n]
            lines = ndimage.gaussian_filter1d(rng.standard_normal((streaks.planes, n)), 2)
            gain = 1 + streaks.depth * (lines / lines.std()).clip(-3, 3)
            planes = view * fade[z : z + streaks.planes, None, None] * gain[..., None]
            planes += rng.standard_normal(planes.shape) * np.sqrt(4 + 0.3 * planes)
            place = (z, y / fine, x) if streaks.lines == "rows" else (z, x, y / fine)
            data[name] = planes if streaks.lines == "rows" else planes.swapaxes(1, 2)
            gains[name], origins[name] = gain, tuple(float(v) for v in place)
            tiles.append(SimpleNamespace(name=name, row=row, column=column))
            if streaks.lines == "columns":
                tiles[-1] = SimpleNamespace(name=name, row=column, column=row)
    acquisition = SimpleNamespace(tiles=tuple(tiles), tile_shape=(streaks.planes, n, n))
    return SimpleNamespace(
        acquisition=acquisition,
        origins=origins,
        gains=gains,
        data=data,
        read=lambda tile, z0, z1: data[tile][z0:z1],
    )


def solve(source, folder, lines="rows", batches=1, workers=1):
    """Layout, record and gains by tile, all the way through the files."""
    layout = LineLayout.of(source.acquisition, source.origins, lines)
    names = [tile.name for tile in source.acquisition.tiles]
    paths = [folder / f"{i}.npz" for i in range(batches)]
    for i, path in enumerate(paths):
        sum_lines(path, source, names[i::batches], layout, workers)
    store = Store(folder / "store")
    record = estimate_stripes(paths, layout, store, "intensity/ch0/line_gains", "state")
    write_json(folder / "stripes.json", record)
    stripes = load_line_gains(folder / "stripes.json", store)
    found = {
        name: np.stack([stripes.of(name, z).ravel() for z in range(layout.shape[0])])
        for name in names
    }
    return layout, record, found


def seams(layout, gains) -> np.ndarray:
    """Log ratio of the two gains of every line of every overlap, of planes that both have."""
    left = []
    for pair in layout.pairs:
        first, second = (
            np.log(gains[name])[
                pair.planes.start - layout.bottoms[name] : pair.planes.stop - layout.bottoms[name]
            ]
            for name in (pair.first, pair.second)
        )
        where = np.array(pair.lines) - pair.shift
        of_second = [np.interp(where, np.arange(second.shape[1]), line) for line in second]
        left.append((first[:, pair.lines.start : pair.lines.stop] - np.array(of_second)).ravel())
    return np.concatenate(left)


def lit(layout) -> LineLayout:
    """The same without the overlaps at whose side there is medium only."""
    seen = [p for p in layout.pairs if not {p.first, p.second} & {"T10", "T20"}]
    return replace(layout, pairs=tuple(seen))


def percent(values: np.ndarray) -> float:
    return 100 * float(np.sqrt(np.mean(values**2) / 2))


@pytest.mark.slow
@pytest.mark.parametrize("lines", ["rows", "columns"])
@pytest.mark.parametrize("seed", [0, 1])
def test_stripes_of_known_depth_are_evened_out(tmp_path, lines, seed):
    source = make(Streaks(lines=lines, seed=seed))
    layout, record, found = solve(source, tmp_path, lines)
    ratio = {name: source.gains[name] / found[name] for name in found}
    before, after = (percent(seams(lit(layout), gains)) for gains in (source.gains, ratio))
    assert before > 14
    # at half a line, interpolation blunts stripes that are two lines wide
    assert after < 1.0
    assert record["seam_percent"]["after"] < 1.2 < 8 < record["seam_percent"]["before"]
    assert record["seam_percent"]["noise"] > 0.2 and record["seam_percent"]["beyond"] < 1


def test_whole_positions_leave_almost_nothing(tmp_path):
    source = make(Streaks(seed=3, fine=1))
    layout, _, found = solve(source, tmp_path)
    assert all(pair.fraction == 0 for pair in layout.pairs)
    assert percent(seams(lit(layout), {n: source.gains[n] / found[n] for n in found})) < 0.5


@pytest.mark.parametrize("columns", [8, 20])
def test_errors_of_the_flatfield_do_not_add_up_along_a_row(tmp_path, columns):
    source = make(Streaks(grid=(1, columns), empty=(9, 9), pixels=60, depth=0.05))
    for name in source.data:  # a flat-field that is wrong by 1 % from the left to the right edge
        source.data[name] = source.data[name] * np.linspace(0.995, 1.005, 60)
    found = solve(source, tmp_path)[2]
    lost = [np.median(found[n] / source.gains[n]) - 1 for n in list(found)[1:]]
    assert np.abs(lost).max() < 0.015


@pytest.mark.parametrize("seed", [0, 2])
def test_few_tiles_of_different_gains_leave_no_step(tmp_path, seed):
    source = make(Streaks(grid=(2, 3), empty=(9, 9), planes=16, depth=0.1, fine=1, seed=seed))
    rng = np.random.default_rng(seed)
    for name, gain in zip(source.data, np.exp(rng.normal(0, 0.2, 6))):
        source.data[name] = source.data[name] * gain
        source.gains[name] = source.gains[name] * gain
    layout, record, found = solve(source, tmp_path)
    left = seams(layout, {name: source.gains[name] / found[name] for name in found})
    # 3.8 and 8.8 where what six overlaps have in common was taken for the flat-field's error
    assert percent(left) < 1.5 < 10 < percent(seams(layout, source.gains))
    assert record["seam_percent"]["beyond"] < 1.2


@pytest.mark.parametrize(
    ("grid", "gains", "within"),
    [((1, 20), 0.002, 0.001), ((10, 20), 0.2, 0.01), ((2, 3), 0.2, 0.025), ((1, 2), 0.2, 0.025)],
)
def test_what_all_overlaps_share_is_told_from_gains_of_tiles(grid, gains, within):
    """Errors of the flat-field of 0 and 2 %, beside gains that are alike, many, or few."""
    rng = np.random.default_rng(0)
    pairs = [
        SimpleNamespace(first=f"{row}.{column}", second=f"{row}.{column + 1}")
        for row in range(grid[0])
        for column in range(grid[1] - 1)
    ]
    errors = {0.0: [], 0.02: []}
    for true, off in errors.items():
        for _ in range(50):
            of_tile = {n: rng.normal(0, gains) for p in pairs for n in (p.first, p.second)}
            values = [true + of_tile[p.first] - of_tile[p.second] for p in pairs]
            off.append(shared_part(pairs, np.array(values) + rng.normal(0, 1e-3, len(values))))
    for true, found in errors.items():
        assert np.sqrt(np.mean((np.array(found) - true) ** 2)) < within, true


@pytest.mark.slow
def test_planes_that_were_not_measured_are_left_alone(tmp_path):
    source = make(Streaks(seed=2))
    expected = solve(source, tmp_path / "whole")[2]
    source.data["T12"][10:12] = 0
    found = solve(source, tmp_path / "blank")[2]
    assert np.all(found["T12"][10:12] == 1)
    assert np.abs(np.log(found["T12"][20:] / expected["T12"][20:])).max() < 0.02


def test_faint_lines_among_empty_ones_are_not_believed(tmp_path):
    source = make(Streaks(grid=(1, 2), empty=(9, 9), depth=0.0, seed=4))
    rng = np.random.default_rng(1)
    for data in source.data.values():
        faint = rng.poisson(8.0, data.shape)
        data[:, np.arange(120) % 10 > 0] = 0
        data[:, ::10] = faint[:, ::10]
    found = solve(source, tmp_path)[2]
    assert max(np.abs(gains - 1).max() for gains in found.values()) < 0.1


def test_tiles_without_stripes_stay_as_they_are(tmp_path):
    source = make(Streaks(depth=0.0))
    _, record, found = solve(source, tmp_path)
    assert record["spread_percent"] < 0.3
    assert max(np.abs(gains - 1).max() for gains in found.values()) < 0.03


def test_dark_tiles_get_no_gains_of_noise(tmp_path):
    source = make(Streaks(grid=(1, 2), empty=(9, 9), depth=0.1))
    rng = np.random.default_rng(0)
    for name in source.data:
        source.data[name] = rng.poisson(3.0, source.data[name].shape).astype(float)
    _, record, found = solve(source, tmp_path)
    assert max(np.abs(gains - 1).max() for gains in found.values()) < 0.1
    assert record["spread_percent"] < 2


@pytest.mark.slow
def test_spots_and_a_tile_that_shows_something_else_do_little_harm(tmp_path):
    source = make(Streaks(seed=5))
    expected = solve(source, tmp_path / "clean")[2]
    source.data["T11"][20, 40:44, 5:9] += 30000  # a bright bead in one of two views
    source.data["T12"][3, :, -30:] = source.data["T12"][3, ::-1, -30:]
    _, _, found = solve(source, tmp_path / "spots")
    change = np.stack([np.abs(np.log(found[n] / expected[n])).max(1) for n in found])
    heights = [int(source.origins[n][0]) for n in found]
    by_height = np.zeros(50)
    for planes, height in zip(change, heights):
        here = slice(height, height + len(planes))
        by_height[here] = np.maximum(by_height[here], planes)
    bead, mirrored = 20 + int(source.origins["T11"][0]), 3 + int(source.origins["T12"][0])
    # it lies on two of the four parts of its lines
    assert by_height[bead] < 0.3 and by_height[mirrored] < 0.5
    assert np.delete(by_height, [bead, mirrored]).max() < 0.02


def test_the_file_of_a_tile_depends_neither_on_threads_nor_on_batches(tmp_path):
    source = make(Streaks(planes=40, pixels=60))
    one = solve(source, tmp_path / "one")[1]
    two = solve(source, tmp_path / "two", batches=3, workers=2)[1]
    assert one == two
    first = (tmp_path / "one/0.npz").read_bytes()
    layout = LineLayout.of(source.acquisition, source.origins, "rows")
    names = [tile.name for tile in source.acquisition.tiles]
    sum_lines(tmp_path / "again.npz", source, names, layout, 2)
    assert (tmp_path / "again.npz").read_bytes() == first
    assert [p.name for p in tmp_path.glob("*.part")] == []


def test_a_single_tile_has_nothing_to_compare_with(tmp_path):
    source = make(Streaks(grid=(1, 1), empty=(9, 9)))
    _, record, found = solve(source, tmp_path)
    assert record["seam_percent"] is None
    assert np.all(found["T00"] == 1)


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["slab", "begin", "record"])
def test_a_killed_job_goes_on_where_it_was(tmp_path, monkeypatch, kill):
    source = make(Streaks(pixels=60, planes=70))
    wanted = solve(source, tmp_path / "whole")[1]
    folder, solved, write = tmp_path / "killed", module.solve_slab, module.write_record

    def killed(means, layout, number, system):
        if number == 1:
            raise KeyboardInterrupt
        return solved(means, layout, number, system)

    def unwritten(store, key, record):
        if key.endswith({"begin": "begun.json", "record": "line_gains.json"}[kill]):
            raise KeyboardInterrupt
        write(store, key, record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if kill == "slab":
            patch.setattr(module, "solve_slab", killed)
        else:
            patch.setattr(module, "write_record", unwritten)
        solve(source, folder)
    assert not Store(folder / "store").exists("intensity/ch0/line_gains.json")
    again = []

    def counted(means, layout, number, system):
        again.append(number)
        return solved(means, layout, number, system)

    monkeypatch.setattr(module, "solve_slab", counted)
    assert solve(source, folder)[1] == wanted
    assert again == {"slab": [1, 2], "begin": [0, 1, 2], "record": []}[kill]
    assert solve(source, folder)[1] == wanted
    assert len(again) == len(set(again))
    assert not list(Store(folder / "store").list("intensity/ch0/line_gains.slabs"))


def test_another_fingerprint_begins_again(tmp_path):
    source = make(Streaks(pixels=60))
    layout, record, _ = solve(source, tmp_path)
    other = estimate_stripes(
        [tmp_path / "0.npz"], layout, Store(tmp_path / "store"), record["key"], "other"
    )
    assert other == record | {"fingerprint": "other"}


def test_means_of_other_positions_are_refused(tmp_path):
    source = make(Streaks(pixels=60))
    layout = LineLayout.of(source.acquisition, source.origins, "rows")
    names = [tile.name for tile in source.acquisition.tiles]
    sum_lines(tmp_path / "some.npz", source, names[:-1], layout)
    store = Store(tmp_path / "store")
    with pytest.raises(IntensityError, match=r"T13 and T23 are missing .*-R sum_lines"):
        estimate_stripes([tmp_path / "some.npz"], layout, store, "k", "state")
    sum_lines(tmp_path / "some.npz", source, names, layout)
    whole = (tmp_path / "some.npz").read_bytes()
    for damaged in (whole.replace(b"NUMPY", b"NUMPI", 1), whole[:400] + b"??" + whole[402:]):
        (tmp_path / "some.npz").write_bytes(damaged)
        with pytest.raises(IntensityError, match=r"some\.npz: the line means cannot be read"):
            estimate_stripes([tmp_path / "some.npz"], layout, store, "k", "state")
    (tmp_path / "some.npz").write_bytes(b"PK nothing")
    with pytest.raises(IntensityError, match=r"some\.npz: the line means cannot be read"):
        estimate_stripes([tmp_path / "some.npz"], layout, store, "k", "state")
    with pytest.raises(IntensityError, match="lines 'diagonals' are unknown"):
        LineLayout.of(source.acquisition, source.origins, "diagonals")


def test_planes_are_divided_by_the_gains_of_their_lines(tmp_path):
    source = make(Streaks(pixels=60))
    found = solve(source, tmp_path)[2]
    stripes = load_line_gains(tmp_path / "stripes.json", Store(tmp_path / "store"))
    flatfield = Flatfield(np.ones((60, 60)), 100.0, stripes=stripes)
    plane = np.full((60, 60), 40100, np.uint16)
    corrected, _ = flatfield.correct(plane, place=("T11", 7))
    assert np.array_equal(corrected[:, 0], np.rint(40000 / found["T11"][7]).astype(np.uint16))
    assert np.all(corrected == corrected[:, :1])
    part, _ = flatfield.correct(plane[5:9, 3:4], slice(5, 9), slice(3, 4), ("T11", 7))
    assert np.array_equal(part, corrected[5:9, 3:4])
    assert flatfield.state != Flatfield(np.ones((60, 60)), 100.0).state
    write_json(tmp_path / "columns.json", {**_info(tmp_path), "lines": "columns"})
    turned = load_line_gains(tmp_path / "columns.json", Store(tmp_path / "store"))
    sideways, _ = Flatfield(np.ones((60, 60)), 100.0, stripes=turned).correct(
        plane[3:4, 5:9], slice(3, 4), slice(5, 9), ("T11", 7)
    )
    assert np.array_equal(sideways, part.T)


def test_damaged_gains_are_one_sentence(tmp_path):
    source = make(Streaks(pixels=60))
    solve(source, tmp_path)
    store = Store(tmp_path / "store")
    write_json(tmp_path / "other.json", {**_info(tmp_path), "sha256": "0" * 64})
    with pytest.raises(IntensityError, match=r"line_gains cannot be read .*-R estimate_stripes"):
        load_line_gains(tmp_path / "other.json", store).of("T11", 0)
    write_json(tmp_path / "less.json", {"lines": "rows"})
    with pytest.raises(IntensityError, match=r"less\.json does not contain line gains \('tiles'"):
        load_line_gains(tmp_path / "less.json", store)
    for entry in list(store.list("intensity/ch0/line_gains")):
        if "/c/" in entry.key:
            store.write(entry.key, b"\0" * entry.size)
    with pytest.raises(IntensityError, match="cannot be read"):
        load_line_gains(tmp_path / "stripes.json", store).of("T11", 0)


def _info(folder) -> dict:

    return read_json(folder / "stripes.json")
