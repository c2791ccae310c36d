"""The tools by their names, and the plan of what one of them makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from terareg.derived.components import Components
from terareg.derived.convert import Convert
from terareg.derived.count import Count
from terareg.derived.mesh import Mesh
from terareg.derived.section import Entry, output_options
from terareg.derived.skeletonize import Skeletonize
from terareg.derived.tool import Tool
from terareg.derived.view import View
from terareg.volumes.plan import VolumePlan, VolumeSettings, make_plan

#: class of every tool of :data:`terareg.derived.catalogue.TOOLS`
CLASSES: dict[str, type[Tool]] = {
    "convert": Convert,
    "components": Components,
    "count": Count,
    "mesh": Mesh,
    "skeletonize": Skeletonize,
}


def make_tool(view: View, entry: Entry) -> Tool:
    """The tool of an entry with its settings, checked against the source."""
    dtype = entry.facts.dtype(entry.settings, view.kind, view.dtype.name)
    tool = CLASSES[entry.do](view, dtype, **entry.options)
    tool.check()
    return tool


def plan_of(tool: Tool, entry: Entry, volume: Mapping[str, Any], name: str) -> VolumePlan:
    """Plan of what a tool makes.

    A tool that makes no volume gets a plan as well, of the blocks in which it reads its source.

    Parameters
    ----------
    tool : Tool
    entry : Entry
    volume : mapping
        The section ``volume`` of the configuration.
    name : str
        Shown by viewers.
    """
    kind = entry.facts.made_kind(tool.source.kind) or tool.source.kind
    options = output_options(entry, volume, kind)
    frame, offset = tool.frame, tool.offset_vox
    wanted = entry.settings.get("voxel_offset")
    if wanted is not None:
        moved = (o + (w - n) * s for o, w, n, s in
                 zip(frame.origin_um, wanted, offset, frame.spacing_um))  # fmt: skip
        frame, offset = replace(frame, origin_um=tuple(moved)), tuple(wanted)
    settings = VolumeSettings(**options, offset_vox=offset)
    return make_plan(name, frame, tool.dtype, settings)
