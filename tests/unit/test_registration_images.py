"""Preparation of images: scale, tissue, resampling, and everything that cannot be registered."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.images import (
    Image,
    check_overlap,
    correct_grid,
    crop_to_tissue,
    prepare,
    reduced,
    resample,
    soften_cut,
)

FRAME = Frame((20, 24, 22), (100.0, 100.0, 100.0))


def ball(shape=(20, 24, 22), radius=7.0):
    z, y, x = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    return (z**2 + y**2 + x**2) < radius**2


def ball_image(gain=1.0, offset=0.0, noise=0.02):
    rng = np.random.default_rng(0)
    data = ball() * 1.0 + noise * rng.standard_normal(FRAME.shape)
    return Image((gain * data + offset).astype(np.float32), FRAME, name="ball")


@pytest.mark.parametrize("gain, offset", [(1, 0), (500, 120), (-300, 4000), (1e-4, 0)])
def test_scale_does_not_depend_on_gain_offset_or_bright_field(gain, offset):
    prepared = prepare(ball_image(gain, offset))
    truth = ball()
    dice = 2 * (prepared.tissue & truth).sum() / (prepared.tissue.sum() + truth.sum())
    assert dice > 0.9
    assert abs(np.median(prepared.values[truth]) - 1) < 0.1
    assert abs(np.median(prepared.values[~truth])) < 0.05


def test_bright_artefact_does_not_hide_dim_tissue():
    data = ball_image().data.copy()
    data[9:12, 11:14, 10:13] = 10.0
    prepared = prepare(Image(data, FRAME))
    assert prepared.tissue.sum() > 0.8 * ball().sum()


@pytest.mark.parametrize("gain", [3, 10, 30])
def test_bright_parts_hide_neither_tissue_nor_its_contrast(gain):
    """A nuclear stain: a fifth of the brain is many times as bright as the rest."""
    brain = ball(radius=9.0)
    texture = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(brain.shape), 1.5)
    grey = brain * (1 + 0.2 * texture / texture.std())
    bright = brain & (np.indices(brain.shape)[1] > 15)
    assert 0.1 < bright.sum() / brain.sum() < 0.3
    data = np.where(bright, gain * grey, grey) + 0.02 * np.random.default_rng(4).standard_normal(
        brain.shape
    )
    ready = prepare(Image(data.astype(np.float32), FRAME))
    assert (ready.tissue & brain).sum() / (ready.tissue | brain).sum() > 0.75
    dim = ndimage.binary_erosion(brain & ~bright, iterations=2)
    assert np.corrcoef(ready.values[dim], data[dim])[0, 1] > 0.99
    assert ready.values[dim].mean() > 0.11, "dim tissue stands out"
    order = np.argsort(data[brain])
    assert (np.diff(ready.values[brain][order]) >= 0).all(), "no grey value changes places"


def test_ordinary_contrast_is_left_as_it_is():
    data = ball_image().data
    ready = prepare(Image(data, FRAME))
    low, high = (ready.values[ball()].min(), ready.values[ball()].max())
    assert 0 < low < high
    np.testing.assert_allclose(np.corrcoef(data.ravel(), ready.values.ravel())[0, 1], 1, atol=1e-6)


def test_voxels_without_value_get_no_weight_and_a_warning():
    data = ball_image().data.copy()
    data[:3] = np.nan
    prepared = prepare(Image(data, FRAME, name="scan"))
    assert (prepared.weight[:3] == 0).all() and np.isfinite(prepared.values).all()
    assert prepared.warnings[0].startswith("not_a_number: scan")


def test_strong_anisotropy_is_a_named_warning():
    frame = Frame(FRAME.shape, (2000.0, 100.0, 100.0))
    prepared = prepare(Image(ball_image().data, frame))
    assert any(w.startswith("anisotropy:") for w in prepared.warnings)


@pytest.mark.parametrize(("planes", "told"), [(4, False), (6, True)])
def test_thick_planes_are_told_where_there_are_few(planes, told):
    """Means of some planes of a ball whose volume is that of a cube of 45 voxels."""
    data = ball((60, 64, 64), 28.0).reshape(-1, planes, 64, 64).mean(axis=1)
    frame = Frame(data.shape, (100.0 * planes, 100.0, 100.0))
    warnings = prepare(Image(data.astype(np.float32), frame, name="scan")).warnings
    assert [w.startswith("anisotropy: scan has voxels of") for w in warnings] == [True] * told


def test_masks_and_frames_must_fit():
    with pytest.raises(RegistrationError, match="its frame has"):
        Image(np.zeros((3, 4, 5)), FRAME)
    with pytest.raises(RegistrationError, match="resample the mask"):
        Image(np.zeros(FRAME.shape), FRAME, np.zeros((2, 2, 2)))
    with pytest.raises(RegistrationError, match="weights between 0"):
        Image(np.zeros(FRAME.shape), FRAME, np.full(FRAME.shape, 2.0))
    with pytest.raises(RegistrationError, match="leaves no voxel"):
        prepare(Image(ball_image().data, FRAME, np.zeros(FRAME.shape)))


@pytest.mark.parametrize(
    "spacing, within", [(100.0, 0.5), (200.0, 0.5), (250.0, 25), ((300.0, 100.0, 50.0), 0.5)]
)
def test_resampling_keeps_means_and_positions(spacing, within):
    """A linear ramp stays that ramp, away from the edges; exactly so where voxels nest."""
    z, y, x = np.meshgrid(*FRAME.axes_um(), indexing="ij")
    prepared = prepare(ball_image())
    ramp = type(prepared)(
        (z + 2 * y - x).astype(np.float32), np.ones(FRAME.shape, np.float32),
        prepared.tissue, FRAME,
    )  # fmt: skip
    coarse = resample(ramp, spacing)
    z, y, x = np.meshgrid(*coarse.frame.axes_um(), indexing="ij")
    inner = tuple(slice(1, -2) for _ in range(3))
    np.testing.assert_allclose(coarse.values[inner], (z + 2 * y - x)[inner], atol=within)
    assert np.allclose(coarse.weight, 1)


@pytest.mark.slow
def test_resampling_gives_the_same_bytes_with_any_number_of_threads():
    """Snakemake gives a job as many threads of BLAS as it has cores."""
    program = """
