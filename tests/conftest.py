"""What the tests share: seeds, real images, and no silent skips under CI."""

import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def missing(what: str) -> NoReturn:
    """Skip a test that lacks its browser or its data; under CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip this test")
    pytest.skip(f"{what} is missing")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The root of real CIFAR-10 images, from LABML_BCN_DATA."""
    root = os.environ.get("LABML_BCN_DATA")
    if not root:
        missing("LABML_BCN_DATA (a folder with real CIFAR-10 images)")
    return Path(root)
