"""The configuration: strict, with one sentence for every mistake."""

import dataclasses
import importlib
import math

import pytest
import yaml
from brainglobe_truth import write_older

from terareg.core.errors import ConfigError
from terareg.core.extents import channel_image
from terareg.execution.config import check, load_samples
from terareg.execution.schema import SCHEMA, describe, settings
from terareg.execution.yaml_files import merge
from terareg.intensity.bias import BiasSettings
from terareg.intensity.settings import FlatfieldSettings
from terareg.registration.pose import PoseSettings
from terareg.registration.settings import RegistrationSettings
from terareg.stitching.placement import PlacementSettings
from terareg.stitching.settings import DisplacementSettings
from terareg.volumes.plan import ADDED, VolumeSettings

BASE = {
    "sample": "brain",
    "input": {"path": "raw", "orientation": "SAR", "channels": {"auto": 0, "signal": 1}},
    "atlases": {
        "mouse": {"template": "t", "annotation": "a", "ontology": "o", "orientation": "RIP"}
    },
}


def changed(path, value):
    config = merge(BASE, {})
    part = config
    *parents, last = path.split(".")
    for key in parents:
        part = part.setdefault(key, {})
    if value is None:
        del part[last]
    else:
        part[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sampel", "x", "sampel is not a known key; did you mean sample?"),
        ("intensity.shadows", "rows", "shadows is now called intensity.destriping; rename the key"),
        ("stitching.chanel", "auto", "stitching.chanel is not a known key; did you mean channel?"),
        ("input.orientation", "RAX", "input.orientation: 'RAX' is not an orientation"),
        ("input.orientation", "RLS", "input.orientation: 'RLS' names one anatomical axis twice"),
        ("atlases.mouse.orientation", "RIPX", r"atlases.mouse.orientation: 'RIPX' is not"),
        ("input.orientation", None, "input: key orientation is missing"),
        ("input.path", None, "input: key path is missing"),
        ("input.channels", {}, "input.channels"),
        ("input.channels", {"a": 0, "b": 0}, "gives two channels the same channel number"),
        ("input.channels", {"a": -1}, "input.channels.a: -1 must be at least 0"),
        ("input.spacing_um", [0, 1, 1], r"input.spacing_um.0: 0 must be at least 0.05"),
        ("input.spacing_um", [5000, 1, 1], r"input.spacing_um.0: 5000 must be at most 200"),
        ("input.overlap", [0, 0.1], r"input.overlap.0: 0 must be more than 0"),
        ("input.missing_planes", "blnk", "did you mean blank?"),
        (
            "input.channels",
            {488: 0},
            "input.channels: the name 488 is not text; write it in quotes",
        ),
        ("input.path", "~/raw", "input.path: '~/raw' begins with ~; write"),
        ("store", "", "store: '' does not fit"),
        (
            "results",
            "s3://bucket/x",
            "results: 's3://bucket/x' is not a folder that Snakemake can use",
        ),
        ("intensity.flatfield.tiles", 0, "intensity.flatfield.tiles: 0 must be at least 1"),
        ("jobs.gb_per_job", float("nan"), "jobs.gb_per_job: nan is not a finite"),
        ("registration.resolution_um", float("inf"), "registration.resolution_um: inf is not"),
        ("volume.block", 0, "volume.block: 0 must be at least 4"),
        (
            "volume.block",
            100,
            "volume.block: 100 is not volume.chunk times a power of two; give 64, 128",
        ),
        ("registration.levels", 0, "registration.levels: 0 must be at least 1"),
        ("registration.atlases", ["mouse", "mouse"], "registration.atlases"),
        (
            "input.channels",
            {"mouse": 0},
            "'mouse' is the name of two viewer layers",
        ),
        (
            "points",
            {"c": {"path": "c.csv", "atlas": "rat"}},
            "points.c.atlas: 'rat' is not a registered atlas; use one of mouse",
        ),
        (
            "points",
            {"c": {"path": "c.csv", "atlas": "mouse", "axes": "xy"}},
            "points.c.axes: 'xy' is not allowed; did you mean zxy? (possible",
        ),
        (
            "points",
            {"c": {"path": "c.csv", "atlas": "mouse", "units": "inch"}},
            "does not fit; unit",
        ),
        (
            "cells",
            {"c": {"channel": "red", "diameter_um": 10}},
            "cells.c.channel: channel 'red' is not one of input.channels;",
        ),
        ("cells", {"c": {"channel": "a"}}, "cells.c: key diameter_um is missing; cells need"),
        (
            "cells",
            {"c": {"channel": "a", "diameter_um": [9, 9]}},
            "cells.c.diameter_um: [9, 9] does not fit; apparent diameter of a cell",
        ),
        ("cells", {"c d": {"channel": "a", "diameter_um": 9}}, "cannot be a folder name"),
        ("intensity.corrected_tiles", "kept", "did you mean keep?"),
        ("intensity.bias.resolution_um", "100 um", "write the number alone"),
        ("stitching.channel", "green", "channel 'green' is not one of input.channels"),
        (
            "stitching",
            {"tile_configuration": "t.txt", "xml": {"xml_import": "i.xml"}},
            "'t.txt' and stitching.xml.xml_import 'i.xml' both give nominal positions; remove one",
        ),
        (
            "stitching",
            {"channel_shift": "given"},
            "nothing does not match stitching.channel_shift: given",
        ),
        (
            "stitching.channel_shift_um",
            {"signal": [1, 2, 3]},
            "does not match stitching.channel_shift: measure; give a shift of every channel",
        ),
        (
            "stitching",
            {"channel_shift": "given", "channel_shift_um": {"auto": [1, 2, 3]}},
            "'auto' is not a channel other than the alignment channel auto; use one of signal",
        ),
        (
            "stitching",
            {"channel": "signal", "channel_shift": "given", "channel_shift_um": {"auto": [1, 2]}},
            "stitching.channel_shift_um.auto",
        ),
        ("registration.channel", "green", "channel 'green' is not one of input.channels"),
        ("registration.channel", ["signal", "green"], "channel 'green' is not one of"),
        (
            "registration.channel",
            ["signal", "signal"],
            "signal, signal contains a channel twice; name",
        ),
        ("registration.channel", [], "registration.channel"),
        ("atlases.mouse.images", {"n b": "n.nrrd"}, "'n b' cannot be a folder name"),
        ("atlases.mouse.annotation", "t", "is also the template or an image; give the annota"),
        ("atlases.mouse.hemisphere_values", [2, 1], "needs the image atlases.mouse.hemispheres"),
        ("atlases.mouse.hemisphere_values", [1, 1], "does not fit; values of"),
        ("store", "s3//bucket/x", "is neither a folder nor an address; write s3://bucket/prefix"),
        ("store", "D:\\brains", "is neither a folder nor an address"),
        (
            "atlases.mouse.images",
            {"a": "n.nrrd", "b": "n.nrrd"},
            "n.nrrd, n.nrrd contains a file twice",
        ),
        (
            "labels.resolution_um",
            5,
            (
                "labels.resolution_um: 5 is finer than the corrected volume that it is made "
                "from (intensity.bias.volume_um: 10.0); lower that too, or set it to null"
            ),
        ),
        ("registration.resolution_um", 9, "registration.resolution_um: 9 is finer than the corr"),
        ("atlas_space.resolution_um", 9, "atlas_space.resolution_um: 9 is finer than the corr"),
        ("registration.atlases", ["rat"], "atlas 'rat' is not described under atlases"),
        ("fiducials", {"rat": {"sample": "s", "atlas": "a"}}, "atlas 'rat' is not described"),
        ("fiducials", {"mouse": {"sample": "s"}}, "fiducials.mouse: key atlas is missing"),
        (
            "registration.landmarks",
            {"rat": {"sample": "s", "atlas": "a"}},
            "registration.landmarks: atlas 'rat' is not described",
        ),
        (
            "registration.landmarks",
            {"mouse": {"sample": "s"}},
            "registration.landmarks.mouse: key atlas is missing",
        ),
        ("sample_labels", {"rat": {"path": "l.nrrd"}}, "sample_labels: atlas 'rat' is not"),
        ("sample_labels", {"mouse": {}}, "sample_labels.mouse: key path is missing"),
        ("registration.landmark_um", 0, "registration.landmark_um: 0 must be more than 0"),
        ("sample", "a/b", "cannot be a folder name"),
        ("sample", "atlases", "is reserved"),
        ("input.kind", "volume", "input.path: 'raw' belongs to tiles, not to input.kind: volume"),
        (
            "input.channels",
            {"a": "a.nii"},
            ("'a.nii' is not a channel number; write the channel number"),
        ),
        ("input.spacing_um", [300, 1, 1], "input.spacing_um.0: 300 must be at most 200"),
        ("intensity.destriping", "lines", "intensity.destriping: 'lines'"),
        (
            "intensity",
            {"destriping": "rows", "flatfield": {"method": "none"}},
            "intensity.destriping needs the dark offset",
        ),
        ("volume.formats", ["zarr"], "volume.formats"),
        ("jobs.threads", 64, "jobs.threads: 64 must be at most 16"),
    ],
)
def test_mistakes_are_one_sentence_with_key_value_and_remedy(path, value, words):
    with pytest.raises(ConfigError) as error:
        check(changed(path, value))
    message = str(error.value)
    assert words in message
    assert "\n" not in message and len(message) < 400


