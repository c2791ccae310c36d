"""What the pages say of the code is there: modules, tests, identifiers, the version."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import terareg
from terareg.execution.rule_table import RULES
from terareg.views.thresholds import THRESHOLDS

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "workflow/scripts/terareg"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "config/README.md",
     ROOT / "profiles/README.md"]
)  # fmt: skip
_CODE = re.compile(r"`([^`\n]+)`")
_TEST = re.compile(r"(?:browser/)?test_\w+(?:::test_\w+)?|::test_\w+")
_MODULE = re.compile(r"[\w./-]*\w\.(?:py|smk)")
_IDENTIFIER = re.compile(r"\b[A-CE-GV]\d{1,2}[a-z]?\b")


@cache
def functions_of_tests() -> dict[str, set[str]]:
    """Names of the test functions of every test file."""
    found = {}
    for path in ROOT.glob("tests/*/test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found[path.stem] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return found


def cited_tests(text: str):
    """Pairs of file and function (or None) of the tests that a page cites, with the line."""
    for number, line in enumerate(text.splitlines(), 1):
        file = None
        for name in _CODE.findall(line):
            if _TEST.fullmatch(name):
                before, _, function = name.partition("::")
                file = before.split("/")[-1] or file
                yield number, file, function or None


def missing_tests(text: str) -> list[str]:
    """Citations of tests that do not exist."""
    known = functions_of_tests()
    every = set().union(*known.values())
    wrong = []
    for line, file, function in cited_tests(text):
        if function is None and file in every:  # a function in many files, or a scheme of names
            continue
        if file not in known or (function and function not in known[file]):
            wrong.append(f"line {line}: {file}::{function}" if function else f"line {line}: {file}")
    return wrong


def missing_modules(text: str, page: Path) -> list[str]:
    """Paths of modules and rule files that do not exist, as seen from the page or the library."""
    beside = ("tests/unit", "tests/benchmarks", "workflow/rules")
    roots = (LIBRARY, ROOT, page.parent, *(ROOT / folder for folder in beside))
    named = {name.split("::")[0] for name in _CODE.findall(text)}
    paths = [name for name in named if _MODULE.fullmatch(name)]
    endings = {f"/{path.name}" for path in LIBRARY.rglob("*.py")}
    return sorted(
        name
        for name in paths
        if not any((root / name).is_file() for root in roots) and f"/{name}" not in endings
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_and_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    assert missing_tests(text) == []
    assert missing_modules(text, page) == []


@pytest.mark.slow
def test_what_is_named_wrongly_is_found():
    """The test above can fail: an old module, an old file of tests, a function of another file."""
    text = "`planning.py`, `test_ground_s3`, `test_docs::test_none`, `core/frames.py`\n`::test_x`"
    assert missing_modules(text, PAGES[0]) == ["planning.py"]
    assert missing_tests(text) == [
        "line 1: test_ground_s3", "line 1: test_docs::test_none", "line 2: None::test_x",
    ]  # fmt: skip


def rows_of_other_length(text: str) -> list[str]:
    """Rows of tables with more or fewer cells than their head; a page drops what is too much."""
    found, head, code = [], None, False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.startswith("```")
        if code or not line.startswith("|"):
            head = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        head = head or cells
        if cells != head:
            found.append(f"line {number}: {cells} cells of {head}")
    return found


def test_rows_of_tables_have_the_cells_of_their_head():
    wrong = {page.name: rows_of_other_length(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {name: rows for name, rows in wrong.items() if rows} == {}
    assert rows_of_other_length("| a | b |\n|---|---|\n| `1 \\| 2` | 3 | 4 |") == [
        "line 3: 3 cells of 2"
    ]


def features() -> dict[str, list[str]]:
    """Cells of every feature of docs/features.md by its identifier."""
    lines = (ROOT / "docs/features.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in lines if re.match(r"\| [A-GV]\d", line)]
    assert len({row[0] for row in rows}) == len(rows) > 80, "an identifier is there twice"
    return {row[0]: row[1:] for row in rows}


def test_every_feature_that_works_has_code_and_a_test():
    for name, (_, state, where, shown) in features().items():
        assert re.match(r"works|partly|not yet", state), name
        if state.startswith("works"):
            assert where and shown, name
            assert list(cited_tests(shown)), name


def test_rules_that_are_named_as_a_place_of_a_feature_exist():
    schema = (ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    for name, (_, _, where, _) in features().items():
        for code in _CODE.findall(where):
            if re.fullmatch(r"[a-z_]+", code):
                assert code in RULES or f"{code}:" in schema or code in TARGETS, f"{name}: {code}"


TARGETS = {"plan", "previews", "registration", "results", "store"}


@pytest.mark.slow
def test_identifiers_that_tests_cite_are_in_the_list():
    known, cited = features(), set()
    for path in ROOT.glob("tests/*/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names = re.findall(r"(?<=_)[a-cegv]\d{1,2}b?(?=_)", node.name)
                told = re.match(r"((?:[A-GV]\d{1,2}(?:, | to )?)+):", ast.get_docstring(node) or "")
                cited |= {name.upper() for name in names}
                cited |= set(_IDENTIFIER.findall(told[1])) if told else set()
    assert len(cited) > 5
    assert cited <= {name.upper() for name in known}


def test_every_defect_is_explained_with_its_test():
    text = (ROOT / "docs/development/defects.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| D(\d+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 46))
    assert all(list(cited_tests(shown)) for _, _, shown in rows)


def test_benchmarks_import_what_is_there():
    """They are not run by the tests, and would rot unseen."""
    for path in ROOT.glob("tests/benchmarks/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("terareg"):
                module = LIBRARY.parent / f"{node.module.replace('.', '/')}.py"
                package = LIBRARY.parent / node.module.replace(".", "/")
                for alias in node.names:
                    if module.is_file():
                        assert re.search(rf"\b{alias.name}\b", module.read_text()), path.name
                    else:
                        assert (package / f"{alias.name}.py").is_file(), (
                            f"{path.name}: {node.module}"
                        )


def test_the_version_is_stated_once():
    """In the library. The citation has it too, and the changelog's last heading; they agree."""
    version = terareg.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "terareg.__version__"}
    others = [ROOT / name for name in ("Dockerfile", "Makefile", "mkdocs.yml", ".ci/run")]
    others += [page for page in PAGES if page.name != "CHANGELOG.md"]
    others += [*ROOT.glob("profiles/*/*"), *ROOT.glob("workflow/**/*.smk")]
    others += [path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py"]
    word = re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])")
    assert [str(p) for p in others if word.search(p.read_text(encoding="utf-8"))] == []


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


