"""What the tests share: seeds, real images, and no silent skips under CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.browsing import (  # noqa: F401
    browser,
    built_site,
    page_urls,
    parsed_pages,
    site_url,
    skip_or_fail,
    standalone,
    standalone_url,
    visit,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The root of real CIFAR-10 images, from LABML_BCN_DATA."""
    root = os.environ.get("LABML_BCN_DATA")
    if not root:
        skip_or_fail("LABML_BCN_DATA (a folder with real CIFAR-10 images)")
    return Path(root)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Steps this small are not faster on several busy cores, but slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
