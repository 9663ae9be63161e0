r"""
---
title: Batch-channel normalization
summary: >
  Batch-channel normalization in PyTorch, line by line: batch norm with
  estimated statistics, then a channel norm, for training with one or two
  images a batch.
---

# Batch-channel normalization

Detection and segmentation networks fill a GPU with one or two images. At
such a *micro-batch*, batch normalization suffers, and with one image it
fails: a mean and a variance measured on two images say little about the next
two. The usual way out is to leave the batch alone and normalize each sample
over groups of its channels, as group norm and layer norm do. That costs
something, and batch-channel normalization is the answer to what it costs.

<!-- figure: batch-channel norm -->

**What channel-only normalization gives up.** A ReLU whose input is always
negative gives 0 for every image. Its neuron is eliminated. Under batch norm
no gradient at all reaches its weights any more. Under group norm some does,
a tenth or so of what the other channels get, for the neuron still has a part
in its group's mean and variance: it can only move its neighbours.
[A notebook](../notebooks/3_elimination_singularities.py) counts such silent
channels. The papers call points of a training run that have them
*elimination singularities*, and argue that near them training is slow.

Batch norm stays away from them by design: each channel is centred over the
batch, so about half of its values are positive, until the learned shift
moves them. A norm over several channels has no such rule. It centres the
*group*, and within the group one channel may lie far below the others and
stay there.

**What small batches do to batch norm.** Its distance from elimination
singularities comes from statistics of the data. Those of one image are
that image's own. A network learns to rely on them, and
[fails where averages take their place](batch_norm.py). But the statistics
need not come from *this* batch. A running mean and variance, collected over
many steps, estimate the same numbers from many images. How well they do can
be [tried on real channels](../scatter.md).

**The layer.** Batch-channel normalization does one after the other: batch
norm with estimated statistics, which centres every channel over many images,
and then a channel norm, which normalizes each sample by its own values and
so keeps the scale of the activations in hand while the estimates lag behind
([is the first half enough?](../results.md#is-the-first-half-enough)):

$$y = \operatorname{ChannelNorm}(\operatorname{EstimatedBatchNorm}(x))$$
{#composition}

**Three numbers by hand.** One image, with one position in each of three
channels that form one group. The third channel is far below the others, and
not in this image alone: its running mean is −10. Here is a step of training
at $r = 1/2$, with all scales 1, all shifts 0, and $\epsilon$ too small to be
seen. The variance is taken around the running mean, as in the paper; the
layer's own default, as labml's, is the mean of the batch.

| channel | first | second | third |
| :-- | --: | --: | --: |
| input $x$ | 6 | 2 | −6 |
| mean before | 10 | 2 | −10 |
| variance before | 16 | 2 | 16 |
| $v = (x - \mu)^2$ | 16 | 0 | 16 |
| mean after | 8 | 2 | −8 |
| variance after | 16 | 1 | 16 |
| $z$ | −0.5 | 0 | 0.5 |
| $y$ | −1.22 | 0 | 1.22 |
| group norm alone | 1.07 | 0.27 | −1.34 |

The running mean and variance go half way to $x$ and $v$, and give $z$; the
group's own give $y$. For its channel the third value is a high one, and in
$y$ it is the highest. Group norm alone sees a low value among higher ones. A
ReLU behind it gives 0, for this image and for most.

**Weight standardization.** The papers combine the layer with
[standardized weights](weight_standardization.py). In this project's notes
"BCN+WS" means both.

**When not to use it.** If the batch is large, [batch norm](batch_norm.py)
with standardized weights does [as well](../results.md), and there is less to
set. When the data drift quickly, running statistics come late; a norm without
them, such as group norm with weight standardization, is the calmer choice.
And a network that is only used, not trained, keeps its norm.

**Papers.** Qiao, Wang, Liu, Shen and Yuille, *Micro-Batch Training with
Batch-Channel Normalization and Weight Standardization*,
[arXiv 1903.10520](https://arxiv.org/abs/1903.10520), and by the same
authors *Rethinking Normalization and Elimination Singularity in Neural
Networks*, [arXiv 1911.09738](https://arxiv.org/abs/1911.09738). The layers'
interface follows labml.ai's annotated implementation. Another method of the
same name and initials, by Khaled et al.
([arXiv 2312.00596](https://arxiv.org/abs/2312.00596)), is not this one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn._autograd import is_watched, needs_plain_operations
from labml_bcn._checks import (
    refuse_scripting,
    require_activation,
    require_channels_first,
    require_divisor,
    require_one_of,
    require_positive_eps,
    require_positive_int,
    require_same_shape,
    require_several_values_per_group,
)
from labml_bcn._numerics import cast, is_known_true, statistics_dtype
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.fused import (
    Config,
    How,
    Weights,
    finish,
    normalize_in_one_map,
)


def batch_channel_norm_stepwise(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weights: Weights,
    groups: int,
    eps: float = 1e-5,
    momentum: float = 0.1,
    variance_around: str = "batch_mean",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""
    ## Step by step

    The whole layer: one step of training, each line beside its formula.

    This is the form to read, and the reference: the tests hold it and the
    [layers](#the-same-hardened) to the same laws.

    **Arguments**

    - `x`: the input, `[B, C, *]`.
    - `mean`, `var`: the running statistics $\mu_c$ and $\sigma^2_c$ before
      the step, `[C]`.
    - `weights`: scale and shift of each channel and of each group, $\gamma_c$
      and $\beta_c$ of shape `[C]`, $\gamma_g$ and $\beta_g$ of shape `[G]`.
    - `groups`, `eps`, `momentum`, `variance_around`: as in
      [the layer](#BatchChannelNorm).

    **Returns** the output, and the running statistics after the step. In
    evaluation these stay as they are, as with a `momentum` of 0.
    """
    # All positions go into one dimension: `[B, C, L]`.
    shape, r = x.shape, momentum
    x = x.reshape(len(x), len(mean), -1)
    gamma_c, beta_c, gamma_g, beta_g = weights
    # **Measure the batch**, each channel for itself. To the gradient what is
    # measured is a constant.
    #
    # $$m_c = \frac{1}{B L} \sum_{b,l} x_{b,c,l}
    # \qquad
    # v_c = \frac{1}{B L} \sum_{b,l} (x_{b,c,l} - m_c)^2$$
    # {#around-batch-mean}
    batch = x.detach()
    m = batch.mean([0, 2])
    # Around the *running* mean, which is
    # [the paper's reading](#EstimatedBatchNorm.measure), the variance also
    # holds how far this batch lies from those before:
    #
    # $$v_c = \frac{1}{B L} \sum_{b,l} (x_{b,c,l} - \mu_c)^2$$
    # {#around-running-mean}
    around = {"batch_mean": m, "running_mean": mean}[variance_around]
    v = (batch - around[:, None]).square().mean([0, 2])
    # **Move the estimates** toward it, $r$ of the way.
    #
    # $$\mu_c \leftarrow (1 - r) \mu_c + r m_c
    # \qquad
    # \sigma^2_c \leftarrow (1 - r) \sigma^2_c + r v_c$$ {#estimate-update}
    mean = (1 - r) * mean + r * m
    var = (1 - r) * var + r * v
    # **Normalize every channel** with the estimates, then scale and shift it.
    #
    # $$\hat x_{b,c,l} =
    # \frac{x_{b,c,l} - \mu_c}{\sqrt{\sigma^2_c + \epsilon}}
    # \qquad
    # z_{b,c,l} = \gamma_c \hat x_{b,c,l} + \beta_c$$ {#estimated}
    x_hat = (x - mean[:, None]) / torch.sqrt(var + eps)[:, None]
    z = gamma_c[:, None] * x_hat + beta_c[:, None]
    # **Measure every group** of $D = C/G$ channels, in each sample. All its
    # values go into one dimension: `[B, G, D·L]`.
    #
    # $$\mu_{b,g} = \frac{1}{D L} \sum_{c \in g,\, l} z_{b,c,l}
    # \qquad
    # \sigma^2_{b,g} = \frac{1}{D L}
    # \sum_{c \in g,\, l} (z_{b,c,l} - \mu_{b,g})^2$$ {#group-statistics}
    grouped = z.reshape(len(z), groups, -1)
    group_mean = grouped.mean(2, keepdim=True)
    group_var = (grouped - group_mean).square().mean(2, keepdim=True)
    # **Normalize every group** with its own, then scale and shift it.
    #
    # $$\hat z_{b,c,l} = \frac{z_{b,c,l} - \mu_{b,g}}
    # {\sqrt{\sigma^2_{b,g} + \epsilon}}
    # \qquad
    # y_{b,c,l} = \gamma_g \hat z_{b,c,l} + \beta_g$$ {#per-group}
    z_hat = (grouped - group_mean) / torch.sqrt(group_var + eps)
    y = gamma_g[:, None] * z_hat + beta_g[:, None]
    return y.reshape(shape), mean, var


