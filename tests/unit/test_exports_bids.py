"""BIDS: names, sidecars and tables as the specification wants them, images that take no room.

Rules are those of BIDS 1.10: "Microscopy" (file names, PixelSize, PixelSizeUnits), "Data summary
files" (participants.tsv, samples.tsv) and "Dataset description".
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import terareg
from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.execution.config import check
from terareg.exports.bids import BidsSettings, write_dataset
from terareg.storage import removal
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE, SPACING = (9, 20, 17), (5.0, 2.0, 1.5)
CHANNELS = ("c-fos", "auto_fluorescence")
LABEL = "[0-9a-zA-Z+]+"
NAME = re.compile(
    rf"sub-(?P<sub>{LABEL})/(ses-(?P<ses>{LABEL})/)?micr/sub-(?P=sub)_(ses-(?P=ses)_)?"
    rf"sample-{LABEL}(_acq-{LABEL})?(_stain-{LABEL})?(_run-\d+)?(_chunk-\d+)?_SPIM"
    r"\.(ome\.zarr/.*|json)"
)
ROOT = {"dataset_description.json", "participants.tsv", "samples.tsv", "README.md"}
SAMPLE_TYPES = {"cell line", "in vitro differentiated cells", "primary cell", "cell-free sample",
                "cloning host", "tissue", "whole organisms", "organoid",
                "technical sample"}  # fmt: skip
SAMPLE = {
    "sample": "mouse_7",
    "input": {"path": "raw", "orientation": "SAR", "channels": {"c-fos": 0, "auto": 1}},
}


def section(**over):
    return check(SAMPLE | {"bids": {"enabled": True, **over}})["bids"]


def make_volumes(store, formats=("ome-zarr",)):
    for number, channel in enumerate(CHANNELS):
        values = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.uint16)
        key = f"mouse_7/fused/{channel}"
        options = VolumeSettings(chunk=8, block=16, formats=formats)
        plan = make_plan(channel, Frame(SHAPE, SPACING, orientation="SAR"), "uint16", options)
        init_volume(store, key, plan)
        write_blocks(
            store, key, plan, plan.blocks(),
            lambda b, v=values: (v[tuple(map(slice, b.start, b.stop))].copy(), Clipped()),
            fingerprint="f",
        )  # fmt: skip
        finish_pyramid(store, key, plan)


@pytest.fixture
def store(tmp_path):
    made = Store(str(tmp_path / "store"))
    make_volumes(made)
    return made


def files_of(store):
    return {entry.key.removeprefix("mouse_7/bids/") for entry in store.list("mouse_7/bids")}


def rows_of(store, name):
    text = store.read(f"mouse_7/bids/{name}").decode()
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def problems_of(store) -> list[str]:
    """What of a data set is against the rules that are named above."""
    found = []
    names = files_of(store)
    found += [f"{name}: no name of microscopy" for name in names - ROOT if not NAME.fullmatch(name)]
    images = {name.partition(".ome.zarr/")[0] for name in names if ".ome.zarr/" in name}
    for image in images:
        sidecar = json.loads(store.read(f"mouse_7/bids/{image}.json"))
        size, unit = sidecar.get("PixelSize"), sidecar.get("PixelSizeUnits")
        if not (isinstance(size, list) and len(size) in (2, 3) and min(size) > 0):
            found.append(f"{image}: PixelSize {size}")
        if unit not in ("mm", "um", "nm"):
            found.append(f"{image}: PixelSizeUnits {unit}")
    description = json.loads(store.read("mouse_7/bids/dataset_description.json"))
    found += [f"dataset_description: {key}" for key in ("Name", "BIDSVersion")
              if not description.get(key)]  # fmt: skip
    animals = [row["participant_id"] for row in rows_of(store, "participants.tsv")]
    if sorted(animals) != sorted({name.split("/")[0] for name in names - ROOT}):
        found.append(f"participants.tsv: {animals}")
    for row in rows_of(store, "samples.tsv"):
        if row["participant_id"] not in animals or row["sample_type"] not in SAMPLE_TYPES:
            found.append(f"samples.tsv: {row}")
        if not any(f"_{row['sample_id']}_" in name for name in images):
            found.append(f"samples.tsv: {row['sample_id']} has no image")
    return found


@pytest.mark.parametrize("session", [None, "01"])
def test_the_data_set_follows_the_rules(store, session):
    given = section(session=session, species="mus musculus", age=0.2,
                    metadata={"BodyPart": "BRAIN"})  # fmt: skip
    settings = BidsSettings.from_config(given, "mouse_7")
    record = write_dataset(store, "mouse_7", CHANNELS, settings)
    assert problems_of(store) == []
    assert rows_of(store, "participants.tsv") == [
        {"participant_id": "sub-mouse7", "species": "mus musculus", "age": "0.2"}
    ]
    names = [name.rpartition("/")[2] for name in record["images"]]
    between = f"_ses-{session}_" if session else "_"
    assert names[0] == f"sub-mouse7{between}sample-brain_stain-cfos_SPIM.ome.zarr"
    sidecar = json.loads(
        store.read(f"mouse_7/bids/{record['images'][0].replace('.ome.zarr', '.json')}")
    )
    assert sidecar["PixelSize"] == [1.5, 2.0, 5.0] and sidecar["SampleStaining"] == "c-fos"
    assert sidecar["BodyPart"] == "BRAIN" and sidecar["AxesOrientation"] == "RAS"


def test_a_published_data_set_is_an_ro_crate(store):
    """Rules of RO-Crate 1.1: root, its metadata, entities that are all described, files there."""
    given = section(license="CC-BY-4.0", published="2026-11-30", authors=["Ada L.", "Bo M."])
    record = write_dataset(store, "mouse_7", CHANNELS, BidsSettings.from_config(given, "mouse_7"))
    names = files_of(store)
    assert store.read("mouse_7/bids/.bidsignore") == b"ro-crate-metadata.json\n"
    crate = json.loads(store.read("mouse_7/bids/ro-crate-metadata.json"))
    assert crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"])
    own = entities["ro-crate-metadata.json"]
    assert own["about"] == {"@id": "./"} and own["conformsTo"]["@id"].endswith("/crate/1.1")
    root = entities["./"]
    assert root["@type"] == "Dataset" and root["datePublished"] == "2026-11-30"
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    assert [entities[one["@id"]]["name"] for one in root["author"]] == ["Ada L.", "Bo M."]
    parts = {part["@id"] for part in root["hasPart"]}
    assert {f"{name}/" for name in record["images"]} <= parts
    inside = {name for name in names if ".ome.zarr/" not in name}
    assert {part for part in parts if not part.endswith("/")} == inside - {
        "ro-crate-metadata.json", ".bidsignore"
    }  # fmt: skip
    told = {value["@id"] for entity in crate["@graph"] for value in entity.values()
            if isinstance(value, dict)} | parts  # fmt: skip
    assert told - set(entities) == {"https://w3id.org/ro/crate/1.1"}
    description = json.loads(store.read("mouse_7/bids/dataset_description.json"))
    assert description["License"] == "CC-BY-4.0" and description["Authors"] == ["Ada L.", "Bo M."]
    terms = section(license="https://example.org/terms")
    write_dataset(store, "mouse_7", CHANNELS, BidsSettings.from_config(terms, "mouse_7"))
    assert files_of(store).isdisjoint({"ro-crate-metadata.json", ".bidsignore"})


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("bids-validator-deno") is None, reason="bids-validator-deno is not installed"
)
def test_the_validator_of_bids_has_no_error(store):
    """The program itself, of which the test environment lacks 96 MB: it was run by hand."""

    def errors() -> list[str]:
        folder = str(store.path("mouse_7/bids"))
        done = subprocess.run(
            ["bids-validator-deno", "--json", folder], capture_output=True, check=False, timeout=100
        )
        issues = json.loads(done.stdout)["issues"]["issues"]
        return [issue["code"] for issue in issues if issue["severity"] == "error"]

    given = section(session="01", species="mus musculus", age=0.2, sex="female",
                    metadata={"BodyPart": "BRAIN"}, license="CC-BY-4.0", published="2026-11-30",
                    authors=["Ada Lovelace"])  # fmt: skip
    for each in (section(), given):
        write_dataset(store, "mouse_7", CHANNELS, BidsSettings.from_config(each, "mouse_7"))
        assert errors() == []
    name = next(name for name in files_of(store) if name.endswith("SPIM.json"))
    sidecar = json.loads(store.read(f"mouse_7/bids/{name}")) | {"PixelSizeUnits": "inch"}
    store.write(f"mouse_7/bids/{name}", json.dumps(sidecar).encode())
    assert errors(), "it looks into the sidecars"


def test_what_is_against_the_rules_is_found(store):
    """The check above can fail."""
    settings = BidsSettings.from_config(section(), "mouse_7")
    write_dataset(store, "mouse_7", CHANNELS, settings)
    folder = "mouse_7/bids/sub-mouse7/micr"
    store.write(f"{folder}/sub-mouse7_sample-brain_SPIM_stain-x.json", b"{}")
    store.write(f"{folder}/sub-mouse7_sample-brain_stain-cfos_SPIM.json", b"{}")
    store.write("mouse_7/bids/samples.tsv", b"sample_id\tparticipant_id\tsample_type\n"
                b"sample-heart\tsub-mouse7\tbrain\n")  # fmt: skip
    found = "\n".join(problems_of(store))
    for words in ("SPIM_stain-x.json: no name", "PixelSize None", "PixelSizeUnits None",
                  "sample-heart has no image", "'sample_type': 'brain'"):  # fmt: skip
        assert words in found


def test_images_take_no_room_and_are_those_of_the_sample(store):
    settings = BidsSettings.from_config(section(), "mouse_7")
    record = write_dataset(store, "mouse_7", CHANNELS, settings)
    assert record["linked"]
    for channel, name in zip(CHANNELS, record["images"]):
        image = terareg.open_volume(f"{store.url}/mouse_7/bids/{name}", orientation="SAR")
        whole = terareg.open_volume(f"{store.url}/mouse_7/fused/{channel}")
        np.testing.assert_array_equal(image.numpy(), whole.numpy())
        first = next(e.key for e in store.list(f"mouse_7/bids/{name}/0"))
        assert store.path(first).stat().st_nlink == 2
    # a volume that is made anew does not reach into the data set
    before = files_of(store)
    removed = removal.find_sample([Store(f"{store.url}/mouse_7")])
    assert {f"bids/{name}" for name in before} <= {key for r in removed for key in r.keys}


def test_copies_are_of_their_own_and_nothing_old_remains(store):
    store.write("mouse_7/bids/sub-old/micr/x.json", b"{}")
    settings = BidsSettings.from_config(section(files="copy"), "mouse_7")
    record = write_dataset(store, "mouse_7", CHANNELS, settings)
    assert not record["linked"] and "sub-old/micr/x.json" not in files_of(store)
    first = next(e.key for e in store.list(f"mouse_7/bids/{record['images'][0]}/0"))
    assert store.path(first).stat().st_nlink == 1


def test_a_volume_without_ome_zarr_has_no_place_in_bids(tmp_path):
    store = Store(str(tmp_path))
    make_volumes(store, ("precomputed",))
    with pytest.raises(VolumeError, match="c-fos has no OME-Zarr copy, which BIDS requires; add"):
        write_dataset(store, "mouse_7", CHANNELS, BidsSettings("mouse7"))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"bids": {"enabled": True, "subject": "a b"}}, "bids.subject"),
        ({"bids": {"enabled": True}, "volume": {"formats": ["precomputed"]}}, "add ome-zarr"),
        ({"bids": {"enabled": True}, "input": {**SAMPLE["input"], "channels": {"c-fos": 0,
          "cfos": 1}}}, "the channels 'c-fos' and 'cfos' would both be 'cfos' in BIDS"),
        ({"bids": {"enabled": True, "sex": "m"}}, "use male, female, other"),
        ({"bids": {"enabled": True, "published": "2026-11-30"}}, "set bids.license, for example"),
        ({"bids": {"enabled": True, "license": "CC BY", "published": "30.11.2026"}}, "bids."),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_sentence(over, words):
    with pytest.raises(ConfigError) as error:
        check(SAMPLE | over)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_volumes_state_cannot_be_said_otherwise():
    with pytest.raises(
        ConfigError,
        match=r"bids.metadata.PixelSize: terareg writes this field from the volume; remove it",
    ):
        BidsSettings.from_config(section(metadata={"PixelSize": [1, 1]}), "m")
    with pytest.raises(ConfigError, match="has no letter or digit, which a BIDS label"):
        BidsSettings.from_config(section(), "___")
