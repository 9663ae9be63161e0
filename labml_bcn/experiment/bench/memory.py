"""What a step keeps and allocates, in multiples of its input."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def saved_for_backward(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return what a forward pass keeps for the backward pass.

    The input counts if it is kept.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(storages.values()) / x.nbytes


def peak_allocation(step: Callable[[], object], x: Tensor) -> float:
    """Return the most that a step has allocated at any time.

    What was there before the step does not count.
    """
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / x.nbytes
    with silence_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = highest = 0
    kineto = profile.profiler.kineto_results
    events = [e for e in kineto.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / x.nbytes


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Keep what the profiler's C++ side says of itself from the screen."""
    screen = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(nowhere)
        os.close(screen)