# ## The same, hardened
#
# The layers compute the same. But they take any rank, memory format and
# precision, and keep statistics in float32 at least; learn nothing where a
# batch is empty or [not finite](batch_norm.py#move_statistics); can
# [share statistics](batch_norm.py#BatchNorm.batch_statistics) between
# processes; refuse what cannot work, and say what would; and use kernels,
# where above every operation is a pass over memory of its own.
#
# First, the two means that the variance may be taken around.
ESTIMATES = {
    "batch_mean": How.AROUND_BATCH_MEAN,
    "running_mean": How.AROUND_RUNNING_MEAN,
}


class EstimatedBatchNorm(BatchNorm):
    r"""
    ## Batch norm with estimated statistics

    Batch normalization that trains with its running statistics.

    Each training step first [moves the estimates](#estimate-update) toward
    the batch, and then [normalizes](#estimated) with the *updated* ones.
    Evaluation does the same without the update. So training and evaluation
    agree, whatever the batch size: right after a step, the same input gives
    the same output.

    The **start** matters. The estimates begin at 0 and 1, whatever the data,
    and after $n$ steps that start still weighs $(1-r)^n$: at $r = 0.1$ it is
    gone after some fifty steps, at $r = 0.01$ it is felt for hundreds.
    [Move $r$](../scatter.md), and see both.

    **Arguments**

    - `channels`: number of channels $C$ of the input.
    - `eps`: $\epsilon$, added to the variance inside the square root.
    - `momentum`: $r$, the weight of the new value, as in PyTorch. At one or
      two images a batch, take 0.01.
    - `affine`: learn $\gamma$ and $\beta$; without, `scale` and `shift` are
      `None`.
    - `variance_around`: which mean the batch's variance is taken around,
      `"batch_mean"` or `"running_mean"`; see
      [the update](#EstimatedBatchNorm.measure).
    - `process_group`: learn from the batches of all processes of this group,
      as in [batch norm](batch_norm.py#BatchNorm.batch_statistics). By
      default each process keeps an estimate of its own.
    - `device`, `dtype`: of the parameters and buffers. The running statistics
      are float32 at least, for a step changes them by little.

    **Shape**

    - Input and output: `[B, C, *]`, with any number of trailing dimensions,
      in any memory format. The output has the input's dtype; statistics are
      computed in float32, or in float64 for float64.
    - `scale`, `shift`, `exp_mean`, `exp_var`: `[C]`.

    **Raises**

    - `ValueError`: an argument out of its range, an input of another shape,
      or, in training around the batch mean, one value per channel.
    - `TypeError`: an input that is not floating point.

    **Source**: the papers' estimate-based batch normalization.
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        variance_around: str = "batch_mean",
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            eps=eps,
            momentum=momentum,
            affine=affine,
            process_group=process_group,
            device=device,
            dtype=dtype,
        )
        self.variance_around = require_one_of(
            "variance_around", variance_around, tuple(ESTIMATES)
        )

    def forward(self, x: Tensor) -> Tensor:
        r"""
        Normalize `x` of shape `[B, C, *]`.
        """
        require_channels_first(x, self.channels)
        values = cast(x, statistics_dtype(x))
        # First learn from the batch, then use what was learned. An empty
        # batch teaches nothing.
        #
        # Under **activation checkpointing** a forward pass runs twice, and so
        # does the update: the mean then moves as if $r$ were
        # $1 - (1 - r)^2 \approx 2 r$. `checkpoint` of
        # `labml_bcn.activation_checkpointing` is the way round.
        #
        # **From the paper**: estimate-based batch normalization.
        if self.training and (new := self.measure(values.detach())):
            mean, var = self.update(*new)
        else:
            mean, var = self.running_statistics()
        # The gradient takes both for constants. As autograd sees it, each
        # output depends on its own input only, and the Jacobian is diagonal:
        #
        # $$\frac{\partial y_{b,c,l}}{\partial x_{b,c,l}} =
        # \frac{\gamma_c}{\sqrt{\sigma^2_c + \epsilon}}$$
        # {#diagonal-jacobian}
        #
        # In truth a value also moves the mean that it is compared with, by
        # $r / (B L)$ of its own change, and the variance. That is dropped.
        # Batch norm, where $r$ is 1 as it were, has to
        # [count it](batch_norm.py#BatchNorm.normalize_with_batch).
        y = self.normalize(values, mean, var)
        return cast(y, x.dtype)

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""
        ### The batch's part in the update

        The mean $m_c$ is the batch's. The variance $v_c$ is that
        [around it](#around-batch-mean), the spread *within* this batch, or
        that [around the running mean](#around-running-mean) as it was before
        this step. Where each of them settles can be
        [tried](../scatter.md#where-it-settles).
        """
        # !!! differs "Where the sources differ"
        #     The paper's formula and its authors' code take the variance
        #     around the running mean. labml's page shows that formula, but
        #     its code takes it around the batch mean, as $E[x^2] - E[x]^2$.
        #     Both are here, by name. The default is labml's, so that its
        #     results can be had again.
        #
        #     The authors' code keeps $r$ in a buffer that is 0 unless it is
        #     set, and then never learns. Here $r$ is `momentum`, 0.1 as on
        #     labml's page.
        #
        # **From the paper**: running update of the statistics.
        around = None
        if self.variance_around == "running_mean":
            around, _ = self.running_statistics()
        # One of PyTorch's kernels takes both, in two passes and in double
        # precision. It knows of one process only, and no compiler knows it.
        shared = self.process_group is not None
        empty = is_known_true(x.numel() == 0)
        if not (shared or empty or needs_plain_operations(x)):
            count: int | Tensor = x.numel() // self.channels
            mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
            # Around another point than the mean, the variance is larger by
            # the squared distance of the two. With large batches that is
            # little. With one image a batch it is the whole difference
            # between images: if half of a channel's variance lies between
            # them, one reading settles at half of it, and the other at all
            # of it, as $r$ goes to 0.
            if around is not None:
                var = var + (mean - around).square()
        else:
            mean, var, count = self.batch_statistics(x, around)
        return None if self.is_empty_batch(x, count) else (mean, var)

    def is_empty_batch(self, x: Tensor, count: int | Tensor) -> bool:
        """
        Say whether there is nothing to measure, and raise if there is one
        value that has no variance.
        """
        # A batch of one value per channel has no spread within it. Around a
        # running mean it still says something.
        if self.variance_around == "running_mean":
            return is_known_true(x.numel() == 0) and bool(count == 0)
        return super().is_empty_batch(x, count)

    def remedy_for_one_value(self) -> str:
        """
        Say what can be done if a batch has no variance.
        """
        remedy = super().remedy_for_one_value()
        return f'use variance_around="running_mean", or{remedy[3:]}'

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        mode = f"variance_around={self.variance_around!r}"
        return f"{super().extra_repr()}, {mode}"


