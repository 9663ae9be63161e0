"""
# Over processes

Statistics over the values of several processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def process_group_or_none(group: Any) -> Any:
    """Return `group` where it is a process group or `None`, else raise."""
    if group is None or (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        return group
    raise TypeError(
        "process_group must be a torch.distributed process group that this "
        f"process belongs to, or None, got {group!r}; for all processes call "
        "torch.distributed.init_process_group() and pass "
        "torch.distributed.group.WORLD"
    )


def average(
    x: Tensor, dims: list[int], group: Any = None, each: int = 1
) -> tuple[Tensor, int | Tensor]:
    """
    Return the mean over `dims`, and how many values it rests on, where each
    element of `x` stands for `each` values.

    With a group, it is the mean over the values of all its processes, each
    value with the same weight: the processes may hold different numbers of
    samples, or none. The count is then a tensor, so that nobody waits for
    it. Where there are no values at all, the mean is 0.
    """
    count = each
    for dim in dims:
        count *= x.shape[dim]
    if group is None:
        return x.mean(dims), count
    # Sums can be added up, means cannot.
    sums, total = summed(each * x.sum(dims), count, group)
    return sums / total.clamp(min=1), total


def summed(x: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor]:
    """
    Return the sums of `x` and of `count` over the processes of a group.
    """
    # The count travels with the sums: one message instead of two.
    own = torch.cat((x.flatten(), x.new_full((1,), count)))
    total: Tensor = _Sum.apply(own, group)  # type: ignore[no-untyped-call]
    return total[:-1].view(x.shape), total[-1].detach()


class _Sum(Function):
    # Every process gets the sum, and each loss depends on it. So the
    # gradient of what one process put in is the sum of the gradients that
    # all of them have got: the same operation, and differentiable again.
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.group), None  # type: ignore[no-untyped-call]
