"""The phantom's atlas: a tree of regions, on both sides, the same for the same seed."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from terareg.core.errors import AtlasError
from terareg.phantom.atlas import BrainSettings, make_atlas, write_atlas


@pytest.fixture(scope="module")
def atlas():
    return make_atlas(BrainSettings(seed=3, atlas_spacing_um=100.0))


# ------------------------------------------------------------------ atlas
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_atlas_has_regions_of_sufficient_size_on_both_sides(seed):
    atlas = make_atlas(BrainSettings(seed=seed, atlas_spacing_um=100.0))
    assert np.array_equal(atlas.annotation, atlas.annotation[::-1])
    assert np.array_equal(atlas.template, atlas.template[::-1])
    ids, count = np.unique(atlas.annotation[: atlas.frame.shape[0] // 2], return_counts=True)
    assert 60 <= len(ids) - 1 <= 120
    assert ids.max() == 614454277
    assert np.diff(ids.astype(np.int64)).min() >= 1 and np.float32(ids.max()) != ids.max()
    assert count[1:].min() * atlas.frame.voxel_volume_um3 / 1e9 >= 0.3
    edge = np.ones(atlas.annotation.shape, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    assert not atlas.annotation[edge].any()


def test_ontology_is_a_tree_over_the_annotation(atlas):
    ids = [node["id"] for node in atlas.ontology]
    assert len(set(ids)) == len(ids)
    assert len({node["acronym"] for node in atlas.ontology}) == len(ids)
    assert set(atlas.region_ids().tolist()) <= set(ids)
    for position, node in enumerate(atlas.ontology):
        assert node["parent_id"] == "" if position == 0 else node["parent_id"] in ids[:position]
        assert len(node["color"]) == 6 and int(node["color"], 16) >= 0


def test_regions_of_the_annotation_are_leaves(atlas):
    parents = {node["parent_id"] for node in atlas.ontology}
    assert not parents & set(atlas.region_ids().tolist())


def test_atlas_files_are_lossless_and_in_millimetres(atlas, tmp_path):
    files = write_atlas(atlas, tmp_path)
    image = sitk.ReadImage(str(tmp_path / files["annotation"]))
    assert image.GetSpacing() == pytest.approx((0.1, 0.1, 0.1))
    assert image.GetPixelID() == sitk.sitkUInt32
    assert np.array_equal(sitk.GetArrayFromImage(image), atlas.annotation)
    template = sitk.ReadImage(str(tmp_path / files["template"]))
    assert template.GetPixelID() == sitk.sitkUInt16
    assert len(json.loads((tmp_path / files["ontology"]).read_text())) == len(atlas.ontology)


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_other_brain(atlas, tmp_path):
    again = make_atlas(BrainSettings(seed=3, atlas_spacing_um=100.0))
    write_atlas(atlas, tmp_path / "a")
    write_atlas(again, tmp_path / "b")
    for name in ("template.nrrd", "annotation.nrrd", "ontology.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = make_atlas(BrainSettings(seed=5, atlas_spacing_um=100.0))
    assert not np.array_equal(other.annotation, atlas.annotation)


def test_too_coarse_an_atlas_is_refused():
    with pytest.raises(AtlasError, match=r"phantom structure \w+ has .* choose another seed or"):
        make_atlas(BrainSettings(seed=0, atlas_spacing_um=400.0, smallest_region_mm3=3.0))