class ChannelNorm(nn.Module):
    r"""
    ## Channel norm

    Normalization of each sample over groups of its channels, with one scale
    and one shift per group.

    The channels form $G$ groups of $D = C/G$. Each group of each sample has
    its own [mean and variance](#group-statistics). Nothing is remembered
    between steps, and no sample sees another: training and evaluation are
    the same. At initialization the layer equals `nn.GroupNorm(G, C)`; with
    $G = 1$ it is a layer norm over all of a sample, with $G = C$ an instance
    norm.

    **Why one scale and shift per group?** Batch norm, which runs before it,
    already gives every channel its own. A second pair per channel would
    add almost nothing: fitted to what it would compute over 64 positions,
    the layer as it is leaves less than 1% of the variance.

    **Arguments**

    - `channels`: number of channels $C$ of the input.
    - `groups`: number of groups $G$; it must divide `channels`.
    - `eps`: $\epsilon$, added to the variance inside the square root.
    - `affine`: learn $\gamma$ and $\beta$; without, `scale` and `shift` are
      `None`.
    - `device`, `dtype`: of the parameters.

    **Shape**

    - Input and output: `[B, C, *]`, with any number of trailing dimensions,
      in any memory format. The output has the input's dtype; statistics are
      computed in float32, or in float64 for float64.
    - `scale`, `shift`: `[G]`.

    **Raises**

    - `ValueError`: an argument out of its range, groups that do not divide
      the channels, an input of another shape, or one value per group.
    - `TypeError`: an input that is not floating point.

    **Source**: the channel-based half of the papers' batch-channel
    normalization.
    """

    scale: nn.Parameter | None
    shift: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        groups: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = require_positive_int("channels", channels)
        self.groups = require_divisor(groups, channels)
        self.eps = require_positive_eps(eps)
        self.affine = affine
        for name in ("scale", "shift"):
            new = torch.empty(groups, device=device, dtype=dtype)
            wanted = nn.Parameter(new) if affine else None
            self.register_parameter(name, wanted)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""
        Start anew, at $\gamma = 1$ and $\beta = 0$.
        """
        if self.scale is not None and self.shift is not None:
            nn.init.ones_(self.scale)
            nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        r"""
        Normalize `x` of shape `[B, C, *]`.
        """
        require_channels_first(x, self.channels)
        require_several_values_per_group(x, self.groups)
        values = cast(x, statistics_dtype(x))
        # PyTorch's group norm [is this](#per-group), with a scale and a shift
        # for each channel: those of a group, $D$ times.
        weight, bias = self.weights_per_channel(values)
        # When channels come last in memory, its kernel squares before it
        # subtracts, and a large mean would take the digits of the rest.
        if not values.is_contiguous():
            values = values - self.group_means(values)
        # **From the paper**: channel-based normalization.
        y = F.group_norm(values, self.groups, weight, bias, self.eps)
        return cast(y, x.dtype)

    @torch.no_grad()
    def group_means(self, x: Tensor) -> Tensor:
        r"""
        Return $\mu_{b,g}$, once for each channel of the group.

        Subtracted before the norm, it may be a constant to the gradient:
        whatever all values of a group share, the norm removes on its way
        there and back.
        """
        dims = list(range(2, x.dim()))
        of_channels = x.mean(dims, keepdim=True) if dims else x
        of_channels = of_channels.unflatten(1, (self.groups, -1))
        means: Tensor = of_channels.mean(2, keepdim=True)
        means = means.expand_as(of_channels)
        return means.flatten(1, 2)

    def weights_per_channel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        Return $\gamma_g$ and $\beta_g$ in the dtype of `x`, once for each
        channel of the group.
        """
        group_size = self.channels // self.groups
        weight, bias = x.new_ones(self.channels), x.new_zeros(self.channels)
        if self.scale is not None:
            weight = cast(self.scale, x.dtype).repeat_interleave(group_size)
        if self.shift is not None:
            bias = cast(self.shift, x.dtype).repeat_interleave(group_size)
        return weight, bias

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        text = f"{self.channels}, groups={self.groups}, eps={self.eps}"
        return text + ("" if self.affine else ", affine=False")


