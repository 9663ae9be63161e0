"""Statistics over the values of several processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def process_group_or_none(group: Any) -> Any:
    """Return `group` where it is a process group or `None`, else raise."""
    if group is None or (
        dist.is_available() and isinstance(group, dist.ProcessGroup)
    ):
        return group
    raise TypeError(
        "process_group must be a torch.distributed process group that this "
        f"process belongs to, or None, got {group!r}; for all processes call "
        "torch.distributed.init_process_group() and pass "
        "torch.distributed.group.WORLD"
    )


def average(
    x: Tensor, dims: list[int], group: Any = None
) -> tuple[Tensor, int | Tensor]:
    """
    Return the mean over `dims`, and how many values it rests on.

    With a group, it is the mean over the values of all its processes, each
    value with the same weight: the processes may hold different numbers of
    samples, or none. The count is then a tensor, so that nobody waits for
    it. Where there are no values at all, the mean is 0.
    """
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    if group is None:
        return x.mean(dims), count
    # Sums can be added up, means cannot. The count travels with them.
    own = torch.cat((x.sum(dims), x.new_full((1,), count)))
    sums = summed(own, group)
    total = sums[-1].detach()
    return sums[:-1] / total.clamp(min=1), total


def summed(x: Tensor, group: Any) -> Tensor:
    """Return the sum of `x` over the processes of a group."""
    total: Tensor = _Sum.apply(x, group)  # type: ignore[no-untyped-call]
    return total


class _Sum(Function):
    # Every process gets the sum, and each loss depends on it. So the
    # gradient of what one process put in is the sum of the gradients that
    # all of them have got: the same operation, and differentiable again.
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return summed(gradient.contiguous(), ctx.group), None
