"""Draw the rooms of the library and the rules of every stage, from the code itself.

    python docs/development/draw_architecture.py

writes ``docs/development/rooms.svg``, ``docs/development/rules-STAGE.svg`` and the table of rooms
in ``docs/development/architecture.md``. ``make docs`` runs it; a test says when a picture is not
that of the code.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow/scripts"), str(Path(__file__).parent)]

from layered_drawing import Edge, Style, reduced, svg  # noqa: E402
from workspaces import ATLAS, Workspace  # noqa: E402

from terareg.execution.rule_table import RULES  # noqa: E402
from terareg.execution.run_plan import STAGES  # noqa: E402

HERE = ROOT / "docs/development"
LIBRARY = ROOT / "workflow/scripts/terareg"
PAGE = HERE / "architecture.md"
_TABLE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)
_OTHER = Style("#f4f4f2", "#999", dashed=True)
_IMAGE = (
    b"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 4 4 4\nspacings: 25 25 25\n"
    b"endian: little\nencoding: raw\n\n"
)
#: everything that a sample of tiles may ask for, so that every rule has a job
_EVERYTHING = {
    "input__channels": {"autofluorescence": 0, "left": 1, "right": 2},
    "input__sides": {"signal": {"left": "-x", "right": "+x"}},
    "intensity__destriping": "rows",
    "intensity__corrected_tiles": "temporary",
    "fiducials": {"mouse": {"sample": "s.csv", "atlas": "a.csv"}},
    "points": {"cells": {"path": "{c}.csv", "atlas": "mouse"}},
    "sample_labels": {"mouse": {"path": "c.csv"}},
    "cells": {"cfos": {"channel": "signal", "diameter_um": 10}},
    "derived": {
        "pieces": {"from": "fused/signal", "do": "components", "low": 9},
        "counts": {"from": "pieces", "do": "count"},
        "bright": {"from": "fused/signal", "do": "signal", "threshold": 9},
        "surfaces": {"from": "pieces", "do": "mesh"},
    },
    "registration": {
        "error_bars": True,
        "landmarks": {"mouse": {"sample": "l.csv", "atlas": "m.csv"}},
        "export": True,
    },
    "export": {
        "image": {"from": "fused/signal"},
        "map": {"from": "registration/mouse/jacobian"},
        "regions": {"from": "labels/mouse"},
        "atlas": {"from": "atlas_space/mouse/signal", "format": "tiff_series"},
    },
    "bids": {"enabled": True},
    "atlases__mouse__images": {"nissl": "n.nrrd"},
    "atlases__other": ATLAS
    | {"through": {"atlas": "mouse", "transform": "t.tfm", "points_from": "other"}},
}


#: files of finished samples that are compared with one of the run
_FINISHED = (
    "regions/mouse.tsv", "registration/mouse/summary.json", "registration/mouse/jacobian.nrrd",
    "../atlases/mouse/annotation.nrrd",
    "cells/cfos/mouse/regions.tsv", "cells/cfos/mouse/density.nrrd",
)  # fmt: skip


# ------------------------------------------------------------------ rooms
def rooms() -> list[str]:
    """Packages of the library."""
    return sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py"))


def room_imports() -> set[Edge]:
    """Which room imports from which other one."""
    found = set()
    for room in rooms():
        for path in (LIBRARY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                for name in names:
                    package, _, rest = name.partition(".")
                    other = rest.split(".")[0]
                    if package == "terareg" and other in rooms() and other != room:
                        found.add((room, other))
    return found


def table_of_rooms() -> str:
    """What every room holds and imports, in Markdown."""
    edges = room_imports()
    lines = ["| room | holds | imports from |", "|---|---|---|"]
    for room in rooms():
        folder = LIBRARY / room
        purpose = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())).splitlines()[0]
        others = ", ".join(f"`{b}`" for a, b in sorted(edges) if a == room)
        lines.append(f"| `{room}` | {purpose} | {others or 'nothing'} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ rules
def rule_graph() -> set[Edge]:
    """Which rule's output which other rule reads, over both kinds of sample."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        tiled = workspace.sample("tiled", **_EVERYTHING)
        for name in ("s.csv", "a.csv", "c.csv", "{c}.csv", "l.csv", "m.csv", "n.nrrd", "t.tfm"):
            (workspace.folder / name).touch()
        (workspace.folder / "image.nrrd").write_bytes(_IMAGE + bytes(128))
        volume = workspace.sample("volume")
        volume["input"] = {
            "kind": "volume", "orientation": "SAR", "channels": {"t1": "image.nrrd"},
        }  # fmt: skip
        volume["atlases"] = {}
        for sample in (tiled, volume):
            workspace.write(sample, f"{sample['sample']}.yaml")
        comparison = {"table": "groups.tsv", "atlas": "mouse", "cells": ["cfos"]}
        rows = ("tiled\ta", "b\ta", "c\tb", "d\tb")
        (workspace.folder / "groups.tsv").write_text("\n".join(["sample\tgroup", *rows]))
        for sample in "bcd":
            for name in _FINISHED:
                path = workspace.folder / "results" / sample / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        files = ["tiled.yaml", "volume.yaml"]
        workspace.write({"cohort": files, "comparisons": {"ab": comparison}})
        done = workspace.snakemake("--rulegraph", "--", "all", "verified_volumes")
    if done.returncode:
        raise RuntimeError(f"snakemake --rulegraph failed: {done.stderr}")
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', done.stdout))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", done.stdout)}
    if unseen := RULES.keys() - set(names.values()):
        raise RuntimeError(f"no job of {sorted(unseen)}: let the samples here ask for them")
    # a derived volume may be made from another one
    return {(a, b) for a, b in edges if a in RULES and b in RULES and a != b}


def drawing_of_stage(stage: str, edges: set[Edge]) -> str:
    """The rules of a stage; in dashed boxes the stages that it reads from, and those that read it.

    Volumes of all kinds are finished by the same rules, so the whole graph has cycles; that of a
    stage has none, because what comes before it and what comes after are boxes of their own.
    """
    own = {name for name, rule in RULES.items() if rule.stage == stage}

    def other(name: str) -> str:
        return STAGES[RULES[name].stage]

    shown = set()
    for a, b in edges:
        if own & {a, b}:
            start = a if a in own else f"{other(a)} \u2192"
            shown.add((start, b if b in own else f"\u2192 {other(b)}"))
    shown = reduced(shown)
    styles = {name: Style() if name in own else _OTHER for name in own.union(*shown)}
    return svg(shown, styles, f"Rules of the stage {STAGES[stage]}")


# ------------------------------------------------------------------ files
def drawings() -> dict[Path, str]:
    """Every generated file with the content that it should have."""
    edges = rule_graph()
    made = {HERE / f"rules-{stage}.svg": drawing_of_stage(stage, edges) for stage in STAGES}
    imports = reduced(room_imports())
    made[HERE / "rooms.svg"] = svg(imports, dict.fromkeys(rooms(), Style()), "Rooms of the library")
    made[PAGE] = _TABLE.sub(lambda _: table_of_rooms(), PAGE.read_text(encoding="utf-8"))
    return made


def main() -> None:
    for path, text in drawings().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
