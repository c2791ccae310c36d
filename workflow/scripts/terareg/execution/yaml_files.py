"""Configuration files: YAML read safely, bounded in size, with no key given twice."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from terareg.core.errors import ConfigError
from terareg.storage.foreign import boundary, decode_text, read_bytes, shorten

_MOST_YAML_BYTES = 2**18
_MOST_NODES, _MOST_DEPTH = 100_000, 50


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    ConfigError
        If it is a folder, cannot be read, has a key twice, or is larger or deeper than any real
        configuration.
    """
    if path.is_dir():
        raise ConfigError(
            f"{path} cannot be read: it is a folder, not a sample file; write one with: "
            f"terareg init {shlex.quote(str(path))}"
        )
    with boundary(str(path), ConfigError, "correct the path or the file"):
        text = decode_text(read_bytes(path, _MOST_YAML_BYTES))
        try:
            data = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
        except ConfigError as error:
            raise ConfigError(f"{path} {error}") from error
        except yaml.YAMLError as error:
            line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
            raise ConfigError(
                f"{path} is not valid YAML (line {line}); correct it there"
            ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} contains no settings; write keys and values (key: value)")
    check_size(data, str(path))
    return data


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations key by key; ``over`` wins, lists are replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def check_size(data: Any, name: str) -> None:
    """Raise if a configuration is deeper or larger than any real one, or contains itself.

    Aliases of YAML cost nothing to read, but walking through them may never end.
    """
    left, stack = _MOST_NODES, [(data, 0)]
    while stack:
        value, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _MOST_DEPTH:
            how = f"more than {_MOST_DEPTH} levels" if left >= 0 else f"over {_MOST_NODES} values"
            raise ConfigError(
                f"{name} has {how} when its aliases (&, *) are expanded; write it without them"
            )
        if isinstance(value, Mapping):
            stack += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, (list, tuple)):
            stack += [(part, depth + 1) for part in value]


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, and numbers that YAML reads as others."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer as people read it: 010 is 8 in YAML, 1:30 is 90, and 1_0 is 10."""
        value: int = super().construct_yaml_int(node)
        plain = node.value.lower()
        if plain.lstrip("+-").startswith(("0x", "0b")) or plain.lstrip("+-") == str(abs(value)):
            return value
        raise ConfigError(
            f"line {node.start_mark.line + 1}: {shorten(node.value, 40)} is {value} in YAML; write "
            f"a number in digits alone, or '{shorten(node.value, 40)}' in quotes for a name"
        )

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """The same for floating-point numbers: 1:30.5 is 90.5."""
        value: float = super().construct_yaml_float(node)
        if ":" in node.value:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: {shorten(node.value, 40)} is {value} in YAML; "
                f"write a number without colons, or '{shorten(node.value, 40)}' in quotes"
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise ConfigError(
                        f"line {line}: key {shorten(key.value, 60)} appears twice (first on line "
                        f"{seen[key.value]}); remove one of them"
                    )
                seen[key.value] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


for _kind in ("int", "float"):
    _Loader.add_constructor(
        f"tag:yaml.org,2002:{_kind}", getattr(_Loader, f"construct_yaml_{_kind}")
    )
