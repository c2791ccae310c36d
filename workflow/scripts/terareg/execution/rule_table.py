"""The costs of all rules, gathered from the stages (standard library only)."""

from __future__ import annotations

from terareg.acquisition import cost as acquisition
from terareg.atlas import cost as atlas
from terareg.cohort import cost as cohort
from terareg.core.cost import RuleCost
from terareg.core.extents import Sample
from terareg.derived import cost as derived
from terareg.exports import cost as exports
from terareg.intensity import cost as intensity
from terareg.regions import cost as regions
from terareg.registration import cost as registration
from terareg.signal import cost as signal
from terareg.stitching import cost as stitching
from terareg.views import cost as views
from terareg.volumes import cost as volumes

_STAGES = (
    acquisition, intensity, stitching, volumes, atlas, registration, regions, signal, derived,
    exports, views, cohort,
)  # fmt: skip
#: rules of a sample that has only volumes derived from others
_WITHOUT_IMAGES = (
    "copy_own_file", "check_inputs", *derived.RULES, "finish_pyramid", "finalize_volume",
    *exports.RULES, "write_neuroglancer_state",
)  # fmt: skip

#: cost of every rule by its name, in the order of the work
RULES: dict[str, RuleCost] = {name: rule for stage in _STAGES for name, rule in stage.RULES.items()}


def jobs_of_rules(sample: Sample) -> dict[str, int]:
    """Number of jobs of every rule that a sample of this kind has, in the order of the work."""
    kind = sample.input_kind
    chosen = _WITHOUT_IMAGES if kind == "none" else RULES
    return {n: RULES[n].load(sample).jobs for n in chosen if RULES[n].needs in ("", kind)}
