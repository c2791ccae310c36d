"""Where the workflow lies beside this library: in a clone, or where a wheel has put it.

Standard library only.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from terareg.core.errors import ConfigError

_LIBRARY = Path(__file__).resolve().parents[1]
_SNAKEFILE = "workflow/Snakefile"
_SHARED = "share/terareg"


@cache
def home() -> Path:
    """Folder that holds ``workflow``, ``profiles`` and ``config``: a clone's, or a wheel's copy.

    Raises
    ------
    ConfigError
        If the library lies alone.
    """
    for folder in _candidates():
        if (folder / _SNAKEFILE).is_file():
            return folder
    raise ConfigError(
        f"the library in {_LIBRARY} comes without the workflow; install it again from a clone "
        "(pip install .)"
    )


def is_clone() -> bool:
    """Whether the library is that of a clone, not of an installed wheel."""
    return home() == _LIBRARY.parents[2]


def _candidates() -> Iterator[Path]:
    yield _LIBRARY.parents[2]
    yield Path(sys.prefix, _SHARED)
    yield _LIBRARY.parent / _SHARED  # pip install --target
    # pip can be told to install elsewhere (--user, --prefix)
    try:
        files = importlib.metadata.distribution("terareg").files or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.as_posix().endswith(f"{_SHARED}/{_SNAKEFILE}"):
            yield Path(str(file.locate())).resolve().parents[1]
