"""Check the files that the user gives besides the raw data, and the store."""

from contextlib import contextmanager

import numpy as np

from terareg.acquisition.model import load_acquisition
from terareg.core.errors import TeraregError
from terareg.execution.job import run_job
from terareg.intensity.flatfield import read_profile
from terareg.regions.fiducials import check_pairs
from terareg.regions.overlap import read_sample_labels
from terareg.regions.point_files import PointForm
from terareg.regions.points import point_names
from terareg.stitching.nominal import read_positions, with_positions
from terareg.stitching.terastitcher.exchange import check_fits
from terareg.stitching.terastitcher.reading import read_xml
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.fusion import FusionSettings, fused_frame
from terareg.volumes.importing import frame_of_input


def frame_of_tiles(path, config, local):
    """Frame in which points may lie, from nominal positions; check own positions and flat-field."""
    acquisition, stitching = load_acquisition(path), config["stitching"]
    if own := config["profile"]:
        read_profile(local[own], acquisition.tile_shape[1:])
    for xml in stitching["xml"].values():
        check_fits(read_xml(local[xml]), acquisition, xml)
    if own := stitching["tile_configuration"]:
        with_positions(acquisition, read_positions(local[own], acquisition, own), own)
    nominal = {tile.name: tile.origin_vox for tile in acquisition.tiles}
    frame, _ = fused_frame(acquisition, nominal, FusionSettings())
    # tiles may end up a little outside their nominal positions
    low, high = (np.array(frame.shape) * share for share in (-0.1, 1.1))
    return frame.cropped(np.floor(low).astype(int), np.ceil(high).astype(int))


@contextmanager
def named_as_configured(local):
    """Name files in errors as the configuration does."""
    try:
        yield
    except TeraregError as error:
        text = str(error)
        for path, place in local.items():
            text = text.replace(str(place), path)
        raise type(error)(text) from error


def main() -> None:
    config = snakemake.params.config
    store = Store(config["store"])
    there = 0 if store.is_s3 else sum(e.size for e in store.list(snakemake.wildcards.sample))
    store.check_writable(max(0, round(snakemake.params.needed_gb * 1e9) - there))
    # copies, and files on remote storage, are not where the configuration says
    local = dict(zip(snakemake.params.tables, snakemake.input.tables))
    local |= dict(zip(snakemake.params.labels, snakemake.input.labels))
    with named_as_configured(local):
        check(config, local)
    write_json(snakemake.output.checked, {"checked": sorted(local)})


def check(config, local):
    """Check all files that lie where ``local`` says."""
    frame = None
    if snakemake.params.kind == "volume":
        frame = frame_of_input(read_json(snakemake.input.index))
    elif snakemake.params.kind != "none":  # a sample with nothing but derived volumes
        frame = frame_of_tiles(snakemake.input.index, config, local)
    for what in ("fiducial", "landmark"):
        for pair in config[f"{what}s"].values():
            check_pairs(local[pair["sample"]], local[pair["atlas"]], frame, what)
    for labels in config["sample_labels"].values():
        if snakemake.params.kind == "volume":  # for tiles, the frame is not known yet
            path = local.get(labels["path"], labels["path"])
            read_sample_labels(path, frame, labels["spacing_um"])
    for points in config["points"].values():
        point_names(local[points["path"]], form=PointForm.from_config(points))


run_job(snakemake, main)
