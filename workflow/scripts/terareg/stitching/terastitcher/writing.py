"""Writes TeraStitcher's project files."""

from __future__ import annotations

import os
from xml.sax.saxutils import quoteattr

from terareg.stitching.terastitcher.model import SIDES, Axis, ProjectXml, Stack
from terareg.storage.store import write_atomic


def write_xml(path: str | os.PathLike, xml: ProjectXml, newline: str = "\n") -> None:
    """Write a project, atomically; equal projects give equal bytes."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomic(path, format_xml(xml, newline).encode())


def format_xml(xml: ProjectXml, newline: str = "\n") -> str:
    """The project as text; ``newline`` is the line end."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8" ?>',
        '<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">',
        _tag("TeraStitcher", 0, False, volume_format=xml.volume_format,
             input_plugin=xml.input_plugin),
        _tag("stacks_dir", 1, value=xml.stacks_dir),
    ]  # fmt: skip
    if xml.mdata_bin is not None:
        lines.append(_tag("mdata_bin", 1, value=xml.mdata_bin))
    if xml.ref_sys is not None:
        lines.append(_tag("ref_sys", 1, **{f"ref{k + 1}": v for k, v in enumerate(xml.ref_sys)}))
    lines += [
        _tag("voxel_dims", 1, **dict(zip("VHD", xml.voxel_vhd_um))),
        _tag("origin", 1, **dict(zip("VHD", xml.origin_vhd_mm))),
        _tag("mechanical_displacements", 1, **dict(zip("VH", xml.mechanical_vh_um))),
        _tag("dimensions", 1, stack_rows=xml.rows, stack_columns=xml.columns,
             stack_slices=xml.slices),
    ]  # fmt: skip
    if xml.subimage is not None:
        keys = ("resolution", "timepoint", "series_no")
        lines.append(_tag("subimage", 1, **dict(zip(keys, xml.subimage))))
    lines.append("    <STACKS>")
    for stack in xml.stacks:
        lines += _format_stack(stack)
    lines += ["    </STACKS>", "</TeraStitcher>", ""]
    return newline.join(lines)


def _format_stack(stack: Stack) -> list[str]:
    blocks = {}
    if stack.block_sizes is not None:
        blocks = {
            "N_BLOCKS": len(stack.block_sizes),
            "BLOCK_SIZES": ",".join(map(str, stack.block_sizes)),
            "BLOCKS_ABS_D": ",".join(map(str, stack.blocks_abs_d or ())),
        }
    lines = [
        _tag(
            "Stack", 2, False,
            **blocks,
            N_CHANS=stack.channels, N_BYTESxCHAN=stack.bytes_per_channel,
            ROW=stack.row, COL=stack.column,
            **dict(zip(("ABS_V", "ABS_H", "ABS_D"), stack.abs_vhd)),
            STITCHABLE="yes" if stack.stitchable else "no",
            DIR_NAME=stack.dir_name,
            Z_RANGES=";".join(f"[{a},{b})" for a, b in stack.z_ranges),
            IMG_REGEX=stack.img_regex,
            SERIES_NO=stack.series_no,
        )
    ]  # fmt: skip
    for side in SIDES:
        found = stack.displacements.get(side, ())
        if not found:
            lines.append(_tag(f"{side}_displacements", 3))
            continue
        lines.append(_tag(f"{side}_displacements", 3, False))
        for displacement in found:
            lines.append(_tag("Displacement", 4, False, TYPE="MIP_NCC"))
            lines += [_format_axis(name, a) for name, a in zip("VHD", displacement.axes)]
            lines.append("                </Displacement>")
        lines.append(f"            </{side}_displacements>")
    return [*lines, "        </Stack>"]


def _format_axis(name: str, axis: Axis) -> str:
    return _tag(
        name, 5, displ=axis.displ, default_displ=axis.default, reliability=axis.reliability,
        nccPeak=axis.peak, nccWidth=axis.width, nccWRangeThr=axis.width_range,
        nccInvWidth=axis.inf_width, delay=axis.delay,
    )  # fmt: skip


def _tag(name: str, depth: int, closed: bool = True, /, **attributes) -> str:
    text = "".join(
        f" {key}={_quote(value)}" for key, value in attributes.items() if value is not None
    )
    return f"{'    ' * depth}<{name}{text}{' />' if closed else '>'}"


def _quote(value) -> str:
    if isinstance(value, float):
        # shortest text that reads back as the same number, integers without ".0"
        value = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return quoteattr(str(value), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;", '"': "&quot;"})
