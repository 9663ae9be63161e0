"""How a run ends: done, stopped or failed, as its `outcome.json` says it."""

import signal
from dataclasses import dataclass

from labml_bcn.experiment import ranks
from labml_bcn.experiment.machine import out_of_memory

DONE, STOPPED, FAILED = "done", "stopped", "failed"
# The keys for a loss, and for weights, that are NaN or infinite.
NONFINITE_LOSS, NONFINITE_WEIGHTS = "nonfinite_loss", "nonfinite_weights"
NONFINITE = (NONFINITE_LOSS, NONFINITE_WEIGHTS)
# What sysexits.h calls EX_TEMPFAIL: try again later.
TRY_AGAIN = 75
# What says that a command does not fit, and ends it as argparse does, as long as
# nothing was changed.
USAGE_ERRORS = (ValueError, OSError, ModuleNotFoundError)


class RunError(Exception):
    """A run cannot start or go on: the message says why, the remedy what to do.

    `reason` is a key for programs, `step` the step in which it happened.
    """

    exit_status = 1

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        reason: str = "error",
        step: int | None = None,
    ) -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.message, self.reason, self.step = message, reason, step


class FolderLocked(RunError):
    """Another process is writing to the folder of the run."""

    exit_status = TRY_AGAIN


class Stopped(Exception):
    """A signal has stopped the run, and what it had reached is kept.

    `step` is how many steps were taken, `signal` the number of the signal: 0 if
    another process got it.
    """

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped after step {step:,}")
        self.step, self.signal = step, signal


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    `reason` is a key: of a failure, or the name of the signal that stopped it. A
    process that was killed leaves no outcome.
    """

    outcome: str
    step: int | None
    reason: str | None
    message: str
    exit_status: int


def outcome_of(error: BaseException | None, step: int | None = None) -> Outcome:
    """Return the outcome of a run that `error` has ended, or nothing has.

    `step` is the last one that was taken, as far as it is known.
    """
    if error is None:
        return Outcome(DONE, step, None, "the run has come to its end", 0)
    if isinstance(error, Stopped):
        number = signal.Signals(error.signal or signal.SIGTERM)
        return Outcome(STOPPED, error.step, number.name, str(error), 128 + number)
    if isinstance(error, KeyboardInterrupt):
        status = 128 + signal.SIGINT
        return Outcome(STOPPED, step, "SIGINT", "stopped at once", status)
    if isinstance(error, RunError):
        step = step if error.step is None else error.step
        return Outcome(FAILED, step, error.reason, error.message, error.exit_status)
    if out_of_memory(error):
        what = "there is not enough memory"
        return Outcome(FAILED, step, "out_of_memory", what, 1)
    if ranks.is_peer_failure(error):
        what = ranks.describe_peer_failure(error)
        return Outcome(FAILED, step, "peer_ended", what, 1)
    message = f"{type(error).__name__}: {error}"
    return Outcome(FAILED, step, "exception", message, 1)
