"""Time and memory of the global placement, beside a plain sparse solve of the same equations.

    PYTHONPATH=workflow/scripts python tests/benchmarks/bench_placement.py [rows columns]

Links of a grid (50 x 100 tiles by default) have errors of a quarter of a voxel; 2 % are wrong by up
to 25 voxels and 10 % have no signal.
"""

import sys
import time
from types import SimpleNamespace

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from terareg.core.parallel import peak_memory_mb
from terareg.stitching.pairs import PairResult
from terareg.stitching.solver import place

STEP = {"EAST": (0.0, 0.0, 1740.0), "SOUTH": (0.0, 1740.0, 0.0)}
NEXT = {"EAST": (0, 1), "SOUTH": (1, 0)}


def grid(rows: int, columns: int) -> SimpleNamespace:
    tiles = tuple(
        SimpleNamespace(name=f"T{r}_{c}", row=r, column=c, origin_vox=(0.0, 1740.0 * r, 1740.0 * c))
        for r in range(rows) for c in range(columns)
    )  # fmt: skip
    return SimpleNamespace(
        tiles=tiles, rows=rows, columns=columns, tile_shape=(2000, 2048, 2048), overlap=(0.15, 0.15)
    )


def links_of(acquisition: SimpleNamespace, true: dict, rng: np.random.Generator) -> list:
    names, found = {(t.row, t.column): t.name for t in acquisition.tiles}, []
    for (row, column), name in names.items():
        for direction, (down, right) in NEXT.items():
            other = names.get((row + down, column + right))
            if other is None:
                continue
            chance, displ = rng.random(), true[other] - true[name] + rng.normal(0, 0.25, 3)
            if chance < 0.02:
                displ += rng.uniform(-25, 25, 3)
            silent = chance > 0.9
            found.append(PairResult(
                name, other, direction, "no_signal" if silent else "ok", tuple(displ),
                (0.05,) * 3, 0.0 if silent else 0.9999, 0.5, 6, 6, STEP[direction],
                (10, 30, 30), (),
            ))  # fmt: skip
    return found


def plain(acquisition: SimpleNamespace, links: list) -> None:
    """Least squares over the links alone: no stage model, nothing rejected."""
    index = {tile.name: n for n, tile in enumerate(acquisition.tiles)}
    used = [link for link in links if link.status == "ok"]
    rows = np.repeat(np.arange(len(used)), 2)
    columns = np.ravel([(index[link.a], index[link.b]) for link in used])
    signs = np.tile([-1.0, 1.0], len(used))
    matrix = scipy.sparse.csr_matrix((signs, (rows, columns)), (len(used), len(index)))
    normal = (matrix.T @ matrix + 1e-9 * scipy.sparse.identity(len(index))).tocsc()
    scipy.sparse.linalg.splu(normal).solve(matrix.T @ np.array([link.displ_vox for link in used]))


def main() -> None:
    rows, columns = map(int, sys.argv[1:3] or (50, 100))
    acquisition, rng = grid(rows, columns), np.random.default_rng(0)
    true = {t.name: np.array(t.origin_vox) + rng.uniform(-4, 4, 3) for t in acquisition.tiles}
    links = links_of(acquisition, true, rng)
    start, before = time.process_time(), peak_memory_mb()
    placement = place(acquisition, links)
    seconds, peak = time.process_time() - start, peak_memory_mb()
    start = time.process_time()
    plain(acquisition, links)
    reference = time.process_time() - start
    origins = placement.origins()
    errors = [
        np.abs(np.subtract(origins[k.b], origins[k.a]) - (true[k.b] - true[k.a])).max()
        for k in links
    ]
    print(
        f"{rows * columns} tiles, {len(links)} links: {seconds:.2f} CPU-s "
        f"({seconds / reference:.0f} x one plain solve), {peak - before:.0f} MB more than before, "
        f"error of a seam {np.median(errors):.2f} (median), {max(errors):.2f} (worst) voxels"
    )


if __name__ == "__main__":
    main()
