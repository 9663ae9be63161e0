"""Small sites that MkDocs builds in this process."""

from pathlib import Path
from typing import Any

import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config


def build_small_site(root: Path, settings: dict[str, Any]) -> Path:
    """Build the site in a folder with these settings, and return where it lies."""
    file, out = root / "mkdocs.yml", root / "out"
    file.write_text(yaml.safe_dump(settings))
    config = load_config(str(file), site_dir=str(out))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return out
