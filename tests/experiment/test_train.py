"""The command line: its help, its folder, and what it refuses."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import (
    assert_same_step,
    clean_environment,
    images,
    read_last_checkpoint,
    read_lines,
)

from labml_bcn.experiment import cifar10, train
from labml_bcn.experiment.run_folder import read_outcome

__all__ = ["images"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Runs are kept in a folder that goes away."""
    monkeypatch.chdir(tmp_path)


def command(*arguments: str, **environment: str):
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "labml_bcn.experiment.train",
            *arguments,
        ],
        capture_output=True,
        text=True,
        env=clean_environment(**environment),
    )


@pytest.mark.slow
def test_help_explains_every_option_and_gives_examples():
    done = command("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for action in train.parser()._actions:
        for name in action.option_strings:
            assert name in done.stdout, name
    for part in ("examples:", "files, in", "exit status:", "LABML_BCN_DATA"):
        assert part in done.stdout, part
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_every_option_has_help():
    actions = train.parser()._actions
    assert all(action.help for action in actions)


def test_every_example_of_the_help_parses():
    text = train.EPILOG.replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if " -m " in line]
    assert len(lines) == 7
    for words in lines:
        start = words.index("labml_bcn.experiment.train") + 1
        assert words[0] in ("python", "torchrun")
        train.parser().parse_args(words[start:])


@pytest.mark.slow
def test_a_tiny_run_prints_a_summary():
    done = command(
        "--stand-in", "--norm", "bcn", "--ws", "--images", "2", "--momentum",
        "0.01", "--variance-around", "running_mean",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "a procedural stand-in, not CIFAR-10" in done.stdout
    assert (
        "small bcn ws momentum=0.01 variance_around=running_mean,"
        " 289,290 parameters" in done.stdout
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("test accuracy ")
    assert " after 2 images in " in last


def test_the_same_command_prints_the_same_accuracies(images, capsys):
    tables = []
    words = ["--data", str(images), "--images", "10", "--seed", "3"]
    for _ in range(2):
        train.main(words)
        tables.append(capsys.readouterr().out.splitlines()[3:-1])
    assert tables[0] == tables[1]
    metrics = [path / "metrics.jsonl" for path in Path("runs").iterdir()]
    assert len(metrics) == 2
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--batch-size", "two"], "argument --batch-size: invalid int"),
        (["--images", "1"], "images=1 and batch_size=2"),
        (["--images", "0"], "images=0"),
        (["--groups", "5"], "groups=5 and 32 channels"),
        (["--norm", "bn", "--groups", "8"], "norm 'bn' has no groups"),
        (["--norm", "gn", "--no-estimate"], "norm 'gn' has no estimate"),
        (["--norm", "gn", "--momentum", "0.1"], "'gn' has no momentum"),
        (["--norm", "none", "--ws"], "--ws needs a norm"),
        (["--norm", "ln"], "invalid choice: 'ln'"),
        (["--momentum", "1.5"], "momentum must lie between 0 and 1"),
        (
            ["--no-estimate", "--variance-around", "running_mean"],
            "variance_around",
        ),
        (["--device", "gpu"], "device must be one that torch can use"),
        (["--device", "meta"], "device must be one that torch can use"),
        (["--threads", "100000"], "threads must be at most "),
        (["--out", ""], "--out must name a folder, got ''"),
        (["--out", "a" * 300], "cannot be looked into: File name too long"),
        (["--out", " "], "--out: must name a place, got ' '"),
        (["--out", "~nobody-here/x"], "--out: ~nobody-here/x names a user"),
        (["--resume", "~nobody-here/x"], "--resume: ~nobody-here/x names a user"),
        (["--images", str(10**20)], "at most 10,000,000,000 steps"),
        (["--timeout", "0"], "timeout must be positive and at most 1,000,000, got 0"),
        (["--seed", "-1"], "seed must be from 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--lr", "nan"], "lr must be positive"),
        (["--data", "nowhere"], "not allowed with argument --stand-in"),
        (["--images", "9", "--epochs", "1"], "not allowed with argument"),
        (["--epochs", "0"], "epochs must be positive and at most 1,000,000, got 0"),
        (["--hold-out", "0"], "held out must be at least one and fewer"),
        (["--hold-out", "7728"], "than the 7,728 training images, got 7,728"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--accumulate", "0"], "accumulate must be at least 1"),
        (["--schedule", "step"], "invalid choice: 'step'"),
        (["--warmup", "1"], "warmup must be a share of the run"),
        (["--checkpoint-every", "0"], "checkpoint_every must be at least 1"),
        (["--sync-statistics"], "own, needs more than one process"),
    ],
)
def test_bad_input_ends_with_a_message_and_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        train.main(["--stand-in", *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("two", "WORLD_SIZE must be a number of processes, got 'two'"),
        ("-2", "WORLD_SIZE must be a number of processes, got '-2'"),
        ("2", "variable RANK expected, but not set"),
    ],
)
def test_half_an_environment_of_a_group_is_refused(monkeypatch, capsys, size, message):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--stand-in"])
    said = capsys.readouterr().err
    assert message in said
    assert "start the command with torchrun, which sets it, or unset" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize("make", [Path.touch, lambda runs: runs.symlink_to("gone")])
