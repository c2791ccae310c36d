"""The global solution: exact where links agree, sane where they do not or are not there."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import StitchingError
from terareg.stitching.leans import lean_of_windows, leans_of_tiles
from terareg.stitching.pairs import PairResult, WindowResult
from terareg.stitching.placement import load_placement, save_placement
from terareg.stitching.solver import place

STEP = {"EAST": np.array([0.0, 0.0, 217.0]), "SOUTH": np.array([0.0, 217.0, 0.0])}


def acquisition_of(rows, columns, missing=()):
    tiles = tuple(
        SimpleNamespace(
            name=f"T{r}_{c}",
            row=r,
            column=c,
            origin_vox=tuple(r * STEP["SOUTH"] + c * STEP["EAST"]),
        )
        for r in range(rows)
        for c in range(columns)
        if (r, c) not in missing
    )
    return SimpleNamespace(
        tiles=tiles,
        rows=rows,
        columns=columns,
        tile_shape=(100, 256, 256),
        overlap=(1 - 217 / 256,) * 2,
    )


def link(a, b, direction, displ, status="ok", reliability=0.9999, windows=()):
    return PairResult(
        a, b, direction, status, tuple(float(v) for v in displ), (0.05, 0.05, 0.05), reliability,
        0.5, 6, 6, tuple(STEP[direction]), (10, 30, 30), windows,
    )  # fmt: skip


def simulate(rows, columns, seed=0, missing=(), jitter=4.0, drift=True):
    """Acquisition, true positions relative to cell (0, 0), and perfect links in grid order."""
    rng = np.random.default_rng(seed)
    acquisition = acquisition_of(rows, columns, missing)
    true = {}
    for tile in acquisition.tiles:
        bend = tile.row * np.array([1, 2, 3]) + tile.column * np.array([-1, -3, 2])
        true[tile.row, tile.column] = (
            np.array(tile.origin_vox) + drift * bend + rng.uniform(-jitter, jitter, 3)
        )
    if (0, 0) in true:
        first = true[0, 0]
        true = {cell: value - first for cell, value in true.items()}
    links = [
        link(f"T{r}_{c}", f"T{r2}_{c2}", direction, true[r2, c2] - true[r, c])
        for (r, c) in true
        for direction, (r2, c2) in (("EAST", (r, c + 1)), ("SOUTH", (r + 1, c)))
        if (r2, c2) in true
    ]
    return acquisition, true, links


def positions(placement):
    return {(t.row, t.column): np.array(t.origin_vox) for t in placement.tiles.values()}


def worst(placement, true):
    found = positions(placement)
    return max(np.abs(found[cell] - true[cell]).max() for cell in true)


def seams(placement, true):
    found = positions(placement)
    return np.array(
        [
            np.abs((found[b] - found[a]) - (true[b] - true[a])).max()
            for a in true
            for b in ((a[0], a[1] + 1), (a[0] + 1, a[1]))
            if b in true
        ]
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_exact_on_consistent_links(rows, columns, seed):
    acquisition, true, links = simulate(rows, columns, seed)
    placement = place(acquisition, links)
    assert worst(placement, true) < 1e-3
    assert placement.tiles["T0_0"].origin_vox == (0.0, 0.0, 0.0)
    assert all(state.state == "kept" for state in placement.links)
    for tile in placement.tiles.values():
        assert tile.integer == tuple(int(v) for v in np.rint(np.round(tile.origin_vox, 6)))


def test_does_not_depend_on_where_the_stage_starts():
    acquisition, _, links = simulate(3, 4)
    moved = SimpleNamespace(**vars(acquisition))
    moved.tiles = tuple(
        SimpleNamespace(**{**vars(t), "origin_vox": tuple(np.array(t.origin_vox) + [5, -7, 1000])})
        for t in acquisition.tiles
    )
    assert place(acquisition, links).to_json() == place(moved, links).to_json()


@pytest.mark.parametrize("seed", range(3))
def test_outliers_are_rejected_and_named(seed):
    acquisition, true, links = simulate(6, 8, seed)
    rng = np.random.default_rng(seed)
    links = [
        link(p.a, p.b, p.direction, np.array(p.displ_vox) + rng.normal(0, 0.1, 3)) for p in links
    ]
    bad = rng.choice(len(links), len(links) // 12, replace=False)
    for k in bad:
        p = links[k]
        links[k] = link(p.a, p.b, p.direction, np.array(p.displ_vox) + rng.choice([-20, 20], 3))
    placement = place(acquisition, links)
    rejected = [k for k, item in enumerate(placement.links) if item.state == "rejected"]
    assert rejected == sorted(bad)
    assert all("voxels" in placement.links[k].reason for k in rejected)
    assert seams(placement, true).max() < 0.5
    assert any("contradict the others and were rejected" in text for text in placement.warnings)
    broken = [loop for loop in placement.loops if not loop["kept"]]
    assert broken and max(np.abs(loop["closure_vox"]).max() for loop in broken) > 15
    assert placement.summary["closure_max_vox"] < 1.5


def test_lone_outlier_that_closes_no_loop_cannot_carry_a_tile_away():
    acquisition, true, links = simulate(4, 4, 2)
    links = [p for p in links if p.b != "T3_3"]
    links.append(link("T3_2", "T3_3", "EAST", STEP["EAST"] + [0, 90, -60]))
    placement = place(acquisition, links)
    assert placement.links[-1].state == "rejected"
    assert "no loop confirms it" in placement.links[-1].reason
    assert np.abs(positions(placement)[3, 3] - true[3, 3]).max() < 15
    assert placement.tiles["T3_3"].state == "model"


def test_tile_without_links_follows_with_the_true_step():
    acquisition, true, links = simulate(4, 4, 3, jitter=0.0)
    links = [
        link(p.a, p.b, p.direction, STEP[p.direction], "no_signal", 0.0)
        if "T2_2" in (p.a, p.b)
        else p
        for p in links
    ]
    placement = place(acquisition, links)
    assert placement.tiles["T2_2"].state == "model"
    assert worst(placement, true) < 0.01
    empty = [item for item in placement.links if item.state == "empty"]
    assert {item.reason for item in empty} == {"no signal in the overlap"}
    assert all("T2_2" in (item.a, item.b) for item in empty) and len(empty) == 4
    assert any("T2_2" in text and "stage model" in text for text in placement.warnings)


def test_separated_columns_are_joined_by_the_model():
    gone = {(r, 2) for r in range(4)}
    acquisition, true, links = simulate(4, 5, 4, missing=gone, jitter=0.0)
    placement = place(acquisition, links)
    assert worst(placement, true) < 0.01
    assert {t.state for t in placement.tiles.values()} == {"linked", "group"}
    assert set(placement.unscanned) == {f"{r},2" for r in range(4)}
    assert any("2 groups of tiles" in text for text in placement.warnings)


def test_grid_whose_first_cell_is_missing():
    acquisition, true, links = simulate(3, 3, 5, missing={(0, 0)}, jitter=0.0)
    placement = place(acquisition, links)
    assert worst(placement, true) < 0.01
    assert placement.unscanned == {"0,0": (0, 0, 0)}


def test_origins_are_whole_voxels_or_exact():
    acquisition, _, links = simulate(2, 2, 3, jitter=2.0)
    placement = place(acquisition, links)
    exact, whole = placement.origins(subpixel=True), placement.origins()
    assert exact == {name: tile.origin_vox for name, tile in placement.tiles.items()} != whole
    for name, place_of in whole.items():
        assert np.abs(np.subtract(exact[name], place_of)).max() < 2


def test_one_tile_and_no_links_at_all():
    placement = place(acquisition_of(1, 1), [])
    assert placement.origins() == {"T0_0": (0, 0, 0)}
    placement = place(acquisition_of(2, 3), [])
    assert placement.origins()["T1_2"] == (0, 217, 434)
    assert all(tile.state == "model" for tile in placement.tiles.values())
    placement = place(acquisition_of(1, 4), [])
    assert placement.origins()["T0_3"] == (0, 0, 651)


def test_unreliable_links_are_not_used():
    acquisition, _, links = simulate(2, 2)
    links[0] = link(links[0].a, links[0].b, "EAST", [9, 9, 250], reliability=0.5)
    links[1] = link(links[1].a, links[1].b, "SOUTH", [9, 250, 9], "disagree")
    placement = place(acquisition, links)
    assert placement.links[0].reason == "reliability 0.500 below 0.99"
    assert placement.links[1].reason.startswith("windows disagree")
    links[1] = link(links[1].a, links[1].b, "SOUTH", [9, 250, 9], "beyond_search")
    placement = place(acquisition, links)
    assert placement.links[1].reason.startswith("best fit at the limit of the search, ")
    (told,) = [text for text in placement.warnings if "search_um" in text]
    assert told.startswith("the best fit of 1 of 4 neighbouring pairs lies at the limit")


def leaning_links(links, leans, sigma=0.1, noise=0.0):
    """Links whose displacements change with depth as the tiles in ``leans`` do."""
    rng = np.random.default_rng(5)
    zero = np.zeros(3)
    return [
        replace(
            p,
            lean_vox=tuple(leans.get(p.b, zero) - leans.get(p.a, zero) + rng.normal(0, noise, 3)),
            lean_sigma_vox=(sigma,) * 3,
        )
        for p in links
    ]


def test_a_tile_that_leans_is_named_with_its_figure():
    acquisition, _, links = simulate(3, 3)
    leaning = leaning_links(links, {"T1_1": np.array([0, 6.0, -2.0])}, noise=0.05)
    placement = place(acquisition, leaning)
    (text,) = [text for text in placement.warnings if "lean" in text]
    assert (
        "1 of 9 tiles lean" in text
        and ("over the 100 planes of the stack, in voxels: T1_1 (y +6.0 +-") in text
    )
    assert "x -2.0 +- 0.0" in text and "stitching.model: auto" in text
    assert placement.summary["lean_left_vox"] == pytest.approx(5.8, abs=0.2)
    assert placement.summary["tiles_leaning"] == 1
    assert not placement.matrices((100, 256, 256))
    auto = place(acquisition, leaning, tile_model="auto")
    assert np.abs(np.subtract(auto.tiles["T1_1"].lean_vox, [0, 6, -2])).max() < 0.1
    assert list(auto.matrices((100, 256, 256))) == ["T1_1"] and auto.summary["lean_left_vox"] < 0.2
    assert any("fusion shifts their planes" in text for text in auto.warnings)
    assert auto.origins(subpixel=True) == placement.origins(subpixel=True)


@pytest.mark.parametrize(
    ("jump", "told"),
    [((0, 9, -3), True), ((0, 1, 1), False), (None, False), ("limit", False)],
)
def test_a_part_of_the_depth_with_another_displacement_is_told(jump, told):
    """Of six windows two agree elsewhere: no lean, and no noise, whose peaks lie anywhere.

    Two that both end at the limit of the search have found nothing.
    """
    acquisition, _, links = simulate(1, 2)
    if jump == "limit":
        end = np.add(links[0].expected_vox, [0, -links[0].search_vox[1], 0])
        jump = np.round(end) - links[0].displ_vox
    rng = np.random.default_rng(1)
    windows = []
    for k in range(6):
        away = np.zeros(3)
        if k > 3:
            away = rng.uniform(-10, 10, 3) if jump is None else np.array(jump)
        displ = tuple(np.array(links[0].displ_vox) + away)
        windows.append(WindowResult((16 * k, 16 * k + 16), (0, 10), displ, 0.5, 0.1, True, k < 4))
    pair = replace(links[0], windows=tuple(windows))
    texts = [text for text in place(acquisition, [pair]).warnings if "part of their depth" in text]
    assert len(texts) == told
    if told:
        assert "T0_0-T0_1 (by 0, 9, -3 in z, y, x between planes 64 and 96)" in texts[0]


@pytest.mark.parametrize("number", [3, 4, 8])
def test_scatter_of_few_windows_is_no_lean_and_a_lean_of_many_is_clear(number):
    rng = np.random.default_rng(number)
    depths = np.linspace(0, 100, number).astype(int)

    def found(lean):
        moved = rng.normal(0, 0.5, (number, 3)) + np.outer((depths - 50) / 100, [0, lean, 0])
        windows = [
            WindowResult((z, z + 10), (0, 10), tuple(v), 0.5, 0.1, True, True)
            for z, v in zip(depths.tolist(), moved.tolist())
        ]
        return lean_of_windows(windows, 110)[0]

    beyond = [abs(lean.vox[1]) > 2 * lean.sigma_vox[1] for lean in (found(0.0) for _ in range(999))]
    assert np.mean(beyond) < 0.07, "a twentieth, as two standard errors say"
    if number == 8:
        assert all(found(12.0).clear for _ in range(99))


def with_windows(links, leans, scatter, number, seed):
    """Links with some windows each, whose displacements scatter differently from link to link."""
    rng = np.random.default_rng(seed)
    zero, found = np.zeros(3), []
    for p in links:
        depths = np.sort(rng.choice(np.linspace(5, 95, 6), number, replace=False))
        own = scatter * rng.uniform(0.3, 2.0)
        lean = leans.get(p.b, zero) - leans.get(p.a, zero)
        shifts = np.outer((depths - 49.5) / 99, lean) + own * rng.standard_normal((number, 3))
        windows = tuple(
            WindowResult((int(z) - 5, int(z) + 5), (0, 9), tuple(v), 0.5, 0.1, True, True)
            for z, v in zip(depths, shifts.tolist())
        )
        lean = lean_of_windows(windows, 100)[0]
        found.append(replace(p, windows=windows, lean_vox=lean.vox, lean_sigma_vox=lean.sigma_vox))
    return found


@pytest.mark.parametrize("number", [3, 4, 6])
def test_few_windows_in_many_pairs_are_no_lean_and_a_true_lean_is_found(number):
    """Errors come from all pairs, and so does what is as improbable as four of them."""
    acquisition, _, links = simulate(3, 3)
    told = [
        name
        for seed in range(30)
        for name, lean in leans_of_tiles(
            [t.name for t in acquisition.tiles], with_windows(links, {}, 0.6, number, seed),
            [True] * len(links), 100,
        ).items()
        if any(lean.told().vox)
    ]  # fmt: skip
    assert len(told) <= 1, "of 270 tiles"
    true = {"T1_1": np.array([0, 5.0, 0])}
    for seed in range(10):
        leans = leans_of_tiles(
            [t.name for t in acquisition.tiles], with_windows(links, true, 0.2, number, seed),
            [True] * len(links), 100,
        )  # fmt: skip
        assert [n for n, lean in leans.items() if any(lean.told().vox)] == ["T1_1"]


def test_pairs_that_contradict_each_other_tell_no_lean():
    acquisition, _, links = simulate(3, 3)
    true = leaning_links(links, {}, sigma=0.2, noise=1.0)
    assert not place(acquisition, true, tile_model="auto").matrices((100, 256, 256))


def test_leans_within_their_error_are_not_told():
    acquisition, _, links = simulate(3, 3)
    for leaning in (links, leaning_links(links, {}, sigma=0.5, noise=0.5)):
        placement = place(acquisition, leaning, tile_model="auto")
        assert not [text for text in placement.warnings if "lean" in text]
        assert not placement.matrices((100, 256, 256))
    assert placement.summary["lean_left_vox"] < 1.5
    assert place(acquisition, links).summary["lean_left_vox"] is None


def test_every_tile_may_lean_in_its_own_way_and_groups_are_apart():
    acquisition, _, links = simulate(3, 4)
    rng = np.random.default_rng(2)
    true = {tile.name: rng.uniform(-6, 6, 3) for tile in acquisition.tiles}
    # no link between the second and third column
    apart = [p for p in links if (p.a[-1], p.b[-1]) != ("1", "2")]
    found = leans_of_tiles(list(true), leaning_links(apart, true), [True] * len(apart), 100)
    for columns in ("01", "23"):
        own = [name for name in true if name[-1] in columns]
        middle = np.median([true[name] for name in own], axis=0)
        for name in own:
            assert np.abs(np.array(found[name].vox) - (true[name] - middle)).max() < 1e-5
    with pytest.raises(StitchingError, match="model 'rigid' is unknown; choose one of transl"):
        place(acquisition, links, tile_model="rigid")


@pytest.mark.parametrize(
    ("jitter", "off", "told"), [(4.0, 0.0, False), (0.1, 5.0, True), (0.1, 0.0, False)]
)
def test_a_step_is_told_to_differ_only_if_its_error_says_so(jitter, off, told):
    """Of three links with a jitter of 4 voxels the median says nothing."""
    said = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        acquisition = acquisition_of(2, 3)
        links = [
            link(f"T0_{c}", f"T1_{c}", "SOUTH",
                 STEP["SOUTH"] + [0, off, 0] + rng.uniform(-jitter, jitter, 3))
            for c in range(3)
        ]  # fmt: skip
        texts = [t for t in place(acquisition, links).warnings if "the SOUTH step is" in t]
        said += len(texts)
        assert all(
            " +- 0.0" in t and "not the nominal (0.0, 217.0, 0.0)" in t for t in texts if told
        )
    assert said == (20 if told else 0)


def test_errors():
    acquisition, _, links = simulate(2, 2)
    with pytest.raises(StitchingError, match="tile X is not in the acquisition; measure"):
        place(acquisition, [link("T0_0", "X", "EAST", [0, 0, 1])])
    with pytest.raises(StitchingError, match="T0_0 - T1_1: not neighbours in direction EAST"):
        place(acquisition, [link("T0_0", "T1_1", "EAST", [0, 0, 1])])
    with pytest.raises(StitchingError, match="T0_1 - T1_0: not neighbours"):
        place(acquisition, [link("T0_1", "T1_0", "EAST", [0, 0, 1])])
    with pytest.raises(StitchingError, match="given twice"):
        place(acquisition, [links[0], links[0]])
    with pytest.raises(StitchingError, match="no tiles"):
        place(SimpleNamespace(tiles=(), rows=1, columns=1), [])
    acquisition.tiles += acquisition.tiles[:1]
    with pytest.raises(StitchingError, match="both at row 0, column 0; remove one"):
        place(acquisition, [])


def test_file_round_trip(tmp_path):
    acquisition, _, links = simulate(3, 3, missing={(1, 1)})
    placement = place(acquisition, links)
    save_placement(tmp_path / "p.json", placement)
    assert load_placement(tmp_path / "p.json") == placement
    (tmp_path / "q.json").write_text('{"tiles": []}')
    with pytest.raises(StitchingError, match=r"q.json is not a placement"):
        load_placement(tmp_path / "q.json")


@pytest.mark.slow
def test_five_thousand_tiles_with_outliers_and_missing_links():
    acquisition, true, links = simulate(50, 100, 1)
    rng = np.random.default_rng(0)
    damaged = []
    for p in links:
        u = rng.random()
        displ = np.array(p.displ_vox) + rng.normal(0, 0.25, 3)
        if u < 0.1:
            damaged.append(link(p.a, p.b, p.direction, STEP[p.direction], "no_signal", 0.0))
        else:
            displ += (u < 0.12) * rng.uniform(-25, 25, 3)
            damaged.append(link(p.a, p.b, p.direction, displ))
    placement = place(acquisition, damaged)
    error = seams(placement, true)
    assert np.median(error) < 0.5
    assert np.mean(error > 2) < 0.005
