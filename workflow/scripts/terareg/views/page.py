"""Pages from templates: self-contained HTML that asks no network for anything."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

# cells that are not broken over lines
_NUMBER = r"[-+]?[\d.,\u202f e%×()–-]+( (kB|MB|GB|B|µm|mm|mm³|%))?"
_IMAGES = {".png": "png", ".jpg": "jpeg"}


def render_page(template: str, data: Mapping[str, Any]) -> str:
    """The page of a template beside this module; values are escaped, absent ones are errors."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["number"] = lambda text: re.fullmatch(_NUMBER, text) is not None
    return environment.get_template(template).render(**data)


def embedded_image(path: Path) -> str:
    """A picture as an address that holds all of it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/{_IMAGES[path.suffix]};base64,{data}"
