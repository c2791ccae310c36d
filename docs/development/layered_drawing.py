"""Drawings of directed graphs in layers, as SVG (standard library only).

The same graph gives the same bytes. Sugiyama's method in its plainest form: every arrow goes down,
long arrows pass other layers at places of their own, the order within a layer follows the mean of
the neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

Edge = tuple[str, str]

_HEIGHT, _GAP_Y, _GAP_X, _MARGIN = 26, 38, 14, 12
_LETTER = 7.0  # width of a letter of 12 px
_SWEEPS = 12


@dataclass(frozen=True)
class Style:
    """Colours of a box, and whether its frame is dashed."""

    fill: str = "#e8eef7"
    line: str = "#34538b"
    dashed: bool = False


def reduced(edges: Iterable[Edge]) -> set[Edge]:
    """Edges without those that a longer path implies."""
    edges = set(edges)
    after = _followers(edges)
    return {
        (a, b) for a, b in edges if not any(b in after[c] for c in _targets(edges, a) if c != b)
    }


def svg(edges: Iterable[Edge], styles: Mapping[str, Style], title: str) -> str:
    """Draw a graph without cycles; ``styles`` names every box.

    Raises
    ------
    ValueError
        If the graph has a cycle.
    """
    edges = sorted(edges)
    _followers(set(edges))
    layer = _layers(styles, edges)
    rows, links = _rows(layer, edges)
    rows = _ordered(rows, links)
    left = _places(rows, links)
    shift = _MARGIN - min(left.values())
    centre = {n: left[n] + shift + _width(n) / 2 for row in rows for n in row}
    top = {n: _MARGIN + i * (_HEIGHT + _GAP_Y) for i, row in enumerate(rows) for n in row}
    width = max(centre[n] + _width(n) / 2 for n in centre) + _MARGIN
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    arrows = [_arrow(a, b, links, centre, top) for a, b in edges]
    boxes = [_box(n, style, centre[n], top[n]) for n, style in sorted(styles.items())]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def _targets(edges: Iterable[Edge], node: str) -> set[str]:
    return {b for a, b in edges if a == node}


def _followers(edges: set[Edge]) -> dict[str, set[str]]:
    """All that can be reached from every node."""
    found: dict[str, set[str]] = {}

    def visit(node: str, trail: tuple[str, ...]) -> set[str]:
        if node in trail:
            raise ValueError(f"a cycle cannot be drawn in layers: {' > '.join((*trail, node))}")
        if node not in found:
            direct = _targets(edges, node)
            found[node] = direct.union(*(visit(n, (*trail, node)) for n in direct))
        return found[node]

    for node in sorted({n for edge in edges for n in edge}):
        visit(node, ())
    return found


def _layers(nodes: Iterable[str], edges: list[Edge]) -> dict[str, int]:
    """Layer of every node: one below the lowest that points at it."""
    layer = dict.fromkeys(sorted(nodes), 0)
    for _ in layer:
        for a, b in edges:
            layer[b] = max(layer[b], layer[a] + 1)
    # a source stands right above what it points at
    for node in layer:
        below = [layer[b] for a, b in edges if a == node]
        if below and not any(b == node for _, b in edges):
            layer[node] = min(below) - 1
    return layer


def _rows(layer: Mapping[str, int], edges: list[Edge]) -> tuple[list[list[str]], list[Edge]]:
    """Nodes of every layer with the places where long edges pass, and edges of one layer each."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for node, i in layer.items():
        rows[i].append(node)
    links: list[Edge] = []
    for a, b in edges:
        last = a
        for i in range(layer[a] + 1, layer[b]):
            passing = f"{a}>{b}>{i}"
            rows[i].append(passing)
            links.append((last, passing))
            last = passing
        links.append((last, b))
    return rows, links


def _ordered(rows: list[list[str]], links: list[Edge]) -> list[list[str]]:
    """Rows sorted by the mean place of the neighbours above, then below, some times over."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for a, b in links:
        above.setdefault(b, []).append(a)
        below.setdefault(a, []).append(b)
    rows = [list(row) for row in rows]
    best, fewest = rows, _crossings(rows, links)
    for sweep in range(_SWEEPS):
        near, order = (above, rows[1:]) if sweep % 2 == 0 else (below, rows[-2::-1])
        for row in order:
            place = {n: i for r in rows for i, n in enumerate(r)}
            means = {n: _mean([place[m] for m in near.get(n, [n])]) for n in row}
            row.sort(key=lambda n: (means[n], n))
        crossings = _crossings(rows, links)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _crossings(rows: list[list[str]], links: list[Edge]) -> int:
    place = {n: i for row in rows for i, n in enumerate(row)}
    layer = {n: i for i, row in enumerate(rows) for n in row}
    found = 0
    for i in range(len(rows)):
        spans = [(place[a], place[b]) for a, b in links if layer[a] == i]
        found += sum((a - c) * (b - d) < 0 for n, (a, b) in enumerate(spans) for c, d in spans[:n])
    return found


def _places(rows: list[list[str]], links: list[Edge]) -> dict[str, float]:
    """Left end of every box: near its neighbours, and apart from those beside it."""
    near: dict[str, list[str]] = {}
    for a, b in links:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    left: dict[str, float] = {}
    for row in rows:
        at = 0.0
        for node in row:
            left[node], at = at, at + _width(node) + _GAP_X
        for node in row:
            left[node] -= at / 2
    for _ in range(_SWEEPS):
        for row in [*rows, *rows[::-1]]:
            wish = [
                _mean([left[m] + _width(m) / 2 for m in near[n]]) - _width(n) / 2
                if n in near
                else left[n]
                for n in row
            ]
            from_left, at = [], float("-inf")
            for node, x in zip(row, wish, strict=True):
                from_left.append(max(x, at))
                at = from_left[-1] + _width(node) + _GAP_X
            from_right, at = [], float("inf")
            for node, x in zip(row[::-1], wish[::-1], strict=True):
                from_right.append(min(x, at - _width(node)))
                at = from_right[-1] - _GAP_X
            for node, a, b in zip(row, from_left, from_right[::-1], strict=True):
                left[node] = round((a + b) / 2, 1)
    return left


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _width(node: str) -> float:
    return 2.0 if ">" in node else len(node) * _LETTER + 16


def _box(node: str, style: Style, x: float, y: float) -> str:
    wide = _width(node)
    dash = ' stroke-dasharray="4 3"' if style.dashed else ""
    return (
        f'<rect x="{x - wide / 2:.1f}" y="{y}" width="{wide:.0f}" height="{_HEIGHT}" rx="4" '
        f'fill="{style.fill}" stroke="{style.line}"{dash}/>'
        f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{escape(node)}</text>'
    )


def _arrow(a: str, b: str, links: list[Edge], centre: Mapping, top: Mapping) -> str:
    stops = [a, *(m for m in centre if m.startswith(f"{a}>{b}>")), b]
    stops = [stops[0], *sorted(stops[1:-1], key=lambda n: top[n]), stops[-1]]
    path = f"M{centre[a]:.1f} {top[a] + _HEIGHT}"
    for start, end in pairwise(stops):
        y0, y1 = top[start] + _HEIGHT, top[end]
        bend = (y0 + y1) / 2
        path += f"C{centre[start]:.1f} {bend} {centre[end]:.1f} {bend} {centre[end]:.1f} {y1}"
        if end != b:
            path += f"V{y1 + _HEIGHT}"
    return f'<path d="{path}" fill="none" stroke="#889" marker-end="url(#tip)"/>'
