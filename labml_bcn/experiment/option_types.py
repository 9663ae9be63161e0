"""What is typed after an option, and what it must be: numbers, files and folders.

A command may compute for hours before it writes what it has found. So what it was told
is tried before it begins: a time that never ends, a folder that is not there, a path
from a variable that was never set.

The last ones here are types for `argparse`. What they refuse ends a command with status
2 and with the option's name, before anything is done.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TypeVar

from labml_bcn.experiment.settings import AT_LEAST_ONE, Rule

T = TypeVar("T")

SECONDS = Rule("from 0 to 1,000,000", lambda value: 0 <= value <= 1_000_000)


def expand(text: str) -> Path:
    """Return a path in which `~` is a home folder, as a shell would have it.

    A shell leaves `--out=~/x` as it is. Raises `ValueError` for an empty path, which is
    no place, and for the home of a user who is not known.
    """
    if not text.strip():
        raise ValueError(
            f"must name a place, got {text!r}, perhaps of a variable that was never"
            " set; name one, or leave the option out"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{text} names a user who is not known here; write the folder without ~"
        ) from error


def require_new_file(path: Path) -> None:
    """Raise `ValueError` unless a file can be written there, or written anew."""
    # Writing atomically puts a file in the place of what is there: of a device, too.
    if path.exists() and not path.is_file():
        raise ValueError(f"must name a file, got {path}, which is none; name another")
    require_folder(path.parent)


def require_folder(path: Path) -> None:
    """Raise `ValueError` unless a folder is there and can be written to."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; make it, or name another")
    # Permissions do not tell it: a disk may be read-only, a folder one of the system.
    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written to: {error.strerror}; allow it, or name another"
            " folder"
        ) from error


def require_new_folder(path: Path) -> None:
    """Raise `ValueError` unless a folder can be written to, or made."""
    above = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not above.is_dir():
        raise ValueError(f"must name a folder, but {above} is none; name another")
    require_folder(above)


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Let what is said of a value begin with the option's name, as `argparse` does."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def option_type(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function as a type for `argparse`, which then says what is wrong."""

    @wraps(read)
    def typed(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


def number(kind: Callable[[str], T], rule: Rule) -> Callable[[str], T]:
    """Return the type of a number that keeps a rule."""

    @option_type
    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not rule.holds(value):
            raise ValueError(f"must be {rule.words}, got {text}")
        return value

    return read


def place(require: Callable[[Path], None]) -> Callable[[str], Path]:
    """Return the type of a path that keeps what `require` wants of it."""

    @option_type
    def read(text: str) -> Path:
        path = expand(text)
        require(path)
        return path

    return read


path = option_type(expand)
new_file = place(require_new_file)
folder = place(require_folder)
new_folder = place(require_new_folder)
seconds = number(float, SECONDS)
count = number(int, AT_LEAST_ONE)
