"""What users read keeps the rules of docs/development/messages.md, as far as a program can tell."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from terareg.views.thresholds import THRESHOLDS

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflow"
PAGE = ROOT / "docs/development/messages.md"
# what a reader stumbles over, and what to write instead
AVOID = {
    r"\b(says?|said) that\b|\bdo(es)? not say\b|\b\w+ says \d": "states",
    r"\bholds? (?!back)": "contains, has",
    r"\blacks?\b": "is not in, has no",
    r"\b(is|are) there twice\b": "appears twice",
    r"\bexchange them\b": "swap them",
    r"\b(is|are) not possible\b": "is impossible",
    r"\b(is|are) not known\b": "is unknown",
    r"\bso that\b": "so, or a sentence of its own",
    r"\bpassed over\b": "ignored",
    r"\bbelieved\b": "used",
    r"\banew\b": "again",
    r"\b(is|was|were) asked for\b": "is needed, was requested",
    r"\blooked (at|for)\b": "inspected, searched",
    r"\bdata sets?\b": "dataset",
    r"\bwithout partner\b": "without a counterpart",
    r"\bgo(es)? with\b": "match",
    r"\bcannot hold\b|\bbeyond float": "is too large for",
    r"\bwhat is finished is kept\b": "finished work is kept",
    r"\bnobody\b|\bsomebody\b": "the passive, or who it is",
    r"\blie(s)? (in|on|beside|among|below)\b": "is in, is on",
    r"\w's (message|user)s?\b|n't\b|\bit's\b": "no short forms",
}


class Text(NamedTuple):
    """A text for users, with ``{}`` for values, and where it stands."""

    where: str
    text: str


def _literal(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_literal(node.left), _literal(node.right)]
        return None if sides == [None, None] else "".join(side or "{}" for side in sides)
    return None


@cache
def raised() -> list[Text]:
    """Messages of errors that the library and the scripts raise."""
    found = []
    for path in sorted(WORKFLOW.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = _literal(node.exc.args[0])
                if text is not None and " " in text:
                    found.append(Text(f"{path.relative_to(WORKFLOW)}:{node.lineno}", text))
    return found


def described(node: object, key: str = "") -> list[Text]:
    """Descriptions of the keys of the configuration."""
    if isinstance(node, list):
        return [text for each in node for text in described(each, key)]
    if not isinstance(node, dict):
        return []
    found = [Text(key, node["description"])] if isinstance(node.get("description"), str) else []
    return found + [
        text for name, each in node.items() for text in described(each, f"{key}.{name}")
    ]


@cache
def texts() -> list[Text]:
    """All texts that the rules are checked on."""
    schema = yaml.safe_load((WORKFLOW / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    judged = [
        Text(key, row[part]) for key, row in THRESHOLDS.items() for part in ("text", "advice")
    ]
    captions = [Text(path.name, path.read_text("utf-8")) for path in WORKFLOW.glob("report/*.rst")]
    return raised() + described(schema) + judged + captions


def test_messages_are_one_line_without_full_stop():
    wrong = [
        text
        for text in raised()
        if "\n" in text.text or "  " in text.text or re.search(r"(?<!\.\.)[.!]$", text.text)
    ]
    assert len(raised()) > 800
    assert wrong == []


@pytest.mark.parametrize("phrase", AVOID)
def test_no_text_stumbles(phrase):
    found = [text for text in texts() if re.search(phrase, text.text)]
    assert found == [], f"write: {AVOID[phrase]}"


@pytest.mark.parametrize(
    "text",
    ["its OME-XML says that it has 3 planes", "a.tif holds 3 images", "id 5 is there twice",
     "z_first is above z_last; exchange them", "which the atlas lacks", "tiles lie beside it"],
)  # fmt: skip
def test_the_check_sees_what_it_is_for(text):
    assert any(re.search(phrase, text) for phrase in AVOID)


def test_examples_of_the_page_keep_the_rules():
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    examples = [after for before, after in rows if before != "before" and "---" not in before]
    assert len(examples) >= 8
    assert [a for a in examples for phrase in AVOID if re.search(phrase, a)] == []
