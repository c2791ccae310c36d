"""How many examples the tests of properties try, and whether they are the same in every run.

``HYPOTHESIS_PROFILE=explore`` draws other examples in every run, twenty times as many, and keeps
what fails in ``.hypothesis``; without it every run draws the same ones, so that a failure is a
change of the code.
"""

from __future__ import annotations

import os

from hypothesis import settings

PROFILES = {"repeat": 1, "explore": 20}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "repeat")

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(PROFILE)


def examples(count: int, **more) -> settings:
    """Settings of a test of foreign bytes: ``count`` examples, more where they are explored."""
    return settings(max_examples=count * PROFILES[PROFILE], **more)
