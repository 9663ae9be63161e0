"""Dtypes: what statistics are computed in, and casts."""

import torch
from torch import Tensor


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of statistics: float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in a dtype, without a call if it has that dtype already."""
    return x if x.dtype == dtype else x.to(dtype)


def cast_or_none(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` in a dtype, or `None` if there is no `x`."""
    return None if x is None else cast(x, dtype)
