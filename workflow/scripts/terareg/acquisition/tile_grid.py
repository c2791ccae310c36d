"""Grids of tiles, from their number, from the order of acquisition or from stage positions.

Pure functions, standard library only. A cell is (row, column), both from 0; row grows with y and
column with x. A position is (y, x) in any one unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from terareg.core.errors import AcquisitionError, few

ORDERS = ("horizontal", "zigzag_horizontal", "vertical", "zigzag_vertical")
STARTS = ("top_left", "top_right", "bottom_left", "bottom_right")
Cell = tuple[int, int]
Position = tuple[float, float]
# a neighbour along an axis is searched within 30 degrees of the axis, so that the stage may be
# rotated against the camera by some 20 degrees
_CONE = math.tan(math.radians(30))
# fraction of a step by which a position may lie off its grid point
_OFF = 0.25
# two positions closer than this fraction of the median step are the same
_SAME = 0.15
_REMEDY = "correct the positions, or list the tiles in a table with columns row and column"


@dataclass(frozen=True)
class TileGrid:
    """A regular grid through positions; it may be rotated against the axes.

    Attributes
    ----------
    rows, columns : int
    cells : dict of str to (row, column)
        By the names of the positions.
    origin : (y, x)
        Position of the tile in cell (0, 0) or, without a tile there, that of the grid point.
    down, right : (y, x)
        Step from a row to the next, and from a column to the next; (0, 0) where there is one only.
    """

    rows: int
    columns: int
    cells: dict[str, Cell]
    origin: Position
    down: Position
    right: Position


def guess_shape(tiles: int, longer: str = "rows") -> tuple[int, int]:
    """Rows and columns of the grid that a number of tiles most likely fills.

    It is the smallest grid that holds them whose sides are at most twice the square root of their
    number (at most 4 for fewer than 4 tiles); of several, the one closest to a square.

    Parameters
    ----------
    tiles : int
        At least 1.
    longer : str
        "rows" or "columns": which of them is the larger number.
    """
    if tiles < 1:
        raise ValueError(f"{tiles} tiles do not form a grid")
    most = 4 if tiles < 4 else 2 * math.isqrt(tiles)
    shapes = [(a, b) for b in range(1, most + 1) for a in range(b, most + 1) if a * b >= tiles]
    large, small = min(shapes, key=lambda shape: (shape[0] * shape[1], shape[0] - shape[1]))
    return (large, small) if longer == "rows" else (small, large)


def cells_in_order(
    rows: int, columns: int, order: str = "horizontal", start: str = "top_left"
) -> list[Cell]:
    """All cells of a grid in the order in which a stage visits them.

    Parameters
    ----------
    rows, columns : int
    order : str
        "horizontal" (row by row), "vertical" (column by column), or either with the prefix
        "zigzag_": every second line is taken backwards.
    start : str
        Corner of the first tile: "top_left", "top_right", "bottom_left" or "bottom_right"; top is
        row 0, left is column 0.
    """
    if order not in ORDERS or start not in STARTS:
        raise ValueError(
            f"order {order!r} from {start!r}: use an order of {ORDERS} and a start of {STARTS}"
        )
    down = list(range(rows)) if start.startswith("top") else list(range(rows))[::-1]
    right = list(range(columns)) if start.endswith("left") else list(range(columns))[::-1]
    across = order.endswith("horizontal")
    lines, along = (down, right) if across else (right, down)
    cells = []
    for number, line in enumerate(lines):
        backwards = order.startswith("zigzag") and number % 2
        for place in reversed(along) if backwards else along:
            cells.append((line, place) if across else (place, line))
    return cells


def find_order(cells: Sequence[Cell]) -> tuple[str, str] | None:
    """The order and start for which :func:`cells_in_order` gives these cells, if just one does.

    The last line may be incomplete. The result is None if no order fits, and for a single row or
    column, which fits several orders.
    """
    if not cells:
        return None
    rows, columns = (1 + max(cell[axis] for cell in cells) for axis in (0, 1))
    found = [
        (order, start)
        for order in ORDERS
        for start in STARTS
        if cells_in_order(rows, columns, order, start)[: len(cells)] == list(cells)
    ]
    return found[0] if len(found) == 1 else None


def find_grid(positions: Mapping[str, Position]) -> TileGrid:
    """Put stage positions on a regular grid.

    The two steps are the medians of the steps to the next tile along each axis; then the cell of
    every position is counted from its neighbours, and the grid is fitted to all positions by least
    squares. Tiles may deviate from their grid point by a quarter of a step, cells and whole rows or
    columns may be empty, and the stage may be rotated against the axes by up to 20 degrees.

    Parameters
    ----------
    positions : mapping of str to (y, x)
        By name, which messages use.

    Raises
    ------
    AcquisitionError
        If two tiles are in the same place, or a position does not fit the grid of the others.
    """
    names = list(positions)
    places: list[tuple[float, float]] = [tuple(map(float, positions[name])) for name in names]
    next_right, next_down = _nearest(places, 1), _nearest(places, 0)
    _check_apart(names, places, [*_steps(places, next_right), *_steps(places, next_down)])
    right = _typical(_steps(places, next_right))
    down = _typical(_steps(places, next_down))
    if right is None and down is None and len(places) > 1:
        raise AcquisitionError(
            f"the positions of {few(names)} do not form a grid: no tile is beside or below "
            f"another; {_REMEDY}"
        )
    steps = _complete(down, right)
    cells = _count(places, steps, next_right, next_down)
    for _ in range(3):
        origin, steps = _fit(places, cells, steps)
        counted = [_cell(place, origin, steps) for place in places]
        if counted == cells:
            break
        cells = counted
    _check_regular(names, places, cells, origin, steps)
    top, left = (min(cell[axis] for cell in cells) for axis in (0, 1))
    cells = [(row - top, column - left) for row, column in cells]
    rows, columns = (1 + max(cell[axis] for cell in cells) for axis in (0, 1))
    at: dict[Cell, str] = {}
    for name, cell in zip(names, cells):
        if cell in at:
            raise AcquisitionError(
                f"the positions do not form a grid: {at[cell]} and {name} would both be row "
                f"{cell[0]}, column {cell[1]}; {_REMEDY}"
            )
        at[cell] = name
    first = next((place for place, cell in zip(places, cells) if cell == (0, 0)), None)
    if first is None:
        first = tuple(o + top * d + left * r for o, d, r in zip(origin, *steps))
    return TileGrid(
        rows,
        columns,
        dict(zip(names, cells)),
        first,
        steps[0] if rows > 1 else (0.0, 0.0),
        steps[1] if columns > 1 else (0.0, 0.0),
    )


def fit_grid(positions: Mapping[str, Position], cells: Mapping[str, Cell]) -> TileGrid:
    """Fit a grid to positions whose cells are known; the smallest row and column become 0."""
    names = list(positions)
    top, left = (min(cell[axis] for cell in cells.values()) for axis in (0, 1))
    placed = {name: (cells[name][0] - top, cells[name][1] - left) for name in names}
    rows, columns = (1 + max(cell[axis] for cell in placed.values()) for axis in (0, 1))
    still = ((0.0, 0.0), (0.0, 0.0))
    origin, (down, right) = _fit(list(positions.values()), list(placed.values()), still)
    if len(set(positions.values())) > 1:
        steps = _complete(down if rows > 1 else None, right if columns > 1 else None)
        _check_regular(names, list(positions.values()), list(placed.values()), origin, steps)
    first = next((positions[name] for name, cell in placed.items() if cell == (0, 0)), origin)
    return TileGrid(rows, columns, placed, first, down, right)


def _nearest(places: Sequence[Position], axis: int) -> list[int | None]:
    """For each position, the index of the nearest next one along an axis (0 is y), or None."""
    ordered = sorted(range(len(places)), key=lambda i: places[i][axis])
    found: list[int | None] = [None] * len(places)
    for number, i in enumerate(ordered):
        distance = math.inf
        for j in ordered[number + 1 :]:
            along = places[j][axis] - places[i][axis]
            if along >= distance:
                break
            aside = abs(places[j][1 - axis] - places[i][1 - axis])
            if along > 0 and aside <= _CONE * along and math.hypot(along, aside) < distance:
                found[i], distance = j, math.hypot(along, aside)
    return found


def _steps(places: Sequence[Position], following: Sequence[int | None]) -> list[Position]:
    """Steps to the next position; if it is the next one of several, only the shortest step."""
    nearest: dict[int, Position] = {}
    for i, j in enumerate(following):
        if j is not None:
            step = (places[j][0] - places[i][0], places[j][1] - places[i][1])
            nearest[j] = min(step, nearest.get(j, step), key=lambda s: math.hypot(*s))
    return list(nearest.values())


def _typical(found: Sequence[Position]) -> Position | None:
    """Median step; gaps, which span several steps, are left out."""
    if not found:
        return None
    lengths = [math.hypot(*step) for step in found]
    # a gap is at least two steps; with jitter, the smallest step is above half the typical one
    single = [s for s, n in zip(found, lengths) if n < 1.5 * _lower_median(lengths)]
    return (median(s[0] for s in single), median(s[1] for s in single))


def _lower_median(lengths: Sequence[float]) -> float:
    """Median of the lengths that are not multiples of smaller ones."""
    ordered = sorted(lengths)
    core = [n for n in ordered if n < 1.5 * ordered[len(ordered) // 4]]
    return median(core)


def _check_apart(names: list[str], places: list[Position], steps: list[Position]) -> None:
    least = _SAME * median(math.hypot(*step) for step in steps) if steps else 0.0
    ordered = sorted(range(len(places)), key=lambda i: places[i])
    for number, i in enumerate(ordered):
        for j in ordered[number + 1 :]:
            if places[j][0] - places[i][0] > least:
                break
            if abs(places[j][1] - places[i][1]) <= least:
                raise _one_place(names[min(i, j)], names[max(i, j)])


def _one_place(first: str, second: str) -> AcquisitionError:
    return AcquisitionError(
        f"tiles {first} and {second} are in the same cell of the grid; remove one of them or "
        "correct its position"
    )


def _complete(down: Position | None, right: Position | None) -> tuple[Position, Position]:
    """Both steps; one that no tiles determine is taken at right angles to the other."""
    if down is None and right is None:
        return (1.0, 0.0), (0.0, 1.0)
    if down is None:
        down = (right[1], -right[0])
    if right is None:
        right = (-down[1], down[0])
    return down, right


def _solve(place: Position, steps: tuple[Position, Position]) -> Position:
    """(row, column) of a displacement, not rounded."""
    (dy, dx), (ry, rx) = steps
    det = dy * rx - dx * ry
    return (place[0] * rx - place[1] * ry) / det, (dy * place[1] - dx * place[0]) / det


def _cell(place: Position, origin: Position, steps: tuple[Position, Position]) -> Cell:
    row, column = _solve((place[0] - origin[0], place[1] - origin[1]), steps)
    return round(row), round(column)


def _count(places, steps, *following: Sequence[int | None]) -> list[Cell]:
    """Cells, counted from neighbour to neighbour so that errors of the steps do not accumulate."""
    links: list[list[int]] = [[] for _ in places]
    for chain in following:
        for i, j in enumerate(chain):
            if j is not None:
                links[i].append(j)
                links[j].append(i)
    cells: list[Cell | None] = [None] * len(places)
    for seed in range(len(places)):
        if cells[seed] is not None:
            continue
        # a group of tiles not connected to the others is counted from the first position
        cells[seed] = _cell(places[seed], places[0], steps)
        waiting = [seed]
        while waiting:
            i = waiting.pop()
            for j in links[i]:
                if cells[j] is None:
                    row, column = _cell(places[j], places[i], steps)
                    cells[j] = (cells[i][0] + row, cells[i][1] + column)
                    waiting.append(j)
    return cells


def _fit(
    places: Sequence[Position], cells: Sequence[Cell], steps: tuple[Position, Position]
) -> tuple[Position, tuple[Position, Position]]:
    """Least-squares fit of place = origin + row * down + column * right.

    Steps that the cells do not determine stay as given.
    """
    number = len(places)
    row0, column0 = (sum(cell[axis] for cell in cells) / number for axis in (0, 1))
    rr = sum((r - row0) ** 2 for r, _ in cells)
    cc = sum((c - column0) ** 2 for _, c in cells)
    rc = sum((r - row0) * (c - column0) for r, c in cells)
    down, right, origin = [], [], []
    for axis in (0, 1):
        mean = sum(place[axis] for place in places) / number
        rp = sum((cell[0] - row0) * (p[axis] - mean) for cell, p in zip(cells, places))
        cp = sum((cell[1] - column0) * (p[axis] - mean) for cell, p in zip(cells, places))
        det = rr * cc - rc * rc
        if det > 1e-9 * rr * cc:
            d, r = (rp * cc - cp * rc) / det, (cp * rr - rp * rc) / det
        else:
            d = rp / rr if rr > 0 and cc == 0 else steps[0][axis]
            r = cp / cc if cc > 0 and rr == 0 else steps[1][axis]
        down.append(d)
        right.append(r)
        origin.append(mean - row0 * d - column0 * r)
    return tuple(origin), (tuple(down), tuple(right))


def _check_regular(names, places, cells, origin, steps) -> None:
    off = {}
    for name, place, (row, column) in zip(names, places, cells):
        found = _solve((place[0] - origin[0], place[1] - origin[1]), steps)
        away = max(abs(found[0] - row), abs(found[1] - column))
        if away > _OFF:
            off[name] = away
    if off:
        worst = max(off, key=off.__getitem__)
        raise AcquisitionError(
            f"the positions do not form a grid: {few(list(off))} "
            f"{'is' if len(off) == 1 else 'are'} off it, {worst} by {off[worst]:.0%} of a step "
            f"(at most {_OFF:.0%}); {_REMEDY}"
        )
