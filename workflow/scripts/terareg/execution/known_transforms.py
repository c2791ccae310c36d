"""Known transforms between atlases, checked as far as small files allow (standard library only)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError, RegistrationError
from terareg.execution.run import Run
from terareg.execution.sizing import known_extent
from terareg.registration.known_files import check_described, is_folder, known_files


def check(run: Run) -> None:
    """Refuse a registration's folder whose atlas and sample are not the two atlases.

    Files of ITK say nothing that could be compared; the first job does.

    Raises
    ------
    ConfigError
        Names the sample, the key and the folder.
    """
    if run.remote is not None:
        return
    for atlas in run.composed_atlases:
        through = run.atlas(atlas)["through"]
        folder = through["transform"]
        if not is_folder(folder):
            continue
        path = Path(known_files(folder)[-1])
        if not path.is_file():
            continue  # may be made by another run, which check_files allows below results
        pair = [_described(run, name) for name in (atlas, through["atlas"])]
        if through["points_from"] == through["atlas"]:
            pair.reverse()
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            check_described(f"atlases.{atlas}.through.transform: {folder}", described, *pair)
        except (ValueError, KeyError, TypeError, AttributeError, RegistrationError) as error:
            if isinstance(error, RegistrationError):
                raise ConfigError(str(error)) from error
            raise ConfigError(
                f"atlases.{atlas}.through.transform: {path} is damaged; give the folder of a "
                "registration of terareg"
            ) from error


def _described(run: Run, atlas: str) -> dict[str, Any]:
    settings = run.atlas(atlas)
    extent = known_extent(run, settings)
    return {
        "name": atlas,
        "orientation": settings["orientation"],
        "shape": None if extent is None else extent.shape,
        "spacing_um": None if extent is None else extent.spacing_um,
    }
