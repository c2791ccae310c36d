"""What the rules of the acquisition need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from terareg.core.cost import RuleCost, for_each, one

RULES = {
    "index_acquisition": RuleCost("acquisition", load=for_each(one, 10.0), needs="tiles"),
    "index_input": RuleCost("acquisition", needs="volume"),
    "check_inputs": RuleCost("acquisition"),
}
