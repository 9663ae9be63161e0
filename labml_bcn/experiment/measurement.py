"""How a command that measures ends, and how it writes what it has found."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from labml_bcn.experiment.atomic_files import hold, write_atomically
from labml_bcn.experiment.machine import out_of_memory
from labml_bcn.experiment.outcome import RunError
from labml_bcn.experiment.output import finish_output, tell

EXIT_STATUS = """\
exit status:
  0    all is measured, and written if that was asked for
  1    it could not go on: no memory, no room; the message says what to do
  2    the command does not fit; nothing was measured
  130  stopped by Ctrl-C, and nothing was written; 143 by SIGTERM
"""


def end_quietly(measure: Callable[[], int]) -> int:
    """Measure, and return the exit status: errors become a message with a remedy."""
    try:
        with _terminable():
            return measure()
    except RunError as error:
        tell(f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        tell("error: there is not enough memory; measure something smaller")
    except KeyboardInterrupt:
        tell("stopped; nothing was written")
        return 128 + signal.SIGINT
    finally:
        finish_output()
    return 1


@contextmanager
def _terminable() -> Iterator[None]:
    # SIGTERM ends as an exception does: what was started is ended, too, and what is
    # temporary is removed.
    def leave(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON to a file, whole or not at all, or raise `RunError`.

    Of several commands that write into one folder each does it by itself.
    """
    text = json.dumps(result, indent=1) + "\n"
    try:
        with hold(path.parent):
            write_atomically(path, text.encode())
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror}",
            "Make room, and measure again; what was found is printed above",
        ) from error
