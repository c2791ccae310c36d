"""The targets that remove files: listed, confirmed, and what a run does afterwards."""

from __future__ import annotations

import pytest
import running

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished, tmp_path):
    return running.copy_of(finished, type(finished)(tmp_path / "copy"))


def remove(workspace, target, *arguments):
    done = workspace.snakemake("--cores", "1", *arguments, "--quiet", "all", "--", target)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_intermediates_there_is_still_nothing_to_run(copy):
    results = copy.folder / "results/demo"
    rests = [results / "logs/register/phantom.checkpoint.npz", results / "fused/ch0/.x.1.part"]
    for rest in rests:
        rest.write_bytes(bytes(2_000_000))
    tiles = results / "corrected/ch0/LOC000"
    tiles.mkdir(parents=True)
    (tiles / "zarr.json").write_text("{}")
    text = remove(copy, "remove_intermediates", "--config", "confirm_removal=demo")
    assert text.rstrip().endswith("3 files removed")
    assert not tiles.exists() and not any(rest.exists() for rest in rests)
    assert running.planned(copy) == {}


def test_without_the_sample_everything_runs_again_and_the_input_is_untouched(
    copy, acquired, raw_before
):
    text = remove(copy, "remove_sample", "--config", "confirm_removal=other")
    assert (
        "would be removed; nothing was removed yet. To remove them: --config confirm_removal=demo"
        in text
    )
    assert (copy.folder / "results/demo/report.html").is_file()
    remove(copy, "remove_sample", "--config", "confirm_removal=demo")
    assert not list((copy.folder / "results/demo").rglob("*.json"))
    assert (copy.folder / "results/atlases/phantom/atlas.json").is_file(), "others may use it"
    again = running.planned(copy)
    assert {"index_acquisition", "fuse_blocks", "register", "make_report"} <= again.keys()
    assert "prepare_atlas" not in again
    assert running.states(acquired / "demo/raw") == raw_before
    assert running.states(copy.folder / "demo/raw").keys() == raw_before.keys()


def test_raw_data_in_the_way_stop_the_removal(copy):
    place = copy.folder / "results/demo/fused/raw"
    (copy.folder / "demo/raw").rename(place)
    running.configure(copy, input__path="results/demo/fused/raw")
    done = copy.snakemake(
        "--cores", "1", "--config", "confirm_removal=demo", "--quiet", "all", "--", "remove_sample"
    )
    assert done.returncode != 0 and "belongs to the input" in done.stderr
    assert (place / "Experiment.ini").is_file()
    assert (copy.folder / "results/demo/report.html").is_file()
