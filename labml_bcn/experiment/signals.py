r"""
---
title: Stopping at a good moment
summary: >
  Ctrl-C and SIGTERM ask a run to stop; it answers between two steps, when
  there is something whole to keep.
---

# Stopping at a good moment

A scheduler that wants its machine back sends SIGTERM and waits a little. A
person presses Ctrl-C. In both cases the run should finish its step, keep
what it has, and go. So the signal only leaves a mark, and the loop looks at
the mark where it suits it.

Who presses Ctrl-C twice does not want to wait. After the first signal,
everything is as it was before: the second one ends the program at once, and
what was not kept is taken again from the last checkpoint.
"""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """What is going on can be left undone: it will be done again."""


class Stop:
    r"""
    ## The mark

    Used in a `with` statement, it listens for the signals inside of it.

    **Arguments**

    - `listen`: without, no signal is taken: where nothing is kept, it is
      better to stop at once. Nor can it be done in another thread than the
      first, which is Python's rule.

    **Attributes**

    - `signal`: the number of the signal that has come, 0 before.
    """

    def __init__(self, listen: bool) -> None:
        first = threading.current_thread() is threading.main_thread()
        self.listen = listen and first
        self.signal = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if self.listen:
            self.before = {
                number: signal.signal(number, self.mark) for number in SIGNALS
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def mark(self, number: int, _: FrameType | None) -> None:
        r"""
        Remember the signal, and listen no longer.
        """
        self.signal = number
        self.__exit__()

    def __bool__(self) -> bool:
        return self.signal != 0

    def check(self) -> None:
        r"""
        Raise `Interrupted` where a signal has come.
        """
        if self:
            raise Interrupted