def test_without_a_place_for_runs_another_one_is_advised(capsys, make):
    make(Path("runs"))
    with pytest.raises(SystemExit, match="2"):
        train.main(["--stand-in", "--images", "4"])
    said = capsys.readouterr().err
    assert "runs must be a folder that can be written to" in said
    assert "name another one with --out" in said


@pytest.mark.fault(
    "A folder of images with files missing",
    "status 2, with their names",
)
@pytest.mark.slow
def test_wrong_data_ends_with_a_message_and_2(tmp_path):
    (tmp_path / cifar10.FOLDER).mkdir()
    for done in (
        command("--data", str(tmp_path)),
        command(LABML_BCN_DATA=str(tmp_path)),
    ):
        assert done.returncode == 2
        assert "these are missing: data_batch_1.bin" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_data_names_the_remedies(tmp_path):
    done = command(
        HOME=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
        LOCALAPPDATA=str(tmp_path),
    )
    assert done.returncode == 2
    assert "no CIFAR-10 images were found" in done.stderr
    assert "--stand-in" in done.stderr


def test_data_that_cannot_be_read_ends_with_a_message_and_2(
    images, tmp_path, monkeypatch, capsys
):
    def broken(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(images)])
    assert (
        f"{images / 'data_batch_1.bin'} cannot be read: Input/output error"
        in capsys.readouterr().err
    )


def test_a_missing_compiler_is_reported_before_anything_is_written(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match="2"):
        train.main(["--stand-in", "--compile"])
    assert "compiler on a CPU, but no-such-comp" in capsys.readouterr().err
    assert not Path("runs").exists()


# --- The folder -------------------------------------------------------------


def test_a_run_is_one_folder(images, capsys):
    words = ["--data", str(images), "--norm", "gn", "--ws", "--epochs", "0.5"]
    assert train.main([*words, "--groups", "4"]) == 0
    folder = Path("runs/small-gn-ws-groups-4")
    assert f"kept in: {folder}\n" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["norm"] == "gn"
    assert config["settings"]["groups"] == 4
    assert config["settings"]["images"] == 20
    assert config["settings"]["digest"] == cifar10.read(images).digest
    (start,) = read_lines(folder / "starts.jsonl")
    assert start["torch"] == torch.__version__
    assert {"time", "command", "labml_bcn", "cpu", "cores"} <= start.keys()
    metrics = read_lines(folder / "metrics.jsonl")
    assert [m["images"] for m in metrics if "loss" in m] == [*range(2, 21, 2)]
    assert [m["images"] for m in metrics if "test_accuracy" in m] == [
        4, 8, 12, 16, 20,
    ]  # fmt: skip
    speeds = read_lines(folder / "timings.jsonl")
    assert [s["images"] for s in speeds] == [*range(2, 21, 2)]
    assert all(s["images_per_second"] > 0 for s in speeds)
    assert read_last_checkpoint(folder)["step"] == 10
    assert json.loads((folder / "outcome.json").read_text()) == {
        "outcome": "done",
        "step": 10,
        "reason": None,
        "message": "the run has come to its end",
        "exit_status": 0,
    }
    assert {path.suffix for path in folder.iterdir()} == {
        ".json", ".jsonl", ".pt",
    }  # fmt: skip


