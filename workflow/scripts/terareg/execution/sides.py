"""What the section ``input.sides`` of a configuration may say. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terareg.core.errors import ConfigError, few

ENDS = ("-z", "+z", "-y", "+y", "-x", "+x")


def second_sides(sides: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The second side of every channel, and the first one."""
    return {second: first for first, second in map(tuple, sides.values())}


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
            "input.sides belongs to tiles, not to input.kind: volume; remove it, or fuse the "
            "sides beforehand"
        )
    taken: dict[str, str] = {}
    for name, own in sides.items():
        key = f"input.sides.{name}"
        if name in channels:
            raise ConfigError(
                f"{key}: {name!r} is also a channel under input.channels; give the channel made "
                "of the sides another name, or remove it from one of the two"
            )
        for side, end in own.items():
            if side not in channels:
                raise ConfigError(
                    f"{key}: {side!r} is not one of input.channels ({few(channels)}); list the "
                    "images of every side there"
                )
            if side in taken:
                raise ConfigError(
                    f"{key}: {side!r} is already a side of {taken[side]}; name each side in one "
                    "channel only"
                )
            taken[side] = name
            if end is None:
                raise ConfigError(
                    f"{key}.{side} is left blank; write the end of the axis at which this side is "
                    f"best, where its light enters or its camera is: {', '.join(ENDS)}"
                )
        _check_ends(key, own)


def _check_ends(key: str, own: Mapping[str, str]) -> None:
    if len(own) != 2:
        raise ConfigError(
            f"{key}: {', '.join(own) or 'nothing'} is not a pair; name two sides, each with the "
            f"end of the axis where it is best, for example {{left: -x, right: +x}}"
        )
    (one, first), (other, second) = own.items()
    if first == second or first[1] != second[1]:
        raise ConfigError(
            f"{key}: {one} is best at {first} and {other} at {second}, which are not opposite "
            "ends of one axis; write for example -x and +x"
        )
