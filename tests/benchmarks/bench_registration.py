"""How accurate and how dear a registration is: terareg, and ANTs beside it.

    python tests/benchmarks/bench_registration.py phantom --seeds 0 1
    python tests/benchmarks/bench_registration.py cases --folder CASES      # made by regbench.py
    python tests/benchmarks/bench_registration.py real --data ../shared/data
    ... --ants /elsewhere/bin/python      # of another environment, made with pip install antspyx
    ... --ants-kinds SyN-MI-tuned SyN-CC-tuned      # names of antspyx, or of ants_worker.TUNED

``phantom`` needs nothing but this repository: the phantom brain with contrast that changes by
region, a missing patch and a bright artefact. ``cases`` are folders with ``case.npz`` and
``truth/truth.npz``. ``real`` registers pairs that have labels on both sides. Every method gets the
same arrays in the same run; the table is written to standard output as markdown. Settings are the
defaults for every case.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "scripts"))

from terareg.core.frames import Frame
from terareg.registration.emlddmm import register
from terareg.registration.images import Image
from terareg.registration.pose import initial_affine
from terareg.registration.regions import Regions
from terareg.registration.schedule import Hints
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform
from terareg.storage.records import read_json


@dataclass(frozen=True)
class Pair:
    """Two images, labels of the atlas, and what is known of the truth.

    ``points_um`` are (sample, atlas) landmark arrays (n, 3), or None; ``labels`` are those of the
    sample on its own grid, ``scored`` the voxels and ``ids`` the regions over which Dice is taken.
    ``also`` are the same images with other labels: registered once, scored twice. ``regions`` is
    the annotation that the registration may use.
    """

    name: str
    atlas: Image
    sample: Image
    atlas_labels: np.ndarray
    atlas_label_frame: Frame
    labels: np.ndarray
    label_frame: Frame
    scored: np.ndarray
    ids: np.ndarray
    points_um: tuple[np.ndarray, np.ndarray] | None = None
    also: Pair | None = None
    regions: Regions | None = None


Mapper = Callable[[np.ndarray], np.ndarray]


# atlas and sample; the last ones differ much in size, in either direction
AGES = (("CCF", "P5"), ("CCF", "P14"), ("CCF", "P28"), ("P28", "P14"),
        ("P28", "P5"), ("P5", "P14"), ("P5", "CCF"))  # fmt: skip


def phantom_pairs(seeds: list[int], voxel_um: float) -> Iterator[Pair]:
    """The phantom brain, 8 x 11.5 x 6 mm, seen by the channel with the stranger contrast."""
    from terareg.phantom.atlas import BrainSettings, make_atlas
    from terareg.phantom.sample import GeneratedSample, SampleSettings

    for seed in seeds:
        atlas = make_atlas(BrainSettings(seed=seed, atlas_spacing_um=100.0))
        shape = tuple(round(mm * 1000 / voxel_um) for mm in (6.0, 8.4, 11.7))
        frame = Frame(shape, (voxel_um,) * 3, (0.0, 0.0, 0.0), "ILA")
        sample = GeneratedSample(atlas, frame, SampleSettings(seed=seed, cells=200))
        axes = frame.axes_um()
        labels, _ = sample.labels_grid(axes)
        true = np.stack(sample.atlas_grid(axes)).reshape(3, -1).T
        points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).T
        inside = (labels.ravel() > 0) & ~sample.damaged(points)
        rng = np.random.default_rng(seed)
        pick = np.flatnonzero(inside)[rng.permutation(int(inside.sum()))[:3000]]
        for channel in (0, 1):
            yield Pair(
                f"phantom {seed} ch{channel}",
                Image(atlas.template, atlas.frame, name="atlas"),
                Image(sample.block((0, 0, 0), shape)[channel], frame, name="sample"),
                atlas.annotation, atlas.frame, labels, frame,
                inside.reshape(shape), _regions(labels, 50), (points[pick], true[pick]),
            )  # fmt: skip


def case_pairs(folder: Path, data: Path) -> Iterator[Pair]:
    """Cases of regbench.py: Allen atlas against a known pose, deformation and contrast."""
    parents = {r["id"]: r["parent_id"] for r in read_json(data / "allen_ccf" / "ontology.json")}
    for path in sorted(folder.glob("*/case.npz")):
        case, truth = np.load(path), np.load(path.parent / "truth" / "truth.npz")
        spacing = tuple(case["spacing"])
        atlas = Frame(case["atlas"].shape, spacing, tuple(case["origin_atlas"]), "RIP")
        sample = Frame(case["target"].shape, spacing, tuple(case["origin_target"]), "RIP")
        labels = truth["labels"]
        seen = truth["lm_visible"]
        yield Pair(
            path.parent.name,
            Image(case["atlas"], atlas, name="atlas"),
            Image(case["target"], sample, name="sample"),
            truth["atlas_labels"], Frame(truth["atlas_labels"].shape, (100.0,) * 3),
            labels, Frame(labels.shape, (100.0,) * 3),
            ~truth["missing"], _regions(np.where(truth["missing"], 0, labels), 100),
            (truth["lm_t"][:, seen].T, truth["lm_a"][:, seen].T),
            regions=Regions(case["atlas_labels"].astype(np.int64), parents),
        )  # fmt: skip


def real_pairs(data: Path) -> Iterator[Pair]:
    """CCF, the DeMBA brains of 5, 14 and 28 days, and three FVB brains; labels on both sides.

    Ids of the CCF are grouped by ``allen_ccf/groups.json``: a voxel belongs to the nearest ancestor
    of its id that the table lists.
    """
    ccf = data / "allen_ccf"
    parents = {row["id"]: row["parent_id"] for row in read_json(ccf / "ontology.json")}
    tables = {name: {int(i) for i in read_json(ccf / "groups.json")[name]}
              for name in ("coarse", "mid")}  # fmt: skip
    brains = {"CCF": (_read(ccf / "average_template_200.nrrd", "RIP", "CCF"),
                      _read_labels(ccf / "annotation_200.nrrd"))}  # fmt: skip
    for age in (5, 14, 28):
        file = data / f"demba_p{age}" / f"demba_P{age}"
        brains[f"P{age}"] = (
            _read(file.with_name(f"{file.name}_reference_200.nrrd"), "RIP", f"P{age}"),
            _read_labels(file.with_name(f"{file.name}_annotation_200.nrrd")),
        )
    for a, b in AGES:
        (atlas, annotation), (sample, theirs) = brains[a], brains[b]
        pair = None
        for name, table in tables.items():
            own, other = (_grouped(labels, parents, table) for labels in (annotation, theirs))
            ids = np.intersect1d(_regions(own, 1), _regions(other, 1))
            also = "" if name == "mid" else f", {name}"
            pair = Pair(f"{a} to {b}{also}", atlas, sample, own, atlas.frame, other,
                        sample.frame, np.ones(other.shape, bool), ids, also=pair,
                        regions=Regions(annotation, parents))  # fmt: skip
        yield pair
    mri = data / "mouse_mri_fvb"
    for first, second in ((1, 2), (1, 3), (2, 3)):
        a = _read(mri / f"fvb{first}_template.nii.gz", "SAR", f"fvb{first}")
        b = _read(mri / f"fvb{second}_template.nii.gz", "SAR", f"fvb{second}")
        own = _read_labels(mri / f"fvb{first}_label.nii.gz")
        other = _read_labels(mri / f"fvb{second}_label.nii.gz")
        yield Pair(f"fvb{first} to fvb{second}", a, b, own, a.frame, other, b.frame,
                   np.ones(other.shape, bool), np.intersect1d(_regions(own, 1), _regions(other, 1)),
                   regions=Regions(own, {}))  # fmt: skip


# ---------------------------------------------------------------------- methods
def terareg_method(pair: Pair) -> tuple[Mapper, dict]:
    """Pose search and EM-LDDMM with the defaults."""
    affine, info = initial_affine(pair.atlas, pair.sample)
    settings = RegistrationSettings(device="cpu")
    hints = Hints(info["extent"], regions=pair.regions)
    result = register(pair.atlas, pair.sample, settings, affine, hints=hints)
    summary = result.summary
    return result.transform.to_atlas, {"jacobian_min": summary["jacobian_min"]}


def pose_method(pair: Pair) -> tuple[Mapper, dict]:
    """The initial affine alone."""
    affine, _ = initial_affine(pair.atlas, pair.sample)
    transform = Transform.from_affine(affine, pair.atlas.frame, pair.sample.frame)
    return transform.to_atlas, {}


def ants_method(python: str, kind: str) -> Callable[[Pair], tuple[Mapper, dict]]:
    """ANTs through antspyx in an environment of its own, one thread; axes must run alike."""
    worker = str(Path(__file__).with_name("ants_worker.py"))
    alone = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    alone.pop("PYTHONPATH", None)

    def call(*arguments: str | Path) -> None:
        command = [python, worker, *map(str, arguments)]
        subprocess.run(command, check=True, env=alone, stdout=subprocess.DEVNULL)

    def run(pair: Pair) -> tuple[Mapper, dict]:
        folder = Path(tempfile.mkdtemp(prefix="ants_"))
        arrays = {}
        for side, image in (("sample", pair.sample), ("atlas", pair.atlas)):
            arrays |= {
                side: image.data,
                f"{side}_origin_um": np.array(image.frame.origin_um),
                f"{side}_spacing_um": np.array(image.frame.spacing_um),
            }
        np.savez(folder / "pair.npz", **arrays)
        call("register", kind, folder / "pair.npz", folder)
        facts = read_json(folder / "found.json")

        def to_atlas(points_um: np.ndarray) -> np.ndarray:
            np.save(folder / "points.npy", points_um)
            call("map", folder, folder / "points.npy", folder / "mapped.npy")
            return np.load(folder / "mapped.npy")

        return to_atlas, {key: facts[key] for key in ("cpu_s", "mb")}

    return run


def methods(ants: str | None, kinds: list[str]) -> dict[str, Callable[[Pair], tuple[Mapper, dict]]]:
    """terareg always, ANTs if an interpreter that has it is given."""
    table = {"terareg pose": pose_method, "terareg": terareg_method}
    if ants:
        table |= {f"ANTs {kind}": ants_method(ants, kind) for kind in kinds}
    return table


# ---------------------------------------------------------------------- scores
def score(pair: Pair, to_atlas: Mapper) -> dict[str, float]:
    """Landmark error (um) and mean Dice over regions."""
    figures = {}
    if pair.points_um is not None:
        sample, atlas = pair.points_um
        error = np.linalg.norm(to_atlas(sample) - atlas, axis=1)
        figures["tre"] = float(error.mean())
        figures["tre95"] = float(np.percentile(error, 95))
    points = np.stack(np.meshgrid(*pair.label_frame.axes_um(), indexing="ij")).reshape(3, -1).T
    found = voted(pair.atlas_labels, pair.atlas_label_frame, to_atlas(points))
    found = found.reshape(pair.label_frame.shape)
    a, b = pair.labels[pair.scored], found[pair.scored]
    dice = [2 * np.sum((a == i) & (b == i)) / (np.sum(a == i) + np.sum(b == i)) for i in pair.ids]
    figures["dice"] = float(np.mean(dice))
    figures["dice10"] = float(np.percentile(dice, 10))
    return figures


def voted(labels: np.ndarray, frame: Frame, points_um: np.ndarray) -> np.ndarray:
    """Labels at points (n, 3): the eight voxels around vote with their linear weights; 0 outside.

    As "genericLabel" of ANTs does. The nearest voxel's label scores .01 to .025 lower on 200 um
    voxels: the two must not be mixed in one table.
    """
    index = frame.to_index(points_um)
    low = np.floor(index).astype(np.int64)
    part = index - low
    votes = np.empty((8, len(index)), labels.dtype)
    weights = np.empty((8, len(index)))
    for number, corner in enumerate(np.ndindex(2, 2, 2)):
        at = low + corner
        inside = np.all((at >= 0) & (at < labels.shape), axis=1)
        votes[number] = np.where(inside, labels[tuple(np.where(inside[:, None], at, 0).T)], 0)
        weights[number] = np.where(corner, part, 1 - part).prod(1)
    support = np.array([(weights * (votes == one)).sum(0) for one in votes])
    return votes[support.argmax(0), np.arange(len(index))]


def _regions(labels: np.ndarray, least: int) -> np.ndarray:
    ids, counts = np.unique(labels, return_counts=True)
    return ids[(ids > 0) & (counts >= least)]


def _grouped(labels: np.ndarray, parents: dict[int, int], table: set[int]) -> np.ndarray:
    """Replace ids by their nearest ancestor in the table, or 0."""
    ids, inverse = np.unique(labels, return_inverse=True)
    out = []
    for i in ids:
        at = int(i)
        while at and at not in table:
            at = parents.get(at) or 0
        out.append(at)
    return np.array(out)[inverse].reshape(labels.shape)


def _read(path: Path, code: str, name: str) -> Image:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    spacing = np.array(image.GetSpacing()[::-1])
    spacing = spacing * (1000 if spacing.max() < 10 else 1)
    data = sitk.GetArrayFromImage(image)
    return Image(data, Frame(data.shape, tuple(spacing), (0.0, 0.0, 0.0), code), name=name)


def _read_labels(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.int64)


def _row(pair: str, method: str, figures: dict[str, float]) -> str:
    tre = f"{figures['tre']:.0f} / {figures['tre95']:.0f}" if "tre" in figures else "-"
    jacobian = f"{figures['jacobian_min']:.2f}" if "jacobian_min" in figures else "-"
    return (
        f"| {pair} | {method} | {tre} | {figures['dice']:.3f} / {figures['dice10']:.3f} | "
        f"{jacobian} | {figures['cpu_s']:.0f} | {figures['mb']:.0f} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("phantom", "cases", "real"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--voxel-um", type=float, default=150.0)
    parser.add_argument("--folder", type=Path, help="cases made by regbench.py")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of pairs")
    parser.add_argument("--ants", metavar="PYTHON", help="interpreter that has antspyx")
    parser.add_argument("--ants-kinds", nargs="+", default=["Affine", "SyN"], metavar="KIND")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    pairs = {
        "phantom": lambda: phantom_pairs(options.seeds, options.voxel_um),
        "cases": lambda: case_pairs(options.folder, options.data),
        "real": lambda: real_pairs(options.data),
    }[options.what]()
    rows = []
    write = sys.stdout.write
    write("| pair | method | TRE mean / 95 % (um) | Dice mean / 10 % | min J | CPU-s | MB |\n")
    write("|---|---|---|---|---|---|---|\n")
    for pair in (pair for pair in pairs if any(part in pair.name for part in options.only)):
        for name, method in methods(options.ants, options.ants_kinds).items():
            start = time.process_time()
            to_atlas, facts = method(pair)
            own = {
                "cpu_s": time.process_time() - start,
                "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            scored: Pair | None = pair
            while scored is not None:
                figures = own | score(scored, to_atlas) | facts
                write(_row(scored.name, name, figures))
                sys.stdout.flush()
                rows.append({"pair": scored.name, "method": name, **figures})
                scored = scored.also
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
