"""Draw the placement, the worst seams and the loop closure; measure the seams in doubt."""

from dataclasses import replace

import numpy as np

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, open_tiles
from terareg.execution.job import run_job
from terareg.stitching.placement import Link, load_placement
from terareg.stitching.posed_tiles import posed_side, relative_origins
from terareg.stitching.seam_fits import PARTS, SeamFit, correlation, doubtful, seams_to_json
from terareg.storage.records import write_json
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.stitching import loop_closure, placement_map, seam_pairs
from terareg.volumes.fusion import FusionSettings, fused_pair

SEAMS = 6


def shifted_pair(
    source: TileSource, link: Link, shift_vox: np.ndarray, part: float = 0.5
) -> tuple | None:
    """The overlap of two tiles a shift apart, in one of their common planes."""
    depth, *size = source.acquisition.tile_shape
    shift = np.rint(shift_vox).astype(int)
    z = max(0, shift[0]) + int(part * (depth - abs(shift[0])))
    low = [max(0, s) for s in shift[1:]]
    high = [min(n, n + s) for n, s in zip(size, shift[1:])]
    if abs(shift[0]) >= depth or any(i >= j for i, j in zip(low, high)):
        return None
    a = [slice(i, j) for i, j in zip(low, high)]
    b = [slice(i - s, j - s) for i, j, s in zip(low, high, shift[1:])]
    first = source.read(link.a, z, z + 1, *a)[0]
    return first, source.read(link.b, z - shift[0], z - shift[0] + 1, *b)[0]


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    placement = load_placement(snakemake.input.placement)
    nominal = {tile.name: np.array(tile.origin_vox) for tile in acquisition.tiles}
    picture = placement_map(
        placement.to_json(), acquisition.tile_shape, acquisition.spacing_um, nominal
    )
    write_atomic(snakemake.output.placement, picture)
    write_atomic(snakemake.output.loops, loop_closure(placement.loops))
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    source = open_tiles(acquisition, snakemake.params.channel, snakemake.input, store)
    settings = FusionSettings(**snakemake.params.fusion)
    side = posed_side(source, placement, relative_origins(placement, (0, 0, 0), settings))
    # as in fusion: without whole origins, tiles are interpolated
    whole = all(o % 1 == 0 for origin in side.origins.values() for o in origin)
    settings = replace(settings, subpixel=settings.subpixel or not whole)
    worst = sorted(placement.links, key=lambda k: -float(np.linalg.norm(k.residual_vox)))
    seams = []
    for link in worst:
        if len(seams) == SEAMS:
            break
        before = shifted_pair(source, link, nominal[link.b] - nominal[link.a])
        after = fused_pair(side, (link.a, link.b), settings)
        if before is None or after is None or min(*before[0].shape, *after[0].shape) <= 4:
            continue
        size = float(np.linalg.norm(link.residual_vox))
        title = f"{link.a} - {link.b}: {link.state}, residual {size:.2f} voxels"
        found = {"title": title, "before": before, "after": after}
        seams.append(found | {"spacing_um": acquisition.spacing_um[1:]})
    write_atomic(snakemake.output.seams, seam_pairs(seams))
    fits = []
    for link in doubtful(placement.links):
        best = [shifted_pair(source, link, np.array(link.displ_vox), part) for part in PARTS]
        here = [fused_pair(side, (link.a, link.b), settings, part) for part in PARTS]
        fits.append(SeamFit(link.a, link.b, correlation(best), correlation(here)))
    write_json(snakemake.output.measured, seams_to_json(fits))


run_job(snakemake, main)
