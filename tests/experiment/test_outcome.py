"""How a run has ended: one outcome for each way, and an exit status for each."""

import signal

import pytest
import torch
from torch import nn

from labml_bcn.experiment import cifar10, loop
from labml_bcn.experiment.outcome import (
    FolderLocked,
    Outcome,
    RunError,
    Stopped,
    outcome_of,
)
from labml_bcn.experiment.run_folder import RunFolder, read_outcome

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("done", 7, None, 0)),
        (Stopped(5, signal.SIGTERM), ("stopped", 5, "SIGTERM", 143)),
        (Stopped(5, signal.SIGINT), ("stopped", 5, "SIGINT", 130)),
        # Another process got the signal.
        (Stopped(5, 0), ("stopped", 5, "SIGTERM", 143)),
        (KeyboardInterrupt(), ("stopped", 7, "SIGINT", 130)),
        (RunError("x", reason="locked", step=8), ("failed", 8, "locked", 1)),
        (RunError("x"), ("failed", 7, "error", 1)),
        (FolderLocked("x", reason="locked"), ("failed", 7, "locked", 75)),
        (ValueError("x"), ("failed", 7, "exception", 1)),
        (OSError("x"), ("failed", 7, "exception", 1)),
        (RuntimeError("x"), ("failed", 7, "exception", 1)),
        (MemoryError(), ("failed", 7, "out_of_memory", 1)),
    ],
)  # fmt: skip
def test_every_way_to_end_has_its_outcome(error, expected):
    found = outcome_of(error, step=7)
    assert (found.outcome, found.step, found.reason, found.exit_status) == expected
    assert found.message


def test_an_error_says_its_remedy_and_the_outcome_does_not():
    error = RunError("the disk is full", "Make room", reason="not_writable")
    assert str(error) == "the disk is full. Make room"
    assert outcome_of(error).message == "the disk is full"


def test_an_outcome_is_read_by_name_as_it_was_written(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_outcome(tmp_path) is None
    outcome = Outcome("failed", 3, "nonfinite_loss", "in step 3 …", 1)
    folder.write_outcome(outcome)
    assert read_outcome(tmp_path) == outcome
    assert {path.name for path in tmp_path.iterdir()} == {"outcome.json"}
    folder.open()
    assert read_outcome(tmp_path) is None
    folder.close()


def test_an_outcome_for_which_there_is_no_room_is_not_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").rmdir()
    folder.write_outcome(outcome_of(None))
    assert read_outcome(tmp_path / "run") is None


class Failing(nn.Module):
    """Raises an error in the n-th training pass."""

    def __init__(self, error, call):
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.error, self.call, self.calls = error, call, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == self.call:
            raise self.error
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (KeyboardInterrupt(), "stopped", "SIGINT"),
        (ZeroDivisionError("x"), "failed", "exception"),
        (MemoryError(), "failed", "out_of_memory"),
    ],
)
def test_a_run_from_python_leaves_its_outcome_too(tmp_path, error, outcome, reason):
    data = cifar10.stand_in(20, 5)
    torch.manual_seed(0)
    with pytest.raises(type(error)):
        loop.train(Failing(error, 4), data, folder=RunFolder(tmp_path))
    found = read_outcome(tmp_path)
    assert (found.outcome, found.step, found.reason) == (outcome, 3, reason)
    # The folder is free again, and the next start replaces what it says.
    loop.train(Failing(error, 0), data, folder=RunFolder(tmp_path))
    assert read_outcome(tmp_path).outcome == "done"