def test_images_held_out_take_the_place_of_the_test_images(images, capsys):
    words = ["--data", str(images), "--images", "8", "--out", "run"]
    assert train.main([*words, "--hold-out", "10"]) == 0
    assert "10 training images held out" in capsys.readouterr().out
    config = json.loads(Path("run/config.json").read_text())
    data = cifar10.read(images).hold_out(10)
    assert config["settings"]["digest"] == data.digest
    tests = [
        line["test_accuracy"]
        for line in read_lines(Path("run/metrics.jsonl"))
        if "test_accuracy" in line
    ]
    assert all(10 * accuracy == round(10 * accuracy) for accuracy in tests)
    # The run goes on with the images that it began with.
    assert train.main(["--resume", "run"]) == 0
    with pytest.raises(SystemExit):
        train.main(["--resume", "run", "--hold-out", "9"])
    assert "hold-out is 10 there and 9 here" in capsys.readouterr().err


def test_a_run_from_before_an_option_goes_on(images):
    assert train.main(["--data", str(images), "--out", "run"]) == 0
    file = Path("run/config.json")
    config = json.loads(file.read_text())
    del config["settings"]["optimizer"], config["settings"]["hold_out"]
    file.write_text(json.dumps(config))
    assert train.main(["--resume", "run"]) == 0


def test_the_summary_averages_the_curve(images, capsys):
    train.main(["--data", str(images), "--norm", "bn", "--images", "20"])
    table = [line.split() for line in capsys.readouterr().out.splitlines()[3:-1]]
    metrics = read_lines(Path("runs/small-bn/metrics.jsonl"))
    losses = [m["loss"] for m in metrics if "loss" in m]
    assert table[0] == ["images", "loss", "train", "test"]
    for k, row in enumerate(table[1:]):
        mean = (losses[2 * k] + losses[2 * k + 1]) / 2
        assert row[1] == f"{mean:.3f}"


def test_half_precision_is_close_to_full_precision(images):
    words = ["--data", str(images), "--ws", "--amp", "--images", "12"]
    assert train.main([*words, "--out", "amp"]) == 0
    assert train.main([*words[:-3], "--images", "12", "--out", "full"]) == 0
    amp, full = (read_lines(Path(p) / "metrics.jsonl") for p in ("amp", "full"))
    assert amp != full
    for one, other in zip(amp, full, strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], abs=0.3)


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(images):
    words = ["--data", str(images), "--ws", "--images", "2"]
    assert train.main([*words, "--compile", "--out", "compiled"]) == 0
    assert train.main([*words, "--out", "eager"]) == 0
    assert_same_step(Path("compiled"), Path("eager"))


def test_tensorboard_shows_what_the_metrics_say(images):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    words = ["--data", str(images), "--images", "20", "--out", "run"]
    assert train.main([*words, "--tensorboard"]) == 0
    board = accumulator.EventAccumulator("run/tensorboard").Reload()
    metrics = read_lines(Path("run/metrics.jsonl"))
    for tag, key in (
        ("train/loss", "loss"),
        ("train/accuracy", "accuracy"),
        ("train/last loss", "last_loss"),
        ("learning rate", "lr"),
        ("gradient norm", "gradient_norm"),
        ("test/accuracy", "test_accuracy"),
    ):
        shown, kept = board.Scalars(tag), [m for m in metrics if key in m]
        assert [e.step for e in shown] == [m["images"] for m in kept]
        values = [m[key] for m in kept]
        assert [e.value for e in shown] == pytest.approx(values)
    for tag in ("images per second", "seconds left", "memory"):
        assert len(board.Scalars(tag)) == 10


def test_without_tensorboard_the_remedy_is_named(images, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ["--data", str(images), "--images", "20", "--tensorboard"]
    assert train.main(words) != 0
    error = capsys.readouterr().err
    assert "pip install 'labml-bcn[tensorboard]'" in error


@pytest.mark.fault(
    "A loss that becomes NaN",
    "status 1; the step and the layer are named",
)
def test_a_loss_that_becomes_nan_ends_the_run_and_names_the_layer(images, capsys):
    words = ["--data", str(images), "--norm", "none", "--lr", "1e30"]
    assert train.main([*words, "--schedule", "constant"]) == 1
    error = capsys.readouterr().err
    assert "error: in step 2 the loss is nan: it arose in features." in error
    assert "(Conv2d)" in error
    assert "The last good checkpoint is of step 0: runs/small-none" in error
    assert error.endswith("with a lower --lr for instance\n")
    outcome = read_outcome(Path("runs/small-none"))
    assert (outcome.outcome, outcome.reason) == ("failed", "nonfinite_loss")
    assert (outcome.step, outcome.exit_status) == (2, 1)
    assert f"error: {outcome.message}. The last good" in error
