"""What the rules of the acquisition need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from terareg.core.cost import RuleCost, for_each, one
from terareg.core.extents import Sample


def _copies(sample: Sample) -> int:
    return sample.copies


RULES = {
    "index_acquisition": RuleCost("acquisition", load=for_each(one, 10.0), needs="tiles"),
    "index_input": RuleCost("acquisition", needs="volume"),
    "copy_own_file": RuleCost("acquisition", load=for_each(_copies)),
    "check_inputs": RuleCost("acquisition"),
}
