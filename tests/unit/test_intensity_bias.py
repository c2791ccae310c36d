"""Bias field: a known smooth field is recovered, and blocks equal the whole."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from terareg.core.errors import ConfigError, IntensityError, StoreError
from terareg.core.frames import Frame
from terareg.intensity.bias import BiasField, BiasSettings, estimate_bias

FRAME = Frame((32, 40, 44), (200.0, 150.0, 150.0), (1000.0, -300.0, 50.0), "ILA")
SETTINGS = BiasSettings(resolution_um=300.0)


def sample(seed=0, strength=0.2):
    """A brain of three tissues with texture; the log of its bias; where tissue is."""
    rng = np.random.default_rng(seed)
    shape = FRAME.shape
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    tissue = sum(g**2 for g in grids) < 0.85
    regions = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    image = 1000 + 400 * (regions > regions.std()) - 300 * (regions < -regions.std())
    image = image * (1 + 0.05 * rng.standard_normal(shape))
    log = ndimage.gaussian_filter(rng.standard_normal(shape), 14, mode="reflect")
    log = strength * (log - log[tissue].mean()) / log[tissue].std()
    outside = np.abs(rng.standard_normal(shape)) * 3
    return np.where(tissue, image * np.exp(log), outside).astype(np.float32), log, tissue


@pytest.fixture(scope="module")
def found():
    image, log, tissue = sample()
    return image, log, tissue, estimate_bias(image, FRAME, SETTINGS)


def test_known_field_is_recovered(found):
    image, log, tissue, field = found
    error = np.log(field.evaluate(FRAME)) - log
    assert 100 * error[tissue].std() < 5
    corrected = image / field.evaluate(FRAME)
    variation = [(v[tissue].std() / v[tissue].mean()) for v in (image, corrected)]
    assert variation[1] < variation[0]


def test_no_border_is_lost(found):
    """D4: the field does not fall to zero beyond the low-resolution samples."""
    field = found[3].evaluate(FRAME)
    assert field.min() > 0.3 and field.max() < 3


def test_field_is_normalised_over_tissue(found):
    """D9, D10: log mean 0, and the image's scale does not matter."""
    image, _, tissue, field = found
    # the mask of the estimate is a rim smaller and coarser than the truth's
    assert abs(np.log(field.evaluate(FRAME))[tissue].mean()) < 0.02
    scaled = estimate_bias(image * 8, FRAME, SETTINGS)
    np.testing.assert_allclose(scaled.log_field, field.log_field, atol=0.01)


@pytest.mark.slow
def test_space_outside_the_tissue_does_not_matter(found):
    """D45: only tissue counts, found by threshold or given."""
    image, log, tissue, _ = found
    given = estimate_bias(image, FRAME, SETTINGS, mask=tissue)
    loud = np.where(tissue, image, 400.0).astype(np.float32)
    same = estimate_bias(loud, FRAME, SETTINGS, mask=tissue)
    inner = ndimage.binary_erosion(tissue, iterations=3)
    difference = np.log(given.evaluate(FRAME) / same.evaluate(FRAME))[inner]
    assert 100 * difference.std() < 1.5
    assert 100 * (np.log(given.evaluate(FRAME)) - log)[inner].std() < 5
    threshold = estimate_bias(image, FRAME, BiasSettings(resolution_um=300.0, threshold=200.0))
    assert 100 * (np.log(threshold.evaluate(FRAME)) - log)[inner].std() < 5


@pytest.mark.slow
def test_resolution_hardly_matters(found):
    """Row B8."""
    image, _, tissue, field = found
    fine = estimate_bias(image, FRAME, BiasSettings(resolution_um=200.0))
    ratio = np.log(fine.evaluate(FRAME) / field.evaluate(FRAME))[tissue]
    assert 100 * ratio.std() < 2


@pytest.mark.slow
@pytest.mark.parametrize("block", [(7, 11, 13), (1, 40, 5), (32, 9, 44), (64, 64, 64), (3, 1, 1)])
def test_blocks_equal_the_whole_to_the_last_bit(found, block):
    volume = Frame((23, 29, 31), (61.3, 37.7, 37.7), (900.0, -420.0, 20.0), "ILA")
    field = found[3]
    whole = field.evaluate(volume)
    parts = np.full_like(whole, np.nan)
    starts = [range(0, n, b) for n, b in zip(volume.shape, block)]
    # a thin block in every place takes long, so only the first planes are cut into such
    starts[0] = starts[0][:4]
    stop_z = min(volume.shape[0], 4 * block[0])
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                low = (z, y, x)
                high = tuple(min(a + b, n) for a, b, n in zip(low, block, volume.shape))
                box = tuple(slice(a, b) for a, b in zip(low, high))
                parts[box] = field.evaluate(volume.cropped(low, high))
    assert parts[:stop_z].tobytes() == whole[:stop_z].tobytes()


