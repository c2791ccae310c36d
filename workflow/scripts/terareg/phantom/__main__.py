"""``python -m terareg.phantom make | cut | tiles2d | score`` (see ``--help`` of each)."""

from __future__ import annotations

import sys

from terareg.phantom.cli import main

if __name__ == "__main__":
    sys.exit(main())
