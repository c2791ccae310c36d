"""Input of a registration, read from the files of earlier jobs."""

import numpy as np
import pytest
import tifffile

from terareg.atlas.prepare import AtlasSettings, prepare_atlas
from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.regions.registered import RegistrationInput
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE = (8, 9, 10)


@pytest.fixture
def given(tmp_path):
    rng = np.random.default_rng(0)
    template = rng.integers(0, 500, SHAPE).astype(np.uint16)
    labels = rng.integers(0, 3, SHAPE).astype(np.uint16)
    for name, array in (("template", template), ("annotation", labels)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    (tmp_path / "o.csv").write_text("id,acronym,name,parent\n9,T,top,\n1,A,a,9\n2,B,b,9\n")
    files = {key: str(tmp_path / f"{key}.tif") for key in ("template", "annotation")}
    settings = AtlasSettings(
        **files, ontology=str(tmp_path / "o.csv"), orientation="RIP", spacing_um=(50, 50, 50)
    )
    prepare_atlas(settings, tmp_path / "mouse")
    write_json(tmp_path / "pose.json", {"extent": "left"})
    store = Store(str(tmp_path / "store"))
    plan = make_plan("scan", Frame(SHAPE, (50.0,) * 3), "uint16", VolumeSettings(chunk=8, block=16))
    init_volume(store, "brain/fused/red", plan)

    def block(box):
        inside = tuple(slice(a, b) for a, b in zip(box.start, box.stop))
        return template[inside], Clipped()

    write_blocks(store, "brain/fused/red", plan, plan.batch(0, 1), block, fingerprint="x")
    finish_pyramid(store, "brain/fused/red", plan)
    channels = {"red": "brain/fused/red"}
    return template, labels, (tmp_path / "mouse", {}, store, channels, tmp_path / "pose.json")


def test_images_have_their_voxels_and_names_and_hints_the_regions(given):
    template, labels, places = given
    atlas, sample, hints = RegistrationInput(*places).read(50.0, 1)
    assert [i.name for i in (*atlas, *sample)] == ["atlas mouse", "channel red of sample brain"]
    assert np.array_equal(atlas[0].data, template) and np.array_equal(sample[0].data, template)
    assert hints.extent == "left" and hints.landmarks is None
    assert np.array_equal(hints.regions.labels, labels)
    assert hints.regions.parents[1] == 9 and hints.regions.names[2] == "B"


def test_a_pose_that_is_gone_is_named(given):
    places = given[2]
    places[-1].unlink()
    with pytest.raises(StoreError, match=r"pose\.json cannot be read"):
        RegistrationInput(*places).read(50.0, 1)
