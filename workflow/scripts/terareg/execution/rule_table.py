"""The costs of all rules, gathered from the stages (standard library only)."""

from __future__ import annotations

from terareg.acquisition import cost as acquisition
from terareg.atlas import cost as atlas
from terareg.core.cost import RuleCost
from terareg.core.extents import Sample
from terareg.intensity import cost as intensity
from terareg.regions import cost as regions
from terareg.registration import cost as registration
from terareg.signal import cost as signal
from terareg.stitching import cost as stitching
from terareg.views import cost as views
from terareg.volumes import cost as volumes

_STAGES = (acquisition, intensity, stitching, volumes, atlas, registration, regions, signal, views)

#: cost of every rule by its name, in the order of the work
RULES: dict[str, RuleCost] = {name: rule for stage in _STAGES for name, rule in stage.RULES.items()}


def jobs_of_rules(sample: Sample) -> dict[str, int]:
    """Number of jobs of every rule that a sample of this kind has, in the order of the work."""
    kind = "tiles" if sample.tiled else "volume"
    return {n: r.load(sample).jobs for n, r in RULES.items() if r.needs in ("", kind)}