import hashlib
import numpy as np
from terareg.core.frames import Frame
from terareg.registration.images import WorkingImage, resample
values = np.random.default_rng(0).random((90, 110, 130), np.float32)
ones = np.ones_like(values)
image = WorkingImage(values, ones, ones > 0, Frame(values.shape, (100.0,) * 3))
print(hashlib.md5(resample(image, 470.0).values.tobytes()).hexdigest())
"""
    printed = set()
    for threads in ("1", "2"):
        env = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-c", program]
        printed.add(subprocess.run(command, env=env, check=True, capture_output=True).stdout)
    assert len(printed) == 1


def test_voxels_without_data_do_not_darken_the_mean():
    prepared = prepare(ball_image())
    weight = np.ones(FRAME.shape, np.float32)
    weight[::2] = 0
    values = np.where(weight > 0, 1.0, 0.0).astype(np.float32)
    coarse = resample(type(prepared)(values, weight, prepared.tissue, FRAME), 200.0)
    np.testing.assert_allclose(coarse.values, 1.0, atol=1e-5)
    np.testing.assert_allclose(coarse.weight, 0.5, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 24, 22), (21, 23, 25), (9, 30, 17)])
def test_reduction_is_the_block_mean_without_invalid_voxels(shape):
    rng = np.random.default_rng(0)
    data = rng.random(shape).astype(np.float32)
    data[3, 5, 6] = np.nan
    small = reduced(Image(data, Frame(shape, (50.0, 50.0, 100.0))), 100.0)
    assert small.frame == Frame(shape, (50.0, 50.0, 100.0)).downsampled((2, 2, 1))
    np.testing.assert_allclose(small.data[0, 0], data[:2, :2].mean((0, 1)), rtol=1e-5)
    block = data[2:4, 4:6, 6]
    assert abs(small.data[1, 2, 6] - np.nanmean(block)) < 1e-6
    assert small.mask[1, 2, 6] == 0.75 and small.mask[-1, -1, -1] == 1
    last = data[2 * (small.data.shape[0] - 1) :, :2, 0].mean()
    assert abs(small.data[-1, 0, 0] - last) < 1e-6


def test_reduction_leaves_coarse_images_alone():
    image = ball_image()
    assert reduced(image) is image and reduced(image, 150.0) is image


def test_crop_keeps_the_tissue_and_its_position():
    prepared = prepare(ball_image())
    cropped = crop_to_tissue(prepared, 150.0)
    assert cropped.tissue.sum() == prepared.tissue.sum()
    assert all(a <= b for a, b in zip(cropped.frame.shape, FRAME.shape))
    np.testing.assert_allclose(cropped.tissue_centre_um, prepared.tissue_centre_um)


def test_grid_pattern_is_removed():
    rng = np.random.default_rng(0)
    image = np.ones((10, 60, 60)) + 0.01 * rng.standard_normal((10, 60, 60))
    pattern = np.ones((60, 60))
    pattern[::10] = 0.7
    frame = Frame(image.shape, (50.0, 50.0, 50.0))
    corrected = correct_grid(Image(image * pattern, frame), sigma_um=1000.0)
    lines = corrected.data.mean(0)[::10, 10:50].mean()
    between = corrected.data.mean(0)[5::10, 10:50].mean()
    assert abs(lines / between - 1) < 0.2 * 0.3


def test_no_overlap_of_extents_is_named():
    affine = np.eye(4)
    check_overlap(FRAME, FRAME, affine)
    affine[1, 3] = 5000.0
    with pytest.raises(RegistrationError, match="outside the sample"):
        check_overlap(FRAME, FRAME, affine)


def cut_ball(radius=7.0):
    """Textured tissue that ends at a mask, as after skull stripping."""
    rng = np.random.default_rng(1)
    texture = ndimage.gaussian_filter(rng.standard_normal(FRAME.shape), 1.5)
    data = np.where(ball(radius=radius), 0.7 + texture, 0)
    return prepare(Image(data.astype(np.float32), FRAME, name="stripped"))


def test_a_surface_cut_by_a_mask_becomes_soft_and_nothing_else():
    image = cut_ball()
    soft = soften_cut(image)
    inside = ndimage.distance_transform_edt(ball())
    outside = ndimage.distance_transform_edt(~ball())
    tissue = image.values[ball()].mean()
    assert image.values[inside == 1].mean() > 0.9 * tissue
    assert 0.5 < soft.values[inside == 1].mean() / tissue < 0.8
    assert 0.2 < soft.values[outside == 1].mean() / tissue < 0.5
    for far in (inside > 5.5, outside > 6):
        assert far.any()
        np.testing.assert_allclose(soft.values[far], image.values[far], atol=0.02)
    # blur moves intensity across the surface and makes none
    assert soft.values.sum() == pytest.approx(image.values.sum(), rel=0.02)
    np.testing.assert_array_equal(soft.tissue, image.tissue)


def test_a_surface_that_fades_or_lies_in_noise_stays_as_it_is():
    faded = ndimage.gaussian_filter(ball().astype(np.float32), 1.5)
    for image in (prepare(Image(faded, FRAME)), prepare(ball_image())):
        assert soften_cut(image) is image


def test_voxels_without_data_neither_count_as_a_cut_nor_darken_the_surface():
    image = cut_ball()
    rest = replace(image, weight=image.tissue.astype(np.float32))
    assert soften_cut(rest) is rest
    # a quarter of the ball borders on voxels without data instead of the mask's zeros
    side = np.indices(FRAME.shape)[2] < 9
    weight = np.where(side & ~ball(), 0, 1).astype(np.float32)
    soft = soften_cut(replace(image, weight=weight))
    edge = (ndimage.distance_transform_edt(ball()) == 1) & (np.indices(FRAME.shape)[2] < 5)
    assert soft.values[edge].mean() == pytest.approx(image.values[edge].mean(), rel=0.05)
    assert (soft.values[weight == 0] == 0).all()
