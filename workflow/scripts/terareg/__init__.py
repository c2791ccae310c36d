"""terareg: from raw light-sheet tiles to atlas-registered, measured brain volumes.

Arrays are indexed (z, y, x); physical lengths are micrometres; names carry their unit
(``spacing_um``, ``shift_vox``). Packages import downwards only:

    cli
    execution
    views
    derived
    signal
    regions, exports
    intake
    intensity, stitching, atlas, registration      (apart from each other)
    objects
    volumes
    acquisition
    storage
    core

``phantom`` makes test data with known truth and is imported by nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terareg.volumes.opened import open_volume

__all__ = ["open_volume"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # imported when asked for: the workflow loads the library where there is no NumPy
    if name == "open_volume":
        from terareg.volumes import opened

        return opened.open_volume
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
