"""Draw the placement, the worst seams before and after it, and the loop closure."""

import numpy as np

from terareg.acquisition.model import Acquisition, load_acquisition
from terareg.acquisition.tiles import TileSource, open_tiles
from terareg.execution.job import run_job
from terareg.stitching.placement import Link, load_placement
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.stitching import loop_closure, placement_map, seam_pairs

SEAMS = 6


def crops(source: TileSource, link: Link, shift_vox: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The overlap of two tiles, as each of them shows it, in their middle common plane."""
    depth, *size = source.acquisition.tile_shape
    shift = np.rint(shift_vox).astype(int)
    z = (max(0, shift[0]) + min(depth, depth + shift[0])) // 2
    low = [max(0, s) for s in shift[1:]]
    high = [min(n, n + s) for n, s in zip(size, shift[1:])]
    a = [slice(i, j) for i, j in zip(low, high)]
    b = [slice(i - s, j - s) for i, j, s in zip(low, high, shift[1:])]
    first = source.read(link.a, z, z + 1, *a)[0]
    return first, source.read(link.b, z - shift[0], z - shift[0] + 1, *b)[0]


def overlapping(acquisition: Acquisition, shift_vox: np.ndarray) -> bool:
    sizes = zip(acquisition.tile_shape, np.rint(shift_vox))
    return all(n - abs(s) > 4 or (n <= 4 and abs(s) < n) for n, s in sizes)


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    placement = load_placement(snakemake.input.placement)
    nominal = {tile.name: np.array(tile.origin_vox) for tile in acquisition.tiles}
    solved = {name: np.array(tile.origin_vox) for name, tile in placement.tiles.items()}
    picture = placement_map(
        placement.to_json(), acquisition.tile_shape, acquisition.spacing_um, nominal
    )
    write_atomic(snakemake.output.placement, picture)
    write_atomic(snakemake.output.loops, loop_closure(placement.loops))
    channel = snakemake.params.channel
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    source = open_tiles(acquisition, channel, snakemake.input, store)
    worst = sorted(placement.links, key=lambda k: -float(np.linalg.norm(k.residual_vox)))
    seams = []
    for link in worst:
        shifts = [place[link.b] - place[link.a] for place in (nominal, solved)]
        if len(seams) < SEAMS and all(overlapping(acquisition, s) for s in shifts):
            before, after = (crops(source, link, shift) for shift in shifts)
            size = float(np.linalg.norm(link.residual_vox))
            ends = (placement.tiles[name].field_vox for name in (link.a, link.b))
            drawn = " (drawn straight)" if any(ends) else ""
            seams.append(
                {
                    "title": f"{link.a} - {link.b}: {link.state}, "
                    f"residual {size:.2f} voxels{drawn}",
                    "before": before,
                    "after": after,
                    "spacing_um": acquisition.spacing_um[1:],
                }
            )
    write_atomic(snakemake.output.seams, seam_pairs(seams))


run_job(snakemake, main)