def test_landmarks_cannot_be_fiducials_as_well():
    pair = {"mouse": {"sample": "marks.csv", "atlas": "atlas.csv"}}
    config = changed("fiducials", pair)
    config["registration"] = {"landmarks": pair}
    with pytest.raises(ConfigError, match=r"fiducials.mouse.sample: 'marks.csv' is also in"):
        check(config)
    config["registration"] = {"landmarks": {"mouse": pair["mouse"] | {"sample": "others.csv"}}}
    check(config)


FOLDERS = {"kind": "terastitcher", "path": "raw", "orientation": "SAR", "channels": {"a": "."},
           "spacing_um": [2, 1, 1]}  # fmt: skip
TABLE = FOLDERS | {"kind": "table", "channels": {"a": 0, "b": "red"}, "table": "tiles.tsv"}


@pytest.mark.parametrize(
    ("source", "key", "value", "words"),
    [
        (
            FOLDERS,
            "spacing_um",
            None,
            "input: key spacing_um is missing; files of input.kind: te",
        ),
        (TABLE, "spacing_um", None, "input: key spacing_um is missing; files of input.kind: table"),
        (FOLDERS, "path", None, "input: key path is missing"),
        (
            FOLDERS,
            "channels",
            {"a": 0},
            "input.channels.a: 0 is not a folder; write the folder of i",
        ),
        (FOLDERS, "channels", {"a": "x", "b": "x"}, "gives two channels the same folder"),
        (TABLE, "channels", {"a": 1, "b": "1"}, "gives two channels the same channel of a table"),
        (
            TABLE,
            "channels",
            {"a": {"path": "x"}},
            "is not a channel of a table; write the value of the",
        ),
        (TABLE, "table", None, "input: key table is missing; give the name of the table of tiles"),
        (FOLDERS, "first_level", "X", "use V, H"),
        (TABLE, "first_level", "H", "input.first_level: 'H' belongs to input.kind: terastitcher"),
        (FOLDERS, "table", "t.tsv", "input.table: 't.tsv' belongs to input.kind: table, not to t"),
        (TABLE, "view", "VW1", "input.view: 'VW1' belongs to input.kind: colm, not to table"),
        (
            TABLE,
            "grid",
            {"order": "zigzag"},
            "input.grid.order: 'zigzag' is not allowed;",
        ),
        (TABLE, "grid", {"rows": 0}, "input.grid.rows: 0 must be at least 1"),
        (TABLE, "grid", {"row": 3}, "input.grid.row is not a known key; did you mean rows?"),
    ],
)
def test_mistakes_in_other_layouts_of_tiles(source, key, value, words):
    complete = check(BASE | {"input": source})["input"]
    assert complete["first_level"] == "V" and complete["grid"] is None
    with pytest.raises(ConfigError) as error:
        check(BASE | {"input": source | {key: value}, "stitching": {}, "registration": {}})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_grid_has_defaults():
    grid = check(BASE | {"input": TABLE | {"grid": {"rows": 2}}})["input"]["grid"]
    assert grid == {"rows": 2, "columns": None, "order": "horizontal", "start": "top_left"}


