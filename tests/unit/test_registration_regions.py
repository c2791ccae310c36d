"""The annotation as evidence: levels of regions, their prior along the ontology, and its use."""

from dataclasses import replace

import numpy as np
import pytest
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid
from test_registration_emlddmm import SETTINGS

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.assemble import check_folding, regional_facts, scale_facts
from terareg.registration.emlddmm import register
from terareg.registration.images import Image, prepare
from terareg.registration.regions import Painter, RegionFit, Regions, Tree, tree_of
from terareg.registration.schedule import Hints, Plan

PARENTS = {10: 1, 11: 1, 20: 2, 21: 2, 1: 100, 2: 100, 100: None}


def test_a_region_that_is_not_seen_has_the_level_of_its_relatives():
    tree = Tree(np.array([10, 11, 20, 21]), PARENTS)
    medians = np.array([0.9, 0.0, 0.3, 0.28])
    levels = tree.levels(medians, np.array([1e-4, np.inf, 1e-4, 1e-4]))
    assert tree.ids.tolist() == [10, 11, 20, 21]
    assert abs(levels[1] - 0.9) < abs(levels[1] - 0.3)
    np.testing.assert_allclose(levels[[0, 2, 3]], medians[[0, 2, 3]], atol=0.02)


def test_uncertain_levels_shrink_towards_their_parent_and_certain_ones_do_not():
    rng = np.random.default_rng(0)
    ids = np.arange(1, 201)
    tree = Tree(ids, {})
    true = 0.6 + 0.1 * rng.standard_normal(200)
    sigma = np.where(ids % 2, 0.3, 0.01)
    medians = true + sigma * rng.standard_normal(200)
    levels = tree.levels(medians, sigma**2)
    odd = ids % 2 == 1
    error = np.abs(levels - true)
    assert error[odd].mean() < 0.45 * np.abs(medians - true)[odd].mean()
    assert error[~odd].mean() < 0.02


def test_equal_regions_have_one_level():
    rng = np.random.default_rng(1)
    tree = Tree(np.arange(1, 101), {i: 1000 + i % 5 for i in range(1, 101)})
    medians = 0.5 + 0.1 * rng.standard_normal(100)
    assert tree.levels(medians, np.full(100, 0.01)).std() < 0.3 * medians.std()


def test_a_loop_in_the_ontology_ends():
    tree = Tree(np.array([1, 2]), {1: 3, 3: 1, 2: 3})
    assert np.isfinite(tree.levels(np.array([0.2, 0.4]), np.array([1e-3, 1e-3]))).all()


def test_levels_come_from_what_matches_only():
    shape = (20, 20, 20)
    labels = np.ones(shape, int)
    labels[:, :, 10:] = 2
    frame = Frame(shape, (100.0,) * 3)
    data = np.zeros(shape, np.float32)
    data[2:-2, 2:-2, 2:-2] = 1.0
    working = prepare(Image(data, frame))
    regions = Regions(labels, {})
    painter = Painter(regions, frame, working, tree_of(regions))
    target = np.where(labels == 1, 0.3, 0.8).astype(float)
    weight = np.ones(shape)
    target[:13], weight[:13] = 0.0, 0.0
    at = np.arange(target.size)
    levels = painter.estimate(at, target.reshape(1, -1), weight.ravel())
    found = dict(zip(painter.tree.ids.tolist(), levels[0]))
    assert found[1] == pytest.approx(0.3, abs=0.02) and found[2] == pytest.approx(0.8, abs=0.02)
    painted = painter.paint(levels)[0]
    assert painted[10, 10, 5] == pytest.approx(found[1], abs=0.01)
    assert found[1] < painted[10, 10, 9] < painted[10, 10, 10] < found[2]


def test_coarse_voxels_are_shared_between_regions():
    labels = np.ones((16, 16, 16), int)
    labels[:, :, 7:] = 2
    frame = Frame(labels.shape, (50.0,) * 3)
    coarse = frame.downsampled((2, 2, 2))
    working = prepare(Image(np.pad(np.ones((4,) * 3), 2).astype(np.float32), coarse))
    regions = Regions(labels, {})
    shares = Painter(regions, frame, working, tree_of(regions)).shares.toarray()
    split = shares.reshape(8, 8, 8, 3)[4, 4]
    np.testing.assert_allclose(split[3], [0, 0.5, 0.5])
    np.testing.assert_allclose(split[2], [0, 1, 0])


def test_an_annotation_on_another_grid_is_refused():
    with pytest.raises(RegistrationError, match=r"annotation has \(4, 4, 4\) voxels"):
        register(atlas(), atlas(), SETTINGS, np.eye(4),
                 hints=Hints(regions=Regions(np.ones((4, 4, 4), int), {})))  # fmt: skip
    with pytest.raises(RegistrationError, match="region ids as integers"):
        Regions(np.ones((4, 4, 4)), {})


@pytest.mark.slow
def test_regions_that_say_nothing_change_nothing():
    truth = Truth(affine_about_centre((3, 0, -2), shift_um=(150, 0, 0)), amplitude_um=300.0)
    short = replace(SETTINGS, iterations=8)
    one = Regions(np.ones(ATLAS_FRAME.shape, int), {})
    alone = register(atlas(), truth.sample(), replace(short, regions="none"), np.eye(4),
                     hints=Hints(regions=one))  # fmt: skip
    plain = register(atlas(), truth.sample(), short, np.eye(4))
    np.testing.assert_array_equal(alone.transform.displacement, plain.transform.displacement)
    np.testing.assert_array_equal(alone.posteriors, plain.posteriors)


