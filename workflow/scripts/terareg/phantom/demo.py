"""Make a complete demo: brain, acquisition, fiducials, truth and ``sample.yaml``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from terareg.core.errors import AcquisitionError
from terareg.phantom.atlas import ATLAS_ORIENTATION, BrainSettings, make_atlas, write_atlas
from terareg.phantom.colm import ColmSettings, place_tiles, write_colm
from terareg.phantom.sample import GeneratedSample, SampleSettings
from terareg.phantom.truth import TruthSettings, write_fiducials, write_sample_truth
from terareg.storage.records import write_json

logger = logging.getLogger(__name__)

#: planes from superior to inferior, rows from right to left, columns from posterior to anterior
SAMPLE_ORIENTATION = "ILA"
CHANNELS = ("ch0", "ch1")
_ANTERIOR_CORNERS = ((0, 3), (2, 3))


@dataclass(frozen=True)
class DemoSettings:
    """Everything that ``make_demo`` needs.

    Attributes
    ----------
    brain, sample, colm, truth
        Settings of the parts; their seeds should be equal.
    clean_stride : int
        Every n-th plane of the clean fused volume is kept as truth.
    registered : tuple of str
        Channels that are registered; the first one finds the pose.
    """

    brain: BrainSettings
    sample: SampleSettings
    colm: ColmSettings
    truth: TruthSettings
    clean_stride: int = 8
    registered: tuple[str, ...] = CHANNELS


def demo_settings(
    seed: int, small: bool = False, names: str = "long", counted_cells: int = 0
) -> DemoSettings:
    """Settings of the demo (about 160 MB raw), or of its small form for tests (about 40 MB)."""
    full = DemoSettings(
        brain=BrainSettings(seed=seed),
        sample=SampleSettings(seed=seed, counted_cells=counted_cells),
        colm=ColmSettings(seed=seed, empty=_ANTERIOR_CORNERS, names=names),
        truth=TruthSettings(),
    )
    if not small:
        return full
    return DemoSettings(
        brain=replace(full.brain, atlas_spacing_um=100.0),
        sample=replace(full.sample, cells=2500),
        colm=replace(
            full.colm,
            tile_pixels=(128, 128),
            planes=58,
            step_um=100.0,
            overlap=0.2,
        ),
        truth=replace(full.truth, label_stride=(1, 4, 4), volume_stride=(1, 2, 2)),
        clean_stride=4,
        registered=CHANNELS[:1],
    )


def make_demo(out: Path, settings: DemoSettings) -> dict:
    """Write ``raw/``, ``atlas/``, ``fiducials/``, ``truth/`` and ``sample.yaml`` under ``out``.

    Returns
    -------
    dict
        Content of ``truth/truth.json``.

    Raises
    ------
    AcquisitionError
        If ``out`` already holds an acquisition.
    """
    out = Path(out)
    if (out / "raw" / "VW0").exists():
        raise AcquisitionError(
            f"{out / 'raw'} already contains an acquisition; delete it or choose another folder"
        )
    atlas = make_atlas(settings.brain)
    files = write_atlas(atlas, out / "atlas")
    frame = place_tiles(settings.colm).frame(settings.colm, SAMPLE_ORIENTATION)
    sample = GeneratedSample(atlas, frame, settings.sample)
    truth = {
        "seed": settings.brain.seed,
        "frame": frame.to_json(),
        "point_zero": "centre of the first voxel of the union of all tiles (smallest true origin)",
    }
    truth |= write_colm(
        sample.block, out / "raw", out / "truth", settings.colm, CHANNELS, settings.clean_stride
    )
    truth |= write_sample_truth(sample, out / "truth", settings.truth)
    atlas_points, sample_points = write_fiducials(
        sample, out / "fiducials", settings.truth.fiducials
    )
    write_json(out / "truth" / "truth.json", truth)
    config = sample_config(out, "demo", SAMPLE_ORIENTATION, CHANNELS)
    # planes are 50 um apart, so many thin windows are used to have several in a small lobe
    config["stitching"] = {
        "displacement": {"search_um": _search_um(settings.colm, frame.spacing_um), "windows": 10}
    }
    config["atlases"] = {
        "phantom": {
            **{role: str(out / "atlas" / name) for role, name in files.items()},
            "orientation": ATLAS_ORIENTATION,
        }
    }
    # both show anatomy, each with a texture of its own
    config["registration"] = {"channel": list(settings.registered)}
    if settings.sample.counted_cells:
        size = settings.sample.counted_cell_um
        config["cells"] = {"counted": {"channel": CHANNELS[1], "diameter_um": size}}
    config["fiducials"] = {"phantom": {"atlas": str(atlas_points), "sample": str(sample_points)}}
    write_config(out / "sample.yaml", config)
    return truth


def _search_um(colm: ColmSettings, spacing_um: Sequence[float]) -> list[float]:
    """Largest deviation of two neighbours from the step of the stage, plus one voxel."""
    drift = [max(abs(r), abs(c)) for r, c in zip(colm.drift_row_vox, colm.drift_column_vox)]
    return [
        float(round((2 * jitter + d + 1) * spacing))
        for jitter, d, spacing in zip(colm.jitter_vox, drift, spacing_um)
    ]


def sample_config(
    out: Path, sample: str, orientation: str, channels: Sequence[str], spacing_um=None
) -> dict:
    """Configuration of the workflow for an acquisition under ``out/raw``."""
    config: dict[str, Any] = {
        "sample": sample,
        "input": {
            "kind": "colm",
            "path": str(Path(out) / "raw"),
            "orientation": orientation,
            "channels": {name: number for number, name in enumerate(channels)},
        },
    }
    if spacing_um is not None:
        config["input"]["spacing_um"] = [float(s) for s in spacing_um]
    return config


def write_config(path: Path, config: dict) -> None:
    """Write a configuration as YAML, keys in the order given."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")
