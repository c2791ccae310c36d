"""Tables of cells: joined over batches, written, read, and summarised."""

import csv

import numpy as np
import pytest
from cell_truth import Held, cell_volume, matched

from terareg.core.errors import StoreError
from terareg.signal.blobs import BLOB, BlobSettings, boxes, find_blobs
from terareg.signal.cells import CELL, gather, load_array, save_array, summary, write_cells_csv

SETTINGS = BlobSettings((9.0,) * 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Cells of four batches, their truth and frame."""
    folder = tmp_path_factory.mktemp("cells")
    image, truth, frame = cell_volume((40, 60, 66), count=60, contrast=6, seed=1)
    cut, paths = boxes(frame.shape, (24, 32, 40)), []
    for batch in range(4):
        parts = [find_blobs(Held(image, frame), *box, SETTINGS) for box in cut[batch::4]]
        paths.append(folder / f"{batch}.npy")
        save_array(paths[-1], np.concatenate([np.zeros(0, BLOB), *parts]))
    return gather(paths, SETTINGS, frame), truth, frame, paths


def test_batches_in_any_order_are_the_same_cells_in_micrometres(found):
    cells, truth, frame, paths = found
    assert matched(cells["position_um"], frame.to_um(truth), (1, 1, 1), 4.5)[2] >= 0.98
    again = gather(paths[::-1], SETTINGS, frame)
    assert cells.dtype == CELL and again.tobytes() == cells.tobytes()


def test_the_csv_holds_every_cell_with_its_features(found, tmp_path):
    cells, _, _, _ = found
    labels = ([7] * len(cells), ["A2"] * len(cells), ["left"] * len(cells))
    write_cells_csv(tmp_path / "c.csv", cells, cells["position_um"], labels)
    with open(tmp_path / "c.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(cells)
    read = np.array([[float(r[f"{a}_um"]) for a in "zyx"] for r in rows])
    assert np.abs(read - cells["position_um"]).max() < 0.006
    assert float(rows[3]["contrast"]) == pytest.approx(cells["contrast"][3], abs=0.006)
    assert {(r["region_id"], r["acronym"], r["hemisphere"]) for r in rows} == {("7", "A2", "left")}
    judged = cells.copy()
    judged["probability"] = 0.75
    write_cells_csv(tmp_path / "e.csv", judged, cells["position_um"], labels)
    head, first = (tmp_path / "e.csv").read_text().splitlines()[:2]
    assert head.endswith("saturated,probability,region_id,acronym,hemisphere")
    assert first.endswith(",0.750,7,A2,left")
    write_cells_csv(tmp_path / "d.csv", cells, cells["position_um"])
    assert (tmp_path / "d.csv").read_text().splitlines()[0] == (
        "z_um,y_um,x_um,contrast,intensity,background,roundness,saturated"
    )


def test_the_summary_says_how_many_and_how_clear(found):
    cells, _, frame, _ = found
    figures = summary(cells, frame, 2.0)
    assert figures["cells"] == len(cells) and figures["per_mm3"] == len(cells) / 2
    low, middle, high = figures["quartiles"]["contrast"]
    assert SETTINGS.threshold < low < middle < high
    assert np.isnan(cells["probability"]).all(), "nobody has marked any"
    none = summary(cells[:0], frame, 2.0)
    assert none["cells"] == 0 and none["quartiles"]["contrast"] is None


def test_no_cells_are_an_empty_table(found, tmp_path):
    _, _, frame, _ = found
    save_array(tmp_path / "0.npy", np.zeros(0, BLOB))
    cells = gather([tmp_path / "0.npy"], SETTINGS, frame)
    write_cells_csv(tmp_path / "c.csv", cells, cells["position_um"])
    assert len(cells) == 0 and len((tmp_path / "c.csv").read_text().splitlines()) == 1


def test_a_damaged_or_foreign_table_is_an_error(found, tmp_path):
    _, _, _, paths = found
    data = paths[0].read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-9])
    with pytest.raises(StoreError, match=r"cut.npy cannot be read .*; delete it and run again"):
        load_array(tmp_path / "cut.npy", BLOB)
    with pytest.raises(StoreError, match="was not written by this version of terareg"):
        load_array(paths[0], CELL)