@pytest.mark.slow
def test_an_annotation_of_one_region_changes_nothing():
    truth = Truth(affine_about_centre((3, 0, -2), shift_um=(150, 0, 0)), amplitude_um=300.0)
    hints = Hints(regions=Regions(np.ones(ATLAS_FRAME.shape, int), {}))
    with_one = register(atlas(), truth.sample(), SETTINGS, np.eye(4), hints=hints)
    plain = register(atlas(), truth.sample(), SETTINGS, np.eye(4))
    # one more level of the same kind runs than without an annotation
    assert abs(truth.error_um(with_one.transform) - truth.error_um(plain.transform)) < 20
    shares = [r.summary["expected_tissue"] for r in (with_one, plain)]
    for name in ("match", "artefact", "missing"):
        assert shares[0][name] == pytest.approx(shares[1][name], abs=0.01)
    np.testing.assert_allclose(with_one.predicted, plain.predicted, atol=0.35)
    assert np.abs(with_one.predicted - plain.predicted).mean() < 0.01


def cells(points):
    """Block of 1.4 mm in which atlas points lie."""
    return np.ravel_multi_index(np.floor(points / 1400).astype(int) % 8, (8, 8, 8))


def seen_by_cell(truth):
    """Blocks are bright or dark in the sample; the template does not say which."""
    factors = np.random.default_rng(0).permutation(np.linspace(0.4, 1.2, 512))

    def by_cell(value, label, points):
        return value * factors[cells(truth.to_atlas(points))]

    return truth.sample(contrast=by_cell)


@pytest.mark.slow
def test_regions_help_where_contrast_follows_them():
    truth = Truth(affine_about_centre((3, 0, -2), shift_um=(150, 0, 0)), amplitude_um=450.0)
    sample = seen_by_cell(truth)
    hints = Hints(regions=Regions(1 + cells(grid(ATLAS_FRAME)), {}))
    # with fewer iterations neither has converged
    settings = replace(SETTINGS, iterations=60)
    found = {
        name: register(atlas(), sample, replace(settings, regions=name), np.eye(4), hints=hints)
        for name in ("auto", "none")
    }
    error = {name: truth.error_um(result.transform) for name, result in found.items()}
    assert error["auto"] < 0.85 * error["none"], error
    assert found["auto"].terms == ["1", "T1(I1)", "T1(I2)", "fraction"]
    levels = {name: [level["voxel_um"] for level in result.summary["levels"]]
              for name, result in found.items()}  # fmt: skip
    assert levels["auto"] == 3 * levels["none"], "all levels are repeated with better grey values"


@pytest.mark.slow
def test_a_channel_that_shows_no_regions_does_not_take_them_from_another():
    truth = Truth(affine_about_centre((3, 0, -2), shift_um=(150, 0, 0)), amplitude_um=450.0)
    sample = seen_by_cell(truth)
    noise = np.random.default_rng(1).normal(200, 60, sample.data.shape)
    dim = replace(sample, data=(noise + 0.06 * sample.data).astype(np.float32), name="dim")
    hints = Hints(regions=Regions(1 + cells(grid(ATLAS_FRAME)), {}))
    settings = replace(SETTINGS, iterations=20)
    found = register(atlas(), [sample, dim], settings, np.eye(4), hints=hints)
    assert found.terms == ["1", "T1(I1)", "T1(I2)", "T1(I3)", "fraction"]


def test_the_verdict_names_regions_that_are_not_explained():
    plan = Plan([atlas()], [atlas()], SETTINGS, np.eye(4),
                Hints(regions=Regions(np.ones(ATLAS_FRAME.shape, int), {}, {5: "TH"})))  # fmt: skip
    fit = RegionFit(np.array([5, 6]), np.array([300.0, 700.0]),
                    np.array([-0.2, 0.01]), np.array([0.4, -0.3]),
                    np.array([0.1, 0.1]))  # fmt: skip
    warnings = []
    facts = regional_facts(fit, plan, warnings)
    assert facts["unexplained"] == ["TH"] and facts["unexplained_percent"] == pytest.approx(30)
    assert facts["worse_regions"] == ["region 6"] and facts["worse_percent"] == pytest.approx(70)
    assert warnings[0].startswith("unexplained: TH differ")
    assert warnings[1].startswith("worse_regions: region 6 are explained worse")
    quiet = RegionFit(fit.ids, fit.voxels, np.array([0.01, 0.0]), np.array([0.4, -0.1]), fit.error)
    assert regional_facts(quiet, plan, warnings)["unexplained_percent"] == 0
    assert len(warnings) == 2


@pytest.mark.parametrize(
    ("factor", "warned"), [(1.0, False), (1.1, False), (1.5, True), (0.6, True)]
)
def test_an_unusual_size_is_said_with_its_factor(factor, warned):
    warnings = []
    facts = scale_facts(factor * affine_about_centre((10, 20, 5)), warnings)
    assert facts["scale"] == pytest.approx(factor) and facts["scale_ratio"] == pytest.approx(1)
    assert bool(warnings) == warned
    assert not warned or f"{factor:.2f} times as long" in warnings[0]
    assert scale_facts(np.diag([1.0, 1.0, 1.6, 1.0]), [])["scale_ratio"] == pytest.approx(1.6)


def test_a_fold_stops_with_a_sentence():
    plan = Plan([atlas()], [atlas()], SETTINGS, np.eye(4), Hints())
    check_folding(np.array([0.2, 1.0]), plan, 1.0)
    with pytest.raises(
        RegistrationError, match=r"folds \(volume ratio -0.5\) even with .* 0.1; raise .* 900"
    ):
        check_folding(np.array([-0.5, 1.0]), plan, 2.0)
