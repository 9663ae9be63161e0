"""What a measurement or a run was made with."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from labml_bcn import __version__, native


def surroundings() -> dict[str, Any]:
    """Return when and with what this process was started.

    That is the command, the versions and the hardware.
    """
    gpu = torch.cuda.is_available()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "labml_bcn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": str(native.status().cpu),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
    }


def processor_name() -> str:
    """Return the processor's name if the system tells it, else an empty string."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor()
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
