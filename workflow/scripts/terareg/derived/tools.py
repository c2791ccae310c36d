"""The tools by their names, and the plan of what one of them makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from terareg.core.errors import ConfigError
from terareg.derived.components import Components
from terareg.derived.convert import Convert
from terareg.derived.count import Count
from terareg.derived.downsample import Downsample
from terareg.derived.equalize import Equalize
from terareg.derived.mesh import Mesh
from terareg.derived.quantize import Quantize
from terareg.derived.remap import Remap
from terareg.derived.reorder import Reorder
from terareg.derived.resample import Resample
from terareg.derived.section import Entry, output_options
from terareg.derived.signal import Signal
from terareg.derived.skeletonize import Skeletonize
from terareg.derived.tissue import Tissue
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
    "tissue": Tissue,
    "signal": Signal,
    "downsample": Downsample,
    "resample": Resample,
    "quantize": Quantize,
    "equalize": Equalize,
    "remap": Remap,
    "reorder": Reorder,
}


def make_tool(view: View, entry: Entry, files: Sequence[str] = ()) -> Tool:
    """The tool of an entry with its settings, checked against the source.

    Parameters
    ----------
    view : View
        Its source.
    entry : Entry
    files : sequence of str
        Where the files of ``entry.files`` lie for this job, in their order.

    Raises
    ------
    ConfigError
        If the settings do not fit the source.
    """
    dtype = entry.facts.dtype(entry.settings, view.kind, view.dtype.name)
    options = entry.options | dict(zip(entry.files, files))
    # whoever makes the array knows its type
    options.pop("ids", None)
    tool = CLASSES[entry.do](view, dtype, **options)
    try:
        _ = view.mask
        tool.check()
    except ConfigError as error:
        raise ConfigError(f"derived.{entry.name}: {error}") from error
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