VOLUME = {
    "sample": "scan",
    "input": {"kind": "volume", "orientation": "SAR", "channels": {"t1": "t1.nii.gz"}},
}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "channels",
            {"t1": 0},
            "input.channels.t1: 0 is not an image; with input.kind: volume write",
        ),
        ("channels", {"t1": {"channel": 1}}, "input.channels.t1: key path is missing"),
        ("channels", {"t1": {"path": "a", "chanel": 1}}, "did you mean channel?"),
        ("channels", {"a": "x", "b": {"path": "x"}}, "gives two channels the same image"),
        ("overlap", [0.1, 0.1], "input.overlap: [0.1, 0.1] belongs to tiles"),
        ("spacing_um", [0, 1, 1], "input.spacing_um.0: 0 must be at least 0.05"),
        ("kind", "volumes", "did you mean volume?"),
    ],
)
def test_mistakes_in_an_input_that_is_a_volume(key, value, words):
    with pytest.raises(ConfigError) as error:
        check(VOLUME | {"input": VOLUME["input"] | {key: value}})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("xml", {"xml_merging": "x.xml"}), ("tile_configuration", "tiles.txt")]
)
def test_own_positions_do_not_go_with_a_volume(key, value):
    with pytest.raises(ConfigError, match=f"stitching.{key} belongs to tiles"):
        check(VOLUME | {"stitching": {key: value}})


