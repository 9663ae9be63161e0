"""Where the checkout is, and what mkdocs.yml says."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, where !ENV stands for a variable that is not set."""


_Loader.add_constructor("!ENV", lambda loader, node: "")


def mkdocs_settings() -> dict[str, Any]:
    """Return the settings of the site."""
    return yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Loader)
