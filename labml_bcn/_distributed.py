"""Statistics over the values of several processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from labml_bcn._numerics import widest


def require_process_group(group: Any) -> Any:
    """Return `group`; raise unless it is a process group or `None`."""
    if group is None or (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        return group
    raise TypeError(
        "process_group must be a torch.distributed process group that this "
        f"process belongs to, or None, got {group!r}; for all processes call "
        "torch.distributed.init_process_group() and pass "
        "torch.distributed.group.WORLD"
    )


def average(
    x: Tensor, dims: list[int], group: Any = None, values_per_element: int = 1
) -> tuple[Tensor, int | Tensor]:
    """Return the mean of `x` over `dims`, and the number of values in it.

    With a group, it is the mean over the values of all its processes, each value
    with the same weight: the processes may hold different numbers of samples, or
    none. The count is then a tensor, so that nobody waits for it. If there are no
    values at all, the mean is 0.
    """
    count = values_per_element
    for dim in dims:
        count *= x.shape[dim]
    if group is None:
        return x.mean(dims), count
    # Sums can be added up, means cannot.
    sums, total = all_reduce_sums(values_per_element * x.sum(dims), count, group)
    return sums / total.clamp(min=1), total


def all_reduce_sums(x: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor]:
    """Return the sums of `x` and of `count` over the processes of a group."""
    # The count travels with the sums: one message instead of two. It is float64, for
    # the processes must agree on that, and one may have taken another way to its sums
    # than the others.
    own = torch.cat((x.flatten(), x.new_full((1,), count)))
    total: Tensor = AllReduceSum.apply(widest(own), group)  # type: ignore[no-untyped-call]
    total = total.to(x.dtype)
    return total[:-1].view(x.shape), total[-1].detach()


class AllReduceSum(Function):
    """The sum over the processes of a group, which can be differentiated."""

    # Every process gets the sum, and each loss depends on it. So the gradient of
    # what one process put in is the sum of the gradients that all of them have
    # got: the same operation, and differentiable again.
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Add up."""
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Add up the gradients."""
        return AllReduceSum.apply(gradient, ctx.group), None  # type: ignore[no-untyped-call]
