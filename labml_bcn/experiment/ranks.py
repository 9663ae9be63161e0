"""Several processes that train one network: which rank this is, and what they share.

`torchrun` starts the same program several times, and tells each process its rank and
how many there are:

    torchrun --nproc-per-node 4 -m labml_bcn.experiment.train \\
        --device cuda --norm bcn --ws

Each process takes its share of every batch, and `DistributedDataParallel` averages
their gradients, so that all of them take the same step. With P processes of batch size
B, a step sees P * B images: the ones that a single process of batch size P * B would
see.

The gradient is shared; are the statistics? A norm that looks at the batch may do
either.

- By itself (`--no-sync-statistics`, the default): each process measures its own B
  images, and keeps its own running statistics. Nothing is sent. This is what
  micro-batches look like in the papers: one or two images a GPU. The wrapper's
  `broadcast_buffers` is off, or it would put the first process's statistics in place of
  everybody's before each step. A checkpoint holds the statistics of every process, and
  the tests along the way use those of the first.
- Together (`--sync-statistics`): the batch's mean and variance are averages over all
  processes, and so is their gradient. P processes with B images then do what one does
  with P * B. It costs two short messages a norm, each way.

Group norm and weight standardization look at one image, or at none. Nothing changes for
them.

Accumulating gradients (`--accumulate A`) adds up A batches before a step. To the
gradient it is a batch of A * B images. To statistics it is not: each of the A batches
is measured by itself, with the noise of B images, and the running statistics move A
times a step. For the estimate that is nothing unusual: it lives from many small
batches. Batch norm gains nothing from it.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from labml_bcn.experiment.machine import require_device


def in_a_group() -> bool:
    """Return whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return which process this is, from 0. The first one writes and prints."""
    return dist.get_rank() if in_a_group() else 0


def size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if in_a_group() else 1


def is_under_torchrun() -> bool:
    """Return whether `torchrun`, or something like it, started this process."""
    size = os.environ.get("WORLD_SIZE") or "1"
    if not size.isdecimal():
        raise ValueError(
            f"WORLD_SIZE must be a number of processes, got {size!r}; start the command"
            " with torchrun, which sets it, or unset it"
        )
    return int(size) > 1


@contextmanager
def join_group(device: str, timeout: float) -> Iterator[str]:
    """Join the group that `torchrun` has prepared, and leave it at the end.

    Yields the device of this process: of several GPUs each process takes its own, over
    NCCL; all else goes over gloo. A process that was started alone stays alone. Who
    waits `timeout` seconds for another process gives up. Raises `ValueError` if the
    device is not there, and `ConnectionError` if the processes cannot meet.
    """
    if not is_under_torchrun():
        yield device
        return
    require_device(device)
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    # Imported later, as the first model in parallel does it, this would keep the group:
    # its functions have it as a default argument. The group's threads would outlive the
    # group, and now and then crash the exit.
    importlib.import_module("torch.distributed.nn")
    try:
        _meet("nccl" if device.startswith("cuda") else "gloo", timeout)
    except ValueError as error:
        raise ValueError(
            f"{error}; start the command with torchrun, which sets it, or unset"
            " WORLD_SIZE"
        ) from error
    except RuntimeError as error:
        where = ":".join(os.environ.get(f"MASTER_{x}", "?") for x in ("ADDR", "PORT"))
        raise ConnectionError(
            f"the processes could not meet at {where}:"
            f" {str(error).splitlines()[0].rstrip('.')}. If"
            " the port is taken, name another one with torchrun's --master-port, or let"
            " it choose with --standalone; if a process is missing, start all of them"
        ) from error
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _meet(backend: str, timeout: float) -> None:
    # When torchrun starts all processes again, its store still holds the addresses of
    # those before. So each attempt looks at names of its own.
    rendezvous = importlib.import_module("torch.distributed.rendezvous").rendezvous
    wait = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=wait))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"attempt {attempt}", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=wait,
    )


def on_first(call: Callable[[], Any]) -> Any:
    """Call a function in the first process, and return its result in all of them.

    What it raises there is raised in all: they then end in the same way.
    """
    if size() == 1:
        return call()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = call()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def average_gradients(model: nn.Module) -> nn.Module:
    """Wrap a model so that its gradients are averages over the processes."""
    if size() == 1:
        return model
    # Newer versions of torch would rather have `forward_sync_buffers`. But that one
    # still copies the first process's buffers once, at the start, and a run that goes
    # on has already given each process its own.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`")
        return DistributedDataParallel(model, broadcast_buffers=False)


def defer_averaging(model: nn.Module, defer: bool) -> AbstractContextManager[None]:
    """While gradients accumulate, leave the averaging to the last batch."""
    if defer and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def any_rank(flag: bool | Tensor, device: torch.device | str) -> bool:
    """Return whether `flag` is true in any of the processes.

    One that stops by itself leaves the others waiting for it. So before each step they
    tell each other, and stop at the same one.
    """
    if size() == 1:
        return bool(flag)
    word = torch.tensor(bool(flag), dtype=torch.int32, device=device)
    dist.all_reduce(word, dist.ReduceOp.MAX)
    return bool(word)


def is_peer_failure(error: BaseException) -> bool:
    """Return whether an error says that another process has ended, or hangs.

    Those that wait for it only see that it does not answer; NCCL has a kind of error
    for that, and gloo a text.
    """
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def describe_peer_failure(error: BaseException) -> str:
    """Say what is known of a process that did not answer, and no more than that."""
    text = str(error).lower()
    if "timed out" in text or "timeout" in text:
        return (
            "another process has not answered in the time that --timeout gives it: it"
            " hangs, was frozen, or is much slower than this one"
        )
    return "another process has ended; if it does not say why, it was killed"


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of `values` over the processes."""
    total = values.clone()
    if size() > 1:
        dist.all_reduce(total)
    return total


def gather_states(state: Any) -> list[Any]:
    """Return the state of every process, in order, to the first of them."""
    states = [state] * size()
    if size() > 1:
        dist.gather_object(state, states if rank() == 0 else None)
    return states
