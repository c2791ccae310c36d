"""Projects of BigStitcher: what their XML says, and what cannot be taken as tiles."""

from __future__ import annotations

import container_files as files
import numpy as np
import pytest
from examples import examples, spoiled_text
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.core.errors import AcquisitionError, TeraregError
from terareg.intake.big_stitcher import big_stitcher, of_project
from terareg.intake.found import Look
from terareg.intake.recognise import recognise
from terareg.storage.store import Store

XML = "dataset.xml"


def look(folder) -> Look:
    return Look(Store(str(folder)))


def lines(found) -> list[list[str]]:
    return [line.split("\t") for line in found.table.splitlines()[1:]]


def test_the_xml_itself_can_be_given(tmp_path):
    files.big_stitcher(tmp_path)
    assert recognise(str(tmp_path / XML)) == recognise(str(tmp_path))
    assert big_stitcher(look(tmp_path)) == of_project(look(tmp_path), XML)


def test_views_that_are_missing_are_left_out(tmp_path):
    files.big_stitcher(tmp_path, missing=(1, 7))
    found = lines(of_project(look(tmp_path), XML))
    assert len(found) == 10
    assert {line[2] for line in found if line[1] == "Cy5"} == {
        f"tile{k:03d}" for k in (0, 2, 3, 4, 5)
    }


def test_refined_tiles_keep_their_place_in_spite_of_a_small_turn(tmp_path):
    """A refinement turns a tile about its middle; that its corner moves does not count."""
    turn = np.eye(4)
    turn[0, 1], turn[1, 0] = 0.02, -0.02
    middle = np.array([40.0 + 0.5 * 30 * 4 / 3, 0, 0, 1])  # of tile 1, in the world
    moved = np.eye(4)
    moved[:3, 3] = (middle - turn @ middle)[:3]
    files.big_stitcher(tmp_path / "plain")
    files.big_stitcher(tmp_path / "turned", angles={1: moved @ turn})
    plain, turned = (lines(of_project(look(tmp_path / n), XML)) for n in ("plain", "turned"))
    for one, other in zip(plain, turned):
        np.testing.assert_allclose(
            [float(v) for v in one[3:]], [float(v) for v in other[3:]], atol=0.5
        )


def test_angles_are_refused(tmp_path):
    quarter = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])
    files.big_stitcher(tmp_path, angles={3: quarter})
    with pytest.raises(
        AcquisitionError, match=r"views 0 and 3 are rotated or stretched.* one angle"
    ):
        of_project(look(tmp_path), XML)


def edited(folder, *replacements) -> None:
    text = (folder / XML).read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / XML).write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<unit>µm</unit>", "<unit>pixel</unit>", "has the unit 'pixel', which is not a length"),
        ("<voxelSize>", "<other>", "cannot be read"),
        (
            "bdv.hdf5",
            "spimreconstruction.filemap",
            (r"stored as 'spimreconstruction.filemap'; resave"),
        ),
        (">dataset.h5<", ">../other/dataset.h5<", "in '../other/dataset.h5'; put them beside"),
        (">dataset.h5<", ">dataset.dat<", "in 'dataset.dat'; name it .h5"),
        (
            "<integerpattern>0<",
            "<integerpattern>0-5<",
            ("the time points '0-5'; export a project with one"),
        ),
        ("<size>30 20 4</size>", "<size>30 20</size>", "'30 20' are not 3 numbers"),
        ('setup="5"', 'setup="55"', "view setup 5 has no registration"),
        ("<affine>", "<affine>nan ", "are not 12 numbers"),
        ("<SpimData", '<!DOCTYPE x [<!ENTITY a "b">]><SpimData', "cannot be read"),
        ("<id>3</id><name>3</name>", "<id>33</id><name>3</name>", "setup 33 has no registration"),
    ],
)
def test_what_cannot_be(tmp_path, old, new, words):
    files.big_stitcher(tmp_path)
    edited(tmp_path, (old, new))
    with pytest.raises(AcquisitionError, match=words):
        of_project(look(tmp_path), XML)


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_projects_are_read_or_refused(tmp_path, data):
    if not (tmp_path / "whole.txt").exists():
        files.big_stitcher(tmp_path)
        (tmp_path / XML).rename(tmp_path / "whole.txt")
    content = (tmp_path / "whole.txt").read_bytes()
    (tmp_path / XML).write_bytes(spoiled_text(content, data.draw))
    try:
        of_project(look(tmp_path), XML)
    except TeraregError as error:
        assert "\n" not in str(error) and "; " in str(error)


def test_a_file_that_lacks_a_view_is_told(tmp_path):
    files.big_stitcher(tmp_path, missing=(4,))
    edited(tmp_path, ('<MissingView timepoint="0" setup="4"/>', ""))
    with pytest.raises(AcquisitionError, match="has no t00000/s04/0/cells, which the XML lists"):
        of_project(look(tmp_path), XML)


def test_partitions_lie_beside_the_first_file(tmp_path):
    import h5py

    files.big_stitcher(tmp_path, split=True)
    with h5py.File(tmp_path / "dataset.h5", "r+") as file:
        del file["t00000/s02"]
        file["t00000/s02"] = h5py.ExternalLink("/etc/passwd", "t00000/s02")
    with pytest.raises(
        AcquisitionError, match=("it links to '/etc/passwd'; put all partitions beside")
    ):
        of_project(look(tmp_path), XML)


def test_of_several_projects_one_is_asked_for(tmp_path):
    files.big_stitcher(tmp_path)
    (tmp_path / "later.xml").write_text((tmp_path / XML).read_text())
    with pytest.raises(AcquisitionError, match=r"dataset.xml, later.xml; give one"):
        recognise(str(tmp_path))
    assert len(lines(recognise(str(tmp_path / "later.xml")))) == 12
