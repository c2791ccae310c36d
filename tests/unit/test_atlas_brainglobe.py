"""BrainGlobe atlases by name: orientation, voxel size, ids, hierarchy, colours and sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from brainglobe_truth import (
    LARGE,
    NAME,
    ROOT,
    SHAPE,
    SPACING_UM,
    STRUCTURES,
    VENTRICLE,
    images,
    write_newer,
    write_older,
)
from examples import examples, spoiled_text
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.atlas.brainglobe import (
    atlas_keys,
    brainglobe_folder,
    find_atlas,
    installed_atlases,
    zarr_level_shape,
)
from terareg.atlas.prepare import AtlasSettings, load_atlas, prepare_atlas
from terareg.core.errors import AtlasError, ConfigError, TeraregError
from terareg.execution import inputs
from terareg.execution.config import check
from terareg.execution.run import Run, load_run
from terareg.execution.sizing import sized

LEFT, RIGHT = 1, 2


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "brainglobe"
    folder.mkdir()
    monkeypatch.setenv("BRAINGLOBE_DIR", str(folder))
    return folder


def prepared(keys, out):
    settings = AtlasSettings(**keys)
    return prepare_atlas(settings, out), load_atlas(out)


@pytest.mark.parametrize("layout", ["older", "newer", "newer with values of their own"])
def test_everything_of_an_atlas_is_taken_right(home, tmp_path, layout):
    if layout == "older":
        write_older(home)
    else:
        write_newer(home, values=layout != "newer")
    keys = atlas_keys(find_atlas(NAME))
    _, atlas = prepared(keys, tmp_path / "out")
    # from anterior, superior, right: the indices grow to posterior, inferior, left
    assert atlas.frame.orientation == "PIL"
    assert atlas.frame.shape == SHAPE and list(atlas.frame.spacing_um) == SPACING_UM
    truth = images()
    np.testing.assert_array_equal(atlas.annotation, truth["annotation"])
    np.testing.assert_array_equal(atlas.template, truth["reference"])
    np.testing.assert_array_equal(atlas.hemispheres, truth["hemispheres"])
    assert atlas.annotation[0, 0, 0] == LARGE and atlas.hemispheres[0, 0, 0] == RIGHT
    assert atlas.annotation[-1, -1, -1] == VENTRICLE and atlas.hemispheres[-1, -1, -1] == LEFT
    for region, acronym, name, path, rgb in STRUCTURES:
        found = atlas.ontology[region]
        assert (found.acronym, found.name) == (acronym, name)
        assert atlas.ontology.path(region) == path
        assert found.colour == "".join(f"{v:02X}" for v in rgb)
    assert atlas.ontology.find("SNl").id == LARGE and atlas.ontology.level(0) == [ROOT]


def test_a_symmetric_atlas_is_divided_at_its_middle(home, tmp_path):
    write_older(home, symmetric=True)
    keys = atlas_keys(find_atlas(NAME))
    assert "hemispheres" not in keys
    _, atlas = prepared(keys, tmp_path / "out")
    sides = atlas.hemispheres[0, 0]
    assert sides[0] == RIGHT and sides[-1] == LEFT and (sides == LEFT).sum() == 5


def test_folders_are_found_as_brainglobe_finds_them(home, tmp_path, monkeypatch):
    assert brainglobe_folder() == home and installed_atlases() == []
    monkeypatch.delenv("BRAINGLOBE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BRAINGLOBE_CONFIG_DIR", str(tmp_path / "conf"))
    assert brainglobe_folder() == tmp_path / ".brainglobe"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/bg_config.conf").write_text(
        f"[default_dirs]\nbrainglobe_dir = {tmp_path / 'lab'}\n"
    )
    assert brainglobe_folder() == tmp_path / "lab"


def test_the_newest_version_is_taken_and_any_other_by_its_number(home):
    for version in ("1.2", "1.10", "1.9"):
        write_older(home, version=version)
    assert find_atlas(NAME).version == "1.10"
    assert find_atlas(NAME, "1.9").version == "1.9"
    with pytest.raises(
        AtlasError, match=r"in version 1.2, 1.9, 1.10, not 2.0; download it with: terareg atlas get"
    ):
        find_atlas(NAME, "2.0")


def test_a_folder_may_lie_anywhere(home, tmp_path):
    atlas = find_atlas(str(write_older(tmp_path / "lab")))
    assert (atlas.name, atlas.version) == (NAME, "1.2")
    atlas = find_atlas(str(write_newer(tmp_path / "other").parent))
    assert (atlas.name, atlas.version) == ("small_mouse_40um", "1.2")
    with pytest.raises(AtlasError, match="contains no BrainGlobe atlas"):
        find_atlas(str(tmp_path))


def test_what_is_not_there_is_named_with_its_remedy(home):
    write_older(home)
    with pytest.raises(
        AtlasError,
        match=r"did you mean small_mouse_40um\? Otherwise download it with: terareg atlas get",
    ):
        find_atlas("small_mouse_20um")


def _cut(atlas, name, change):
    path = atlas / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda a: (a / "annotation.tiff").unlink(), "has no annotation"),
        (lambda a: (a / "metadata.json").write_text("{"), "cannot be read as JSON"),
        (lambda a: _cut(a, "metadata.json", lambda d: d | {"shape": [8, 6, 10]}), "has 8, 6, 10"),
        (lambda a: _cut(a, "metadata.json", lambda d: d | {"resolution": [25]}), "is not three"),
        (lambda a: _cut(a, "metadata.json", lambda d: d | {"orientation": "arx"}), "PLX"),
        (
            lambda a: tifffile.imwrite(a / "hemispheres.tiff", np.ones((6, 8, 9), np.uint8)),
            "hemispheres.tiff has .6, 8, 9.; install",
        ),
    ],
)
def test_an_atlas_that_contradicts_itself_is_refused(home, break_it, words):
    atlas = write_older(home)
    break_it(atlas)
    words = words.replace("has 8, 6, 10", r"states that the atlas has \[8, 6, 10\] voxels")
    with pytest.raises((AtlasError, ConfigError), match=words):
        atlas_keys(find_atlas(NAME))


@pytest.mark.parametrize("name", ["metadata.json", "manifest.json"])
@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_metadata_are_read_or_refused(home, tmp_path, name, data):
    kept = tmp_path / name
    if not kept.exists():
        folder = (write_older if name == "metadata.json" else write_newer)(home)
        file = folder if folder.is_file() else folder / name
        kept.write_bytes(file.read_bytes())
        (tmp_path / "where").write_text(str(file))
    file = Path((tmp_path / "where").read_text())
    file.write_bytes(spoiled_text(kept.read_bytes(), data.draw))
    try:
        atlas_keys(find_atlas(str(file.parent)))
    except TeraregError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def test_voxels_that_were_not_fetched_are_no_zeros(home):
    import shutil

    manifest = write_newer(home)
    annotation = manifest.parents[3] / "annotation-sets/small-annotation/1_0"
    shutil.rmtree(annotation / "annotations_compressed.ome.zarr/1/c")
    with pytest.raises(AtlasError, match="has no voxels yet; open the template"):
        atlas_keys(find_atlas(NAME))
    _cut(manifest.parent, "manifest.json", lambda d: d | {"resolution": [10, 10, 10]})
    with pytest.raises(AtlasError, match="has no level with voxels of"):
        atlas_keys(find_atlas(NAME))
    assert zarr_level_shape(annotation) is None


BASE = {
    "sample": "brain",
    "input": {"path": "raw", "orientation": "SAR", "channels": {"auto": 0}},
}


def test_a_name_stands_for_the_keys_of_the_files(home):
    folder = write_older(home)
    atlas = check(BASE | {"atlases": {"ccf": {"name": NAME}}})["atlases"]["ccf"]
    assert atlas["template"] == str(folder / "reference.tiff")
    assert (atlas["orientation"], atlas["spacing_um"]) == ("PIL", SPACING_UM)
    assert (atlas["name"], atlas["version"], atlas["unlisted"]) == (NAME, "1.2", "error")
    for atlas, words in (
        (
            {"name": NAME, "orientation": "RIP"},
            "orientation: 'RIP' and atlases.ccf.name both define it",
        ),
        ({"name": NAME, "version": 1.2}, 'write it in quotes, "1.2"'),
        (
            {"name": "no_mouse"},
            "atlases.ccf.name: atlas no_mouse is not in .*with: terareg atlas get",
        ),
        ({"version": "1.2"}, "an atlas needs a name, or template"),
    ):
        with pytest.raises((AtlasError, ConfigError), match=words):
            check(BASE | {"atlases": {"ccf": atlas}})


def test_jobs_get_files_and_the_origin_of_a_named_atlas(home, tmp_path, workspace):
    write_newer(home)
    config = workspace.sample(grid=(1, 2), planes=100, atlases={"ccf": {"name": NAME}})
    run = load_run(config)
    settings = inputs.atlas_settings(run, "ccf")
    assert settings["origin"] == f"BrainGlobe {NAME} 1.2"
    # folders are followed by their metadata, and by the state of their files
    assert list(inputs.atlas_sources(run, "ccf")) == ["ontology"]
    assert inputs.template_source(run, "ccf") == []
    assert [Path(p).name for p in inputs.atlas_data(run, "ccf")] == ["zarr.json"] * 3
    before = inputs.atlas_state(run, "ccf")
    assert len(before) == 3
    chunk = Path(settings["annotation"], "c/0/0/0")
    chunk.write_bytes(chunk.read_bytes() + b" ")
    assert inputs.atlas_state(run, "ccf") != before
    extent = sized(run, "brain").atlases["ccf"]
    assert extent.shape == SHAPE and list(extent.spacing_um) == SPACING_UM
    chunk.write_bytes(chunk.read_bytes()[:-1])
    info, _ = prepared(settings, tmp_path / "out")
    assert info["origin"] == settings["origin"]
    assert len(info["sources"]["template"]["sha256"]) == 64


def test_machines_without_the_folder_cannot_have_a_named_atlas(home):
    write_older(home)
    config = BASE | {"atlases": {"ccf": {"name": NAME}}, "store": "s3://bucket/volumes"}
    config["input"] = BASE["input"] | {"path": "s3://bucket/raw"}
    with pytest.raises(ConfigError, match="is installed on this machine, which jobs on other"):
        load_run(config, remote="s3://bucket/tracked")


def test_an_atlas_given_by_files_has_the_settings_that_it_had(workspace):
    config = workspace.sample(grid=(1, 2), planes=100)
    run: Run = load_run(config)
    assert inputs.atlas_settings(run, "mouse").keys() == {
        "template", "annotation", "ontology", "orientation", "spacing_um", "hemispheres",
        "hemisphere_values", "unlisted",
    }  # fmt: skip
