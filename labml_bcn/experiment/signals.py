"""Ctrl-C and SIGTERM ask a run to stop; it answers when there is something to keep.

A scheduler that wants its machine back sends SIGTERM and waits a little. A person
presses Ctrl-C, or closes the terminal, which is SIGHUP. In all cases the run should
finish its step, keep what it has, and go. So the signal is only noted, and the loop
looks at the note between two steps. Under `nohup` SIGHUP is ignored, and stays so.

Who presses Ctrl-C twice does not want to wait. After the first signal, everything is as
it was before: the second one ends the program at once, and what was not kept is taken
again from the last checkpoint.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class Interrupted(Exception):
    """What is going on can be left undone: it will be done again."""


class StopSignal:
    """Notes the first signal that comes inside its `with` statement; true after it.

    Without `listen` no signal is taken: if nothing is kept, it is better to stop at
    once. Nor can it be done in another thread than the first, which is Python's rule.
    `number` is that of the signal, 0 before it comes.
    """

    def __init__(self, listen: bool) -> None:
        first = threading.current_thread() is threading.main_thread()
        self.listen = listen and first
        self.number = 0
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.listen:
            self.handlers = {n: signal.signal(n, self.note) for n in SIGNALS}
            if HANGUP and signal.getsignal(HANGUP) is not signal.SIG_IGN:
                self.handlers[HANGUP] = signal.signal(HANGUP, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def note(self, number: int, _: FrameType | None) -> None:
        """Remember the signal, and listen no longer."""
        self.number = number
        self.__exit__()

    def __bool__(self) -> bool:
        return self.number != 0

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self:
            raise Interrupted
