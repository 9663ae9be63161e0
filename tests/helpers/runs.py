"""Runs of the training command, in processes that can be killed."""

import contextlib
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_bcn.experiment import cifar10, train
from labml_bcn.experiment.run_folder import RunFolder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images to train on and eight to test with: noise, and quick."""
    folder = tmp_path_factory.mktemp("images") / cifar10.FOLDER
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        records = torch.randint(256, (8, 3073), generator=generator)
        records[:, 0] %= 10
        data = bytes(records.to(torch.uint8).flatten().tolist())
        (folder / name).write_bytes(data)
    return folder


def run_command(*arguments: Any, log: Path) -> None:
    """Run the command in this process, and leave with its exit status."""
    torch.set_num_threads(1)
    with (
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        status = train.main([str(each) for each in arguments])
    sys.exit(status)


def read_last_checkpoint(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run holds."""
    found = RunFolder(folder).load()
    assert found is not None
    step, state = found
    return {"step": step} | state


def rewrite_checkpoint(
    folder: Path, change: Callable[[dict[str, Any]], object], step: int | None = None
) -> None:
    """Change the newest checkpoint, and name it as it should be."""
    kept = RunFolder(folder).checkpoints()[-1]
    file = torch.load(kept.path, weights_only=True)
    change(file)
    kept.path.unlink()
    data = io.BytesIO()
    torch.save(file, data)
    digest = hashlib.sha256(data.getvalue()).hexdigest()[:16]
    name = f"step-{kept.step if step is None else step:09}-{digest}.pt"
    (folder / name).write_bytes(data.getvalue())


def assert_same_end(one: Path, other: Path) -> None:
    """Two runs have ended with the same bits, and the same metrics."""
    a, b = read_last_checkpoint(one), read_last_checkpoint(other)
    assert a["step"] == b["step"]
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name
    for key, value in a["optimizer"]["state"].items():
        other_value = b["optimizer"]["state"][key]
        assert value.keys() == other_value.keys()
        for name, tensor in value.items():
            assert torch.equal(tensor, other_value[name]), name
    metrics = (one / "metrics.jsonl").read_bytes()
    assert metrics == (other / "metrics.jsonl").read_bytes()


def assert_same_step(one: Path, other: Path) -> None:
    """
    Two runs of one step have done the same, but for rounding.

    One step, for rounding grows from step to step. Loss and statistics then
    agree to the last digits. A gradient jumps where rounding puts a value on
    the other side of a ReLU's kink: that was up to 1.4 % when it was tried.
    """
    a, b = read_last_checkpoint(one), read_last_checkpoint(other)
    assert a["step"] == b["step"] == 1
    (loss, *_), (twin, *_) = (read_lines(p / "metrics.jsonl") for p in (one, other))
    assert loss["loss"] == pytest.approx(twin["loss"], rel=1e-5)
    for name, value in b["model"].items():
        error = (a["model"][name] - value).norm()
        share = 1e-4 if "exp_" in name else 0.05
        assert error <= share * value.norm(), name
    for key, kept in b["optimizer"]["state"].items():
        gradient = kept["momentum_buffer"]
        twin = a["optimizer"]["state"][key]["momentum_buffer"]
        assert (twin - gradient).norm() <= 0.05 * gradient.norm(), key


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_a_line(path: Path, status: Callable[[], int | None]) -> None:
    """Wait for the first line of a file, while its writer is alive."""
    while not (path.exists() and path.stat().st_size):
        assert status() is None, "the writer has ended before its first line"
        time.sleep(0.01)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without this project's own variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LABML_BCN")
    }
    return kept | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"} | more
