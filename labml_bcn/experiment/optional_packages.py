"""What needs a package of the extra `train`; reading images needs torch alone."""

import importlib
import sys
from typing import Any

from labml_bcn.experiment.output import Listened


def optional_package(name: str) -> Any:
    """Return a package, or raise `ModuleNotFoundError` with the remedy."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the package {name} is needed for this, but is not installed. Install it"
            " with: pip install 'labml-bcn[train]'",
            name=name,
        ) from error


def progress_bar(
    total: int,
    start: int = 0,
    label: str = "",
    progress: bool | None = None,
    unit: str = " images",
) -> Any:
    """Return tqdm's bar on the standard error stream, or a mute one.

    `progress` shows it or not; `None` does so if the stream is a terminal. What is
    stored, such as a notebook's output or a log, then stays free of it. `start` is what
    was done before.
    """
    return optional_package("tqdm").tqdm(
        total=total or None,
        initial=start,
        desc=label or None,
        unit=unit,
        unit_scale=unit == "B",
        file=Listened(sys.stderr),
        disable=None if progress is None else not progress,
        dynamic_ncols=True,
    )
