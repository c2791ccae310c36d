"""What a run has made that is to be looked at, in words for its last lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from terareg.execution import comparisons, targets
from terareg.execution.run import Run


def what_to_look_at(run: Run, since_s: float) -> str:
    """Pages and pictures that were made since a time, with what first pictures warn of.

    Parameters
    ----------
    run : Run
    since_s : float
        Seconds as of :func:`time.time`.

    Returns
    -------
    str
        Lines, or nothing if there is nothing new. Of a sample that has its report only the report;
        else its first looks and previews. Files that lie in a bucket alone are not found.
    """
    lines: list[str] = []
    for sample in run.samples:
        report = run.path(sample, "report.html")
        lines += _made([report], since_s) or _first_pictures(run, sample, since_s)
    lines += _made(comparisons.report_files(run), since_s)
    return "".join(f"{line}\n" for line in ("To look at:", *lines)) if lines else ""


def _made(paths: Iterable[str], since_s: float) -> list[str]:
    return [f"  {p}" for p in paths if Path(p).is_file() and Path(p).stat().st_mtime >= since_s]


def _first_pictures(run: Run, sample: str, since_s: float) -> list[str]:
    lines = _made(targets.preview_files(run, sample), since_s)
    # first, since a pose in a volume that was put together wrongly means nothing
    placement = run.path(sample, "stitching/placement.json")
    if lines and _made([placement], since_s):
        lines += [f"  warning: sample {sample}: {told}" for told in _unmeasured(Path(placement))]
    poses = run.of_atlases(sample, "registration/{atlas}/pose.json", run.registered_atlases(sample))
    for pose in poses:
        if _made([pose], since_s):
            lines += [f"  warning: {told}" for told in _warnings(Path(pose))]
    return lines


def _unmeasured(placement: Path) -> Iterator[str]:
    """A sentence if no displacement of tiles could be used, which a wrong voxel size leads to."""
    counts = json.loads(placement.read_text(encoding="utf-8"))["summary"]
    measured = counts["links"] - counts["links_empty"]
    if measured and not counts["links_kept"]:
        yield (
            f"none of the displacements of {measured} pairs of neighbouring tiles could be used, "
            "so that all tiles are where the stage put them; if their seams do not fit, correct "
            "input.spacing_um, input.overlap or the positions of the tiles"
        )


def _warnings(pose: Path) -> Iterator[str]:
    """Sentences of a pose's file, without the word that sorts them."""
    for sentence in json.loads(pose.read_text(encoding="utf-8")).get("warnings", ()):
        _, _, text = sentence.partition(": ")
        yield text or sentence
