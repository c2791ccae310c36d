"""Mypy plugin: ``tuple(...)`` has the length that its place asks for.

The library keeps sizes and positions as triples and makes them from generators, ``tuple(n // 2 for
n in shape)``, whose length no type checker knows. Such a call takes the length that is expected
where it stands, if its items fit; everything else about tuples is checked as usual.
"""

from collections.abc import Callable

from mypy.plugin import FunctionContext, Plugin
from mypy.subtypes import is_subtype
from mypy.types import Instance, TupleType, Type, UnionType, UnpackType, get_proper_type


def _as_expected(context: FunctionContext) -> Type:
    made = get_proper_type(context.default_return_type)
    expected = get_proper_type(context.api.expr_checker.type_context[-1])
    if not isinstance(made, Instance) or len(made.args) != 1:
        return made
    for option in expected.items if isinstance(expected, UnionType) else [expected]:
        option = get_proper_type(option)
        if not isinstance(option, TupleType):
            continue
        fixed = not any(isinstance(item, UnpackType) for item in option.items)
        if fixed and all(is_subtype(made.args[0], item) for item in option.items):
            return option
    return made


class _Tuples(Plugin):
    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _as_expected if fullname == "builtins.tuple" else None


def plugin(version: str) -> type[Plugin]:
    """What mypy asks a plugin for."""
    return _Tuples
