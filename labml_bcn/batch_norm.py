r"""
---
title: Batch normalization
summary: >
  Batch normalization in PyTorch, line by line: what it computes, why it
  helps, and what goes wrong when a batch holds only one or two images.
---

# Batch normalization

Batch normalization gives every channel a mean of zero and a variance of
one, measured over the batch. Two good things follow. The loss becomes
smoother, as Santurkar et al. argue
([arXiv 1805.11604](https://arxiv.org/abs/1805.11604)), so larger steps are
safe. And until the learned shift moves them, about half of a channel's
values are positive, so the ReLU behind it rarely goes silent for good.

<!-- figure: batch norm -->

Both rest on one assumption: that the batch is large enough to measure a
mean and a variance. With one or two images a batch it is not, and the
measured values jump from step to step.

**At one image it learns all the same, and fails when it is used.** The
network with batch norm in [our study](../results.md) told the class of
39.7% of the last 960 images of its training, while it trained on them. In
evaluation it told that of 10.2% of the test images: chance, of ten classes.
In training each image was normalized with its own mean and
variance, and the network relied on that. In evaluation running averages take
their place, and they fit no single image. With 64 images a batch the two
accuracies agree, at 47.8% and 48.0%. [A toy](../playground.md) shows how the
gap opens, while you look.

<!-- gap: cpu -->

That is the problem the [batch-channel norm](batch_channel_norm.py) solves.
The layer on this page is what it starts from.

Throughout, an input has $B$ samples, $C$ channels and $L$ positions: $L$ is
the product of all trailing dimensions, such as height times width, and $1$
where there are none. A value is $x_{b,c,l}$, with lower-case letters for
indices and upper-case letters for sizes.
"""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn._checks import (
    refuse_scripting,
    require_channels_first,
    require_momentum,
    require_positive_eps,
    require_positive_int,
    require_several_values,
)
from labml_bcn._distributed import average, require_process_group
from labml_bcn._numerics import (
    cast,
    cast_or_none,
    is_known_true,
    statistics_dtype,
)


