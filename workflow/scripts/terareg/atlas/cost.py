"""What the rules of atlases need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from terareg.core.cost import RuleCost, atlas, atlases, for_each
from terareg.core.extents import Sample


def _further_images(sample: Sample) -> int:
    return sum(sample.atlas_images(name) - 1 for name in sample.atlases)


RULES = {
    "prepare_atlas": RuleCost("registration", atlas(14), for_each(atlases, 5.0)),
    "prepare_atlas_image": RuleCost("registration", atlas(14), for_each(_further_images, 3.0)),
}
