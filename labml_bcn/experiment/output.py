"""What a command says, to whoever still listens.

`| head` reads ten lines and leaves; a terminal is closed, and knows no umlauts. None
of this is an error of the run.
"""

import os
import sys
from contextlib import suppress
from typing import Any

from labml_bcn.experiment import ranks


def say(text: str) -> None:
    """Write a line to the standard output."""
    Listened(sys.stdout).write(f"{text}\n")


def tell(message: str) -> None:
    """Write to the standard error stream; of several processes, say which."""
    who = f"process {ranks.rank()}: " if ranks.size() > 1 else ""
    Listened(sys.stderr).write(f"{who}{message}\n")


def finish_output() -> None:
    """Hand over what was written, so that nothing is left to fail at the exit."""
    for stream in (sys.stdout, sys.stderr):
        Listened(stream).flush()


class Listened:
    """A stream that may be closed by its reader: then what is written goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        """Write, with what the stream has no letters for spelled out, and flush."""
        letters = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(letters, "backslashreplace").decode(letters))
        except OSError:
            self._drop()
        self.flush()

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        # What the stream still holds would fail again, at the latest at the exit.
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
