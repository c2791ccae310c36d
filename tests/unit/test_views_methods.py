"""The methods paragraph says what a run did and no more, and cites what it says."""

import re

import pytest
from workspaces import Workspace

from terareg.execution import provenance
from terareg.execution.config import check
from terareg.execution.run import Run
from terareg.views.methods import methods

SUMMARY = {"kept": "deformation", "levels": [{"voxel_um": 200.0}, {"voxel_um": 100.0}]}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Values of all settings of a usual sample."""

    def of(**over):
        workspace = Workspace(tmp_path_factory.mktemp("methods"))
        run = Run({"brain": check(workspace.sample(**over))})
        return {k: s["value"] for k, s in provenance.all_settings(run, "brain").items()}

    return of


def keys(bibtex):
    return re.findall(r"@\w+{(\w+),", bibtex)


def test_a_usual_run(values):
    found = methods(values(), {"mouse": SUMMARY}, {"terareg": "1.2", "numpy": "2.0"})
    text = found["text"]
    for words in ("terareg 1.2", "N4 (Tustison et al. 2010) at 400", "atlas mouse", "100 µm",
                  "normalised cross-correlation", "cosine weights", "numpy 2.0"):  # fmt: skip
        assert words in text, words
    assert "TeraStitcher" not in text and "Stripes" not in text
    assert keys(found["bibtex"]) == ["terareg", "snakemake", "n4", "beg", "tward", "omezarr"]
    assert found["bibtex"].count("{") == found["bibtex"].count("}")
    assert "doi = {10.3389/fnins.2020.00052}" in found["bibtex"]


@pytest.mark.parametrize(
    ("over", "there", "absent"),
    [
        ({"stitching__displacement": {"engine": "mip_ncc"}}, "Bria and Iannello", "band-passed"),
        ({"intensity__bias": {"enabled": False}}, "terareg", "N4"),
        ({"intensity__destriping": "rows"}, "Stripes of the light-sheet", "Bria"),
        ({"intensity__flatfield": {"method": "none"}}, "without a flat-field", "divided by"),
        ({"fusion": {"blending": "none"}}, "tiles were averaged", "cosine"),
        ({"volume": {"formats": ["precomputed"]}}, "terareg", "OME-Zarr"),
    ],
)
def test_options_change_what_is_said(values, over, there, absent):
    text = methods(values(**over), {}, {})["text"]
    assert there in text and absent not in text


def test_an_affine_registration_claims_no_deformation(values):
    text = methods(values(), {"mouse": SUMMARY | {"kept": "affine"}}, {})["text"]
    assert "affine transform" in text and "diffeo" not in text


def test_a_volume_was_not_stitched(values):
    text = methods(values() | {"input.kind": "volume"}, {}, {})["text"]
    assert "imported" in text and "iles" not in text


def test_every_citation_in_the_text_has_its_entry(values):
    over = {"stitching__displacement": {"engine": "mip_ncc"}}
    found = methods(values(**over), {"mouse": SUMMARY}, {})
    cited = re.findall(r"\((\w[^()]*? \d{4}(?:; [^()]*? \d{4})*)\)", found["text"])
    assert len(keys(found["bibtex"])) == 1 + len(cited)


def test_an_atlas_through_another_one_was_not_registered(values):
    composed = {"through": "lsfm", "files": ["1Warp.nii.gz", "0.mat"]}
    text = methods(values(), {"lsfm": SUMMARY, "ccf": composed}, {})["text"]
    assert "atlas ccf" in text and "was reached through lsfm, by a known transform" in text
    assert "(1Warp.nii.gz, 0.mat)" in text and text.count("was registered to the sample") == 1
