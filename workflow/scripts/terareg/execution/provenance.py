"""What the report says about the origin of a result, and what was planned for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from terareg import __version__
from terareg.execution.raw_data import raw_addresses
from terareg.execution.rule_table import jobs_of_rules
from terareg.execution.run import Run
from terareg.execution.run_plan import make_plan
from terareg.execution.schema import settings
from terareg.execution.sizing import sized

_VIEWS = Path(__file__).resolve().parents[1] / "views"


def provenance(run: Run, sample: str) -> dict[str, Any]:
    """Version, digest of the complete configuration, and where the data lie."""
    complete = run.samples[sample]
    text = json.dumps(complete, sort_keys=True, default=str)
    return {
        "terareg": __version__,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        "raw_data": raw_addresses(run, sample),
        "store": complete["store"],
    }


def all_settings(run: Run, sample: str) -> dict[str, dict[str, Any]]:
    """Every setting of a sample with its default, see :func:`terareg.execution.schema.settings`."""
    return settings(run.samples[sample])


def planned_work(run: Run, sample: str) -> dict[str, Any]:
    """The plan that the report compares with the jobs' records."""
    planned = sized(run, sample)
    return {
        "plan": [asdict(stage) for stage in make_plan(planned)],
        "jobs": jobs_of_rules(planned),
        "raw_gb": planned.raw_gb,
    }


def page(name: str) -> str:
    """Digest of a page template ("report", "slices"), whose change makes the page again."""
    return hashlib.sha256((_VIEWS / f"{name}.html.j2").read_bytes()).hexdigest()[:16]
