"""Check all input of a sample and describe its acquisition."""

import numpy as np

from terareg.acquisition.colm import IndexSettings, index_colm
from terareg.job import run_job
from terareg.regions.fiducials import check_fiducials
from terareg.regions.points import point_names
from terareg.stitching.terastitcher import check_fits, read_xml
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.fusion import FusionSettings, fused_frame


def main() -> None:
    config = dict(snakemake.params.config)
    source = config["input"]
    settings = IndexSettings(
        sample=config["sample"],
        orientation=source["orientation"],
        channels=[{"name": n, "index": i} for n, i in source["channels"].items()],
        missing_planes=source["missing_planes"],
        spacing_um=source["spacing_um"],
        overlap=source["overlap"],
        view=source["view"],
    )
    acquisition = index_colm(Store(source["path"]), settings)
    store = Store(config["store"])
    there = 0 if store.is_s3 else sum(entry.size for entry in store.list(config["sample"]))
    store.check_writable(max(0, round(snakemake.params.needed_gb * 1e9) - there))
    # on remote storage a file lies elsewhere than the configuration says
    local = dict(zip(snakemake.params.own, snakemake.input.get("own", [])))
    for path in config["stitching"]["xml"].values():
        check_fits(read_xml(local[path]), acquisition, path)
    nominal = {tile.name: tile.origin_vox for tile in acquisition.tiles}
    frame, _ = fused_frame(acquisition, nominal, FusionSettings())
    # tiles may end up a little outside their nominal places
    low, high = (np.array(frame.shape) * share for share in (-0.1, 1.1))
    frame = frame.cropped(np.floor(low).astype(int), np.ceil(high).astype(int))
    for pair in config["fiducials"].values():
        check_fiducials(local[pair["sample"]], local[pair["atlas"]], frame)
    for points in config["points"].values():
        point_names(local[points["path"]])
    write_json(snakemake.output.acquisition, acquisition.to_json())


run_job(snakemake.rule, snakemake.log[0], main)
