"""Downloads CIFAR-10's binary archive: 170,052,171 bytes, checked and unpacked.

The archive is known by its MD5 sum. When it is unpacked, the digests of its files are
written beside them, and hold from then on.
"""

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from labml_bcn.experiment.atomic_files import hold
from labml_bcn.experiment.checksums import digest_of, write_sums
from labml_bcn.experiment.optional_packages import optional_package, progress_bar

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
SIZE = 170_052_171
# Seconds to wait for a connection, and for the next bytes.
TIMEOUT = (4, 30)
# How a folder is called in which a download is on its way.
PART = ".download-"


class DownloadError(OSError):
    """The archive could not be had, or is not the one that was expected."""


def fetch(
    cache: Path,
    folder: str,
    *,
    url: str = URL,
    md5: str = MD5,
    progress: bool | None = None,
) -> Path:
    """Download the archive and return its `folder`, unpacked into `cache`.

    All happens in a folder beside the final one, which gets its name when it is
    complete: whoever finds that name finds all files. Of several processes that want
    the archive one downloads it, and the others wait. `progress` shows a bar; `None`
    does so if there is a terminal.

    Raises `DownloadError` if the server cannot be reached, the archive is another one
    than expected, or there is no room for it.
    """
    optional_package("pooch").get_logger().setLevel("WARNING")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with hold(cache) as held:
            if (cache / folder).is_dir():
                return cache / folder
            if held:
                _clear(cache)
            return _download(cache, folder, url, md5, progress)
    # Pooch's word for another checksum. What is wrong on the way is an OSError, that
    # of the package requests as well.
    except ValueError as error:
        raise DownloadError(
            f"the archive from {url} must have the MD5 sum {md5}, but has another: it"
            " was damaged on its way, or is another file. It was removed; try again."
        ) from error
    except OSError as error:
        raise DownloadError(
            f"CIFAR-10 could not be downloaded from {url} to {cache}: {error}. Try"
            " again; or get it another way and set LABML_BCN_DATA to the folder that"
            f" holds {folder}."
        ) from error


def _download(
    cache: Path, folder: str, url: str, md5: str, progress: bool | None
) -> Path:
    pooch = optional_package("pooch")
    bar = progress_bar(SIZE, label="CIFAR-10", progress=progress, unit="B")
    with (
        closing(bar),
        tempfile.TemporaryDirectory(dir=cache, prefix=PART) as temporary,
    ):
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            path=temporary,
            downloader=pooch.HTTPDownloader(bar, timeout=TIMEOUT),
            processor=pooch.Untar(extract_dir="unpacked"),
        )
        unpacked = Path(temporary, "unpacked", folder)
        files = sorted(path for path in unpacked.iterdir() if path.is_file())
        write_sums(unpacked, {p.name: digest_of(p.read_bytes()) for p in files})
        return _move(unpacked, cache / folder)


def _clear(cache: Path) -> None:
    # Who was killed in the middle has left its part, 170 MB of it perhaps. Nobody else
    # is at it, for the cache is held.
    for part in cache.glob(f"{PART}*"):
        shutil.rmtree(part, ignore_errors=True)


def _move(folder: Path, target: Path) -> Path:
    try:
        os.rename(folder, target)
    except OSError:
        # Where a folder cannot be held, another process may have been faster; its
        # files are as good.
        if not target.is_dir():
            raise
    return target
