"""Files that survive a kill or a loss of power: whole, or as they were.

A file is written under another name, brought to the disk, and only then renamed: a
rename happens or does not happen, there is no half of it. Lines of JSON are added at
the end, and cut back to a length that is known to be whole.

Several processes may want one folder. Who writes a run locks it, and others are turned
away; who adds a file to a collection holds it for a moment, and others wait.
"""

import hashlib
import importlib
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from labml_bcn.experiment.outcome import FolderLocked, RunError

# Windows has other locks, which were not tried: there nobody is turned away.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole, or raise `OSError` and leave what was there."""
    # Always the same name: what a killed process left is overwritten.
    part = path.with_name("writing.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Bring the names in a folder to the disk, if the system can do that."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class JSONLines:
    """A file of JSON lines, opened for writing and locked for this process.

    A line is handed to the system when it is added, so that others can follow the
    file, and is safe from a loss of power after `sync`. `close` ends the writing and
    the lock. The file is made if it is missing.

    Raises `RunError` if the file cannot be opened, and `FolderLocked` if another
    process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(
                f"{path} cannot be written: {error.strerror}",
                "Allow to write it, or name another folder with --out",
                reason="not_writable",
            ) from error
        self.close = weakref.finalize(self, os.close, self.file)
        if not path.is_file():
            raise RunError(
                f"{path} must be a file, but is a pipe or a device. Bring it back, or"
                " name another folder with --out",
                reason="not_writable",
            )
        lock(self.file, path)
        self.size = os.lseek(self.file, 0, os.SEEK_END)

    def cut(self, size: int, digest: str | None = None) -> None:
        """Cut the file to the `size` in bytes that it had at a checkpoint.

        What follows belongs to steps that will be taken again. Raises `RunError` if
        the file is shorter than that, or these bytes have another SHA-256 than
        `digest`.
        """
        if self.size < size:
            raise RunError(
                f"{self.path} must have at least the {size:,} bytes it had at the"
                f" checkpoint, but has {self.size:,}. It was cut short: bring it back,"
                " or start anew in another folder",
                reason="file_damaged",
            )
        if digest and self._digest(size) != digest:
            iter(self)  # says where it is no JSON any longer
            raise RunError(
                f"{self.path} must begin with the {size:,} bytes that it had at the"
                f" checkpoint, with the SHA-256 {digest}, but they have"
                f" {self._digest(size)}. It was changed: bring it back, or start anew"
                " in another folder",
                reason="file_damaged",
            )
        os.ftruncate(self.file, size)
        self.size = os.lseek(self.file, 0, os.SEEK_END)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the lines that are there, or raise `RunError` if one is no JSON."""
        text = self.path.read_bytes()[: self.size]
        try:
            return iter([dict(json.loads(line)) for line in text.splitlines()])
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{self.path} must hold JSON, line by line, but does not: {error}."
                " Bring it back, or start anew in another folder",
                reason="file_damaged",
            ) from error

    def add(self, **values: Any) -> None:
        """Add a line, or raise `RunError` if it cannot be written: a full disk."""
        data = (json.dumps(values) + "\n").encode()
        try:
            while data:
                written = os.write(self.file, data)
                self.size, data = self.size + written, data[written:]
        except OSError as error:
            raise RunError(
                f"{self.path} could not be written to: {error.strerror}. Make room, and"
                " go on with --resume",
                reason="not_writable",
            ) from error

    def sync(self) -> tuple[int, str]:
        """Bring the lines to the disk; return the length in bytes and the SHA-256."""
        os.fsync(self.file)
        return self.size, self._digest(self.size)

    def is_in_place(self) -> bool:
        """Return whether the file still lies where it was opened.

        A file that was removed can be written to, but never be found again.
        """
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except OSError:
            return False

    def _digest(self, size: int) -> str:
        return hashlib.sha256(self.path.read_bytes()[:size]).hexdigest()


def lock(file: int, path: Path) -> None:
    """Lock a file for this process, until it closes it or ends.

    A scheduler may start a run again while the one before is still busy stopping. Two
    processes that write to one folder would spoil it. Raises `FolderLocked` if another
    process has the lock.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderLocked(
            f"another process is writing to {path}: wait until it has stopped, or name"
            " another folder with --out",
            reason="locked",
        ) from error
    except OSError as error:
        raise RunError(
            f"{path} cannot be locked: {error.strerror}. Its disk has no locks: name a"
            " folder on another one with --out",
            reason="not_writable",
        ) from error


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Wait until no other process of this machine holds a folder, and hold it.

    The lock is on the folder itself, and leaves no file behind. Windows and some shared
    disks have no such locks; nothing is held there, and what is yielded is false.
    """
    if fcntl is None:
        yield False
        return
    number = os.open(folder, os.O_RDONLY)
    held = False
    try:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
            held = True
        yield held
    finally:
        os.close(number)
