"""Atlas preparation: any format, lossless ids, one frame (defects D1, D3; feature A13)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from terareg.atlas.prepare import (
    AtlasSettings,
    load_atlas,
    load_frame,
    load_image,
    load_ontology,
    load_template,
    make_atlas,
    prepare_atlas,
    prepare_image,
)
from terareg.core.errors import AtlasError, ConfigError, TeraregError
from terareg.core.frames import Frame, orientation_matrix
from terareg.core.orientation import all_orientations

ALLEN = Path(__file__).parents[3] / "shared" / "data" / "allen_ccf"
SHAPE = (5, 7, 6)
IDS = np.array([0, 3, 70000, 614454277, 2**32 - 1], np.uint32)


@pytest.fixture
def labels():
    return IDS[np.random.default_rng(1).integers(0, 5, SHAPE)]


@pytest.fixture
def source(tmp_path, labels):
    """Write an atlas; returns settings for it with changes."""
    rng = np.random.default_rng(2)
    template = rng.integers(0, 500, SHAPE).astype(np.uint16)
    (tmp_path / "onto.csv").write_text(
        "id,acronym,name\n" + "".join(f"{i},a{i},region {i}\n" for i in IDS[1:])
    )

    def make(suffix=".nrrd", *, template=template, annotation=labels, spacing=(30, 20, 10), **more):
        for name, array in (("template", template), ("annotation", annotation)):
            path = tmp_path / f"{name}{suffix}"
            if suffix.startswith(".tif"):
                tifffile.imwrite(path, array)
            else:
                image = sitk.GetImageFromArray(array)
                image.SetSpacing([float(s) for s in reversed(spacing)])
                sitk.WriteImage(image, str(path))
        values = {
            "template": str(tmp_path / f"template{suffix}"),
            "annotation": str(tmp_path / f"annotation{suffix}"),
            "ontology": str(tmp_path / "onto.csv"),
            "orientation": "RIP",
        }
        return AtlasSettings(**{**values, **more})

    make.template = template
    return make


@pytest.mark.parametrize(
    ("suffix", "spacing", "stated"),
    [
        (".nrrd", (30, 20, 10), None),  # micrometres, as in the Allen Institute's files
        (".nrrd", (0.03, 0.02, 0.01), None),
        (".mhd", (0.03, 0.02, 0.01), None),
        (".mha", (0.03, 0.02, 0.01), None),
        (".tif", None, (30, 20, 10)),
        (".nrrd", (7, 7, 7), (30, 20, 10)),
    ],
)
def test_values_and_spacing_survive_every_format(tmp_path, source, labels, suffix, spacing, stated):
    info = prepare_atlas(source(suffix, spacing=spacing, spacing_um=stated), tmp_path / "out")
    atlas = load_atlas(tmp_path / "out")
    assert atlas.frame == Frame(SHAPE, (30, 20, 10), orientation="RIP")
    assert atlas.annotation.dtype == np.uint32 and np.array_equal(atlas.annotation, labels)
    assert np.array_equal(atlas.template, source.template) and atlas.template.dtype == np.uint16
    assert info["ids"] == IDS.tolist()
    assert info["voxels"] == [int((labels == i).sum()) for i in IDS]
    # any ITK tool reads what was written, in millimetres
    written = sitk.ReadImage(str(tmp_path / "out" / "annotation.nrrd"))
    assert np.allclose(written.GetSpacing(), (0.01, 0.02, 0.03))
    assert np.array_equal(sitk.GetArrayFromImage(written), labels)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.float64, np.uint32])
def test_d1_ids_are_lossless_in_every_type(tmp_path, source, labels, dtype):
    prepare_atlas(source(annotation=labels.astype(dtype)), tmp_path / "out")
    assert np.array_equal(load_atlas(tmp_path / "out").annotation, labels)


def test_a_nifti_file_that_was_cut_off_is_an_error(tmp_path, source):
    settings = source(".nii", spacing=(0.03, 0.02, 0.01), orientation="SPL")
    prepare_atlas(settings, tmp_path / "whole")
    path = Path(settings.annotation)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AtlasError, match=r"annotation\.nii cannot be read"):
        prepare_atlas(settings, tmp_path / "out")


def test_output_is_deterministic_and_names_no_folder(tmp_path, source):
    settings = source()
    for name in ("one", "two"):
        prepare_atlas(settings, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == [
        "annotation.nrrd", "atlas.json", "hemispheres.nrrd", "ontology.tsv", "template.nrrd",
    ]  # fmt: skip
    sides = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "one" / "hemispheres.nrrd")))
    assert np.array_equal(sides, load_atlas(tmp_path / "one").hemispheres)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one" / "atlas.json").read_text()


@pytest.mark.parametrize("orientation", all_orientations())
def test_hemispheres_follow_the_orientation(labels, orientation):
    from terareg.atlas.ontology import Ontology, Structure

    ontology = Ontology(Structure(int(i), "a", "a") for i in IDS[1:])
    atlas = make_atlas(labels, Frame(SHAPE, (1, 1, 1), orientation=orientation), ontology)
    axis = next(a for a in range(3) if orientation[a] in "RL")
    line = np.moveaxis(atlas.hemispheres, axis, 0)[:, 0, 0]
    first, last = (1, 2) if orientation[axis] == "R" else (2, 1)
    assert line[0] == first and line[-1] == last
    assert (np.diff(line.astype(int)) != 0).sum() == 1


def test_hemispheres_from_an_image(tmp_path, source):
    sides = np.zeros(SHAPE, np.uint8)
    sides[:, :3], sides[:, 4:] = 10, 20
    tifffile.imwrite(tmp_path / "sides.tif", sides)
    more = {"hemispheres": str(tmp_path / "sides.tif"), "hemisphere_values": (20, 10)}
    prepare_atlas(source(**more), tmp_path / "out")
    atlas = load_atlas(tmp_path / "out", template=False)
    assert atlas.template is None
    wanted = np.select([sides == 20, sides == 10], [1, 2], 0)
    assert np.array_equal(atlas.hemispheres, wanted)
    with pytest.raises(AtlasError, match=r"no voxel of value 3 \(right\)"):
        prepare_atlas(source(**{**more, "hemisphere_values": (10, 3)}), tmp_path / "out2")


def test_unlisted_ids_are_named_or_accepted(tmp_path, source, labels):
    labels = labels.copy()
    labels[0, 0, :4] = (11, 12, 12, 13)
    settings = source(annotation=labels)
    with pytest.raises(
        AtlasError,
        match=r"3 ids, in 4 voxels, that are not in the ontology: 11 \(1 voxels\), 12 \(2 voxels",
    ):
        prepare_atlas(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    info = prepare_atlas(source(annotation=labels, unlisted="accept"), tmp_path / "out")
    assert info["unlisted"] == [11, 12, 13]
    assert load_atlas(tmp_path / "out").ontology[12].name == "unlisted region 12"


def bad(**more):
    return more


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (bad(orientation="RIX"), "'RIX' is not an orientation"),
        (bad(orientation="RLP"), "names one anatomical axis twice"),
        (bad(unlisted="maybe"), "write error or accept"),
        (bad(template="/none.nrrd"), r"/none.nrrd does not exist; correct atlases.NAME.template"),
        (bad(spacing=(2, 2, 2)), r"voxel size \(2, 2, 2\) .* may be millimetres or micrometres"),
        (bad(spacing=(9000, 9000, 9000)), r"\(9000, 9000, 9000\) um .* is implausible"),
        (bad(spacing_um=(0, 10, 10)), r"\(0, 10, 10\) um \(configuration\) is implausible"),
        (bad(spacing_um=(10, 10)), "is implausible, not three values"),
        (bad(suffix=".tif"), r"states no voxel size; set atlases.NAME.spacing_um"),
        (bad(template=np.zeros((5, 7, 5), np.uint8)), "have different shapes"),
        (bad(template=np.zeros(SHAPE, np.uint8)), "is 0 everywhere"),
        (bad(template=np.full(SHAPE, np.nan, np.float32)), "values that are not finite"),
        (bad(annotation=np.full(SHAPE, 2**32 + 5, np.uint64)), "has id 4294967301, outside 0 to"),
        (bad(annotation=np.full(SHAPE, -3, np.int32)), "has id -3, outside 0 to"),
        (bad(annotation=np.full(SHAPE, 3.25, np.float32)), "value 3.25, not an integer region id"),
        (bad(annotation=np.full(SHAPE, np.inf, np.float32)), "value inf, not an integer"),
        (
            bad(annotation=np.full(SHAPE, 614454277, np.float32)),
            "too large to be told from its neigh",
        ),
        (bad(annotation=np.zeros(SHAPE, np.uint8)), "has no labelled voxel"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, source, more, message):
    template = more.pop("template", None)
    if isinstance(template, np.ndarray):
        more["template"] = template
    suffix = more.pop("suffix", ".nrrd")
    annotation = more.pop("annotation", None)
    keyword = {} if annotation is None else {"annotation": annotation}
    settings = source(suffix, **keyword, **more)
    if isinstance(template, str):
        settings = AtlasSettings(**{**vars(settings), "template": template})
    with pytest.raises((AtlasError, ConfigError), match=message):
        prepare_atlas(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_further_image_lies_on_the_grid_of_the_template(tmp_path, source):
    settings = source()
    more = np.random.default_rng(5).random(SHAPE).astype(np.float32)
    for name, array in (("same", more), ("other", more[1:]), ("flat", 0 * more)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((10.0, 20.0, 30.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    out = tmp_path / "out" / "images" / "nissl.nrrd"
    prepare_image(settings, tmp_path / "same.nrrd", "nissl", out)
    prepare_atlas(settings, tmp_path / "out")
    assert np.array_equal(load_image(out, load_atlas(tmp_path / "out").frame), more)
    written = replace(settings, orientation=settings.orientation.lower())
    prepare_image(written, tmp_path / "same.nrrd", "nissl", tmp_path / "again.nrrd")
    assert (tmp_path / "again.nrrd").read_bytes() == out.read_bytes()
    frame = load_atlas(tmp_path / "out").frame
    for file in (out, out.with_suffix(".json")):
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 24)):
            spoiled = bytearray(whole)
            spoiled[place] ^= 1 << place % 8
            file.write_bytes(spoiled)
            if file.suffix == ".nrrd" or chr(whole[place]) in "0123456789abcdef":
                with pytest.raises(TeraregError):
                    load_image(out, frame)
        file.write_bytes(whole)
    for name, message in (("other", "images.nissl other.nrrd have different shapes"),
                          ("flat", "is 0.0 everywhere"), ("none", "does not exist")):  # fmt: skip
        with pytest.raises(AtlasError, match=message):
            prepare_image(settings, tmp_path / f"{name}.nrrd", "nissl", tmp_path / "no.nrrd")
    assert not (tmp_path / "no.nrrd").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda i: i.SetSpacing((11, 20, 30)), "spacings"),
        (lambda i: i.SetOrigin((5, 0, 0)), "origins"),
        (lambda i: i.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1)), "directions"),
    ],
)
def test_template_and_annotation_in_different_frames(tmp_path, source, change, what):
    settings = source()
    image = sitk.ReadImage(settings.annotation)
    change(image)
    sitk.WriteImage(image, settings.annotation)
    with pytest.raises(AtlasError, match=f"have different {what} in their headers"):
        prepare_atlas(settings, tmp_path / "out")
    stated = AtlasSettings(**{**vars(settings), "spacing_um": (30, 20, 10)})
    prepare_atlas(stated, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_images_of_several_formats_on_one_grid(tmp_path, source, labels, suffix):
    """NIfTI counts to the right and forward, NRRD as it says, ITK to the left and back."""
    settings = source(spacing=(0.03, 0.02, 0.01), orientation="SPL")
    image = sitk.ReadImage(settings.annotation)
    other = settings.annotation.replace(".nrrd", suffix)
    for turned in (np.eye(3), np.diag([-1.0, -1.0, 1.0])):
        for name in (settings.template, other):
            image = sitk.ReadImage(settings.template if name != other else settings.annotation)
            image.SetOrigin((1.0, -2.0, 3.0))
            image.SetDirection(turned.ravel())
            sitk.WriteImage(image, name)
        orientation = "SPL" if turned[0, 0] > 0 else "SAR"
        changed = replace(settings, annotation=other, orientation=orientation)
        prepare_atlas(changed, tmp_path / "out")
        assert np.array_equal(load_atlas(tmp_path / "out").annotation, labels)
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, other)
    with pytest.raises(AtlasError, match="have different directions in their headers"):
        prepare_atlas(changed, tmp_path / "out")


def test_hemispheres_lie_where_the_orientation_says(tmp_path, source):
    """Exchanged sides change no total of a region, so that nothing else tells it."""
    settings = source(hemispheres=str(tmp_path / "sides.nrrd"))
    plain = prepare_atlas(replace(settings, hemispheres=None), tmp_path / "out")
    axis, lower = plain["hemispheres"]["axis"], plain["hemispheres"]["lower"]
    sides = np.full(SHAPE, 3 - lower, np.uint8)
    sides[tuple(slice(2) if a == axis else slice(None) for a in range(3))] = lower
    sides[0] = 0
    image = sitk.GetImageFromArray(sides)
    image.SetSpacing((10, 20, 30))
    sitk.WriteImage(image, settings.hemispheres)
    prepare_atlas(settings, tmp_path / "out")
    assert np.array_equal(load_atlas(tmp_path / "out").hemispheres, sides)
    wrong = replace(settings, hemisphere_values=(2, 1))
    message = (
        r"by orientation RIP the voxels of value 2 \(left\) are on the right of those of value"
    )
    with pytest.raises(AtlasError, match=message):
        prepare_atlas(wrong, tmp_path / "out")
    with pytest.raises(AtlasError, match="1 stands for both hemispheres; give the values of"):
        prepare_atlas(replace(settings, hemisphere_values=(1, 1)), tmp_path / "out")


@pytest.mark.parametrize("orientation", ["SAR", "RIP", "ILA"])
def test_orientation_that_contradicts_a_nifti_header(tmp_path, source, orientation):
    settings = source(".nii", spacing=(0.03, 0.02, 0.01), orientation=orientation)
    # ITK's axes grow to left, posterior and up
    matrix = orientation_matrix(orientation[::-1], "LPS")
    for name in (settings.template, settings.annotation):
        image = sitk.ReadImage(name)
        image.SetDirection(matrix.ravel())
        sitk.WriteImage(image, name)
    prepare_atlas(settings, tmp_path / "out")
    wrong = AtlasSettings(**{**vars(settings), "orientation": "SPR"})
    message = rf"has orientation {orientation} in its NIfTI header, not SPR; correct atlases.NAME"
    with pytest.raises(AtlasError, match=message):
        prepare_atlas(wrong, tmp_path / "out")
    prepare_atlas(AtlasSettings(**{**vars(wrong), "spacing_um": (30, 20, 10)}), tmp_path / "out")


def test_unit_in_a_nrrd_header_is_believed(tmp_path, source):
    settings = source(spacing=(2, 2, 2))
    for name in (settings.template, settings.annotation):
        data = Path(name).read_bytes()
        units = b'\nspace units: "microns" "microns" "microns"\nkinds:'
        Path(name).write_bytes(data.replace(b"\nkinds:", units, 1))
    info = prepare_atlas(settings, tmp_path / "out")
    assert info["frame"]["spacing_um"] == [2, 2, 2]


def test_unreadable_and_four_dimensional_files(tmp_path, source):
    settings = source()
    Path(settings.annotation).write_bytes(b"NRRD0004\n")
    with pytest.raises(AtlasError, match=r"annotation\.nrrd cannot be read as NRRD"):
        prepare_atlas(settings, tmp_path / "out")
    settings = source(".tif", template=np.zeros((2, *SHAPE), np.uint8), spacing_um=(1, 1, 1))
    with pytest.raises(AtlasError, match=r"dimensions \(2, 5, 7, 6\); give one volume"):
        prepare_atlas(settings, tmp_path / "out")


def test_incomplete_or_damaged_folders(tmp_path, source):
    with pytest.raises(AtlasError, match="contains no prepared atlas; run the rule prepare_atlas"):
        load_atlas(tmp_path)
    prepare_atlas(source(), tmp_path / "out")
    path = tmp_path / "out" / "annotation.nrrd"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AtlasError, match=r"annotation\.nrrd was damaged or edited"):
        load_atlas(tmp_path / "out")


@pytest.mark.skipif(not ALLEN.is_dir(), reason="shared/data/allen_ccf is absent")
@pytest.mark.parametrize("resolution", [100, 200])
def test_real_allen_atlas(tmp_path, resolution):
    annotation = ALLEN / f"annotation_{resolution}.nrrd"
    settings = AtlasSettings(
        str(ALLEN / f"average_template_{resolution}.nrrd"),
        str(annotation),
        str(ALLEN / "ontology.csv"),
        "RIP",
    )
    info = prepare_atlas(settings, tmp_path)
    assert info["frame"]["spacing_um"] == [resolution] * 3
    assert info["extent_mm"] == {
        "left-right": 11.4, "superior-inferior": 8.0, "anterior-posterior": 13.2,
    }  # fmt: skip
    atlas = load_atlas(tmp_path)
    assert np.array_equal(atlas.annotation, sitk.GetArrayFromImage(sitk.ReadImage(str(annotation))))
    assert atlas.index.dtype == np.uint16
    # the CCF is symmetric about the plane between its voxels at 25 um; these coarser files keep
    # every second of them, which moves that plane by less than half a voxel
    brain = atlas.index > 0
    difference = 0
    for hemispheres in (atlas.hemispheres, atlas.hemispheres_below):
        left, right = (np.count_nonzero(brain & (hemispheres == side)) for side in (1, 2))
        difference += (left - right) / 2
    assert abs(difference) < brain.sum((1, 2)).max()


@pytest.mark.parametrize(
    "name", ["atlas.json", "annotation.nrrd", "ontology.tsv", "template.nrrd", "hemispheres.nrrd"]
)
def test_every_flipped_bit_of_a_prepared_atlas_is_found(tmp_path, source, name):
    prepare_atlas(source(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    load_atlas(tmp_path)
    for bit in np.linspace(0, 8 * len(whole) - 1, 24).astype(int):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(spoiled)
        with pytest.raises(TeraregError):
            load_atlas(tmp_path)
        parts = {"atlas.json": load_frame, "template.nrrd": load_template,
                 "ontology.tsv": load_ontology}  # fmt: skip
        if name in parts:
            with pytest.raises(TeraregError):
                parts[name](tmp_path)