def test_stripes_do_not_go_with_a_volume():
    with pytest.raises(ConfigError, match=r"intensity\.destriping belongs to tiles"):
        check(VOLUME | {"intensity": {"destriping": "rows"}})


def test_images_of_an_input_that_is_a_volume():
    several = {"a": "brain.zarr", "b": {"path": "brain.zarr", "channel": 1}}
    source = VOLUME["input"] | {"channels": several, "spacing_um": [1000, 1000, 1000]}
    config = check(VOLUME | {"input": source})
    plain = {"path": "brain.zarr", "channel": 0, "fill_missing": False}
    assert channel_image(config, "a") == plain
    assert channel_image(config, "b") == plain | {"channel": 1}
    several["a"] = {"path": "brain.zarr", "fill_missing": True}
    config = check(VOLUME | {"input": source | {"channels": several}})
    assert channel_image(config, "a") == plain | {"fill_missing": True}


def test_defaults_are_filled_in_deeply():
    config = check(BASE)
    assert config["intensity"]["corrected_tiles"] == "stream"
    assert config["atlases"]["mouse"]["unlisted"] == "error"
    assert config["registration"]["pose"]["extent"] == "auto"
    assert "intensity" not in BASE


def test_two_samples_with_one_name(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(BASE))
    with pytest.raises(ConfigError, match=r"sample 'brain' is described twice .*two\.yaml"):
        load_samples({"cohort": ["one.yaml", "two.yaml"]}, tmp_path)


