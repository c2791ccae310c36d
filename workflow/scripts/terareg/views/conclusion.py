"""What a run's verdicts mean together: is it usable, why not, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from terareg.views.thresholds import FAIL, PASS, THRESHOLDS, WARN

# stages whose faults spoil brightness and leave positions and volumes of regions as they are
_OF_BRIGHTNESS = ("input", "intensity", "volume")
# of what the user's own lists say, which leaves the brain as it is
_OF_POINTS = "points"
_MOST_REASONS = 3


def conclude(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict on the whole run.

    Parameters
    ----------
    verdicts : sequence of mapping
        Fields of :class:`terareg.views.thresholds.Verdict`, and ``shown``, the value with its unit.

    Returns
    -------
    dict
        ``status`` ("fail", "warn", "pass" or "none"), ``title`` in words, ``reasons`` (text, the
        most important first) and ``more``, how many there are beyond these.
    """
    if not verdicts:
        return {"status": "none", "title": "Not judged yet", "reasons": [], "more": 0}
    failed = [v for v in verdicts if v["status"] == FAIL]
    points = [v for v in failed if v["key"].split(".")[0] == _OF_POINTS]
    spoilt = [v for v in failed if not _of_brightness(v) and v not in points]
    found = by_importance([v for v in verdicts if v["status"] != PASS])
    status, title = PASS, "Usable"
    if spoilt:
        status, title = FAIL, "Not usable as it is"
    elif points:
        brightness = "brightness or " if len(failed) > len(points) else ""
        status, title = FAIL, f"Usable for positions and volumes, not for {brightness}counts"
    elif failed:
        status, title = FAIL, "Usable for positions and volumes, not for brightness"
    elif found:
        status, title = WARN, "Usable with care"
    return {
        "status": status,
        "title": title,
        "reasons": [reason(v) for v in found[:_MOST_REASONS]],
        "more": max(0, len(found) - _MOST_REASONS),
    }


def next_steps(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Advice of what failed or warned, the most important first, each advice once.

    Returns
    -------
    list of dict
        ``status``, ``reason`` and ``advice``.
    """
    steps: dict[str, dict[str, str]] = {}
    for verdict in by_importance([v for v in verdicts if v["status"] != PASS]):
        step = {"status": verdict["status"], "reason": reason(verdict), "advice": verdict["advice"]}
        steps.setdefault(verdict["advice"], step)
    return list(steps.values())


def by_importance(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Failures before warnings, positions before brightness, then in the order of the stages.

    What a stage spoils spoils those after it, so that the first cause comes first.
    """
    order = list(THRESHOLDS)

    def rank(verdict: Mapping[str, Any]) -> tuple[bool, bool, int]:
        return verdict["status"] != FAIL, _of_brightness(verdict), order.index(verdict["key"])

    return sorted(verdicts, key=rank)


def reason(verdict: Mapping[str, Any]) -> str:
    """A verdict as a clause: what, where, and how much."""
    subject = f" ({verdict['subject']})" if verdict["subject"] else ""
    text = verdict["text"]
    return f"{text[0].lower()}{text[1:]}{subject}: {verdict['shown']}"


def _of_brightness(verdict: Mapping[str, Any]) -> bool:
    return verdict["key"].split(".")[0] in _OF_BRIGHTNESS
