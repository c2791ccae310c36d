"""terareg: from raw light-sheet tiles to atlas-registered, measured brain volumes.

Arrays are indexed (z, y, x); physical lengths are micrometres; names carry their unit
(``spacing_um``, ``shift_vox``). Packages import downwards only:

    regions, views
    intensity, stitching, registration, atlas      (apart from each other)
    acquisition, volumes
    storage, frames, numeric, parallel, errors

``phantom`` makes test data with known truth and is imported by nothing else.
"""