def test_evaluation_interpolates_and_clamps(found):
    field = found[3]
    np.testing.assert_allclose(np.log(field.evaluate(field.frame)), field.log_field, atol=2e-6)
    far = Frame((1, 1, 1), (1, 1, 1), tuple(o - 1e5 for o in field.frame.origin_um), "ILA")
    assert np.log(field.evaluate(far))[0, 0, 0] == pytest.approx(field.log_field[0, 0, 0], abs=2e-6)
    # between samples: a cubic polynomial away from the border comes back
    z = np.linspace(-1, 1, 20)
    cubic = (z[:, None, None] ** 3 + 0 * z[:, None] + 0 * z) * 0.3
    frame = Frame((20, 20, 20), (10, 10, 10))
    middle = Frame((30, 1, 1), (2, 10, 10), (70, 100, 100))
    place = -1 + 2 * (70 + 2 * np.arange(30)) / 190
    values = np.log(BiasField(frame, cubic).evaluate(middle))[:, 0, 0]
    np.testing.assert_allclose(values, 0.3 * place**3, atol=1e-4)


def test_file_comes_back_and_itk_reads_it(tmp_path, found):
    field = found[3]
    for name in ("a", "b"):
        field.save(tmp_path / name / "bias.nrrd")
    path = tmp_path / "a" / "bias.nrrd"
    assert path.read_bytes() == (tmp_path / "b" / "bias.nrrd").read_bytes()
    loaded = BiasField.load(path)
    assert loaded.frame == field.frame
    assert loaded.log_field.tobytes() == field.log_field.tobytes()
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(image.GetSpacing(), [s / 1000 for s in field.frame.spacing_um[::-1]])
    np.testing.assert_allclose(image.GetOrigin(), [o / 1000 for o in field.frame.origin_um[::-1]])


def test_number_of_threads_does_not_matter(found):
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(4)
        again = estimate_bias(found[0], FRAME, SETTINGS)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 4
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert again.log_field.tobytes() == found[3].log_field.tobytes()


def test_volume_full_of_tissue_needs_no_threshold():
    rng = np.random.default_rng(3)
    frame = Frame((20, 20, 20), (300, 300, 300))
    slope = np.linspace(-0.2, 0.2, 20)[None, None, :] * np.ones(frame.shape)
    image = 500 * np.exp(slope) * (1 + 0.03 * rng.standard_normal(frame.shape))
    field = estimate_bias(image.astype(np.float32), frame, SETTINGS)
    assert np.std(np.log(field.evaluate(frame)) - slope) < 0.05


def error_cases():
    image, _, _ = sample()
    broken = image.copy()
    broken[3, 4, 5] = np.nan
    small = Frame((3, 40, 44), (200, 150, 150))
    return [
        (np.full(FRAME.shape, 7.0), FRAME, {}, r"image is constant \(7\)"),
        (broken, FRAME, {}, "image has 1 voxels that are not finite"),
        (image, FRAME, {"threshold": 1e6}, "image has 0 voxels of tissue at 300 um"),
        (image[:3], small, {}, "N4 needs at least 4 along each axis"),
        (image[:4], FRAME, {}, "does not fit its frame"),
    ]


@pytest.mark.parametrize("image, frame, options, message", error_cases())
def test_images_without_a_field(image, frame, options, message):
    with pytest.raises(IntensityError, match=message):
        estimate_bias(image, frame, BiasSettings(resolution_um=300.0, **options))


def test_mask_of_another_shape():
    with pytest.raises(IntensityError, match="mask of shape"):
        estimate_bias(sample()[0], FRAME, SETTINGS, mask=np.ones((2, 2, 2), bool))


def test_field_of_another_orientation(found):
    with pytest.raises(IntensityError, match="has orientation ILA but the volume has"):
        found[3].evaluate(Frame((2, 2, 2), (1, 1, 1)))


def test_files_that_are_no_bias_field(tmp_path):
    path = tmp_path / "bias.nrrd"
    path.write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(StoreError, match=r"bias.nrrd is damaged, or not a file that terareg wrote"):
        BiasField.load(path)
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkFloat32), str(path))
    with pytest.raises(StoreError, match=r"bias.nrrd is damaged, or not a file that terareg wrote"):
        BiasField.load(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution_um": 0}, "resolution_um 0 is impossible"),
        ({"spline_distance_mm": float("nan")}, "spline_distance_mm nan is impossible"),
        ({"iterations": ()}, "iterations .* are impossible"),
        ({"threshold": float("inf")}, "threshold inf is not finite"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        BiasSettings(**options)
