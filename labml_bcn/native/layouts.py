"""The orders in memory that the kernels go through."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of a position lie side by side, and densely."""
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    if x.dim() == 5:
        return x.is_contiguous(memory_format=torch.channels_last_3d)
    return x.movedim(1, -1).is_contiguous()


def has_a_known_layout(x: Tensor) -> bool:
    """Return whether the kernels can go through a tensor as it lies in memory."""
    return x.is_contiguous() or is_channels_last(x)


def lay_out_as(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` in the dtype and the order in memory of another tensor."""
    if x.dtype == like.dtype and x.stride() == like.stride() and not x.is_neg():
        return x
    return torch.empty_like(like).copy_(x)


def lay_out_for_kernels(x: Tensor) -> Tensor:
    """Return `x` in an order in memory that the kernels know."""
    return x if has_a_known_layout(x) else x.contiguous()
