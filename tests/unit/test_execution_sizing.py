"""Sizes of samples follow from metadata and headers, without an array."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from planned_samples import run_of, scan

from terareg.core.errors import VolumeError
from terareg.execution import sizing
from terareg.intensity.cost import corrected_batches, tile_batches
from terareg.regions.cost import label_batches
from terareg.volumes.cost import block_batches


def test_tiles_of_a_described_acquisition(workspace):
    """3 x 4 tiles of 2048 x 2048 x 2000 voxels that overlap by 15 %."""
    sample = sizing.sized(run_of(workspace, workspace.sample(grid=(3, 4))), "brain")
    size = sample.size
    assert (size.tiles, size.channels, size.tile_shape) == (12, 2, (2000, 2048, 2048))
    assert size.pairs == 3 * 3 + 2 * 4
    assert size.volume_shape == (2000, round(2048 * 2.7), round(2048 * 3.55))
    assert sample.grid.shape == size.volume_shape and sample.grid.spacing_um[0] == 5.0
    assert sample.overlap == pytest.approx(0.15)
    assert sample.raw_gb == pytest.approx(2 * 12 * 2000 * 2048**2 * 2 / 1e9)


@pytest.mark.parametrize(("dtype", "stored"), [(np.uint8, 1), (np.uint16, 2), (np.float32, 4)])
def test_a_volume_is_sized_from_its_header(workspace, dtype, stored):
    sample = sizing.sized(run_of(workspace, scan(workspace, dtype=dtype)), "scan")
    assert (sample.size.tiles, sample.size.pairs, sample.size.volume_shape) == (0, 0, (3, 4, 5))
    assert sample.size.bytes_per_voxel == stored
    assert sample.grid.spacing_um == pytest.approx((30, 20, 10)) and sample.overlap == 0


def test_an_atlas_has_the_size_of_its_annotation(workspace):
    image = sitk.GetImageFromArray(np.zeros((7, 6, 5), np.uint16))
    image.SetSpacing((50.0, 60.0, 70.0))
    path = workspace.folder / "annotation.nrrd"
    sitk.WriteImage(image, str(path))
    config = workspace.sample(atlases__mouse__annotation=str(path))
    config["atlases"]["mouse"]["spacing_um"] = [70, 60, 50]
    sample = sizing.sized(run_of(workspace, config), "brain")
    assert sample.atlases["mouse"].shape == (7, 6, 5)
    assert sample.atlases["mouse"].spacing_um == pytest.approx((70, 60, 50))


@pytest.mark.parametrize(
    "annotation", ["results/absent.nrrd", "s3://nowhere/annotation.txt", "empty.nrrd"]
)
def test_an_atlas_that_cannot_be_read_yet_counts_as_a_whole_brain(workspace, annotation):
    """Requests made for a point would fail every job before the user learns why."""
    (workspace.folder / "empty.nrrd").touch()
    run = run_of(workspace, workspace.sample(atlases__mouse__annotation=annotation))
    assert sizing.sized(run, "brain").atlases["mouse"].megavoxels > 50


def test_cells_of_another_unit_are_told_before_any_job(workspace):
    """10 um given as mm, or as nm: the first job that sees the voxels is hours away."""

    def check(diameter_um):
        cells = {"cfos": {"channel": "t1", "diameter_um": diameter_um}}
        sizing.check_cells(run_of(workspace, scan(workspace) | {"cells": cells}))

    key = r"sample scan, cells\.cfos\.diameter_um"
    with pytest.raises(VolumeError, match=key + r": a diameter of 0\.01 um is 0\.00033 voxels"):
        check(0.01)
    with pytest.raises(VolumeError, match=r"a diameter of 9 um is 0\.9 voxels of 10 um along x"):
        check([30, 20, 9])
    with pytest.raises(VolumeError, match=key + r": a diameter of 30 um is 33% of the whole"):
        check([30, 20, 10])
    sizing.check_cells(run_of(workspace, scan(workspace)))


def test_only_registered_atlases_are_sized(workspace):
    config = workspace.sample()
    config["atlases"]["rat"] = dict(config["atlases"]["mouse"])
    config["registration"] = {"atlases": ["rat"]}
    assert set(sizing.sized(run_of(workspace, config), "brain").atlases) == {"rat"}


def test_a_job_of_an_atlas_serves_all_samples_that_use_it(workspace):
    run = run_of(workspace, workspace.sample("small", grid=(1, 2)), workspace.sample("large"))
    sizes = {name: sizing.sized(run, name) for name in ("small", "large")}
    assert sizing.users_of_job(run, "large", None) == [sizes["large"]]
    assert sizing.users_of_job(run, "large", "mouse") == [sizes["large"]]
    assert sizing.users_of_job(run, None, "mouse") == [sizes["small"], sizes["large"]]


def test_batches_of_a_volume_are_those_of_its_stage(workspace):
    run = run_of(workspace, workspace.sample())
    sample = sizing.sized(run, "brain")
    counts = {"fused/signal": block_batches(sample), "labels/mouse": label_batches(sample),
              "corrected_volume/signal": corrected_batches(sample),
              "atlas_space/mouse/signal": 1}  # fmt: skip
    assert counts["fused/signal"] > counts["labels/mouse"]
    assert {name: sizing.volume_batches(run, "brain", name) for name in counts} == counts
    assert sizing.batches_of(run, "brain", tile_batches) == tile_batches(sample)
