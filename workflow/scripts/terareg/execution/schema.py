"""The schema of the configuration: types, ranges and defaults of keys, and sentences about them.

The module needs the standard library, PyYAML and jsonschema, which come with Snakemake.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema
import yaml

from terareg.core.errors import ConfigError
from terareg.execution.installation import home
from terareg.storage.foreign import short

SCHEMA = home() / "workflow" / "schemas" / "config.schema.yaml"
_RENAMED = {"intensity.shadows": "intensity.destriping"}


def complete(config: dict[str, Any]) -> None:
    """Fill in all defaults in place, and raise :class:`ConfigError` for what the schema refuses."""
    _fill_defaults(config, _schema())
    errors = sorted(
        jsonschema.Draft202012Validator(_schema()).iter_errors(config),
        key=lambda e: (list(map(str, e.absolute_path)), e.validator or ""),
    )
    if errors:
        raise ConfigError(_sentence(jsonschema.exceptions.best_match(errors)))


def describe() -> str:
    """The keys of the configuration as a Markdown table (kept in config/README.md)."""
    schema = _schema()
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{k}` | {d} | {m} |" for k, d, m in _keys(schema, "")]
    return "\n".join(rows) + "\n"


def settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings of a complete configuration by dotted key, in the order of the schema.

    Returns
    -------
    dict
        Of each setting ``value``, ``default`` (None where there is none), and ``changed``: whether
        the value is another than the default.
    """
    return dict(_settings(config, _schema(), ""))


@cache
def _schema() -> dict[str, Any]:
    # every job of a cluster reads it: the loader in C takes a tenth of a second less
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schema: dict[str, Any] = yaml.load(SCHEMA.read_text(encoding="utf-8"), loader)  # noqa: S506
    return schema


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        return
    for key, part in schema.get("properties", {}).items():
        if key not in value and "default" in part:
            value[key] = copy.deepcopy(part["default"])
        if key in value:
            _fill_defaults(value[key], part)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        for key in value.keys() - schema.get("properties", {}).keys():
            _fill_defaults(value[key], extra)


def _sentence(error: jsonschema.ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "configuration"
    value, schema = error.instance, error.schema
    hint = schema.get("description", "see config/README.md") if isinstance(schema, Mapping) else ""
    shown = short(value, 120)
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = list(schema.get("properties", {}))
        unknown = sorted(set(value) - set(known))[0]
        near = difflib.get_close_matches(unknown[:40], known, 1, 0.6)
        prefix = "" if where == "configuration" else where + "."
        if prefix + unknown in _RENAMED:
            return f"{prefix}{unknown} is now called {_RENAMED[prefix + unknown]}; rename the key"
        advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{prefix}{unknown} is not a known key; {advice}"
    if error.validator == "required":
        missing = re.match(r"'(.*)' is a required", error.message)
        return f"{where}: key {missing.group(1) if missing else '?'} is missing; {hint}"
    if error.validator == "enum":
        near = difflib.get_close_matches(
            str(value)[:40], [str(v) for v in error.validator_value], 1
        )
        options = ", ".join(map(str, error.validator_value))
        advice = f"did you mean {near[0]}? (possible: {options})" if near else f"use {options}"
        return f"{where}: {shown} is not allowed; {advice}"
    if error.validator == "type" and "number" in str(error.validator_value) and _is_number(value):
        return f"{where}: {shown} is text in YAML, not a number; write {float(value):g}"
    if error.validator == "type":
        return (
            f"{where}: {shown} is not of type {_words(error.validator_value)}; {hint}"
            + (" (write the number alone; the name of the key fixes the unit)"
               if isinstance(value, str) and re.match(r"\s*[\d.]+\s*\S+", value) else "")
        )  # fmt: skip
    limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most",
              "exclusiveMaximum": "less than"}  # fmt: skip
    if error.validator in limits:
        return f"{where}: {shown} must be {limits[error.validator]} {error.validator_value}; {hint}"
    return f"{where}: {shown} does not fit; {hint}"


def _is_number(value: Any) -> bool:
    """Whether a text is a number that YAML does not take for one: '10', or 2e1 without a point."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d{1,2})?", value, re.I) is not None
    )


def _words(kind: Any) -> str:
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _settings(
    values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, part in schema.get("properties", {}).items():
        if key not in values:
            continue
        name, value, extra = prefix + key, values[key], part.get("additionalProperties")
        if part.get("properties") and isinstance(value, Mapping):
            yield from _settings(value, part, name + ".")
        elif isinstance(extra, Mapping) and extra.get("properties") and value:
            for one, settings in value.items():
                if isinstance(settings, Mapping):
                    yield from _settings(settings, extra, f"{name}.{one}.")
                else:
                    yield f"{name}.{one}", {"value": settings, "default": None, "changed": True}
        else:
            default = part.get("default")
            yield name, {"value": value, "default": default, "changed": value != default}


def _keys(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, part in schema.get("properties", {}).items():
        name = prefix + key
        inner = part.get("properties")
        extra = part.get("additionalProperties")
        if inner:
            yield from _keys(part, name + ".")
            continue
        needed = key in schema.get("required", [])
        default = "required" if needed else f"`{_yaml(part.get('default'))}`"
        yield name, default, " ".join(part.get("description", "").split()).replace("|", "\\|")
        if isinstance(extra, Mapping) and extra.get("properties"):
            yield from _keys(extra, f"{name}.NAME.")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("...").strip()


if __name__ == "__main__":
    import sys

    sys.stdout.write(describe())
