"""terareg: from raw light-sheet tiles to atlas-registered, measured brain volumes.

Arrays are indexed (z, y, x); physical lengths are micrometres; names carry their unit
(``spacing_um``, ``shift_vox``). Packages import downwards only:

    cli
    execution
    views
    regions
    intake
    intensity, stitching, atlas, registration      (apart from each other)
    volumes
    acquisition
    storage
    core

``phantom`` makes test data with known truth and is imported by nothing else.
"""

__version__ = "0.1.0"