def test_a_cohort_shares_defaults_and_a_sample_wins(tmp_path):
    for name in ("one", "two"):
        sample = merge(BASE, {"sample": name})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(sample))
    samples = load_samples({"cohort": ["one.yaml", "two.yaml"], "results": "out"}, tmp_path)
    assert list(samples) == ["one", "two"]
    assert samples["two"]["results"] == "out"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample: [", "is not valid YAML"),
        ("- a\n", "contains no settings"),
        (None, r"cohort: '.*/s\.yaml' does not exist; correct the path"),
        ("input: {spacing_um: [010, 2, 2]}", "line 1: 010 is 8 in YAML; write a number in digits"),
        (
            "sample: s\ninput: {channels: {a: 2:30}}",
            "line 2: 2:30 is 150 in YAML; .* in quotes for",
        ),
        ("sample: 1_0", "1_0 is 10 in YAML"),
        ("sample: 1:30.5", "1:30.5 is 90.5 in YAML; write a number without colons"),
    ],
)
def test_broken_sample_files(tmp_path, text, words):
    if text is not None:
        (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_samples({"cohort": ["s.yaml"]}, tmp_path)


def test_the_path_of_a_sample_file_counts_from_where_terareg_was_started(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/s.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"'s.yaml' does not exist .relative to {tmp_path}"):
        load_samples({"cohort": ["s.yaml"]})


def test_no_sample_is_no_error_but_a_typo_is():
    assert load_samples({}) == {}
    with pytest.raises(ConfigError, match="stiching is not a known key"):
        load_samples({"stiching": {}})


SETTINGS = {
    "intensity.flatfield": "intensity.flatfield.FlatfieldSettings",
    "intensity.bias": "intensity.bias.BiasSettings",
    "stitching.displacement": "stitching.settings.DisplacementSettings",
    "stitching.placement": "stitching.solver.PlacementSettings",
    "fusion": "volumes.fusion.FusionSettings",
    "volume": "volumes.plan.VolumeSettings",
    "registration": "registration.settings.RegistrationSettings",
    "registration.pose": "registration.pose.PoseSettings",
}
OUTSIDE = {
    "fusion": {"sides"},
    "intensity.bias": {"enabled", "volume_um"},
    "registration": {
        "channel", "atlases", "pose", "landmarks", "landmark_um", "export", "error_bars",
    },
}  # fmt: skip


@pytest.mark.parametrize("path", SETTINGS)
def test_schema_and_settings_classes_agree(path):
    config = check(BASE)
    for key in path.split("."):
        config = config[key]
    module, name = SETTINGS[path].rsplit(".", 1)
    settings = getattr(importlib.import_module(f"terareg.{module}"), name)
    here = {k: v for k, v in config.items() if k not in OUTSIDE.get(path, ())}
    fields = {f.name: f.default for f in dataclasses.fields(settings)}
    # set by the scripts: the kind of volume and what only derived volumes have, one number of
    # threads for pose and flow, and what stitching.model needs
    inside = {
        "volume": {"kind", *ADDED},
        "registration.pose": {"threads"},
        "stitching.displacement": {"points"},
    }.get(path, set())
    defaults = {k: v for k, v in fields.items() if k not in inside}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    assert here == plain
    settings(**here)


def test_every_key_is_documented(root):
    assert describe() in (root / "config/README.md").read_text()
    schema = yaml.safe_load(SCHEMA.read_text())
    stack = [schema]
    while stack:
        part = stack.pop()
        if part.get("type") == "object" and "properties" in part:
            assert part.get("additionalProperties") is False
            stack += part["properties"].values()


@pytest.mark.parametrize("name", ["sample.yaml", "cohort.yaml"])
def test_shipped_examples_are_valid(root, name):
    example = yaml.safe_load((root / "config" / name).read_text())
    if example.pop("cohort", None):
        example = merge({"sample": "one", "input": BASE["input"]}, example)
    check(example)


SAMPLES = {
    "mouse-lightsheet": "colm",
    "smartspim-tiles": "terastitcher",
    "tile-table": "table",
    "serial-two-photon": "volume",
    "mouse-mri": "volume",
    "mouse-microct": "volume",
    "rat-mri": "volume",
    "human-mri": "volume",
    "macaque-mri": "volume",
    "zebrafish-larva": "volume",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_for_each_kind_of_image_are_valid(root, name, tmp_path, monkeypatch):
    given = yaml.safe_load((root / f"config/samples/{name}.yaml").read_text())
    for atlas in given["atlases"].values():
        if "name" in atlas:  # as if it were installed
            write_older(tmp_path).rename(tmp_path / f"{atlas['name']}_v1.2")
    monkeypatch.setenv("BRAINGLOBE_DIR", str(tmp_path))
    config = check(given)
    assert config["input"]["kind"] == SAMPLES[name]
    assert config["atlases"]


def test_every_shipped_sample_is_tested(root):
    assert {p.stem for p in (root / "config/samples").iterdir()} == set(SAMPLES)


# ------------------------------------------------------------------ every number has a range
def _numbers(schema, path=()):
    """Paths of all keys that hold a number or a list of numbers, with their part of the schema."""
    for key, part in schema.get("properties", {}).items():
        here, kinds = (*path, key), part.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        items = part.get("items", {})
        if {"number", "integer"} & set(kinds) and "object" not in kinds:
            yield here, part, None
        elif isinstance(items, dict) and items.get("type") in ("number", "integer"):
            yield here, items, part.get("minItems", 1)
        yield from _numbers(part, here)


NUMBERS = list(_numbers(yaml.safe_load(SCHEMA.read_text())))
#: more than any machine, brain or microscope has
HOSTILE = [0, -1, -1e9, 1e300, math.nan, math.inf, -math.inf, 10**400, "3 um", True, [], {}]


def _settings_of(config):
    """What the scripts make of a configuration: every class checks its own options."""
    intensity, stitching = config["intensity"], config["stitching"]
    BiasSettings(**_without(intensity["bias"], "enabled", "volume_um"))
    FlatfieldSettings(**intensity["flatfield"])
    DisplacementSettings(**stitching["displacement"])
    PlacementSettings(**stitching["placement"])
    VolumeSettings(**config["volume"])
    PoseSettings(**config["registration"]["pose"])
    RegistrationSettings(**_without(config["registration"], *OUTSIDE["registration"]))


def _without(options, *keys):
    return {key: value for key, value in options.items() if key not in keys}


@pytest.mark.parametrize(("path", "part", "count"), NUMBERS, ids=lambda v: _name_of(v))
def test_every_number_is_refused_at_load_or_taken_by_the_stage(path, part, count):
    for value in HOSTILE:
        given = [value] * count if count else value
        over: dict = {"sample": "brain"}
        inner = over
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = given
        try:
            complete = check(merge(BASE, over))
        except ConfigError as error:
            assert path[0] in str(error), (path, value)
        else:
            assert not isinstance(value, str | bool | dict), f"{path}: {value!r} was taken"
            _settings_of(complete)


@pytest.mark.parametrize(("path", "part", "count"), NUMBERS, ids=lambda v: _name_of(v))
def test_every_number_has_both_bounds(path, part, count):
    ends = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    endless = path == ("registration", "contrast_window_um")  # one window for the whole brain
    assert part.keys() & ends[0] and (endless or part.keys() & ends[1]), path


def _name_of(value):
    return ".".join(value) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("registration.priors", [0.5, 0.5, 0.5], "registration.priors: .* sum to 1.5"),
        ("stitching.displacement.search_um", [0, 0, 0], "leaves nothing to search"),
        ("intensity.flatfield.method", "image", "image, and it needs the path of a TIFF"),
        ("intensity.flatfield.image", "own.tif", r"does not match intensity.flatfield.method"),
        ("intensity.flatfield", {"tile_gains": True, "method": "none"}, "estimates no gains"),
        ("intensity.flatfield", {"tile_gains": True, "tiles": 3}, "needs every tile"),
        ("volume.formats", [], "volume.formats"),
        ("volume.formats", ["ome-zarr", "ome-zarr"], "volume.formats"),
    ],
)
def test_options_that_contradict_each_other_are_said_at_load(path, value, words):
    with pytest.raises(ConfigError, match=words):
        check(changed(path, value))


