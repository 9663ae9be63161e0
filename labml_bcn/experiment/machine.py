"""What a run computes on: the device, and the compiler that `torch.compile` needs."""

import importlib
import os
import shutil
import sys
from typing import Any

import torch
from torch import nn


def require_device(device: torch.device | str) -> None:
    """Raise `ValueError` unless torch can use the device here."""
    # Torch says in many ways that a device is not there: it has no such name, no such
    # hardware, or was built without it. One without values computes nothing.
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}:"
            f" {str(error).splitlines()[0]}; use cpu"
        ) from error


def require_machine(device: torch.device | str, compile: bool) -> None:
    """Raise `ValueError` unless the device is there, and the compiler if it is needed.

    `torch.compile` needs a C++ compiler on a CPU.
    """
    require_device(device)
    if not compile or torch.device(device).type != "cpu":
        return
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if shutil.which(name) is None:
        raise ValueError(
            f"compile needs a C++ compiler on a CPU, but {name} is not found; install"
            " it, name another in the environment variable CXX, or do without compile"
        )


# Windows does not tell what a process has used.
resource: Any = importlib.import_module("resource") if os.name == "posix" else None


def peak_memory(device: torch.device | str) -> int | None:
    """Return the most bytes that this process has held so far, `None` if unknown.

    On a GPU they are those of tensors there, else all that the process has.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is not enough memory, of any kind."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def set_threads(count: int) -> None:
    """Let the CPU's operations take so many threads, or raise `ValueError`.

    OpenMP does not refuse a number that is too large: it ends the process.
    """
    most = max(256, 4 * (os.cpu_count() or 1))
    if count > most:
        raise ValueError(
            f"threads must be at most {most:,} on this machine, got {count:,}; one a"
            " core is enough"
        )
    torch.set_num_threads(count)


def compile_model(model: nn.Module) -> nn.Module:
    """Return the model as `torch.compile` makes it. Both share their weights."""
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return compiled