class BatchChannelNorm(nn.Module):
    r"""
    ## The two together

    Batch norm with estimated statistics, followed by a channel norm.

    With `estimate=False` the first half is plain
    [batch norm](batch_norm.py#BatchNorm), which normalizes with the batch's
    own statistics. That is the form for batches that are large enough.

    **What usually follows** can be done on the way: ReLU with
    `activation="relu"`, and before it the addition of a residual that is
    passed along with the input. The results are those of the separate steps,
    and no further activation is kept.

    **Arguments**

    - `channels`: number of channels $C$ of the input.
    - `groups`: number of groups $G$ of the channel norm; it must divide
      `channels`.
    - `eps`: $\epsilon$ of both norms.
    - `momentum`: $r$, the weight of the new value in the running statistics.
    - `estimate`: train with the running statistics (`True`), or with the
      batch's (`False`).
    - `variance_around`: `"batch_mean"` or `"running_mean"`; see
      [the update](#EstimatedBatchNorm.measure). It has no effect, and is
      refused, if `estimate` is off.
    - `activation`: `"relu"` for a ReLU at the end, or `None`.
    - `process_group`: as in [batch
      norm](batch_norm.py#BatchNorm.batch_statistics). The channel norm needs
      none: it looks at one sample at a time.
    - `device`, `dtype`: of the parameters and buffers. The running statistics
      are float32 at least, for a step changes them by little.

    **Shape**

    - Input, output and residual: `[B, C, *]`, with any number of trailing
      dimensions, in any memory format. The output has the input's dtype, or
      that of its sum with the residual.
    - `batch_norm.scale`, `batch_norm.shift`, `batch_norm.exp_mean`,
      `batch_norm.exp_var`: `[C]`.
    - `channel_norm.scale`, `channel_norm.shift`: `[G]`.

    **Raises**

    - `ValueError`: as the two norms do, and for `variance_around` without
      `estimate`.
    - `TypeError`: an argument of the wrong kind, or an input that is not
      floating point.

    **Source**: the papers' batch-channel normalization.
    """

    activation: str | None = None

    def __init__(
        self,
        channels: int,
        groups: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        estimate: bool = True,
        *,
        variance_around: str = "batch_mean",
        activation: str | None = None,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = require_activation(activation)
        if not estimate:
            require_no_reading(variance_around)
        self.channels = channels
        self.groups = groups
        self.estimate = estimate
        self.batch_norm: BatchNorm
        if estimate:
            self.batch_norm = EstimatedBatchNorm(
                channels,
                eps,
                momentum,
                variance_around=variance_around,
                process_group=process_group,
                device=device,
                dtype=dtype,
            )
        else:
            self.batch_norm = BatchNorm(
                channels,
                eps=eps,
                momentum=momentum,
                process_group=process_group,
                device=device,
                dtype=dtype,
            )
        self.channel_norm = ChannelNorm(
            channels, groups, eps, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        r"""
        Normalize `x` of shape `[B, C, *]`, and add a residual of that shape.
        """
        # An input that one of the steps would refuse must not have moved the
        # statistics.
        require_channels_first(x, self.channels)
        require_several_values_per_group(x, self.groups)
        if residual is not None:
            require_same_shape("residual", residual, x)
        # The order matters. The batch norm comes first, for it is the one
        # that centres every channel for itself; the channel norm then finds
        # channels of comparable height.
        #
        # $$y =
        # \operatorname{ChannelNorm}(\operatorname{EstimatedBatchNorm}(x))$$
        # {#in-turn}
        #
        # **From the papers**: batch-channel normalization.
        first, second = self.batch_norm, self.channel_norm
        relu = require_activation(self.activation) is not None
        if self.shows_its_norms(first, second):
            y: Tensor = second(first(x))
            return finish(y, residual, relu=relu)
        # But nobody has to pay for two norms. Unless somebody watches them,
        # [one map](fused.py) does for both, the same up to rounding, and
        # keeps the input alone for the backward pass.
        #
        # !!! differs "Where the sources differ"
        #     In the authors' code the plain form is the default, and their
        #     estimated batch norm fixes its own $\epsilon$ at $10^{-5}$: the
        #     argument reaches the channel norm only. As on labml's page, the
        #     estimate is on here, and one `eps` goes to both.
        return normalize_in_one_map(
            x,
            (first.exp_mean, first.exp_var),  # type: ignore[arg-type]
            (first.scale, first.shift, second.scale, second.shift),
            Config(
                second.groups,
                first.eps,
                second.eps,
                how_to_normalize(first),
                first.momentum,
                first.process_group,
                relu,
            ),
            residual,
        )

    def shows_its_norms(self, first: nn.Module, second: nn.Module) -> bool:
        """
        Return whether the two norms have to run as layers of their own.

        They do if somebody watches one of them, or has put another layer in
        its place.
        """
        return not (
            type(first) in (EstimatedBatchNorm, BatchNorm)
            and type(second) is ChannelNorm
            and first.track_running_stats
            and first.channels == second.channels
            and not is_watched(first)
            and not is_watched(second)
        )

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        text = f"{self.channels}, groups={self.groups}"
        text = f"{text}, estimate={self.estimate}"
        if self.activation is not None:
            text = f"{text}, activation={self.activation!r}"
        return text


# The layer was once two, one for each way to compute it.
FusedBatchChannelNorm = BatchChannelNorm


def how_to_normalize(norm: BatchNorm) -> How:
    """
    Return what a batch norm normalizes with, in its present mode.
    """
    if not norm.training:
        return How.EVALUATION
    if isinstance(norm, EstimatedBatchNorm):
        return ESTIMATES[norm.variance_around]
    return How.PLAIN


def require_no_reading(variance_around: str) -> None:
    """Raise if a reading is chosen for a variance that is not estimated."""
    if variance_around != "batch_mean":
        raise ValueError(
            "variance_around belongs to the estimate, got "
            f"variance_around={variance_around!r} with estimate=False; "
            "drop one of the two"
        )
