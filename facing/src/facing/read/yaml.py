"""Read YAML; what is wrong in it is a problem at its line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from facing.problem import Problem
from facing.read.text import read_text


def load_yaml(path: Path) -> Any:
    """Return what a YAML file holds; raise `Problem` if it is not valid."""
    with _problems_of(path):
        return yaml.safe_load(read_text(path))


def compose_yaml(path: Path) -> yaml.Node | None:
    """Return a YAML file as nodes, which know their lines."""
    with _problems_of(path):
        return yaml.compose(read_text(path), yaml.SafeLoader)


def load_front_matter(text: str, path: Path, first: int) -> Any:
    """Return what YAML inside another file holds; `first` is its first line."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        line, reason = _place_and_reason(error)
        raise Problem(path, first + line, f"front matter: {reason}") from None


@contextmanager
def _problems_of(path: Path) -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        line, reason = _place_and_reason(error)
        raise Problem(
            path,
            line + 1,
            f"not valid YAML: {reason}; quote what holds any of [ ] {{ }} , "
            "# : and double each backslash between double quotes",
        ) from None


def _place_and_reason(error: yaml.YAMLError) -> tuple[int, str]:
    """Return the line where the YAML is wrong, counted from 0, and why."""
    mark = getattr(error, "problem_mark", None)
    return mark.line if mark else 0, getattr(error, "problem", None) or str(error)
