r"""
---
title: The folder of a run
summary: >
  One folder holds a run: its settings, its metrics and its checkpoints,
  written so that a process can be killed at any moment and nothing is lost.
---

# The folder of a run

A run is one folder:

| file | holds |
| --- | --- |
| `config.json` | the settings, which decide the result |
| `starts.jsonl` | a line for each start: command, versions, hardware |
| `metrics.jsonl` | a line for each point of the curve and each test |
| `timings.jsonl` | images per second |
| `step-….pt` | the newest two checkpoints |

Times have a file of their own: two runs of one seed have the same metrics,
byte for byte, and never the same speed.

**What has to hold.** A process may be killed at any moment, and the machine
may lose power. Whoever comes back must find a whole checkpoint, and the
metrics as they were at that step. Three rules give that:

1. A checkpoint is written under another name, forced to the disk, and only
   then renamed. A rename happens or does not happen; there is no half of it.
2. The one before is removed after the new one is in place, never earlier.
3. A checkpoint knows how long the metrics were when it was made. What was
   written later is cut off, and will be written again, the same.

A file can still be damaged later: cut short by a copy, or changed on the
disk. So the name of a checkpoint holds the digest of its bytes.

Checkpoints are read with `weights_only=True`: tensors, numbers and text, and
nothing that could execute.
"""

import hashlib
import importlib
import io
import json
import os
import pickle
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

# Windows has no such claims on files.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

FORMAT = 1
NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


class RunError(Exception):
    """A run cannot start or go on; the message says why, and what to do."""


class Checkpoint(NamedTuple):
    r"""
    ## A checkpoint

    Its file, the step that it was made after, and the start of the digest
    of its bytes, both from the file's name.
    """

    path: Path
    step: int
    digest: str


