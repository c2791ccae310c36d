"""Grids from numbers, orders and stage positions: what went in comes out, or is named."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.acquisition.tile_grid import (
    ORDERS,
    STARTS,
    cells_in_order,
    find_grid,
    find_order,
    guess_shape,
)
from terareg.core.errors import AcquisitionError

SIDES = st.integers(1, 8)


def positions(cells, step=(90.0, 120.0), *, jitter=0.0, degrees=0.0, seed=0):
    """Stage positions of cells, moved by up to a share of the step, on a turned stage."""
    rng = random.Random(seed)
    turn, places = math.radians(degrees), {}
    for row, column in cells:
        y = row * step[0] + rng.uniform(-1, 1) * jitter * min(step)
        x = column * step[1] + rng.uniform(-1, 1) * jitter * min(step)
        places[f"{row},{column}"] = (
            5000 + y * math.cos(turn) - x * math.sin(turn),
            -300 + y * math.sin(turn) + x * math.cos(turn),
        )
    shuffled = list(places.items())
    rng.shuffle(shuffled)
    return dict(shuffled)


def full(rows, columns):
    return [(r, c) for r in range(rows) for c in range(columns)]


@pytest.mark.parametrize(
    ("tiles", "shape"),
    [(1, (1, 1)), (2, (2, 1)), (3, (3, 1)), (5, (3, 2)), (7, (4, 2)), (10, (5, 2)), (11, (4, 3)),
     (12, (4, 3)), (13, (5, 3)), (16, (4, 4)), (17, (6, 3)), (22, (6, 4)), (73, (15, 5))],
)  # fmt: skip
def test_a_number_of_tiles_fills_the_smallest_and_squarest_grid(tiles, shape):
    assert guess_shape(tiles) == shape
    assert guess_shape(tiles, "columns") == shape[::-1]


def test_no_tiles_make_no_grid():
    with pytest.raises(ValueError, match="0 tiles"):
        guess_shape(0)


@pytest.mark.parametrize(
    ("order", "start", "cells"),
    [
        ("horizontal", "top_left", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ("zigzag_horizontal", "top_left", [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]),
        ("vertical", "top_left", [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        ("zigzag_vertical", "top_left", [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]),
        ("zigzag_vertical", "bottom_right", [(1, 2), (0, 2), (0, 1), (1, 1), (1, 0), (0, 0)]),
        ("horizontal", "top_right", [(0, 2), (0, 1), (0, 0), (1, 2), (1, 1), (1, 0)]),
    ],
)
def test_orders_of_two_rows_and_three_columns(order, start, cells):
    assert cells_in_order(2, 3, order, start) == cells


@given(SIDES, SIDES, st.sampled_from(ORDERS), st.sampled_from(STARTS), st.integers(0, 7))
def test_an_order_visits_every_cell_once_and_is_found_again(rows, columns, order, start, left_out):
    cells = cells_in_order(rows, columns, order, start)
    assert sorted(cells) == full(rows, columns)
    found = find_order(cells)
    if min(rows, columns) < 2:
        assert found is None, "a single line fits several orders"
    else:
        assert found == (order, start)
    assert find_order(cells[::2] if len(cells) > 4 else []) is None


def test_an_unknown_order_is_an_error():
    with pytest.raises(ValueError, match="'spiral' from 'top_left'"):
        cells_in_order(2, 2, "spiral")


@given(
    SIDES, SIDES, st.sampled_from([0.0, 0.05, 0.1]), st.sampled_from([0, -4, 15]),
    st.sampled_from([(90.0, 120.0), (100.0, 100.0), (1.5, 0.9)]), st.integers(0, 5),
)  # fmt: skip
def test_stage_positions_with_jitter_on_a_turned_stage(rows, columns, jitter, degrees, step, seed):
    cells = full(rows, columns)
    grid = find_grid(positions(cells, step, jitter=jitter, degrees=degrees, seed=seed))
    assert (grid.rows, grid.columns) == (rows, columns)
    assert all(grid.cells[f"{r},{c}"] == (r, c) for r, c in cells)
    near = 2 * math.sqrt(2) * jitter * min(step) + 1e-6
    turn = math.radians(degrees)
    if rows > 1:
        wanted = (step[0] * math.cos(turn), step[0] * math.sin(turn))
        assert math.dist(grid.down, wanted) <= near
    if columns > 1:
        wanted = (-step[1] * math.sin(turn), step[1] * math.cos(turn))
        assert math.dist(grid.right, wanted) <= near


@pytest.mark.parametrize(
    "cells",
    [
        [(r, c) for r, c in full(5, 5) if (r, c) not in ((0, 0), (2, 2), (2, 3), (4, 4))],
        [(r, c) for r, c in full(4, 6) if c != 3],  # an empty column
        [(r, c) for r, c in full(6, 3) if r not in (2, 3)],  # two empty rows
        [(0, 1), (1, 0), (1, 1), (2, 1)],
        [(0, 0), (0, 1), (0, 2), (3, 2)],
    ],
)
def test_holes_and_empty_lines_stay_empty(cells):
    grid = find_grid(positions(cells, jitter=0.05, degrees=2))
    rows = {r for r, _ in cells}
    if rows == {0, 3}:  # no two neighbours tell the distance of the rows
        cells = [(min(r, 1), c) for r, c in cells]
        assert set(grid.cells.values()) == set(cells)
        return
    assert grid.cells == {f"{r},{c}": (r, c) for r, c in cells}


def test_the_origin_is_cell_0_0_even_without_a_tile():
    cells = [(0, 1), (1, 0), (1, 1)]
    grid = find_grid(positions(cells))
    assert grid.origin == pytest.approx((5000, -300))
    assert (grid.rows, grid.columns) == (2, 2)


def move(name, off):
    places = positions(full(3, 4))
    places[name] = tuple(p + d for p, d in zip(places[name], off))
    return places


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            move("1,2", (40, 0)),
            r"positions do not form a grid: 1,2 is off it, 1,2 by 4\d% of a step",
        ),
        (
            move("0,0", (3, 121)),
            "tiles 0,[01] and 0,[01] are in the same cell of the grid; remove one",
        ),
        (
            {"a": (0, 0), "b": (0, 0)},
            "tiles a and b are in the same cell of the grid; remove one of",
        ),
        ({"a": (0, 0), "b": (100, 100), "c": (200, 0)}, "do not form a grid"),
        (
            {f"{r},{c}": (90 * r, 120 * c + 60 * (r % 2)) for r, c in full(4, 3)},
            r"positions do not form a grid: \d,\d and \d,\d would both be row",
        ),
    ],
)
def test_positions_that_form_no_grid_are_named(places, message):
    with pytest.raises(AcquisitionError, match=message):
        find_grid(places)


def test_two_tiles_on_a_diagonal_tell_no_grid():
    with pytest.raises(AcquisitionError, match="positions of a, b do not form a grid: no tile is"):
        find_grid({"a": (0, 0), "b": (100, 100)})