class BatchNorm(nn.Module):
    r"""
    ## The layer

    Batch normalization over all dimensions but the channels.

    In training it normalizes with the batch's own
    [mean and variance](#batch-statistics), and
    [keeps running averages](#running-update) of both. In evaluation these
    take their place: there may be one image only, and its result must not
    depend on others. A scale and a shift are learned for each channel, which
    may so have any mean and deviation that serves the network.

    It equals `nn.BatchNorm1d`, `2d` and `3d`, in training and in evaluation,
    running statistics included, for inputs of any rank from two up.

    **Arguments**

    - `channels`: number of channels $C$ of the input.
    - `eps`: $\epsilon$, added to the variance inside the square root.
    - `momentum`: $r$, the weight of the new value in the running averages,
      as in PyTorch: 0 freezes them, 1 forgets the past.
    - `affine`: learn $\gamma$ and $\beta$; without, `scale` and `shift` are
      `None`.
    - `track_running_stats`: keep $\mu$ and $\sigma^2$; without, evaluation
      uses the batch's statistics too, and there are no buffers.
    - `process_group`: measure the batch over the processes of this group;
      see [several processes](#BatchNorm.batch_statistics). By default each
      process measures its own, and none waits for another.
    - `device`, `dtype`: of the parameters and buffers. The running statistics
      are float32 at least, for a step changes them by little.

    **Shape**

    - Input and output: `[B, C, *]`, with any number of trailing dimensions,
      in any memory format. The output has the input's dtype; statistics are
      computed in float32, or in float64 for float64.
    - `scale`, `shift`, `exp_mean`, `exp_var`: `[C]`.

    **Raises**

    - `ValueError`: an argument out of its range, an input of another shape,
      or one value per channel if the batch's variance is needed.
    - `TypeError`: an input that is not floating point, or a process group
      that is none.

    **Source**: Ioffe and Szegedy, *Batch Normalization: Accelerating Deep
    Network Training by Reducing Internal Covariate Shift*, arXiv 1502.03167.
    """

    scale: nn.Parameter | None
    shift: nn.Parameter | None
    exp_mean: Tensor | None
    exp_var: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = require_positive_int("channels", channels)
        self.eps = require_positive_eps(eps)
        self.momentum = require_momentum(momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.process_group = require_process_group(process_group)
        # Scale $\gamma$ and shift $\beta$ are learned by gradients. If
        # they are not wanted, they are registered as `None`, so that the
        # names exist all the same.
        for name in ("scale", "shift"):
            new = torch.empty(channels, device=device, dtype=dtype)
            wanted = nn.Parameter(new) if affine else None
            self.register_parameter(name, wanted)
        # The running mean $\mu$ and variance $\sigma^2$ are buffers: saved
        # with the model, moved with it, never touched by an optimizer. They
        # keep labml's names, so that its checkpoints load as they are, and
        # are float32 at least, whatever the parameters are.
        for name in ("exp_mean", "exp_var"):
            new = torch.empty(channels, device=device, dtype=dtype)
            new = cast(new, statistics_dtype(new))
            self.register_buffer(name, new if track_running_stats else None)
        self.reset_parameters()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> Self:
        """
        Move or convert the layer, but never narrow its running statistics.

        A step changes them by a share of $r$. That is less than bfloat16 can
        tell apart, so they would stop learning there, and in float16 a large
        variance would be infinite. `half()`, `bfloat16()` and `to()` come
        here.
        """
        kept = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in kept.items():
            new = self._buffers[name]
            if old is None or new is None:
                continue
            wide = statistics_dtype(new)
            if new.dtype != wide:
                self._buffers[name] = old.to(new.device, wide)
        return self

    def reset_running_stats(self) -> None:
        r"""
        Start the running statistics anew, at mean 0 and variance 1.

        They feel this start for a few times $1/r$ steps: after $n$ steps
        its weight is $(1-r)^n$.
        """
        if self.exp_mean is not None and self.exp_var is not None:
            self.exp_mean.zero_()
            self.exp_var.fill_(1)

    def reset_parameters(self) -> None:
        r"""
        Start anew: $\gamma = 1$, $\beta = 0$, and the running statistics.
        """
        self.reset_running_stats()
        if self.scale is not None and self.shift is not None:
            nn.init.ones_(self.scale)
            nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        r"""
        Normalize `x` of shape `[B, C, *]`.
        """
        require_channels_first(x, self.channels)
        # Sums over many values need room: half precision is widened for the
        # arithmetic, and the result narrowed again at the end.
        values = cast(x, statistics_dtype(x))
        # Evaluation uses the running statistics.
        if self.track_running_stats and not self.training:
            y = self.normalize(values, *self.running_statistics())
        elif self.process_group is not None and self.training:
            y = self.normalize_with_group(values)
        else:
            y = self.normalize_with_batch(values)
        return cast(y, x.dtype)

    def normalize_with_batch(self, x: Tensor) -> Tensor:
        r"""
        Normalize with the statistics of this batch, and learn from them.

        One of PyTorch's kernels measures the batch and normalizes with what
        it finds. The statistics depend on $x$, and the gradient flows through
        them: each value's gradient loses its mean and its part along
        $\hat x$ over the batch.
        """
        # An empty batch has nothing to measure and nothing to normalize: it
        # goes through as it is, and leaves the running statistics alone.
        mean, var = x.new_zeros(self.channels), x.new_ones(self.channels)
        if self.is_empty_batch(x, x.numel() // self.channels):
            return self.normalize(x, mean, var)
        # With a momentum of 1 the kernel leaves the batch's own statistics
        # in the two tensors that are meant for running ones. It computes
        #
        # $$y_{b,c,l} = \gamma_c
        # \frac{x_{b,c,l} - m_c}{\sqrt{v_c + \epsilon}} + \beta_c$$
        # {#training}
        scale, shift = self.weights_in(x.dtype)
        y = batch_norm_kernel(x, mean, var, scale, shift, True, 1.0, self.eps)
        # The variance that it leaves is the unbiased one, for a stored
        # variance stands for *other* images than these.
        #
        # !!! differs "Where the sources differ"
        #     labml's page stores the biased variance. We store the unbiased
        #     one, $\frac{BL}{BL-1} v_c$, as `nn.BatchNorm2d` does.
        if self.training and self.track_running_stats:
            self.update(mean, var)
        return y

    def normalize_with_group(self, x: Tensor) -> Tensor:
        r"""
        The same, step by step, if several processes share the batch.
        """
        mean, var, count = self.batch_statistics(x)
        if self.is_empty_batch(x, count):
            zero = x.new_zeros(self.channels)
            return self.normalize(x, zero, zero + 1)
        if self.track_running_stats:
            self.update(mean.detach(), var.detach() * (count / (count - 1)))
        return self.normalize(x, mean, var)

    def batch_statistics(
        self, x: Tensor, around: Tensor | None = None
    ) -> tuple[Tensor, Tensor, int | Tensor]:
        r"""
        Return $m_c$ and $v_c$, the mean and biased variance of each channel,
        and the number of values $B L$ that they rest on. The variance is
        that around the mean, or around another point `[C]`.

        **Several processes.** With a `process_group`, both are averages
        over the values of all its processes, as if one process had the
        whole batch, and the gradient flows through them to all processes.
        The processes may have different numbers of samples, or none; but
        each one must call the layer, and its backward pass, as often as the
        others, for they wait for each other. Only training does this:
        evaluation, where processes may have different numbers of batches,
        is each one's own.
        """
        group = self.process_group if self.training else None
        dims = [d for d in range(x.dim()) if d != 1]
        # There are two passes: first the mean, then the mean squared distance
        # from it.
        #
        # $$m_c = \frac{1}{B L} \sum_{b,l} x_{b,c,l}
        # \qquad
        # v_c = \frac{1}{B L} \sum_{b,l} (x_{b,c,l} - m_c)^2$$
        # {#batch-statistics}
        #
        # The shortcut $E[x^2] - E[x]^2$ would need one pass only, but
        # subtracts two large numbers: at a mean of 10,000 both are near
        # $10^8$, where float32 counts in steps of 8, and a variance of 1 is
        # lost between them.
        mean, count = average(x, dims, group)
        centre = per_channel(mean if around is None else around, x)
        var, _ = average((x - centre).square(), dims, group)
        return mean, var, count

    def is_empty_batch(self, x: Tensor, count: int | Tensor) -> bool:
        r"""
        Say whether there is nothing to measure, and raise if there is one
        value, which has no variance.
        """
        return is_empty_batch(x, count, self.remedy_for_one_value())

    def remedy_for_one_value(self) -> str:
        """
        Say what can be done if a batch has no variance.
        """
        if not self.track_running_stats:
            return "use a larger input"
        return REMEDY

    def running_statistics(self) -> tuple[Tensor, Tensor]:
        r"""
        Return $\mu_c$ and $\sigma^2_c$ in the precision of statistics.
        """
        mean, var = self.exp_mean, self.exp_var
        assert mean is not None
        assert var is not None
        dtype = statistics_dtype(mean)
        return cast(mean, dtype), cast(var, dtype)

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        [Move](#move_statistics) the running statistics toward new ones, and
        return them.
        """
        assert self.exp_mean is not None
        assert self.exp_var is not None
        return move_statistics(
            self.exp_mean, self.exp_var, mean, var, self.momentum
        )

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        r"""
        Apply the normalization with a given mean and variance: the running
        ones in evaluation, the batch's in training.
        """
        # Each channel is centred for itself, so that about half of its values
        # are positive, before the shift.
        #
        # $$\hat x_{b,c,l} =
        # \frac{x_{b,c,l} - \mu_c}{\sqrt{\sigma^2_c + \epsilon}}
        # \qquad
        # y_{b,c,l} = \gamma_c \hat x_{b,c,l} + \beta_c$$ {#normalization}
        #
        # The mean is subtracted before anything is scaled. Folding both into
        # $a x + b$ would be one operation less, and lose digits when the mean
        # is large.
        #
        # **From the paper**: distance from elimination singularities.
        centred = x - per_channel(mean, x)
        scale, shift = self.weights_in(centred.dtype)
        var = cast(var, centred.dtype)
        # Statistics of several processes are not constants. The gradient
        # flows through them, step by step.
        if var.requires_grad:
            x_hat = centred * per_channel(torch.rsqrt(var + self.eps), x)
            y = x_hat if scale is None else x_hat * per_channel(scale, x)
            return y if shift is None else y + per_channel(shift, x)
        # All others are. PyTorch's kernel does the rest; the mean of centred
        # values is zero. The variance is a copy: a later update changes the
        # buffer, and the backward pass may come after it.
        zero, var = torch.zeros_like(var), var.clone()
        return batch_norm_kernel(
            centred, zero, var, scale, shift, False, 0.0, self.eps
        )

    def weights_in(
        self, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        r"""
        Return $\gamma$ and $\beta$ in a dtype, or `None` for each.
        """
        return cast_or_none(self.scale, dtype), cast_or_none(
            self.shift, dtype
        )

    # A process group is a line to other processes. It cannot be copied, nor
    # be read from a file: there the layer goes without one, and
    # `share_statistics` gives it one again.
    def __getstate__(self) -> dict[str, Any]:
        """Return what a file keeps: all but the process group."""
        return {**self.__dict__, "process_group": None}

    def __copy__(self) -> "BatchNorm":
        """Copy the layer, in the same process group, but not its tensors."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> "BatchNorm":
        """Copy the layer; the copy is in the same process group."""
        memo[id(self.process_group)] = self.process_group
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        text = f"{self.channels}, eps={self.eps}, momentum={self.momentum}"
        text += "" if self.affine else ", affine=False"
        tracked = self.track_running_stats
        return text + ("" if tracked else ", track_running_stats=False")


@torch.no_grad()
def move_statistics(
    exp_mean: Tensor,
    exp_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    r"""
    Move running statistics toward new ones, in place, and return what they
    are now.

    A channel keeps *both* as they are if one of the two would become infinite
    or NaN. An average never comes back from there: the share $1 - r$ of
    infinity is infinity. In mixed precision such batches are part of
    training. Where float16 overflowed, the gradient scaler skips the step,
    and the weights never hear of it; but this average has met the batch on
    its way forward, and would spoil evaluation for ever. Processes that share
    a batch see the same sums, and come to the same decision.
    """
    # `lerp` goes from the old value $r$ of the way toward the new one.
    #
    # $$\mu_c \leftarrow (1 - r) \mu_c + r m_c
    # \qquad
    # \sigma^2_c \leftarrow (1 - r) \sigma^2_c + r v_c$$ {#running-update}
    #
    # Here $v_c$ is the variance that is handed in: the unbiased one from
    # batch norm, and the biased one from the estimated batch norm.
    #
    # **From the paper**: running update of the statistics.
    wide = torch.promote_types(statistics_dtype(exp_mean), mean.dtype)
    new_mean = torch.lerp(cast(exp_mean, wide), cast(mean, wide), momentum)
    new_var = torch.lerp(cast(exp_var, wide), cast(var, wide), momentum)
    # Buffers of low precision round the values, and large ones to
    # infinity.
    new_mean = cast(new_mean, exp_mean.dtype)
    new_var = cast(new_var, exp_var.dtype)
    # What is finite, minus itself, is zero. Infinity minus itself is
    # NaN, as is NaN, and that equals nothing. The choice is made where
    # the values are: the program does not wait to know it.
    finite = new_mean - new_mean == new_var - new_var
    new_mean = torch.where(finite, new_mean, exp_mean)
    new_var = torch.where(finite, new_var, exp_var)
    # The buffers take the values and keep their storage. What is
    # returned are tensors of their own, which no later update changes: a
    # backward pass may still need them.
    exp_mean.copy_(new_mean)
    exp_var.copy_(new_var)
    new_mean, new_var = cast(new_mean, wide), cast(new_var, wide)
    # A compiled backward pass may compute a value once more instead of
    # keeping it. Here it would start from buffers that have moved on
    # meanwhile. What went through a concatenation is always kept.
    if torch.compiler.is_compiling():
        new_mean, new_var = torch.stack((new_mean, new_var)).unbind()
    return new_mean, new_var


# What helps if a batch has no variance of its own.
REMEDY = "use a larger input, or call eval() to use running statistics"


def is_empty_batch(x: Tensor, count: int | Tensor, remedy: str) -> bool:
    r"""
    Say whether there is nothing to measure, and raise if there is one value,
    which has no variance.
    """
    # The count may be a tensor on a device, and looking at it would wait for
    # that. With two values of one's own there is no need to. Where sizes are
    # symbols, in a program that is exported, they stand for inputs that are
    # large enough.
    if not is_known_true(x.numel() < 2 * x.shape[1]):
        return False
    require_several_values(x, "the batch's variance", remedy, count)
    return bool(count == 0)


def batch_norm_kernel(x: Tensor, *arguments: Any) -> Tensor:
    r"""
    Call `F.batch_norm`, for inputs of any rank.

    cuDNN knows no more than five dimensions.
    """
    if x.dim() <= 5:
        return F.batch_norm(x, *arguments)
    return F.batch_norm(x.flatten(4), *arguments).reshape(x.shape)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    r"""
    Give `[C]` values the shape `[C, 1, …, 1]`, to broadcast against `x`.

    Broadcasting works on any memory format, where a reshape of $x$ itself
    would fail on a channels-last input or copy it.
    """
    return values.reshape(-1, *[1] * (x.dim() - 2))
