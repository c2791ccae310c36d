"""Channels whose names differ in left and right are two sides of one."""

from __future__ import annotations

import re
from dataclasses import replace

from terareg.intake.found import Found

_ENDS = {"left": "-x", "right": "+x"}
_GUESS = (
    "channels whose names differ only in left and right are taken for two sides of one channel, "
    "with the light entering at the first column (-x) and at the last (+x); swap the ends, or "
    "remove the key"
)


def with_sides(found: Found) -> Found:
    """The same with ``sides``, if the names of its channels tell pairs of them."""
    channels = found.source["channels"]
    if found.source["kind"] == "volume":
        return found
    pairs: dict[str, dict[str, str]] = {}
    for name in channels:
        words = [word for word in re.split(r"[_-]+", name) if word]
        own = [word for word in words if word.lower() in _ENDS]
        if len(own) == 1:
            rest = "_".join(word for word in words if word not in own) or "signal"
            pairs.setdefault(rest, {})[own[0].lower()] = name
    sides = {
        rest: {names[word]: end for word, end in _ENDS.items()}
        for rest, names in pairs.items()
        if names.keys() == _ENDS.keys() and rest not in channels
    }
    if not sides:
        return found
    source = {}
    for key, value in found.source.items():
        source[key] = value
        if key == "channels":
            source["sides"] = sides
    return replace(found, source=source, guesses={**found.guesses, "sides": _GUESS})