def test_all_settings_are_listed_and_what_differs_from_its_default_is_marked():
    config = check(changed("registration.regularisation", 0.5))
    found = settings(config)
    assert found["registration.regularisation"] == {
        "value": 0.5, "default": 0.012, "changed": True,
    }  # fmt: skip
    marked = {key for key, setting in found.items() if setting["changed"]}
    assert marked == {
        "sample", "input.path", "input.orientation", "input.channels.auto", "input.channels.signal",
        "atlases.mouse.template", "atlases.mouse.annotation", "atlases.mouse.ontology",
        "atlases.mouse.orientation", "registration.regularisation",
    }  # fmt: skip
    assert len(found) > 90


def test_settings_of_further_kinds_of_input_are_listed_too():
    volume = {"kind": "volume", "orientation": "SAR", "channels": {"a": {"path": "a.nii"}}}
    found = settings(check({"sample": "brain", "input": volume}))
    assert found["input.channels.a.path"]["value"] == "a.nii"
    assert found["input.channels.a.channel"] == {"value": None, "default": None, "changed": False}


def reached(through, **over):
    """A configuration whose atlas ccf is reached through another one."""
    config = merge(BASE, over)
    config["atlases"]["ccf"] = config["atlases"]["mouse"] | {"through": through}
    return config


