"""Several processes, and what happens to one of them."""

import functools
import os
import signal
import socket
import subprocess
import sys
from itertools import islice

import pytest
import torch
from helpers.processes import start
from helpers.runs import (
    assert_same_end,
    assert_same_step,
    clean_environment,
    images,
    read_lines,
    run_command,
    wait_for_a_line,
)

from labml_bcn.experiment import cifar10, loop, ranks, train
from labml_bcn.experiment.run_folder import RunFolder, read_outcome

__all__ = ["images"]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

WORDS = "--norm bcn --ws --batch-size 1 --threads 1 --checkpoint-every 4".split()


def run_as(rank, size, port, words, log):
    """Run the command as one of several processes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    run_command(*words, log=log)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_group(size, *words, folder):
    """Start so many processes of one run; each has a log of its own."""
    port = free_port()
    words = (*WORDS, *words, "--out", folder, "--resume")
    return [
        start(functools.partial(run_as, k, size, port, words, log_of(folder, k)))
        for k in range(size)
    ]


def log_of(folder, rank):
    return folder.with_name(f"{folder.name}-{rank}.log")


def end(processes):
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run of two processes that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    words = ("--data", images, "--images", 160)
    group = start_group(2, *words, folder=folder)
    assert end(group) == [0, 0], log_of(folder, 0).read_text()
    return folder, words


@pytest.mark.fault(
    "A process of several is frozen",
    "the others end after --timeout, and say what they know; the end is the same",
)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_process_ends_the_run(whole, tmp_path, victim):
    folder = tmp_path / "run"
    reference, words = whole
    group = start_group(2, *words, "--timeout", 6, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: group[0].exitcode)
    os.kill(group[victim].pid, signal.SIGSTOP)
    other = group[1 - victim]
    other.join()
    said = log_of(folder, 1 - victim).read_text()
    group[victim].kill()
    group[victim].join()
    assert other.exitcode == 1, said
    assert f"process {1 - victim}: error: another process has not answered" in said
    assert "--timeout" in said
    assert said.endswith(f"with --resume {folder}\n")
    assert "Traceback" not in said
    if victim == 1:
        assert read_outcome(folder).reason == "peer_ended"
        assert "has not answered" in read_outcome(folder).message
    group = start_group(2, *words, folder=folder)
    assert end(group) == [0, 0]
    assert_same_end(folder, reference)


@pytest.mark.fault(
    "A process of several is killed with -9",
    "the others end; nobody claims that it told why; the end is the same",
)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_not_said_to_have_told_why(whole, tmp_path, victim):
    folder = tmp_path / "run"
    reference, words = whole
    group = start_group(2, *words, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: group[0].exitcode)
    group[victim].kill()
    codes = end(group)
    said = log_of(folder, 1 - victim).read_text()
    assert codes[1 - victim] == 1, said
    assert "another process has ended; if it does not say why, it was killed" in said
    assert "Traceback" not in said
    group = start_group(2, *words, folder=folder)
    assert end(group) == [0, 0]
    assert_same_end(folder, reference)


@pytest.mark.fault(
    "Several processes and a folder that another run has",
    "all end with the same words, none waits for another",
)
def test_all_processes_are_turned_away_together(images, tmp_path):
    folder = tmp_path / "run"
    holder = RunFolder(folder)
    holder.lock()
    try:
        group = start_group(2, "--data", images, folder=folder)
        assert end(group) == [75, 75]
    finally:
        holder.close()
    for rank in range(2):
        assert f"process {rank}: error: another process is writing" in (
            log_of(folder, rank).read_text()
        )


@pytest.mark.fault("The port of a group is in use", "status 2, with another way")
def test_a_port_in_use_is_named(images, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        log, words = tmp_path / "log", (*WORDS, "--data", images, "--out", "run")
        process = start(functools.partial(run_as, 0, 2, port, words, log))
        process.join()
    said = log.read_text()
    assert process.exitcode == 2, said
    assert f"the processes could not meet at 127.0.0.1:{port}" in said
    assert "--master-port" in said
    assert "Traceback" not in said


@pytest.mark.fault("A process that never comes", "the others end after --timeout")
def test_a_process_that_never_comes_is_not_waited_for_for_ever(images, tmp_path):
    log, words = tmp_path / "log", (*WORDS, "--data", images, "--timeout", 3)
    process = start(functools.partial(run_as, 0, 2, free_port(), words, log))
    process.join()
    assert process.exitcode == 2, log.read_text()
    assert "if a process is missing, start all of them" in log.read_text()


@pytest.mark.fault(
    "Three processes with one image each", "the step of one process with three"
)
@pytest.mark.parametrize("norm", ["bn", "bcn"])
def test_three_processes_are_one_with_the_product_batch_size(images, tmp_path, norm):
    words = ["--norm", norm, "--images", 3, "--data", images]
    group = start_group(3, *words, "--sync-statistics", folder=tmp_path / "three")
    assert end(group) == [0, 0, 0], log_of(tmp_path / "three", 0).read_text()
    words = [*WORDS, *words, "--batch-size", 3, "--out", tmp_path / "one"]
    assert train.main([str(word) for word in words]) == 0
    assert_same_step(tmp_path / "three", tmp_path / "one")


@pytest.mark.fault(
    "Images that no number of batches uses up", "what is left over is dropped, for all"
)
def test_three_processes_drop_what_is_left_over_as_one_does(images, tmp_path):
    # Of 40 images three processes take 39 a pass, and of 100 they see 99.
    words = ["--norm", "gn", "--images", 100, "--data", images]
    group = start_group(3, *words, folder=tmp_path / "three")
    assert end(group) == [0, 0, 0], log_of(tmp_path / "three", 0).read_text()
    words = [*WORDS, *words, "--batch-size", 3, "--out", tmp_path / "one"]
    assert train.main([str(word) for word in words]) == 0
    three, one = (read_lines(tmp_path / n / "metrics.jsonl") for n in ("three", "one"))
    assert [line["images"] for line in three] == [line["images"] for line in one]
    assert three[-1]["images"] == 99
    # Rounding grows from step to step.
    for line, twin in zip(three[:5], one[:5], strict=True):
        assert line.get("loss") == pytest.approx(twin.get("loss"), rel=1e-3)


@pytest.mark.parametrize(("size", "batch_size"), [(3, 1), (3, 3), (2, 7), (5, 2)])
def test_any_number_of_processes_shares_the_batches_of_one(size, batch_size):
    data = cifar10.stand_in(40, 8)
    parts = [
        loop.shuffled_batches(data, batch_size, 5, 2, rank, size)
        for rank in range(size)
    ]
    whole = loop.shuffled_batches(data, size * batch_size, 5, 2)
    for (x, y), *own in islice(zip(whole, *parts, strict=True), 30):
        assert torch.equal(torch.cat([images for images, _ in own]), x)
        assert torch.equal(torch.cat([labels for _, labels in own]), y)


def first_fails(rank):
    try:
        return ranks.on_first(lambda: (_ for _ in ()).throw(ValueError("no")))
    except ValueError as error:
        return str(error)


def first_answers(rank):
    return ranks.on_first(lambda: f"rank {rank}")


def test_what_the_first_process_finds_all_have():
    from helpers.processes import run_in_group

    assert run_in_group(first_answers, 3) == ["rank 0"] * 3
    assert run_in_group(first_fails, 3) == ["no"] * 3


def workers(launcher):
    """The processes that torchrun has started."""
    words = ("ps", "-o", "pid=", "--ppid", str(launcher.pid))
    done = subprocess.run(words, capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


@pytest.mark.fault("torchrun restarts a run whose process was killed", "the same end")
def test_torchrun_restarts_a_run_to_the_same_end(whole, tmp_path):
    reference, words = whole
    folder = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "1"]
    launcher += ["-m", "labml_bcn.experiment.train"]
    words = map(str, (*WORDS, *words, "--out", folder, "--resume"))
    with subprocess.Popen(
        [*launcher, *words],
        env=clean_environment(GLOO_SOCKET_IFNAME="lo"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_for_a_line(folder / "metrics.jsonl", process.poll)
        os.kill(workers(process)[-1], signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert len(read_lines(folder / "starts.jsonl")) == 2
    assert_same_end(folder, reference)


def killed_before_it_looks(rank, size, port, words, log):
    """A process that is killed as soon as the group has met."""
    load = train.load_images

    def fatal(*arguments):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(*arguments)

    train.load_images = fatal
    run_as(rank, size, port, words, log)


@pytest.mark.fault(
    "A process of several is killed before the first step",
    "the others say so, status 1",
)
def test_a_process_that_is_killed_at_the_start_is_told(images, tmp_path):
    port, words = free_port(), (*WORDS, "--data", images, "--out", tmp_path / "run")
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    group = [
        start(functools.partial(killed_before_it_looks, k, 2, port, words, logs[k]))
        for k in range(2)
    ]
    assert end(group) == [1, -signal.SIGKILL]
    said = logs[0].read_text()
    assert "error: another process has ended" in said
    assert "Traceback" not in said