class Folder:
    r"""
    ## The folder

    `load` what is there, and `save` as often as you like. One process
    writes, and calls `open` before it loads; others may read.

    **Arguments**

    - `path`: the folder; it is made where it is missing.

    **Attributes**

    - `metrics`, `timings`: the files that `open` has opened, else `None`.

    **Raises** `RunError`: it cannot be made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics: Lines | None = None
        self.timings: Lines | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} must be a folder that can be written to:"
                f" {error.strerror}; name another one with --out"
            ) from error

    def open(self) -> None:
        r"""
        Open metrics and timings for writing.

        **Raises** `RunError`: they cannot be written, or another process is
        writing them.
        """
        self.metrics = Lines(self.path / "metrics.jsonl")
        self.timings = Lines(self.path / "timings.jsonl")

    def close(self) -> None:
        r"""
        Close them.
        """
        for lines in (self.metrics, self.timings):
            if lines:
                lines.close()
        self.metrics = self.timings = None

    def checkpoints(self) -> list[Checkpoint]:
        r"""
        Return the checkpoints that are there, the newest last.
        """
        matches = [(p, NAME.fullmatch(p.name)) for p in self.path.iterdir()]
        found = [Checkpoint(p, int(m[1]), m[2]) for p, m in matches if m]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def save(self, step: int, state: dict[str, Any]) -> None:
        r"""
        ### Save

        Write a checkpoint, and keep the one before it as well.

        **Arguments**

        - `step`: the number of steps taken.
        - `state`: tensors, numbers, text, and lists and dictionaries of
          these.

        **Raises** `RunError`: it could not be written. The ones before are
        untouched.
        """
        before = self.checkpoints()
        if before and before[-1].step == step:
            return
        try:
            sizes = {
                "metrics": self.metrics.sync() if self.metrics else 0,
                "timings": self.timings.sync() if self.timings else 0,
            }
            # Torch writes into memory, and Python the file: so a full disk
            # is an error with a name.
            buffer = io.BytesIO()
            head = {"format": FORMAT, "step": step, "sizes": sizes}
            torch.save(head | {"state": state}, buffer)
            data = buffer.getvalue()
            digest = hashlib.sha256(data).hexdigest()[:16]
            write(self.path / f"step-{step:09}-{digest}.pt", data)
            for old in before[:-1]:
                old.path.unlink()
        except OSError as error:
            raise RunError(
                f"the checkpoint of step {step:,} could not be written to"
                f" {self.path}: {error.strerror}. {self.last_good()} Make"
                f" room, and go on from it with --resume {self.path}"
            ) from error

    def load(self) -> tuple[int, dict[str, Any]] | None:
        r"""
        ### Load

        Return the newest checkpoint's step and state, or `None` where there
        is none. In a folder that is open, metrics and timings are cut to
        what they were at that step.

        A damaged checkpoint is not passed over in silence. The one before
        would do, for the steps between are taken again and give the same;
        but whoever runs this should know that files get damaged here.

        **Raises** `RunError`: the checkpoint is damaged or of another
        format, or metrics are missing.
        """
        found = self.checkpoints()
        file = read(found[-1], self.remedy(found)) if found else None
        sizes = file["sizes"] if file else {}
        if self.metrics and self.timings:
            self.metrics.cut(sizes.get("metrics", 0))
            self.timings.cut(sizes.get("timings", 0))
        return (file["step"], file["state"]) if file else None

    def last_good(self) -> str:
        r"""
        Name the newest checkpoint.
        """
        found = self.checkpoints()
        if not found:
            return "There is no checkpoint before it."
        newest = found[-1]
        return f"The last good checkpoint is of step {newest.step:,}: {newest.path}."

    def remedy(self, found: list[Checkpoint]) -> str:
        r"""
        Say what to do where the newest checkpoint is damaged.
        """
        remove = f"Remove {found[-1].path.name}"
        if len(found) < 2:
            return f"{remove}, and --resume starts the run anew"
        return (
            f"{remove}, and --resume goes on from the one before, of step"
            f" {found[-2].step:,}, to the same result"
        )


def write(path: Path, data: bytes) -> None:
    r"""
    ## Write a file whole or not at all

    First under another name and down to the disk; then renamed, and the
    folder, which holds the name, brought to the disk too.

    **Raises** `OSError`: it could not be written. What was there remains.
    """
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
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    r"""
    Bring the names in a folder to the disk, where the system can do that.
    """
    if os.name == "posix":
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def read(checkpoint: Checkpoint, remedy: str) -> dict[str, Any]:
    r"""
    ## Read a checkpoint

    Its bytes first, for the digest; then what they mean.

    **Arguments**

    - `checkpoint`: which one.
    - `remedy`: what to do if it is damaged.

    **Returns** what was saved, on the CPU.

    **Raises** `RunError`: it cannot be read, is damaged, or has another
    format.
    """
    path = checkpoint.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    if hashlib.sha256(data).hexdigest()[:16] != checkpoint.digest:
        raise RunError(
            f"{path} is damaged: its {len(data):,} bytes are not those that"
            f" were written. It was cut short or changed. {remedy}"
        )
    try:
        file: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise RunError(f"{path} is no checkpoint: {error}") from error
    found = file.get("format") if isinstance(file, dict) else None
    if found != FORMAT:
        raise RunError(
            f"{path} must have format {FORMAT} of checkpoints, but has"
            f" {found}: another version of labml_bcn wrote it. Go on with"
            " that version, or start anew in another folder"
        )
    return dict(file)


class Lines:
    r"""
    ## Metrics, a line at a time

    A file of JSON lines. A line is handed to the system when it is added, so
    that others can follow the file, and is safe from a loss of power after
    `sync`. `close` ends the writing.

    **Arguments**

    - `path`: the file; it is made where it is missing.

    **Raises** `RunError`: it cannot be opened, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        self.close = weakref.finalize(self, os.close, self.file)
        claim(self.file, path)
        self.size = os.lseek(self.file, 0, os.SEEK_END)

    def cut(self, size: int) -> None:
        r"""
        Cut the file to the `size` in bytes that it had at a checkpoint.

        What follows belongs to steps that will be taken again.

        **Raises** `RunError`: the file is shorter than that.
        """
        if self.size < size:
            raise RunError(
                f"{self.path} must have at least the {size:,} bytes it had at"
                f" the checkpoint, but has {self.size:,}. It was cut short:"
                " bring it back, or start anew in another folder"
            )
        os.ftruncate(self.file, size)
        self.size = os.lseek(self.file, 0, os.SEEK_END)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the lines that are there; `RunError`: one is no JSON."""
        text = self.path.read_bytes()[: self.size]
        try:
            return iter([dict(json.loads(line)) for line in text.splitlines()])
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{self.path} must hold JSON, line by line, but does not:"
                f" {error}. Bring it back, or start anew in another folder"
            ) from error

    def add(self, **values: float) -> None:
        r"""
        Add a line.

        **Raises** `RunError`: it could not be written, the disk being full.
        """
        data = (json.dumps(values) + "\n").encode()
        try:
            while data:
                written = os.write(self.file, data)
                self.size, data = self.size + written, data[written:]
        except OSError as error:
            raise RunError(
                f"{self.path} could not be written to: {error.strerror}. Make"
                " room, and go on with --resume"
            ) from error

    def sync(self) -> int:
        r"""
        Bring the lines to the disk, and return the length in bytes.
        """
        os.fsync(self.file)
        return self.size


def claim(file: int, path: Path) -> None:
    r"""
    Claim a file for this process, until it closes it or ends.

    A scheduler may start a run again while the one before is still busy
    stopping. Two processes that write to one folder would spoil it.

    **Raises** `RunError`: another process has claimed it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"another process is writing to {path}: wait until it has"
            " stopped, or name another folder with --out"
        ) from error
