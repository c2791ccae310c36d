"""The code fingerprint follows imports and ignores what does not matter."""

import ast
import shutil
import subprocess
import sys

import pytest

from terareg.execution import code_fingerprint

MODULE = '''"""Docstring."""
import math

def value(x):
    """What it does."""
    # a comment
    return math.sin(x)
'''


@pytest.fixture
def scripts(tmp_path, root):
    """A copy of the scripts folder with one small module of its own."""
    library = tmp_path / "scripts" / "terareg"
    for name in ("core", "execution", "storage"):
        shutil.copytree(root / f"workflow/scripts/terareg/{name}", library / name)
    shutil.copy(root / "workflow/scripts/terareg/__init__.py", library)
    (library / "maths.py").write_text(MODULE)
    (library / "other.py").write_text("x = 1\n")
    (tmp_path / "scripts/job.py").write_text("from terareg.maths import value\nvalue(1)\n")
    return tmp_path / "scripts"


def fingerprint(scripts):
    program = (
        "from terareg.execution.code_fingerprint import code_fingerprint; "
        "print(code_fingerprint('job.py'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=scripts, env={"PYTHONPATH": str(scripts)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_comments_docstrings_layout_and_foreign_modules_do_not_count(scripts):
    before = fingerprint(scripts)
    text = (
        MODULE.replace("# a comment", "# another")
        .replace("What it does", "Says")
        .replace("def value(x):", "\n\ndef value(  x ):")
    )
    (scripts / "terareg/maths.py").write_text(text)
    (scripts / "terareg/other.py").write_text("x = 2\n")
    assert fingerprint(scripts) == before


def test_a_change_in_an_imported_module_counts(scripts):
    before = fingerprint(scripts)
    (scripts / "terareg/maths.py").write_text(MODULE.replace("sin", "cos"))
    assert fingerprint(scripts) != before


def test_a_change_behind_an_import_of_an_import_counts(scripts):
    (scripts / "terareg/maths.py").write_text("from terareg import other\n" + MODULE)
    before = fingerprint(scripts)
    (scripts / "terareg/other.py").write_text("x = 3\n")
    assert fingerprint(scripts) != before


def test_the_text_of_code_is_the_same_in_every_python():
    """As Python 3.11, 3.12 and 3.13 give it: another one would run everything again."""
    tree = ast.parse("class C: pass\n\ndef f(): return None\n")
    assert code_fingerprint.dumped(tree) == (
        "Module(body=[ClassDef(name='C', bases=[], keywords=[], body=[Pass()], decorator_list=[]), "
        "FunctionDef(name='f', args=arguments(posonlyargs=[], args=[], kwonlyargs=[], "
        "kw_defaults=[], defaults=[]), body=[Return(value=Constant(value=None))], "
        "decorator_list=[])], type_ignores=[])"
    )


#: what the library may come to use
SYNTAX = r"""
async def f(a, /, b: int = 1, *c, d=None, **e) -> None:
    async with a as x, b: await x
    return (yield), lambda: ..., [*c, {**e}], u"x", b"y", 1j, f"{a!r:>{b}}", a[1:, ::2]
match f:
    case [1, *rest] | {"k": C(v=1)}: pass
    case _ if (n := 1): raise E from None
try: pass
except* E: global g
"""


@pytest.mark.slow
def test_text_is_that_of_the_standard_library(root):
    """Of all code there is: another one would run everything again, or hide a change."""
    texts = [path.read_text() for path in (root / "workflow/scripts").rglob("*.py")]
    assert len(texts) > 100
    show = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    for text in (*texts, SYNTAX):
        tree = ast.parse(text)
        mine = code_fingerprint.dumped(tree)
        # the tree has lost its docstrings by now
        assert mine == ast.dump(tree, **show).replace(", type_params=[]", "")
