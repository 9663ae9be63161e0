r"""
---
title: Batch-channel normalization as a function
summary: >
  Batch-channel normalization without a layer, for those who keep the
  tensors themselves.
---

# As a function

[The layer](batch_channel_norm.py#BatchChannelNorm) keeps its tensors: four
weights that learn, and two running statistics. Who keeps them elsewhere, as
frameworks of functions do, passes them to this function. It checks what the
layer knows of itself, and computes [the same map](fused.py).
"""

from typing import Any

from torch import Tensor

from labml_bcn._checks import (
    require_activation,
    require_channels_first,
    require_divisor,
    require_floating_point,
    require_momentum,
    require_one_of,
    require_positive_eps,
    require_same_shape,
    require_several_values_per_group,
    require_shape,
    require_tensor,
)
from labml_bcn._distributed import require_process_group
from labml_bcn.batch_channel_norm import ESTIMATES, require_no_reading
from labml_bcn.fused import (
    Config,
    How,
    OptionalWeights,
    normalize_in_one_map,
)


def batch_channel_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weights: OptionalWeights = (None, None, None, None),
    *,
    groups: int,
    eps: float = 1e-5,
    momentum: float = 0.1,
    variance_around: str = "batch_mean",
    estimate: bool = True,
    training: bool = False,
    activation: str | None = None,
    residual: Tensor | None = None,
    process_group: Any = None,
) -> Tensor:
    r"""
    ## The function

    Normalize `x` with statistics and weights that are passed along.

    **Arguments**

    - `x`: the input, `[B, C, *]`.
    - `mean`, `var`: the running statistics $\mu_c$ and $\sigma^2_c$, `[C]`.
      Training updates them in place.
    - `weights`: $\gamma_c$ and $\beta_c$ of shape `[C]`, $\gamma_g$ and
      $\beta_g$ of shape `[G]`. Any of them may be `None`, for ones or zeros.
    - `training`: whether to learn from this batch. Without, the running
      statistics are used as they are.
    - `residual`: added to the result, before the activation; of the shape of
      `x`.
    - all others: as in [the
      layer](batch_channel_norm.py#BatchChannelNorm).

    **Returns** the output, of the shape, dtype and memory format of `x`.

    **Raises**

    - `ValueError`: an argument out of its range, or a tensor of another
      shape.
    - `TypeError`: an input that is not floating point.

    **Source**: the papers' batch-channel normalization.
    """
    if not estimate:
        require_no_reading(variance_around)
    require_tensor("mean", mean)
    channels = mean.numel()
    require_channels_first(x, channels)
    require_divisor(groups, channels)
    require_several_values_per_group(x, groups)
    require_shape("mean", mean, (channels,))
    require_shape("var", var, (channels,))
    for name, running in (("mean", mean), ("var", var)):
        require_floating_point(name, running)
    names = ("gamma_c", "beta_c", "gamma_g", "beta_g")
    if len(weights) != len(names):
        raise ValueError(
            f"weights must be four, {', '.join(names)}, got {len(weights)}; "
            "None stands for ones or zeros"
        )
    sizes = (channels, channels, groups, groups)
    for name, weight, size in zip(names, weights, sizes, strict=True):
        if weight is not None:
            require_shape(f"weights: {name}", weight, (size,))
    if residual is not None:
        require_same_shape("residual", residual, x)
    require_one_of("variance_around", variance_around, tuple(ESTIMATES))
    how = ESTIMATES[variance_around] if estimate else How.PLAIN
    require_positive_eps(eps)
    config = Config(
        groups,
        eps,
        eps,
        how if training else How.EVALUATION,
        require_momentum(momentum),
        require_process_group(process_group),
        require_activation(activation) is not None,
    )
    # The gradient takes the running statistics for constants.
    running_statistics = mean.detach(), var.detach()
    return normalize_in_one_map(
        x, running_statistics, weights, config, residual
    )
