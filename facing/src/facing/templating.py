"""Make HTML from templates, which escape what they are given."""

import html
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def _escape(value: Any) -> Any:
    """Escape as the standard library does, `&quot;` rather than `&#34;`."""
    return value if hasattr(value, "__html__") else Markup(html.escape(str(value)))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=_escape,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def render(template: str, **values: Any) -> str:
    """Return a template filled with values; what is HTML it says by `|safe`."""
    return _ENVIRONMENT.get_template(template).render(values)
