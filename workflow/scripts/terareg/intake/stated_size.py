"""What files themselves say of the size of their voxels, beside what a sample file says."""

from __future__ import annotations

from collections.abc import Sequence

from terareg.core.errors import TeraregError
from terareg.intake.recognise import recognise
from terareg.volumes.headers import describe_image

# sizes in metadata are rounded
_ALIKE = 0.01


def spacing_of_image(address: str) -> tuple[tuple[float, float, float], str] | None:
    """Voxel size (z, y, x) in the header of an image, micrometres, and where; None if unknown.

    Parameters
    ----------
    address : str
        Path, ``s3://`` or ``https://`` address.
    """
    try:
        stated = describe_image(address).spacing_um
    except TeraregError:
        return None
    return None if stated is None else (stated, f"from the header of {address}")


def spacing_of_tiles(address: str) -> tuple[tuple[float, float, float], str] | None:
    """Voxel size (z, y, x) in the metadata of tiles, micrometres, and where.

    It is the one that ``terareg init`` finds; None if the files do not say it, or only let it be
    guessed.
    """
    try:
        found = recognise(address)
    except TeraregError:
        return None
    stated, where = found.source.get("spacing_um"), found.notes.get("spacing_um", "")
    if not stated or "spacing_um" in found.guesses:
        return None
    z, y, x = map(float, stated)
    return (z, y, x), where.removeprefix("z, y, x, ")


def disagreement(
    wanted_um: Sequence[float], stated: tuple[Sequence[float], str] | None
) -> str | None:
    """A sentence if ``input.spacing_um`` differs from what files state by more than 1 %."""
    if stated is None:
        return None
    sizes_um, where = stated
    if all(abs(w - s) <= _ALIKE * s for w, s in zip(wanted_um, sizes_um, strict=True)):
        return None
    own, other = (" x ".join(f"{s:g}" for s in sizes) for sizes in (wanted_um, sizes_um))
    return (
        f"input.spacing_um is {own} um (z, y, x) but the files give {other} um, {where}; "
        "input.spacing_um is used"
    )
