"""What the tests share: seeds, real images, two processes, no silent skips under CI."""

import os
from collections.abc import Iterator
from pathlib import Path

# Of two processes that test at once, each takes one core. torch reads this
# when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers.browsing import (  # noqa: F401
    browser,
    built_site,
    page_urls,
    parsed_pages,
    site_url,
    standalone,
    standalone_url,
    visit,
)
from helpers.missing import skip_or_fail

# The file that takes longest, and builds the site for all others. Of two processes
# one begins with it, and neither waits for it at the end.
LONGEST = "test_accessibility.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest."""
    items.sort(key=lambda item: item.path.name != LONGEST)


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