#: names of files look like keys of sections of the same name
_FILES = (".json", ".html", ".tsv", ".csv", ".npy", ".smk")


def test_keys_that_pages_name_are_keys():
    """Of the configuration, or of the verdicts that report.thresholds may change."""
    table = (ROOT / "config/README.md").read_text(encoding="utf-8").split("## All keys")[1]
    keys = {key.replace("[]", "") for key in re.findall(r"^\| `([\w.\[\]]+)`", table, re.MULTILINE)}
    sections = {key.split(".")[0] for key in keys if "." in key}
    parts = {key.rpartition(".")[0] for key in keys} | keys | set(THRESHOLDS)
    checked = 0
    for page in PAGES:
        for name in _CODE.findall(page.read_text(encoding="utf-8")):
            key = re.match(r"(\w+)(?:\.\w+)+(?=$|:)", name)
            if key and key[1] in sections and not key[0].endswith(_FILES):
                checked += 1
                assert key[0] in parts, f"{page.relative_to(ROOT)}: {key[0]}"
    assert checked > 80


def test_the_recipe_of_a_rule_is_what_rules_and_scripts_do():
    """Its last line is that of every script, and its keywords are those of a rule that exists."""
    text = (ROOT / "docs/development/adding.md").read_text(encoding="utf-8")
    (call,) = re.findall(r"^ +(run_job\(.*\))$", text, re.MULTILINE)
    for path in ROOT.glob("workflow/scripts/*.py"):
        assert path.read_text(encoding="utf-8").rstrip().endswith(call), path.name
    rules = (ROOT / "workflow/rules/volumes.smk").read_text(encoding="utf-8")
    recipe = text.split("rule measure_brightness:")[1].split("**Its cost**")[0]
    existing = rules.split("rule finalize_volume:")[1].split("\nrule ")[0]
    keywords = [re.findall(r"^ +(\w+):", body, re.MULTILINE) for body in (recipe, existing)]
    assert keywords[0] == keywords[1]
