r"""
---
title: Several processes
summary: >
  What a training loop needs to know about the other processes: who it is,
  how many there are, and whether one of them wants to stop.
---

# Several processes

`torchrun` starts the same program several times, and tells each one its
rank and how many there are:

    torchrun --nproc-per-node 4 -m labml_bcn.experiment.train \
        --device cuda --norm bcn --ws

Each process takes its share of every batch, and
`DistributedDataParallel` averages their gradients, so that all of them take
the same step. With $P$ processes of batch size $B$, a step sees $P B$
images: the ones that a single process of batch size $P B$ would see.

**The gradient is shared; are the statistics?** A norm that looks at the
batch may do either.

- *By itself* (`--no-sync-statistics`, the default): each process measures
  its own $B$ images, and keeps its own running statistics. Nothing is sent.
  This is what micro-batches look like in the papers: one or two images a
  GPU. The wrapper's `broadcast_buffers` is off, or it would put the first
  process's statistics in place of everybody's before each step. A checkpoint
  holds the statistics of every process, and the tests along the way use
  those of the first.
- *Together* (`--sync-statistics`): the batch's mean and variance are
  averages over all processes, and so is their gradient. $P$ processes with
  $B$ images then do what one does with $P B$. It costs two short messages a
  norm, each way.

Group norm and weight standardization look at one image, or at none. Nothing
changes for them.

**Accumulating gradients** (`--accumulate A`) adds up $A$ batches before a
step. To the gradient it is a batch of $A B$ images. To statistics it is not:
each of the $A$ batches is measured by itself, with the noise of $B$ images,
and the running statistics move $A$ times a step. For the estimate that is
nothing unusual: it lives from many small batches. Batch norm gains nothing
from it.
"""

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def running() -> bool:
    r"""
    Whether this process belongs to a group.
    """
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    r"""
    Which process this is, from 0. The first one writes and prints.
    """
    return dist.get_rank() if running() else 0


def size() -> int:
    r"""
    How many processes there are.
    """
    return dist.get_world_size() if running() else 1


def launched() -> bool:
    r"""
    Whether `torchrun`, or something like it, started this process.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str) -> Iterator[str]:
    r"""
    ## Meet the others

    Join the group that `torchrun` has prepared, and leave it at the end.
    A process that was started alone stays alone.

    **Arguments**

    - `device`: as for `torch.device`. Of several GPUs each process takes its
      own, over NCCL; all else goes over gloo.

    **Returns** the device of this process.

    **Raises** `ValueError`: the device is not there.
    """
    if not launched():
        yield device
        return
    usable(device)
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    # Imported later, as the first model in parallel does it, this would keep
    # the group: its functions have it as a default argument. The group's
    # threads would outlive the group, and now and then crash the exit.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def usable(device: torch.device | str) -> None:
    r"""
    Raise `ValueError` unless torch can use the device here.
    """
    # Torch says in many ways that a device is not there: it has no such
    # name, no such hardware, or was built without it.
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}:"
            f" {str(error).splitlines()[0]}; use cpu"
        ) from error


def parallel(model: nn.Module) -> nn.Module:
    r"""
    Wrap a model so that its gradients are averages over the processes.
    """
    if size() == 1:
        return model
    # Newer versions of torch would rather have `forward_sync_buffers`. But
    # that one still copies the first process's buffers once, at the start,
    # and a run that goes on has already given each process its own.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`")
        return DistributedDataParallel(model, broadcast_buffers=False)


def waiting(model: nn.Module, wait: bool) -> AbstractContextManager[None]:
    r"""
    While gradients accumulate, leave the averaging to the last batch.
    """
    if wait and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def anywhere(flag: bool | Tensor, device: torch.device | str) -> bool:
    r"""
    ## Agree

    Whether `flag` is true in any of the processes.

    One that stops by itself leaves the others waiting for it. So before each
    step they tell each other, and stop at the same one.
    """
    if size() == 1:
        return bool(flag)
    word = torch.tensor(bool(flag), dtype=torch.int32, device=device)
    dist.all_reduce(word, dist.ReduceOp.MAX)
    return bool(word)


def left_alone(error: RuntimeError) -> bool:
    r"""
    Whether an error says that another process has ended.

    A process that meets a full disk, say, tells why it ends. Those that wait
    for it only see that it has gone; NCCL has a kind of error for that, and
    gloo a text.
    """
    return size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def summed(values: Tensor) -> Tensor:
    r"""
    Return the sum of `values` over the processes.
    """
    total = values.clone()
    if size() > 1:
        dist.all_reduce(total)
    return total


def gathered(state: Any) -> list[Any]:
    r"""
    Return the state of every process, in order, to the first of them.
    """
    states = [state] * size()
    if size() > 1:
        dist.gather_object(state, states if rank() == 0 else None)
    return states
