"""What becomes of tests whose browser, data or packages are not there."""

import os
from typing import NoReturn

import pytest


def skip_or_fail(what: str) -> NoReturn:
    """Skip a test, or a file of them, that lacks what it needs; under CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip this test")
    pytest.skip(f"{what} is missing", allow_module_level=True)
