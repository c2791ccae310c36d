"""Results of samples as finished runs leave them, with differences that are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.nrrd import write_image, write_scalar
from terareg.storage.records import fingerprint, write_json, write_table
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import Block, VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

FRAME = Frame((12, 14, 16), (100.0, 100.0, 100.0), orientation="SAR")
#: id, acronym, parent; 2 and 3 are parts of 1, and 4 is the only part of 3
REGIONS = ((1, "TOP", 0), (2, "A", 1), (3, "B", 1), (4, "B1", 3))
#: voxels of the map in which the second group has more of everything
MORE = (slice(3, 6), slice(4, 8), slice(5, 9))
_SUMMARY = {
    "jacobian_min": 0.6, "jacobian_max": 1.7, "scale": 1.02, "scale_ratio": 1.01,
    "levels": [{"voxel_um": 100.0}], "inverse_error_um": 5.0, "match_affine": 2.0,
    "match_deformed": 1.0,
    "mixture": {"shares": {"match": 0.95, "artefact": 0.02, "missing": 0.03}, "sigma": [[0.05]]},
}  # fmt: skip


def write_sample(results: Path, sample: str, rng: np.random.Generator, more: bool, **over) -> Path:
    """Tables and maps of one sample: region A is larger by ``more``, and has more cells.

    ``over`` may have ``summary`` (changes to the summary of the registration) and ``files`` (of the
    prepared atlas).
    """
    folder = results / sample
    size = {2: 2.0 + 0.5 * more, 4: 1.0}
    own = {region: size.get(region, 0.0) * rng.normal(1, 0.03) for region, _, _ in REGIONS}
    cells = {region: int(1000 * volume * (1 + more) * rng.normal(1, 0.03))
             for region, volume in own.items()}  # fmt: skip
    parts = {1: (2, 4), 2: (2,), 3: (4,), 4: (4,)}
    rows, counts = [], []
    for region, acronym, parent in REGIONS:
        for scope, of in (("own", (region,)), ("tree", parts[region])):
            for side, share in (("left", 0.45), ("right", 0.55), ("both", 1.0)):
                volume = share * sum(own[r] for r in of)
                key = {"id": region, "acronym": acronym, "name": f"region {acronym}"}
                key |= {"parent": parent, "depth": 0, "scope": scope, "hemisphere": side}
                seen = 1.0 if volume else None
                rows.append(key | {"volume_mm3": volume, "coverage": seen,
                                   "signal_mean": 100.0 + rng.normal()})  # fmt: skip
                number = int(share * sum(cells[r] for r in of))
                counts.append(key | {"count": number, "volume_mm3": volume,
                                     "per_mm3": number / volume if volume else None,
                                     "coverage": seen})  # fmt: skip
    counts.append(dict.fromkeys(counts[0]) | {"id": 0, "count": 3})
    write_table(folder / "regions/ccf.tsv", rows)
    write_table(folder / "cells/cfos/ccf/regions.tsv", counts)
    write_json(folder / "registration/ccf/summary.json", _SUMMARY | over.get("summary", {}))
    ratio = np.exp(rng.normal(0, 0.1, FRAME.shape)).astype(np.float32)
    density = rng.normal(200, 10, FRAME.shape).astype(np.float32)
    ratio[MORE] *= 1.0 + 0.5 * more
    density[MORE] += 60 * more
    write_scalar(folder / "registration/ccf/jacobian.nrrd", ratio, FRAME)
    write_image(folder / "cells/cfos/ccf/density.nrrd", density, FRAME)
    atlas = {"frame": FRAME.to_json(), "files": over.get("files", {"annotation.nrrd": "abc"})}
    annotation = results / "atlases/ccf/annotation.nrrd"
    annotation.parent.mkdir(parents=True, exist_ok=True)
    write_image(annotation, np.ones(FRAME.shape, np.uint32), FRAME)
    write_json(results / "atlases/ccf/atlas.json", atlas | {"sha256": fingerprint(atlas)})
    return folder


def write_images(results: Path, samples: list[tuple[str, str]], unseen: str = "") -> None:
    """An image of every sample in the atlas, brighter in the second group; ``unseen`` has a gap."""
    settings = VolumeSettings(16, 16, ("ome-zarr",))
    for number, (sample, group) in enumerate(samples):
        image = np.random.default_rng(number).normal(1000, 5, FRAME.shape)
        image[MORE] += 200 * (group == "drug")
        if sample == unseen:
            image[0] = 0
        voxels = np.rint(image).astype(np.uint16)
        store, key = Store(str(results)), f"{sample}/atlas_space/ccf/signal"
        plan = make_plan(sample, FRAME, "uint16", settings)
        init_volume(store, key, plan)
        write_blocks(store, key, plan, plan.blocks(), partial(_voxels_of, voxels), fingerprint="f")
        finish_pyramid(store, key, plan)
        write_json(results / key / "complete.json", finalize_volume(store, key, plan))


def _voxels_of(image: np.ndarray, block: Block) -> tuple[np.ndarray, Clipped]:
    return image[tuple(map(slice, block.start, block.stop))], Clipped()


def write_cohort(results: Path, seed: int = 0, size: int = 5) -> list[tuple[str, str]]:
    """Two groups of samples; returns their names and groups."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(2 * size):
        group = ("control", "drug")[n % 2]
        write_sample(results, f"brain{n}", rng, group == "drug")
        found.append((f"brain{n}", group))
    return found


def write_table_of(path: Path, samples, extra=None) -> Path:
    """A table of samples; ``extra`` has further columns, with a value for each sample."""
    extra = extra or {}
    lines = ["\t".join(["sample", "group", *extra])]
    for n, pair in enumerate(samples):
        lines.append("\t".join([*pair, *(str(values[n]) for values in extra.values())]))
    path.write_text("\n".join(lines) + "\n")
    return path
