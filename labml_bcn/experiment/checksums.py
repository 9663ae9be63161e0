"""Files that are what they were: their SHA-256 stands beside them, in `SHA256SUMS`.

Images lie in a folder for years, and records of a study in a repository. A disk loses a
block, a hand corrects a number; both would go unnoticed. The file is the one that the
command `sha256sum` writes, and checks with `sha256sum -c SHA256SUMS`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from labml_bcn.experiment.atomic_files import write_atomically

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def digest_of(data: bytes | bytearray) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the digests beside the files of a folder, by file name.

    It is `None` if there are none. Raises `ValueError` if a line cannot be read.
    """
    path = folder / SUMS
    if not path.is_file():
        return None
    found = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        if not (match := LINE.fullmatch(line)):
            raise ValueError(
                f"{path} must hold a SHA-256 and a file name in each line, but line"
                f" {number} is {line[:80]!r}. Bring it back, or write it anew with"
                " sha256sum"
            )
        # `sha256sum ./*` writes names with a folder.
        found[os.path.normpath(match[2])] = match[1].lower()
    return found


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the digests of files beside them."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    write_atomically(folder / SUMS, "".join(lines).encode())


def require_digest(
    path: Path, data: bytes | bytearray, sums: Mapping[str, str] | None, remedy: str
) -> None:
    """Raise `ValueError` unless a file's bytes are those that its folder names.

    `sums` are what `read_sums` has found; without any, nothing is required.
    """
    if sums is None:
        return
    if path.name not in sums:
        raise ValueError(
            f"{path} must be named in {SUMS} beside it, but is not: it came there in"
            f" another way than the files around it. {remedy}"
        )
    if (found := digest_of(data)) != sums[path.name]:
        raise ValueError(
            f"{path} must have the SHA-256 {sums[path.name]}, which {SUMS} beside it"
            f" names, but has {found}: it was damaged or changed. {remedy}"
        )
