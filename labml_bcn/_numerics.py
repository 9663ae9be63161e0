"""Dtypes, and sizes that may be symbols."""

import torch
from torch import SymBool, Tensor


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of statistics: float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def widest(x: Tensor) -> Tensor:
    """Return `x` in float64, or as it is on a device that has none."""
    return x if x.device.type == "mps" else x.double()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in a dtype, without a call if it has that dtype already."""
    return x if x.dtype == dtype else x.to(dtype)


def cast_or_none(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` in a dtype, or `None` if there is no `x`."""
    return None if x is None else cast(x, dtype)


def count_positions(x: Tensor) -> int:
    """Return the number of positions of one sample and channel, 1 for none.

    A product keeps a symbol what it is. `Size.numel` would make a number of it, and
    so fix the sizes that an exported program takes.
    """
    count = 1
    for size in x.shape[2:]:
        count *= size
    return count


def is_known_true(condition: bool | SymBool) -> bool:
    """Return whether a condition on sizes is true, and no symbol.

    To ask a symbol would limit an exported program to the sizes of one answer.
    """
    return not isinstance(condition, SymBool) and condition
