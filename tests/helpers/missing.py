"""What becomes of tests whose browser, data or packages are not there."""

import importlib
import os
from types import ModuleType
from typing import NoReturn

import pytest


def skip_or_fail(what: str) -> NoReturn:
    """Skip a test, or a file of them, that lacks what it needs; under CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip this test")
    pytest.skip(f"{what} is missing", allow_module_level=True)


def import_or_skip(name: str) -> ModuleType:
    """Import a package of the extra `ecosystem`, or skip a file of tests without it.

    `make ecosystem` installs the extra: there it fails instead.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What a package of the extra lacks itself is no reason to skip its tests.
        itself = f"{name}.".startswith(f"{error.name}.")
        if not itself or os.environ.get("LABML_BCN_ECOSYSTEM") == "require":
            raise
        pytest.skip(
            f"{name} is missing: `make ecosystem` installs it", allow_module_level=True
        )
