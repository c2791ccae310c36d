"""Mypy plugin: ``tuple(...)`` has the length that its place asks for.

The library keeps sizes and positions as triples and makes them with generators, ``tuple(n // 2 for
n in shape)``, whose length no type checker knows. Here such a call takes the length that is
expected where it stands, as long as its items fit; all else of a tuple is checked as ever.
"""

from mypy.plugin import FunctionContext, Plugin
from mypy.subtypes import is_subtype
from mypy.types import Instance, TupleType, Type, UnionType, UnpackType, get_proper_type


def _as_expected(context: FunctionContext) -> Type:
    made = get_proper_type(context.default_return_type)
    expected = get_proper_type(context.api.expr_checker.type_context[-1])  # type: ignore[attr-defined]
    if not isinstance(made, Instance) or len(made.args) != 1:
        return made
    wanted = expected.items if isinstance(expected, UnionType) else [expected]
    for option in map(get_proper_type, wanted):
        if isinstance(option, TupleType) and not any(
            isinstance(item, UnpackType) for item in option.items
        ):
            if all(is_subtype(made.args[0], item) for item in option.items):
                return option
    return made


class _Tuples(Plugin):
    def get_function_hook(self, fullname):  # type: ignore[no-untyped-def]
        return _as_expected if fullname == "builtins.tuple" else None


def plugin(version: str) -> type[Plugin]:
    return _Tuples
