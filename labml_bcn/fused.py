r"""
---
title: Batch-channel norm in one map
summary: >
  Batch norm and channel norm, collapsed into one affine map per sample and
  channel: the same results, with one activation kept for the backward pass,
  derived step by step.
---

# Batch-channel norm in one map

A norm does little arithmetic. Its time goes into reading and writing the
activation, and the memory it needs is what it keeps for the backward pass.
[Batch-channel norm](batch_channel_norm.py#BatchChannelNorm), composed of two
norms, pays twice: it reads the input for the statistics of the first norm,
writes what the first norm makes of it, reads that for the statistics of the
second, and writes again. Two activations are kept for the backward pass.

It need not. Look at one sample $b$ and one channel $c$, and at their $L$
values. The batch norm shifts and scales all of them alike. Then the channel
norm shifts and scales all of them alike. Two such steps are one:

$$y_{b,c,l} = s_{b,c} (x_{b,c,l} - \mu_{b,c}) + t_{b,c}$$ {#affine-map}

So the layer is an affine map, with a slope $s_{b,c}$ and an offset
$t_{b,c}$ for each sample and channel. And both follow from two numbers of
the *input*, its mean and its biased variance over positions,

$$\mu_{b,c} = \frac{1}{L} \sum_l x_{b,c,l}
\qquad
v_{b,c} = \frac{1}{L} \sum_l (x_{b,c,l} - \mu_{b,c})^2$$ {#moments}

because an affine map takes means and variances along in a known way. What
remains is arithmetic on small tables of shape `[B, C]`: one pass over the
input to measure, one to apply. That is the traffic of group norm alone, and
the input is all that the backward pass needs.

<!-- figure: fused -->

This page derives both directions. The symbols are those of the other pages:
$B$ samples, $C$ channels, $L$ positions, $G$ groups of $D = C/G$ channels.
A value's index is $b, c, l$, and $g$ is the group that $c$ lies in.
$\gamma_c, \beta_c$ belong to the batch norm, $\gamma_g, \beta_g$ to the
channel norm.

**When it is used.** [Batch-channel
norm](batch_channel_norm.py#BatchChannelNorm) takes this way by itself. Only
if somebody wants to see the two norms at work, through a hook or by putting
another layer in the place of one, do they run one after the other.

**Kernels.** On top of that, each value is read from memory once in each
direction, if a few groups of channels fit into a cache at a time. No
sequence of PyTorch's operations can do that, and so the formulas of this
page stand once more in C++ and in Triton, for the CPU and for CUDA. The
operations on this page remain: as the reference that the kernels are held
to, and for whatever the kernels do not take.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from labml_bcn import native
from labml_bcn._autograd import (
    below_autograd,
    needs_differentiable_backward,
    needs_plain_operations,
)
from labml_bcn._distributed import all_reduce_sums, average
from labml_bcn._numerics import (
    cast,
    count_positions,
    is_known_true,
    statistics_dtype,
    widest,
)
from labml_bcn._passes import choose_passes, per_sample
from labml_bcn.batch_norm import REMEDY, is_empty_batch, move_statistics

Pair = tuple[Tensor, Tensor]
# The parameters $\gamma_c$, $\beta_c$, $\gamma_g$ and $\beta_g$.
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
# The same, each `None` if the layer has none.
OptionalWeights = tuple[
    Tensor | None, Tensor | None, Tensor | None, Tensor | None
]
Gradients = tuple[Tensor | None, ...]
# From [points, steps and variances](#pool_moments) to $u_{b,c}$, and to what
# the batch norm normalizes with, $m_c$ and $s^2_c$.
Statistics = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class How(IntEnum):
    """
    What the batch norm normalizes with.

    The running statistics; the running ones after their update by the
    batch's mean and by its variance around [one mean or the
    other](batch_channel_norm.py#EstimatedBatchNorm.measure); or the batch's
    own, through which the gradient flows.
    """

    EVALUATION = 0
    AROUND_BATCH_MEAN = 1
    AROUND_RUNNING_MEAN = 2
    PLAIN = 3


class Config(NamedTuple):
    """
    What a pass needs to know besides tensors.

    `momentum` is the rate $r$ of the running statistics, `process_group`
    says which processes share the batch's, and `relu` whether a ReLU
    follows.
    """

    groups: int
    eps_c: float
    eps_g: float
    how: How
    momentum: float = 0.1
    process_group: Any = None
    relu: bool = False


def normalize_in_one_map(
    x: Tensor,
    running: Pair,
    weights: OptionalWeights,
    config: Config,
    residual: Tensor | None = None,
) -> Tensor:
    r"""
    ## The layer as a function

    Batch-channel norm in one pass to measure and one to apply.

    $$y_{b,c,l} = s_{b,c} (x_{b,c,l} - \mu_{b,c}) + t_{b,c}$$ {#one-map}

    with [slope and offset](#slope_and_offset) for each sample and channel.
    A residual is added to it, and ReLU follows, if they are asked for.
    `running` holds the running mean and variance, which training updates.
    """
    # An empty batch is one of no samples, whatever its other sizes.
    if is_known_true(x.numel() == 0):
        empty = x.reshape(0, x.shape[1], 1)
        y = normalize_in_operations(empty, running, weights, config)
        return finish(y.reshape(x.shape), residual, relu=config.relu)
    # The kernels do all of it at once, if they know this kind of input and
    # no other process has a part in it.
    training = config.how is not How.EVALUATION
    shared = training and config.process_group is not None
    if not shared and native.takes(x, residual, weights, running):
        if residual is x:  # a compiler wants to see two
            residual = x.view_as(x)
        if config.how in (How.PLAIN, How.AROUND_BATCH_MEAN):
            require_spread(x, config, x.shape[0] * count_positions(x))
        if not torch.is_grad_enabled():
            return native.forward(x, residual, weights, running, config)[0]
        result: Tensor = KernelFunction.apply(  # type: ignore[no-untyped-call]
            x, residual, *weights, *running, config
        )
        return result
    y = normalize_in_operations(x, running, weights, config)
    return finish(y, residual, relu=config.relu)


def finish(y: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
    r"""
    Add the residual and apply ReLU, one after the other.
    """
    if residual is not None:
        y = y + residual
    return F.relu(y) if relu else y


def normalize_in_operations(
    x: Tensor, running: Pair, weights: OptionalWeights, config: Config
) -> Tensor:
    r"""
    ## Two ways through PyTorch's operations

    Without the kernels it depends on who looks. A compiler fuses plain
    operations by itself, and whatever else rewrites the program
    (`torch.export`, `torch.func`, forward-mode gradients) understands them.
    In eager mode each operation is a pass over memory, and so the passes are
    picked by hand.

    **From the papers**: batch-channel normalization.
    """
    given = fill_in(weights, config.groups, running[0])

    def statistics(point: Tensor, step: Tensor, v: Tensor) -> Any:
        return normalization_statistics(running, x, point, step, v, config)

    if needs_plain_operations(x):
        return forward_in_plain_operations(x, given, statistics, config)
    # ReLU follows as a step of its own. PyTorch 2.4's compiler does not know
    # `_replace`, and does not come here.
    config = config._replace(relu=False)
    y: Tensor = AffineMapFunction.apply(x, *given, statistics, config)  # type: ignore[no-untyped-call]
    return y


def fill_in(weights: OptionalWeights, groups: int, like: Tensor) -> Weights:
    r"""
    Put $\gamma = 1$ and $\beta = 0$ where there are none.
    """
    sizes = (like.numel(), like.numel(), groups, groups)
    start = (1.0, 0.0, 1.0, 0.0)
    gamma_c, beta_c, gamma_g, beta_g = (
        like.new_full((size,), value) if weight is None else weight
        for weight, size, value in zip(weights, sizes, start, strict=True)
    )
    return gamma_c, beta_c, gamma_g, beta_g


def pool_moments(
    point: Tensor, step: Tensor, v: Tensor, length: int, group: Any
) -> tuple[Tensor, Tensor, Tensor, int | Tensor]:
    r"""
    ## Statistics of the batch from those of its samples

    All samples have the same number $L$ of positions. So the mean of a
    channel over the batch is the mean of its means. Its variance is the mean
    of the variances within samples, plus the variance between their means:

    $$\bar m_c = \frac{1}{B} \sum_b \mu_{b,c}
    \qquad
    \bar v_c = \frac{1}{B} \sum_b
    \left( v_{b,c} + (\mu_{b,c} - \bar m_c)^2 \right)$$ {#pooling}

    At 10,000, float32 counts in thousandths. So a mean is kept in two parts,
    a point $p_{b,c}$ near it and the small step $\mu_{b,c} - p_{b,c}$; the
    batch's is returned as a centre and a shift. With a process group the
    means go over the samples of [all its
    processes](batch_norm.py#BatchNorm.batch_statistics). Last comes the
    number of values, $B L$.
    """
    mean, count = average(widest(point) + step, [0], group, length)
    centre = cast(mean, v.dtype)
    shift = cast(mean - centre, v.dtype)
    between = distance_from(centre, point, step - shift)
    spread = torch.addcmul(v, between, between)
    var, _ = average(spread, [0], group, length)
    return centre, shift, var, count


def normalization_statistics(
    running: Pair,
    x: Tensor,
    point: Tensor,
    step: Tensor,
    v: Tensor,
    config: Config,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""
    ## What the batch norm normalizes with

    The mean $m_c$ and variance $s^2_c$, from the input's moments. In
    evaluation they are the running ones, in plain training the batch's, and
    in estimated training the running ones after their update. First comes
    $u_{b,c}$, [the distance](#distance_from) of the samples from $m_c$.
    """
    if config.how is How.EVALUATION:
        # Copies, for a later update changes the buffers, and the backward
        # pass may come after it.
        mean, var = (table.clone() for table in widen(running))
        return distance_from(mean, point, step), mean, var
    length, group = count_positions(x), config.process_group
    centre, shift, var, count = pool_moments(point, step, v, length, group)
    mean = centre + shift
    if require_spread(x, config, count):
        mean, var = widen(running)
    elif config.how is How.PLAIN:
        # As in [batch norm](batch_norm.py#BatchNorm), the stored variance is
        # the unbiased one.
        unbiased = var.detach() * (count / (count - 1))
        move_statistics(*running, mean.detach(), unbiased, config.momentum)
        return distance_from(centre, point, step - shift), mean, var
    else:
        # Around the running mean, the variance grows by the squared distance
        # of the two means; see [the two
        # readings](batch_channel_norm.py#EstimatedBatchNorm.measure).
        mean, var = mean.detach(), var.detach()
        if config.how is How.AROUND_RUNNING_MEAN:
            var = var + (mean - widen(running)[0]).square()
        mean, var = move_statistics(*running, mean, var, config.momentum)
    return distance_from(mean, point, step), mean, var


def distance_from(mean: Tensor, point: Tensor, step: Tensor) -> Tensor:
    r"""
    Return $\mu_{b,c} - m_c$, with the large numbers subtracted first:

    $$u_{b,c} = (p_{b,c} - m_c) + (\mu_{b,c} - p_{b,c})$$ {#centred-mean}
    """
    return (point - mean) + step


def widen(running: Pair) -> Pair:
    r"""
    Return $\mu_c$ and $\sigma^2_c$ in the precision of statistics.
    """
    mean, var = running
    dtype = statistics_dtype(mean)
    return cast(mean, dtype), cast(var, dtype)


def require_spread(x: Tensor, config: Config, count: int | Tensor) -> bool:
    r"""
    Say whether there is nothing to learn from, and raise if a variance is
    needed and there is one value.
    """
    if config.how is How.AROUND_RUNNING_MEAN:
        return is_known_true(x.numel() == 0) and bool(count == 0)
    remedy = REMEDY
    if config.how is How.AROUND_BATCH_MEAN:
        remedy = f'use variance_around="running_mean", or{REMEDY[3:]}'
    return is_empty_batch(x, count, remedy)


def slope_and_offset(
    u: Tensor, v: Tensor, var: Tensor, weights: Weights, config: Config
) -> tuple[Tensor, ...]:
    r"""
    ## Slope and offset

    Follow one channel of one sample through both norms.
    """
    # The tables take the groups' form, `[B, G, D]`: a sum over a group is
    # then one over the last dimension.
    dtype, size = v.dtype, (config.groups, -1)
    var, gamma_c, beta_c, gamma_g, beta_g = [
        cast(table, dtype).view(size) for table in (var, *weights)
    ]
    u, v = (cast(table, dtype).view(-1, *var.shape) for table in (u, v))
    # The batch norm turns $x$ into $z = a_c (x - m_c) + \beta_c$, with
    #
    # $$\rho_c = \frac{1}{\sqrt{s^2_c + \epsilon}}
    # \qquad a_c = \gamma_c \rho_c$$ {#batch-slope}
    rho_c = torch.rsqrt(var + config.eps_c)
    a = gamma_c * rho_c
    # Of $z$, sample $b$'s channel $c$ has the mean $\eta_{b,c}$ and the
    # variance $a_c^2 v_{b,c}$:
    #
    # $$\eta_{b,c} = a_c u_{b,c} + \beta_c$$ {#mean-of-z}
    eta = torch.addcmul(beta_c, a, u)
    # The channel norm needs the mean of $z$ over a group, which is the mean
    # of its channels' means. A channel's distance from it is
    #
    # $$\delta_{b,c} = \eta_{b,c} - \frac{1}{D} \sum_{c' \in g}
    # \eta_{b,c'}$$ {#deviation}
    delta = eta - eta.mean(-1, keepdim=True)
    # And it needs the variance of $z$ over a group. Again it is the variance
    # within channels plus that between them:
    #
    # $$V_{b,g} = \frac{1}{D} \sum_{c \in g}
    # \left( a_c^2 v_{b,c} + \delta_{b,c}^2 \right)
    # \qquad \rho_{b,g} = \frac{1}{\sqrt{V_{b,g} + \epsilon}}
    # \qquad \kappa_{b,g} = \gamma_g \rho_{b,g}$$ {#group-variance}
    within = (a * a) * v
    total = torch.addcmul(within, delta, delta).mean(-1, keepdim=True)
    rho_g = torch.rsqrt(total + config.eps_g)
    kappa = gamma_g * rho_g
    # In terms of the input, $z$ minus its group's mean is
    # $a_c (x - \mu_{b,c}) + \delta_{b,c}$. Scaled by $\kappa_{b,g}$ and
    # shifted by $\beta_g$, that is the output. So
    #
    # $$s_{b,c} = \kappa_{b,g} a_c
    # \qquad t_{b,c} = \kappa_{b,g} \delta_{b,c} + \beta_g$$
    # {#slope-and-offset}
    #
    # The map keeps the mean apart, instead of folding it into the offset:
    # at a large mean, $s x$ and $t - s \mu$ would be two large numbers, and
    # their sum would have lost its digits.
    slope = kappa * a
    offset = torch.addcmul(beta_g, kappa, delta)
    return slope, offset, rho_c, a, u, delta, rho_g, kappa


def forward_in_plain_operations(
    x: Tensor, weights: Weights, statistics: Statistics, config: Config
) -> Tensor:
    r"""
    ## In plain operations

    The whole layer for a compiler, which makes one loop of what reads the
    same values, and finds the gradient by itself. Nothing here reshapes the
    input, so any memory format will do.
    """
    values = cast(x, statistics_dtype(x))
    dims = list(range(2, x.dim()))
    # Distances are measured from a fixed point $p_{b,c}$: the mean, as far
    # as rounding allows. To autograd it is a constant, and the mean's own
    # part in the gradient goes through the tables
    #
    # $$v_{b,c} = \frac{1}{L} \sum_l (x_{b,c,l} - p_{b,c})^2
    # - (\mu_{b,c} - p_{b,c})^2$$ {#fixed-point}
    #
    # and, below, $t - s (\mu - p)$. Otherwise it would go through every
    # value of $x - \mu$, which takes two more passes over the gradient.
    point = values.mean(dims, keepdim=True) if dims else values
    point = point.detach()
    distance = values - point
    square = distance.square()
    step = distance.mean(dims) if dims else distance
    v = (square.mean(dims) if dims else square) - step.square()
    u, _, var = statistics(point.flatten(1), step, v)
    slope, offset, *_ = slope_and_offset(u, v, var, weights, config)
    slope, offset = slope.flatten(1), offset.flatten(1)
    offset = per_sample(offset - slope * step, x)
    slope = per_sample(slope, x)
    return cast(torch.addcmul(offset, slope, distance), x.dtype)


class AffineMapFunction(Function):
    r"""
    ## Both directions by hand

    In eager mode the gradient is written out as well. Kept for it are the
    input and tables: where two norms keep two activations, this keeps one.
    """

    @staticmethod
    @below_autograd
    def forward(
        ctx: Any,
        x: Tensor,
        gamma_c: Tensor,
        beta_c: Tensor,
        gamma_g: Tensor,
        beta_g: Tensor,
        statistics: Statistics,
        config: Config,
    ) -> Tensor:
        r"""
        ### Forward

        Measure, derive the map, apply it.
        """
        passes = choose_passes(x)
        weights = (gamma_c, beta_c, gamma_g, beta_g)
        values = passes.values_of(x)
        point, step, v, distance = passes.measure(values)
        u, *fixed = statistics(point, step, v)
        slope, offset, *tables = slope_and_offset(
            u, v, fixed[1], weights, config
        )
        # From the point, the way to the mean is a step more.
        scale, start = slope.view(v.shape), offset.view(v.shape)
        y = passes.apply(distance, scale, start - scale * step)
        moments = point, step, v
        ctx.save_for_backward(x, *weights, *fixed, *moments, slope, *tables)
        ctx.config, ctx.passes = config, passes
        return cast(y, x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        r"""
        ### Backward

        From the gradient $dy$ of the output to those of the input and of
        the four parameters.
        """
        saved = ctx.saved_tensors
        if not needs_differentiable_backward(dy):
            return *backward(ctx, dy, *saved), None, None
        x, *weights, mean, var = saved[:7]
        dx, _, *grads = double_backward(
            dy, x, None, tuple(weights), (mean, var), ctx.config
        )
        return dx, *grads, None, None


@below_autograd
def backward(ctx: Any, dy: Tensor, x: Tensor, *saved: Tensor) -> Gradients:
    r"""
    ## The gradient

    All of it follows from two sums over positions, for all else that the
    output depends on is a table.
    """
    weights, (point, step, v, slope) = saved[:4], saved[6:10]
    rho_c, a, u, delta, rho_g, kappa = saved[10:]
    shape = u.shape
    plain = ctx.config.how is How.PLAIN
    values, dy = ctx.passes.values_of(x), ctx.passes.values_of(dy)
    length = count_positions(x)
    # The sums run over the positions of each sample and channel:
    #
    # $$S_{b,c} = \sum_l dy_{b,c,l} \qquad
    # T_{b,c} = \sum_l dy_{b,c,l} (x_{b,c,l} - \mu_{b,c})$$ {#position-sums}
    s, t = ctx.passes.sums(values, point, dy)
    s, t = s.view(v.shape), t.view(v.shape)
    s, t = s.view(shape), (t - step * s).view(shape)
    # **Back through the channel norm.** With $\hat z$ the normalized
    # value, its output is $\gamma_g \hat z + \beta_g$, and $z$ minus the
    # group's mean is $a_c (x - \mu_{b,c}) + \delta_{b,c}$. So the sums
    # over a group that give the gradients of $\gamma_g$ and $\beta_g$
    # are made of $S$ and $T$:
    #
    # $$U_{b,g} = \sum_{c \in g} \left( a_c T_{b,c} +
    # \delta_{b,c} S_{b,c} \right)
    # \qquad d\gamma_g = \sum_b \rho_{b,g} U_{b,g}
    # \qquad d\beta_g = \sum_b \sum_{c \in g} S_{b,c}$$ {#group-parameters}
    by_group = (delta * s).addcmul_(a, t).sum(-1, keepdim=True)
    by_group = rho_g * by_group
    sum_s = s.sum(-1, keepdim=True)
    # Any norm takes two things out of the gradient: its mean over the
    # group, and its part along $\hat z$. A group has $D L$ values. Of
    # the channel norm's input, the gradient is therefore
    #
    # $$dz_{b,c,l} = \kappa_{b,g} \left( dy_{b,c,l} -
    # \frac{1}{D L} \left( \sum_{c' \in g} S_{b,c'} +
    # \varphi_{b,g} (z - \bar z) \right) \right)
    # \qquad \varphi_{b,g} = \rho_{b,g}^2 U_{b,g}$$ {#through-channel-norm}
    #
    # where $\bar z$ is the group's mean. Put $z - \bar z$ in, and the
    # part that is the same for all positions is $\omega$, the part that
    # goes with $x - \mu$ is $\varphi a$:
    #
    # $$\omega_{b,c} = \sum_{c' \in g} S_{b,c'} +
    # \varphi_{b,g} \delta_{b,c}$$ {#omega}
    phi = rho_g * by_group
    omega = torch.addcmul(sum_s, phi, delta)
    along = phi * a
    # **Back through the batch norm.** Its parameters want two sums of
    # $dz$ over positions, alone and times $x - \mu_{b,c}$. The sum of
    # $(x - \mu)^2$ is $L v$, and so
    #
    # $$S^z_{b,c} = \kappa_{b,g} \left( S_{b,c} -
    # \frac{\omega_{b,c}}{D} \right)
    # \qquad T^z_{b,c} = \kappa_{b,g} \left( T_{b,c} -
    # \frac{\varphi_{b,g} a_c v_{b,c}}{D} \right)$$ {#sums-of-dz}
    share = 1 / shape[-1]
    sz = torch.sub(s, omega, alpha=share).mul_(kappa)
    tz = torch.addcmul(t, along, v.view(shape), value=-share).mul_(kappa)
    # As $x - m_c$ is $x - \mu_{b,c}$ plus $u_{b,c}$,
    #
    # $$Y_c = \sum_b \left( T^z_{b,c} + u_{b,c} S^z_{b,c} \right)
    # \qquad d\gamma_c = \rho_c Y_c
    # \qquad d\beta_c = \sum_b S^z_{b,c}$$ {#channel-parameters}
    d_beta_c = sz.sum(0)
    d_gamma_c = rho_c * tz.addcmul_(u, sz).sum(0)
    d_gammas = (d_gamma_c, d_beta_c, by_group.sum(0), sum_s.sum(0))
    grads = [
        cast(grad, weight.dtype).view(-1)
        for grad, weight in zip(d_gammas, weights, strict=True)
    ]
    if not ctx.needs_input_grad[0]:
        return None, *grads
    # **The input.** $x$ enters $z$ with the factor $a_c$. Collected by
    # what it goes with, its gradient is again an affine map, of two
    # variables now:
    #
    # $$dx = s \, dy + Q (x - \mu) + R
    # \qquad Q = - \frac{s \varphi a}{D L}
    # \qquad R = - \frac{s \omega}{D L}$$ {#input-gradient}
    scaled = slope * (-share / length)
    q, r = along.mul_(scaled), omega.mul_(scaled)
    # In plain training $m_c$ and $s^2_c$ depend on the input too, and
    # the batch norm as well takes a mean and a part along its output
    # out of the gradient, over the $B L$ values of a channel:
    #
    # $$q_c = - \frac{a_c \rho_c^2 Y_c}{B L}
    # \qquad Q \mathrel{+}= q
    # \qquad R \mathrel{+}= q u - \frac{a}{B L} \sum_b S^z$$ {#plain-terms}
    #
    # The two sums are those of the parameters' gradients; when processes
    # share their statistics, they go over the samples of all.
    if plain:
        count: Any = length * shape[0]
        if ctx.config.process_group is not None:
            sums = torch.stack((d_gamma_c, d_beta_c))
            sums, count = all_reduce_sums(
                sums, count, ctx.config.process_group
            )
            d_gamma_c, d_beta_c = sums
        more = a * rho_c * d_gamma_c / -count
        q = q + more
        r = r + more * u - a * d_beta_c / count
    slope, q, r = (table.view(v.shape) for table in (slope, q, r))
    dx = ctx.passes.combine(values, point, dy, slope, q, r - q * step)
    return cast(dx, x.dtype), *grads


def double_backward(
    dy: Tensor,
    x: Tensor,
    output: Tensor | None,
    weights: OptionalWeights,
    fixed: Pair,
    config: Config,
) -> Gradients:
    r"""
    ## Gradients of gradients

    When the backward pass is itself to be differentiated (for a gradient
    penalty, say), it is left to autograd: the layer is restated in plain
    operations, with the statistics that it had.

    Returned are the gradients of `x`, of a residual and of the weights, as
    far as these learn. Where ReLU follows, its mask is found in the output,
    or in what is restated here.
    """

    def statistics(point: Tensor, step: Tensor, v: Tensor) -> Any:
        mean, var = fixed
        if config.how is How.PLAIN:
            length, group = count_positions(x), config.process_group
            mean, shift, var, _ = pool_moments(point, step, v, length, group)
            step = step - shift
        return distance_from(mean, point, step), mean, var

    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Other names for the same tensors: there the gradient ends. The
        # input may itself depend on the weights, if a layer is used twice,
        # and hooks on a tensor wait for the gradient that arrives in the end.
        first = x.view_as(x)
        gamma_c, beta_c, gamma_g, beta_g = (
            None if t is None else t.view_as(t) for t in weights
        )
        own = (gamma_c, beta_c, gamma_g, beta_g)
        given = fill_in(own, config.groups, fixed[0])
        y = forward_in_plain_operations(first, given, statistics, config)
        if config.relu:
            dy = dy.masked_fill((y if output is None else output) <= 0, 0)
        leaves = (first, *own)
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        found: Gradients = ()
        if wanted:
            found = torch.autograd.grad(y, wanted, dy, create_graph=again)
    grads = iter(found)
    dx, *d_weights = [
        next(grads) if t is not None and t.requires_grad else None
        for t in leaves
    ]
    return dx, dy, *d_weights


class KernelFunction(Function):
    r"""
    ## Both directions in kernels

    The same formulas in C++ and in Triton, with ReLU and the addition of a
    residual in the same passes. Kept are the input and tables. If a residual
    was added before a ReLU, the output is kept, too: its sign says what the
    ReLU let through. Without a residual, the input says it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        gamma_c: Tensor | None,
        beta_c: Tensor | None,
        gamma_g: Tensor | None,
        beta_g: Tensor | None,
        exp_mean: Tensor,
        exp_var: Tensor,
        config: Config,
    ) -> Tensor:
        r"""
        Normalize, and update the running statistics.
        """
        weights = (gamma_c, beta_c, gamma_g, beta_g)
        running = (exp_mean, exp_var)
        y, saved = native.forward(x, residual, weights, running, config)
        output = None if residual is None or not config.relu else y
        ctx.save_for_backward(x, output, *weights, saved)
        ctx.config = config
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Gradients:
        r"""
        Return the gradients of the input, the residual and the parameters.
        """
        x, output, *weights, saved = ctx.saved_tensors
        config, asked = ctx.config, ctx.needs_input_grad
        if needs_differentiable_backward(dy):
            fixed = native.statistics_of(saved, x, config.eps_c)
            dx, d_residual, *grads = double_backward(
                dy, x, output, tuple(weights), fixed, config
            )
        else:
            dx, d_residual, *grads = native.backward(
                dy, x, output, weights, saved, config, asked[:2]
            )
        return dx, d_residual if asked[1] else None, *grads, None, None, None
