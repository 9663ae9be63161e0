"""Races between rivals, and the record of one.

Milliseconds mean little: they are those of one machine at one moment. What lasts is
a ratio, and only if both sides were measured alike. So rivals take turns, step by
step, in one process: whatever else the machine does, it does to all of them.
"""

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from labml_bcn import native
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.measurement import write_result

LEAST_TURNS = 5


def race(
    steps: Mapping[str, Callable[[], object]],
    seconds: float,
    device: torch.device | str = "cpu",
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Return the seconds of each step of each rival, all taking turns.

    The first steps compile, choose kernels and get memory: `warm_up` of them are
    not timed. After that the race goes on for some seconds, and for five turns at
    least. Take medians of the result.
    """
    for _ in range(warm_up):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    # As `timeit` does, without Python's search for cycles of garbage.
    gc.collect()
    gc.disable()
    try:
        end = perf_counter() + seconds
        turns = 0
        while turns < LEAST_TURNS or perf_counter() < end:
            for name, step in steps.items():
                times[name].append(time_step(step, device))
            turns += 1
    finally:
        gc.enable()
    return times


def time_step(step: Callable[[], object], device: torch.device | str) -> float:
    """Return the seconds of one step.

    A GPU works on its own time: its clock is asked, not ours.
    """
    if torch.device(device).type != "cuda":
        start = perf_counter()
        step()
        return perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3


def capture(step: Callable[[], object]) -> Callable[[], object]:
    """Return a step that repeats on the GPU what this one gives it to do.

    What is launched is then the same, and nothing is done between the launches.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def write_record(path: Path, **contents: Any) -> None:
    """Write what was measured as JSON, with what it was measured with.

    The file appears whole or not at all: then `RunError` is raised.
    """
    record = {
        "surroundings": surroundings(),
        "threads": torch.get_num_threads(),
        "kernels": {
            device: str(path) for device, path in native.status()._asdict().items()
        },
        # How the C library keeps memory shows in the times.
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith("MALLOC_")
        },
        **contents,
    }
    write_result(path, record)
