"""terareg init on folders as microscopes write them: the sample file leads to the right tiles."""

from __future__ import annotations

import json
from pathlib import Path

import container_files as files
import microscope_folders as folders
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import yaml
import zarr
from colm_stub import write_linked_planes
from examples import examples, spoiled, spoiled_text
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from microscope_folders import CELLS, PLANES, SPACING_UM, stack
from plate_files import write_plate
from web_server import serving

from terareg.acquisition.indexing import IndexSettings, index_acquisition
from terareg.acquisition.layout_kinds import open_layout
from terareg.acquisition.plane_files import read_rows
from terareg.cli.main import main
from terareg.core.errors import AcquisitionError, TeraregError
from terareg.execution.config import check
from terareg.intake.found import Found
from terareg.intake.recognise import recognise
from terareg.intake.sides import with_sides
from terareg.storage.store import Store


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty present folder, and no atlases."""
    monkeypatch.setenv("BRAINGLOBE_DIR", str(tmp_path / "no-atlases"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def started(raw: Path, capsys, **filled) -> dict:
    """Write a sample file for a folder, see what is asked, fill that in, and have it checked."""
    before = sorted(p for p in raw.rglob("*"))
    assert main(["init", str(raw), "--out", "brain.yaml"]) == 0
    assert sorted(p for p in raw.rglob("*")) == before, "the folder itself was written to"
    text = Path("brain.yaml").read_text()
    assert text.count("ASKED: ") == 1 + len(filled)
    capsys.readouterr()
    for key, value in {"orientation": "SAR", **filled}.items():
        assert main(["check", "brain.yaml"]) == 1
        asked = capsys.readouterr().out
        assert any(key in line for line in asked.splitlines() if line.startswith("To do:")), key
        assert f"\n  {key}:\n" in text
        text = text.replace(f"\n  {key}:\n", f"\n  {key}: {json.dumps(value)}\n")
        Path("brain.yaml").write_text(text)
    # of what was asked only the atlas, which is on no machine of tests, is left
    assert main(["check", "brain.yaml"]) == 1
    told = capsys.readouterr().out
    assert told.count("To do: ") == 1 and "terareg atlas get allen_mouse_25um" in told
    config = yaml.safe_load(text)
    assert config["atlases"] == {"allen_mouse_25um": {"name": "allen_mouse_25um"}}
    return check({key: value for key, value in config.items() if key != "atlases"})


def check_tiles(config: dict, channels: list[str], *, spacing=SPACING_UM) -> None:
    """Every tile lies in its cell and at its place, and holds its own pixels in every channel."""
    source = config["input"]
    acquisition = index_acquisition(open_layout(source), IndexSettings("brain", "SAR"))
    assert (acquisition.rows, acquisition.columns) == (2, 3)
    assert acquisition.spacing_um == spacing and acquisition.tile_shape[0] == PLANES
    assert [c.name for c in acquisition.channels] == channels
    np.testing.assert_allclose(acquisition.overlap, 0.2, atol=1e-3)
    tiles = {(t.row, t.column): t for t in acquisition.tiles}
    assert sorted(tiles) == CELLS
    step_um = 0.8 * folders.HEIGHT * spacing[1], 0.8 * folders.WIDTH * spacing[2]
    for cell, tile in tiles.items():
        steps = [n * s for n, s in zip(cell, step_um)]
        found = np.multiply(tile.origin_vox[1:], spacing[1:])
        np.testing.assert_allclose(found, steps, atol=0.06)
        for number, channel in enumerate(channels):
            for z in range(PLANES):
                key, page = acquisition.plane_file(tile, channel, z)
                plane, _ = read_rows(
                    Store(acquisition.raw), key, ((folders.HEIGHT, folders.WIDTH), "uint16"),
                    page=page,
                )  # fmt: skip
                np.testing.assert_array_equal(plane, stack(cell, number)[z])


def test_smartspim(here, capsys):
    folders.smartspim(here / "raw")
    config = started(here / "raw", capsys)
    assert config["input"]["first_level"] == "H"
    channels = ["Ex_488_Em_525", "Ex_561_Em_600"]
    assert config["input"]["channels"] == dict(zip(channels, channels))
    assert config["input"]["spacing_um"] == [5, 1.5, 1.5]
    check_tiles(config, channels, spacing=(5.0, 1.5, 1.5))


def test_terastitcher_folders_without_any_metadata_ask_for_the_voxel_size(here, capsys):
    folders.terastitcher(here / "raw")
    config = started(here / "raw", capsys, spacing_um=list(SPACING_UM))
    text = Path("brain.yaml").read_text()
    assert "planes are 5 um apart" in text
    assert "GUESS: TeraStitcher names the outer folders by y (V)" in text.replace("\n  #", "")
    assert config["input"]["channels"] == {"signal": "."} and config["input"]["first_level"] == "V"
    check_tiles(config, ["signal"])


def test_ultramicroscope_with_positions(here, capsys):
    folders.blaze(here / "raw")
    check_tiles(started(here / "raw", capsys), ["C00", "C01"])
    table = Path("brain_tiles.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["path", "channel", "row", "column", "y_um", "x_um"]
    assert table[1].startswith("16-51_UltraII[[]00 x 00]_C00_xyz-Table Z*.ome.tif\tC00\t0\t0\t")


def test_ultramicroscope_with_a_stated_overlap_alone(here, capsys):
    folders.blaze(here / "raw", offsets=False, name="11-14-17_Alg_Blaze")
    check_tiles(started(here / "raw", capsys), ["C00", "C01"])


def test_ultramicroscope_without_positions_asks_for_the_overlap(here, capsys):
    folders.blaze(here / "raw", offsets=False, overlap=False)
    check_tiles(started(here / "raw", capsys, overlap=[0.2, 0.2]), ["C00", "C01"])


def test_ome_tiff_with_a_file_for_each_tile_and_channel(here, capsys):
    folders.zeiss(here / "raw")
    check_tiles(started(here / "raw", capsys), ["AF488", "Cy5"])
    assert "stage x and y are assumed to increase" in Path("brain.yaml").read_text().replace(
        "\n  # ", " "
    )


def test_ome_tiff_with_several_channels_in_a_file(here, capsys):
    folders.micromanager(here / "raw")
    check_tiles(started(here / "raw", capsys), ["DAPI", "Cy5"])


def test_fiji_tile_configuration(here, capsys):
    folders.fiji(here / "raw")
    check_tiles(started(here / "raw", capsys, spacing_um=list(SPACING_UM)), ["signal"])


def test_a_mosaic_of_single_planes(here, capsys):
    """Names of tiles differ like those of planes; the configuration says what they are."""
    folders.fiji(here / "raw", planes=1)
    config = started(here / "raw", capsys, spacing_um=list(SPACING_UM))
    survey = open_layout(config["input"]).survey
    assert (survey.rows, survey.columns, survey.planes, len(survey.tiles)) == (2, 3, 1, 6)


def test_folders_named_by_row_and_column(here, capsys):
    folders.named_folders(here / "raw")
    filled = {"spacing_um": list(SPACING_UM), "overlap": [0.2, 0.2]}
    check_tiles(started(here / "raw", capsys, **filled), ["signal"])


def test_a_table_that_is_there_already(here, capsys):
    folders.own_table(here / "raw")
    config = started(here / "raw", capsys, spacing_um=list(SPACING_UM))
    assert config["input"]["table"] == "tiles.tsv" and not Path("brain_tiles.tsv").exists()
    check_tiles(config, ["ch488"])


def test_channels_that_are_left_and_right_are_guessed_to_be_two_sides(here, capsys):
    folders.two_sides(here / "raw")
    config = started(here / "raw", capsys, spacing_um=list(SPACING_UM))
    source = config["input"]
    assert source["channels"] == {"ch488_left": "488/left", "ch488_right": "488/right"}
    assert source["sides"] == {"ch488": {"ch488_left": "-x", "ch488_right": "+x"}}
    assert ("GUESS: channels whose names differ only in left and right") in Path(
        "brain.yaml"
    ).read_text()
    check_tiles(config, ["ch488_left", "ch488_right"])


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["left", "right"], {"signal": {"left": "-x", "right": "+x"}}),
        (["Ex_561_Right", "Ex_561_Left", "auto"],
         {"Ex_561": {"Ex_561_Left": "-x", "Ex_561_Right": "+x"}}),
        (["left", "auto"], None), (["upright", "bright"], None),
        (["signal", "left", "right"], None),
    ],
)  # fmt: skip
def test_only_names_that_differ_in_left_and_right_are_sides(names, sides):
    source = {"kind": "terastitcher", "channels": dict.fromkeys(names, "x")}
    found = with_sides(Found("tiles", source, ()))
    assert found.source.get("sides") == sides and ("sides" in found.guesses) == bool(sides)


def test_colm(here, capsys):
    write_linked_planes(here / "raw", 2, 3, pixels=64, planes=5)
    config = started(here / "raw", capsys)
    assert config["input"]["kind"] == "colm"
    assert config["input"]["channels"] == {"ch0": 0, "ch1": 1}
    assert open_layout(config["input"]).survey.rows == 2


def test_one_stack_of_planes_is_one_tile(here, capsys):
    (here / "raw").mkdir()
    for z, plane in enumerate(stack((0, 0))):
        tifffile.imwrite(here / f"raw/plane{z:04d}.tif", plane)
    config = started(here / "raw", capsys, spacing_um=list(SPACING_UM))
    acquisition = index_acquisition(open_layout(config["input"]), IndexSettings("brain", "SAR"))
    assert len(acquisition.tiles) == 1 and acquisition.tile_shape[0] == PLANES


SHEAR = np.eye(4)
SHEAR[0, 1] = 0.3


@pytest.mark.parametrize(
    ("write", "options", "channels"),
    [
        (files.imaris_tiles, {}, ["AF488", "Cy5"]),
        (files.big_stitcher, {}, ["AF488", "Cy5"]),
        (files.big_stitcher, {"split": True}, ["AF488", "Cy5"]),
        (files.big_stitcher, {"linear": SHEAR, "calibrated": False}, ["AF488", "Cy5"]),
        (files.big_stitcher, {"form": "n5"}, ["AF488", "Cy5"]),
        (files.big_stitcher, {"form": "zarr"}, ["AF488", "Cy5"]),
        (files.zeiss, {}, ["AF488", "Cy5"]),
        (files.leica, {}, ["ch0", "ch1"]),
        (files.bids, {}, ["AF488", "Cy5"]),
        (files.bids, {"unit": "mm", "in_voxels": False}, ["AF488", "Cy5"]),
        (files.bids, {"ending": ".ome.zarr"}, ["AF488", "Cy5"]),
    ],
)
def test_tiles_in_files_of_many(here, capsys, write, options, channels):
    write(here / "raw", **options)
    check_tiles(started(here / "raw", capsys), channels)


def test_one_imaris_file_is_a_volume(here, capsys):
    files.write_imaris(here / "brain.ims", [stack((0, 0), c) for c in (0, 1)])
    config = started(here / "brain.ims", capsys)
    assert config["input"]["kind"] == "volume"
    assert config["input"]["channels"] == {
        name: {"path": str(here / "brain.ims"), "channel": c, "fill_missing": False}
        for c, name in enumerate(files.NAMES)
    }


VOLUME = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)


AXES = ("inferior-to-superior", "posterior-to-anterior", "right-to-left")


def nifti(path: Path) -> Path:
    image = sitk.GetImageFromArray(VOLUME)
    image.SetSpacing([0.1, 0.2, 0.3])
    sitk.WriteImage(image, str(path))
    return path


def ome_zarr(path: Path) -> Path:
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("0", data=VOLUME)
    scale = [{"type": "scale", "scale": [300.0, 200.0, 100.0]}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [
                    {
                        "name": a,
                        "type": "space",
                        "unit": "micrometer",
                        "orientation": {"type": "anatomical", "value": towards},
                    }
                    for a, towards in zip("zyx", AXES)
                ],
                "datasets": [{"path": "0", "coordinateTransformations": scale}],
            }
        ],
    }
    return path


def precomputed(path: Path) -> Path:
    from cloudvolume import CloudVolume

    made = CloudVolume.from_numpy(
        np.asfortranarray(VOLUME.T), vol_path=f"file://{path}", resolution=(1e5, 2e5, 3e5),
        chunk_size=(10, 8, 6), layer_type="image", compress=False, progress=False,
    )  # fmt: skip
    assert made.shape[:3] == (10, 8, 6)
    return path


@pytest.fixture
def place(request, here):
    """What puts a file or folder somewhere, and returns its address there."""
    if request.param == "disk":
        yield str
    elif request.param == "web":
        with serving(here) as url:
            yield lambda path: f"{url}/{path.name}"
    else:
        client = request.getfixturevalue("s3").client()
        client.create_bucket(Bucket="scope")

        def put(path: Path) -> str:
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file():
                    key = f"lab/{file.relative_to(here)}"
                    client.put_object(Bucket="scope", Key=key, Body=file.read_bytes())
            return f"s3://scope/lab/{path.name}"

        yield put


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "write", "name"),
    [
        ("disk", nifti, "brain.nii.gz"), ("disk", nifti, "brain.nrrd"),
        ("disk", ome_zarr, "brain.ome.zarr"), ("disk", precomputed, "brain"),
        ("s3", nifti, "brain.nii.gz"), ("s3", ome_zarr, "brain.ome.zarr"),
        ("web", nifti, "brain.nii.gz"), ("web", ome_zarr, "brain.ome.zarr"),
    ],
    indirect=["place"],
)  # fmt: skip
def test_volumes_that_say_their_voxel_size(here, place, capsys, write, name):
    path = place(write(here / name))
    assert main(["init", path]) == 0
    told = capsys.readouterr().out
    assert "voxels of 300 x 200 x 100 um" in told
    config = yaml.safe_load(Path("sample.yaml").read_text())
    assert config["sample"] == "brain" and config["input"]["orientation"] is None
    assert config["input"]["channels"] == {"image": path}
    comments = " ".join(Path("sample.yaml").read_text().replace("#", " ").split())
    stated = {"brain": None, "brain.ome.zarr": "SAL"}.get(name, "SPL")
    assert (f"the header states {stated} (z, y, x)" in comments) is (stated is not None)
    # the rest is checked with what the header states
    assert main(["check", "sample.yaml"]) == 1
    told = capsys.readouterr().out
    assert "input.orientation is left blank" in told and "6 x 8 x 10 voxels of 300" in told
    filled = Path("sample.yaml").read_text().replace("orientation:\n", "orientation: RAS\n")
    Path("sample.yaml").write_text(filled)
    assert main(["check", "sample.yaml"]) == 1
    contradicted = "not RAS; correct input.orientation" in capsys.readouterr().out
    assert contradicted is (name in ("brain.nii.gz", "brain.ome.zarr")), "of NRRD it is often wrong"


def test_a_plate_is_a_sample_that_is_checked(here, capsys):
    wells = {"A/1": [np.full((2, 9, 8), 7, np.uint16)], "B/3": [np.ones((2, 9, 8), np.uint16)] * 4}
    write_plate(here / "plate.ome.zarr", wells, axes="cyx")
    config = started(here / "plate.ome.zarr", capsys)
    assert config["input"]["channels"]["ch1"]["channel"] == 1
    assert "a plate has none, so that any three letters do" in " ".join(
        Path("brain.yaml").read_text().replace("#", " ").split()
    )


def test_an_ome_tiff_volume_says_its_voxel_size(here, capsys):
    text = folders.ome_xml("brain")
    folders.write_ome(here / "brain.ome.tif", stack((0, 0)), text)
    assert main(["init", str(here / "brain.ome.tif")]) == 0
    assert "spacing_um" not in capsys.readouterr().out
    config = yaml.safe_load(Path("sample.yaml").read_text())
    assert config["input"]["spacing_um"] == list(SPACING_UM)
    config["input"]["orientation"] = "SAR"
    del config["atlases"]
    check(config)


def test_tiles_are_not_sought_on_the_web(here, capsys):
    (here / "planes").mkdir()
    (here / "brain.czi").touch()
    with serving(here) as url:
        for name, words in (
            ("planes", "does not exist; correct the path, or make it public (folders of planes"),
            ("none.nii", "does not exist; correct the path, or make it public"),
            ("brain.czi", "cannot be read from the web, where only volumes are; copy it to a"),
            ("brain.nii.gz?key=secret", "is not the web address of a folder or file; write"),
        ):
            assert main(["init", f"{url}/{name}"]) == 1
            told = capsys.readouterr().err
            assert words in told and told.count("\n") == 1 and "secret" not in told


def test_images_of_one_shape_on_s3_are_channels(bucket, here):
    nifti(here / "red.nii.gz")
    for name in ("red", "green"):
        bucket.upload_file(str(here / "red.nii.gz"), "scope", f"brain/{name}.nii.gz")
    found = recognise("s3://scope/brain")
    assert found.source["channels"] == {
        name: f"s3://scope/brain/{name}.nii.gz" for name in ("green", "red")
    }


def test_a_folder_of_volumes_of_one_shape(here, capsys):
    (here / "raw").mkdir()
    for name in ("red", "green"):
        tifffile.imwrite(here / f"raw/{name}.tif", VOLUME, photometric="minisblack")
    config = started(here / "raw", capsys, spacing_um=[50, 40, 40])
    assert config["input"]["kind"] == "volume"
    assert "remove those that are not" in Path("brain.yaml").read_text()
    assert list(config["input"]["channels"]) == ["green", "red"]


def test_labels_and_masks_beside_an_image_are_no_channels(here, capsys):
    (here / "raw").mkdir()
    for name in ("m1_T2", "m1_labels", "m1_brain-mask", "segmentation"):
        tifffile.imwrite(here / f"raw/{name}.tif", VOLUME, photometric="minisblack")
    config = started(here / "raw", capsys, spacing_um=[50, 40, 40])
    assert len(config["input"]["channels"]) == 1
    text = Path("brain.yaml").read_text()
    assert "labels or masks: m1_brain-mask.tif, m1_labels.tif" in " ".join(text.split("\n# "))
    (here / "raw/m1_T2.tif").unlink()
    Path("brain.yaml").unlink()
    # where nothing else is there, they are shown
    assert len(started(here / "raw", capsys, spacing_um=[50, 40, 40])["input"]["channels"]) == 3


@pytest.mark.slow
def test_s3(bucket, here, capsys):
    folders.blaze(here / "raw")
    for path in (here / "raw").iterdir():
        bucket.put_object(Bucket="scope", Key=f"brain/{path.name}", Body=path.read_bytes())
    assert main(["init", "s3://scope/brain", "--out", "brain.yaml"]) == 0
    text = Path("brain.yaml").read_text().replace("  orientation:\n", "  orientation: SAR\n")
    config = yaml.safe_load(text)
    assert config["sample"] == "brain" and config["input"]["path"] == "s3://scope/brain"
    del config["atlases"]
    survey = open_layout(check(config)["input"]).survey
    assert (survey.rows, survey.columns, survey.planes) == (2, 3, PLANES)
    np.testing.assert_allclose(survey.overlap, 0.2, atol=1e-3)


def test_files_of_many_on_s3(bucket, here):
    files.big_stitcher(here / "raw")
    files.zeiss(here / "raw")
    for path in (here / "raw").iterdir():
        bucket.put_object(Bucket="scope", Key=f"brain/{path.name}", Body=path.read_bytes())
    for name in ("dataset.xml", "brain.czi"):
        there, local = (recognise(f"{at}/{name}") for at in ("s3://scope/brain", here / "raw"))
        assert there.table == local.table and there.source["path"] == "s3://scope/brain"


def test_what_is_not_read_is_named_with_what_to_do(here):
    (here / "scan.nd2").write_bytes(b"\xda\xce\xbe\n")
    for place in (here / "scan.nd2", here):
        with pytest.raises(AcquisitionError, match=r"scan.nd2: .nd2 files cannot be read; export"):
            recognise(str(place))
    (here / "dataset.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(AcquisitionError, match=r"give the XML file of the BigStitcher project"):
        recognise(str(here / "dataset.h5"))
    (here / "none").mkdir()
    (here / "none/notes.txt").write_text("nothing")
    with pytest.raises(AcquisitionError, match="has 1 files but no image in a known format"):
        recognise(str(here / "none"))


@pytest.mark.parametrize(
    ("planes", "words"),
    [
        ({"a.tif": (6, 8, 10), "b.tif": (3, 4, 5)},
         r"images differ in shape, a.tif 6 x 8 x 10, b.tif 3 x 4 x 5; channels of a brain lie on"),
        ({"slice.tif": (8, 10)}, r"single planes: slice.tif"),
        ({"p1.tif": (8, 10, 3), "p2.tif": (8, 10, 3)}, "3 x 8 bit unsigned samples per pixel"),
    ],
)  # fmt: skip
def test_why_images_are_no_sample_is_said(here, planes, words):
    for name, shape in planes.items():
        grey = "rgb" if shape[-1] == 3 else "minisblack"
        tifffile.imwrite(here / name, np.zeros(shape, np.uint8), photometric=grey)
    with pytest.raises(AcquisitionError, match=words):
        recognise(str(here))


@pytest.mark.parametrize(
    ("unit", "more", "asked"),
    [
        ("micron", {}, "ImageJ wrote [5, 2, 2.5] into a.tif"),
        (r"\u00B5m", {}, "ImageJ wrote [5, 2, 2.5] into a.tif"),
        ("mm", {}, "ImageJ wrote [5000, 2000, 2500] into a.tif"),
        ("pixel", {}, "micrometres, which the image does not state"),
        ("um", {"zunit": "mm"}, "micrometres, which the image does not state"),
    ],
)
def test_what_imagej_says_of_voxels_is_shown_where_their_size_is_asked_for(here, unit, more, asked):
    image = np.zeros((4, 8, 10), np.uint16)
    notes = {"axes": "ZYX", "spacing": 5, "unit": unit} | more
    tifffile.imwrite(here / "a.tif", image, imagej=True, metadata=notes, resolution=(0.4, 0.5))
    assert asked in recognise(str(here / "a.tif")).asked["spacing_um"]


def test_files_that_are_there_are_kept(here, capsys):
    folders.own_table(here / "raw")
    Path("sample.yaml").write_text("mine\n")
    assert main(["init", str(here / "raw")]) == 1
    assert "sample.yaml already exists; give another name" in capsys.readouterr().err
    assert Path("sample.yaml").read_text() == "mine\n"
    assert main(["init", str(here / "raw"), "--force"]) == 0


def test_a_position_of_thousands_of_digits_is_none(tmp_path):
    folders.smartspim(tmp_path)
    file = min(tmp_path.rglob("*metadata*.txt"))
    file.write_bytes(file.read_bytes() + b"9" * 5000 + b"\t0\t0\n")
    assert recognise(str(tmp_path)).source["spacing_um"] == [5.0, 1.5, 1.5]


@pytest.mark.parametrize(
    ("write", "pattern"),
    [
        (files.bids, "*.json"), (folders.blaze, "*.tif"), (folders.smartspim, "*.txt"),
        (folders.fiji, "*.txt"), (folders.own_table, "*.[tc]sv"), (folders.micromanager, "*.tif"),
    ],
)  # fmt: skip
@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_folders_are_recognised_or_refused(tmp_path, write, pattern, data):
    kept = tmp_path / "kept"
    if not kept.exists():
        write(tmp_path / "raw")
        first = min((tmp_path / "raw").rglob(pattern))
        kept.write_bytes(first.read_bytes())
        (tmp_path / "name").write_text(str(first))
    change = spoiled if pattern == "*.tif" else spoiled_text
    path = Path((tmp_path / "name").read_text())
    path.write_bytes(change(kept.read_bytes(), data.draw))
    try:
        recognise(str(tmp_path / "raw"))
    except TeraregError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
