"""Real processes for tests: started fast, in a gloo group, and killed."""

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# One server imports what takes long, once; each process is a copy of it. It
# has run nothing yet, so nothing can be copied half-way. The first optimizer
# imports the compiler.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch._dynamo", "labml_bcn.experiment.train"])


def start(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a process that runs `target` on one thread."""
    process = CONTEXT.Process(target=_one_thread, args=(target, *arguments))
    process.start()
    return process


def wait_until_stopped(pid: int) -> None:
    """Wait until a process was stopped by SIGSTOP, as Linux tells it."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.005)


def _one_thread(target: Callable[..., object], *arguments: Any) -> None:
    # Tests may run under nohup or in the background, where these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.set_num_threads(1)
    target(*arguments)


def run_in_group(target: Callable[..., Any], size: int, *arguments: Any) -> list:
    """Run `target(rank, *arguments)` in a gloo group; return the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            start(_run_member, folder, rank, size, target, arguments)
            for rank in range(size)
        ]
        for process in processes:
            process.join(300)
        errors = [path.read_text() for path in folder.glob("*.error")]
        assert not errors, "\n".join(errors)
        assert [process.exitcode for process in processes] == [0] * size
        return [
            torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)
        ]


def _run_member(
    folder: Path,
    rank: int,
    size: int,
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'meeting'}",
            rank=rank,
            world_size=size,
        )
        torch.save(target(rank, *arguments), folder / f"{rank}.pt")
        # PyTorch 2.4 can hang where it destroys the group: it holds the lock of Python
        # while it waits for a thread that asks for it.
        os._exit(0)
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)
