"""What the section ``input.sides`` of a configuration may say. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terareg.core.errors import ConfigError, few

ENDS = ("-z", "+z", "-y", "+y", "-x", "+x")


def check_sides(config: Mapping[str, Any]) -> None:
    """Refuse sides that are no two sides of one channel.

    Raises
    ------
    ConfigError
        In one sentence, with the key, its value and the remedy.
    """
    source = config["input"]
    sides, channels = source["sides"], source["channels"]
    if sides and source["kind"] == "volume":
        raise ConfigError(
            "input.sides belongs to tiles, not to input.kind: volume; remove it, or fuse the sides "
            "before"
        )
    taken: dict[str, str] = {}
    for name, own in sides.items():
        key = f"input.sides.{name}"
        if name in channels:
            raise ConfigError(
                f"{key}: {name!r} is listed under input.channels as well, by itself; give the "
                "channel that its sides make another name, or remove it from one of the two"
            )
        for side, end in own.items():
            if side not in channels:
                raise ConfigError(
                    f"{key}: {side!r} is not among input.channels ({few(channels)}); list "
                    "the images of every side there"
                )
            if side in taken:
                raise ConfigError(
                    f"{key}: {side!r} is a side of {taken[side]} already; a side belongs to one "
                    "channel"
                )
            taken[side] = name
            if end is None:
                raise ConfigError(
                    f"{key}.{side} is left blank; write at which end of which axis this side is "
                    f"best, where its light enters or its camera stands: {', '.join(ENDS)}"
                )
        _check_ends(key, own)


def _check_ends(key: str, own: Mapping[str, str]) -> None:
    if len(own) != 2:
        raise ConfigError(
            f"{key}: {', '.join(own) or 'nothing'} is no pair; name two sides and the end of the "
            "axis where each is best, for example {left: -x, right: +x}"
        )
    (one, first), (other, second) = own.items()
    if first == second or first[1] != second[1]:
        raise ConfigError(
            f"{key}: {one} is best at {first} and {other} at {second}, which are not the two ends "
            "of one axis; write for example -x and +x"
        )
