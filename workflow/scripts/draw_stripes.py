"""Draw the tile whose lines differ most in brightness, before and after."""

from dataclasses import replace

import numpy as np

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, open_shading
from terareg.execution.job import run_job
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.intensity import no_stripes, stripes_map


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    tiles = read_json(snakemake.input.stripes)["tiles"]
    if not tiles:
        info = read_json(snakemake.input.info)
        write_atomic(snakemake.output.stripes, no_stripes(info.get("step_percent") or {}))
        return
    tile = max(tiles, key=lambda entry: entry["spread_percent"])["name"]
    flatfield = open_shading(snakemake.input, store)
    stripes, depth = flatfield.stripes, acquisition.tile_shape[0]
    gains = np.stack([stripes.of(tile, z).ravel() for z in range(depth)])
    plane = int(gains.std(axis=1).argmax())
    before, after = (
        TileSource(acquisition, snakemake.wildcards.channel, flatfield=shading).read(
            tile, plane, plane + 1
        )[0]
        for shading in (replace(flatfield, stripes=None), flatfield)
    )
    rows = stripes.lines == "rows"
    picture = stripes_map(before, after, gains, place=(tile, plane), rows=rows)
    write_atomic(snakemake.output.stripes, picture)


run_job(snakemake, main)