THROUGH = {"atlas": "mouse", "transform": "known.tfm", "points_from": "ccf"}


@pytest.mark.parametrize(
    ("through", "words"),
    [
        (
            {"atlas": "rat"},
            r"'rat' is not such an atlas; .* registered to \(mouse\)",
        ),
        ({"atlas": "ccf"}, "through.atlas: 'ccf' is not such an atlas"),
        ({"points_from": "rat"}, "points_from: 'rat' is neither 'ccf' nor 'mouse'"),
        ({"points_from": None}, "points_from is missing; files of ITK and ANTs do not state"),
        ({"transform": ["a.tfm", "folder"]}, "'folder' has no ending that ITK knows"),
        ({"transform": []}, "through.transform"),
        ({"transforms": "x"}, "transforms is not a known key"),
    ],
)
def test_how_an_atlas_is_reached_is_checked(through, words):
    with pytest.raises(ConfigError, match=words):
        check(reached(THROUGH | through))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"registration": {"atlases": ["ccf"]}}, "through 'mouse', which is not listed; add it"),
        (
            {"registration": {"landmarks": {"ccf": {"sample": "s", "atlas": "a"}}}},
            "landmarks.ccf: the sample is not registered to ccf, but to mouse",
        ),
    ],
)
def test_the_other_atlas_is_registered(over, words):
    with pytest.raises(ConfigError, match=words):
        check(reached(THROUGH, **over))


def test_no_chain_of_atlases_and_no_images_of_one_that_is_not_registered():
    config = reached(THROUGH)
    last = THROUGH | {"atlas": "ccf", "points_from": "rat"}
    config["atlases"]["rat"] = config["atlases"]["mouse"] | {"through": last}
    with pytest.raises(ConfigError, match="'ccf' is itself reached through another one"):
        check(config)
    config = reached(THROUGH)
    config["atlases"]["ccf"]["images"] = {"nissl": "n"}
    with pytest.raises(ConfigError, match="ccf is reached through mouse; remove them, or"):
        check(config)


def test_the_folder_of_a_registration_says_its_direction():
    folder = {"atlas": "mouse", "transform": "results/lsfm/registration/ccf"}
    config = check(reached(folder))
    assert config["atlases"]["ccf"]["through"]["points_from"] is None
    assert config["atlases"]["mouse"]["through"] is None
