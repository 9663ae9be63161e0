r"""
---
title: Weight standardization
summary: >
  Weight standardization in PyTorch, line by line: convolutions whose
  filters have mean zero and variance one, whatever the optimizer does.
---

# Weight standardization

A norm between two layers looks at *activations*. Weight standardization
looks at the *weights* instead: each filter of a convolution is given mean
zero and variance one before it is used. It needs no batch at all, so a
micro-batch does it no harm.

<!-- figure: weight standardization -->

**Why it helps.** A step along the gradient assumes that the gradient holds
still for the length of the step. How far it can change is bounded by the
Lipschitz constants of the loss and of its gradient. The paper proves an
inequality: standardizing takes two parts [out of the
gradient](#the-gradient), and what is left can only be shorter, up to a
factor in front. How much smoother the loss of a network gets, no inequality
says. [A notebook](../notebooks/4_roughness.py) measures it on a small one,
and finds less than one would hope for: smoother in 2 cases of 6. Another
effect is plain. Group norm leaves channels nearly silent, behind a ReLU that
hardly ever gives anything but 0; with standardized weights
[it leaves none](../notebooks/3_elimination_singularities.py).

**What it is worth.** In [our study](../results.md), at one image a batch, a
network with group norm classifies 39.9% of the test images right, and 53.6%
with standardized weights. With batch-channel norm it is 44.8%, and 54.6%.

It goes with any norm. The papers pair it with group norm and with
[batch-channel norm](batch_channel_norm.py).

**When not to use it.** Without a norm behind it: a standardized filter of
$I$ weights amplifies its input by about $\sqrt{I}$, and only a norm takes
that out again. And not on a depthwise or pointwise filter so small that
standardizing leaves next to nothing to learn.

**Paper.** Qiao, Wang, Liu, Shen and Yuille, *Micro-Batch Training with
Batch-Channel Normalization and Weight Standardization*,
[arXiv 1903.10520](https://arxiv.org/abs/1903.10520).
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labml_bcn import native
from labml_bcn._autograd import (
    needs_differentiable_backward,
    needs_plain_operations,
)
from labml_bcn._checks import (
    refuse_scripting,
    require_divisor,
    require_floating_point,
    require_positive_eps,
    require_positive_int,
)
from labml_bcn._numerics import cast, statistics_dtype


def weight_standardization_stepwise(
    weight: Tensor, eps: float = 1e-5
) -> Tensor:
    r"""
    ## Step by step

    Give every output filter mean zero and variance one, each line beside
    its formula.

    This is the form to read, and the reference: the tests hold it and
    [the function](#weight_standardization) further down to the same laws.

    **Arguments**

    - `weight`: a weight with filters along dimension 0, `[O, *]`.
    - `eps`: $\epsilon$, added to the variance inside the square root.

    **Returns** the standardized weight, `[O, *]`.
    """
    # Filter $o$ makes output channel $o$. It holds $I$ weights: one for each
    # input channel of its group and each position of the kernel. They go
    # into one line: `[O, I]`.
    filters = weight.flatten(1)
    # **Measure every filter.**
    #
    # $$\mu_o = \frac{1}{I} \sum_i W_{o,i}
    # \qquad
    # \sigma^2_o = \frac{1}{I} \sum_i (W_{o,i} - \mu_o)^2$$
    # {#filter-statistics}
    mean = filters.mean(1, keepdim=True)
    var = (filters - mean).square().mean(1, keepdim=True)
    # **Normalize it** with its own. Before every step this is done anew;
    # the stored weight stays what the optimizer made of it.
    #
    # $$\hat W_{o,i} =
    # \frac{W_{o,i} - \mu_o}{\sqrt{\sigma^2_o + \epsilon}}$$ {#standardized}
    standard = (filters - mean) / torch.sqrt(var + eps)
    return standard.reshape(weight.shape)


# What may follow the standardization: a factor and a term for each filter.
AFFINE = ("gain", "offset")


def weight_standardization(
    weight: Tensor, eps: float = 1e-5, *, correction: int = 0
) -> Tensor:
    r"""
    ## The same, hardened

    Give every output filter mean zero and variance one.

    It computes [the same](#weight_standardization_stepwise), in kernels that
    read a filter once in each direction. It keeps the digits of half
    precision, knows the other variance that is in use, and refuses what
    could not learn.

    **Arguments**

    - `weight`: a weight with filters along dimension 0.
    - `eps`: $\epsilon$, added to the variance inside the square root. It is
      not small beside the variance of a wide layer's weights: PyTorch's
      initial ones of a 3×3 convolution from 512 channels get a deviation of
      0.937 instead of 1, and weights with a deviation of 0.002 get 0.53.
      timm uses $10^{-6}$, BiT $10^{-10}$.
    - `correction`: what is subtracted from $I$ in the variance: 0 for the
      paper's formula, 1 for labml's code.

    **Shape**

    - `weight` and the result: `[O, *]`, with $I \geq 2$ elements a filter.

    **Raises**

    - `ValueError`: a filter of one element, of which nothing would be left,
      or an argument out of its range.
    - `TypeError`: a weight that is not floating point, or an argument of
      the wrong kind.

    **Source**: the paper's weight standardization.
    """
    require_floating_point("weight", weight)
    require_positive_eps(eps)
    per_filter = require_several_weights(weight)
    if isinstance(correction, bool) or not isinstance(correction, int):
        raise TypeError(
            f"correction must be an int, got {correction!r}; use 0 (the "
            "paper) or 1 (labml)"
        )
    if not 0 <= correction < per_filter:
        raise ValueError(
            "correction must be at least 0 and below the number of elements "
            f"of a filter, got {correction} for {per_filter} elements; use "
            "0 (the paper) or 1 (labml)"
        )
    # With a correction $k$ the variance is $\frac{I}{I-k} \sigma^2_o$.
    # Taking the factor out of the root leaves the paper's formula, with
    # another $\epsilon$ and a gain:
    #
    # $$\frac{W_{o,i} - \mu_o}{\sqrt{\frac{I}{I-k} \sigma^2_o + \epsilon}} =
    # \sqrt{\frac{I-k}{I}} \,
    # \frac{W_{o,i} - \mu_o}{\sqrt{\sigma^2_o + \frac{I-k}{I} \epsilon}}$$
    # {#correction}
    #
    # !!! differs "Where the sources differ"
    #     The paper divides the sum of squares by $I$. labml's code, and the
    #     authors', divide by $I - 1$: that is `correction=1`. The authors'
    #     first code also adds $\epsilon$ to the standard deviation instead of
    #     the variance. This function follows the paper's formula, and keeps
    #     $\epsilon$ inside the root, where the gradient of a constant filter
    #     stays finite.
    #
    # **From the paper**: weight standardization.
    factor = (per_filter - correction) / per_filter
    eps, gain = eps * factor, factor**0.5
    if not native.takes_filters(weight):
        return standardize_in_operations(weight, eps, gain)
    if not torch.is_grad_enabled():
        return native.standardize(weight, eps, gain)[0]
    standard: Tensor = KernelFunction.apply(weight, eps, gain)  # type: ignore[no-untyped-call]
    return standard


class KernelFunction(Function):
    r"""
    ### In kernels

    Step by step, standardizing would cost more than the convolution itself
    in the late layers of a network, where the weight is larger than the
    image.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, eps: float, gain: float) -> Tensor:
        """
        Standardize `weight` of shape `[O, *]`.
        """
        standard, saved = native.standardize(weight, eps, gain)
        ctx.save_for_backward(weight, saved)
        ctx.settings = eps, gain
        return standard

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """
        Return the gradient of the weight.
        """
        weight, saved = ctx.saved_tensors
        if not needs_differentiable_backward(gradient):
            result = native.standardize_backward(
                gradient, weight, saved, *ctx.settings
            )
            return result, None, None
        # Gradients of gradients are left to autograd. The weight gets another
        # name, for hooks on it wait for the gradient in the end.
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = weight.view_as(weight)
            standard = standardize_in_operations(leaf, *ctx.settings)
            (result,) = torch.autograd.grad(
                standard, leaf, gradient, create_graph=again
            )
        return result, None, None


def standardize_in_operations(
    weight: Tensor, eps: float, gain: float
) -> Tensor:
    r"""
    ### In PyTorch's operations

    Seen as one sample with a channel and a group for each filter, the weight
    is standardized by group norm: the same formula.
    """
    filters = weight.to(statistics_dtype(weight)).flatten(1).contiguous()
    if needs_plain_operations(filters):
        rows = filters.unsqueeze(0)
        standard = F.group_norm(rows, filters.shape[0], eps=eps)
    else:
        standard = StandardizeFunction.apply(filters, eps)  # type: ignore[no-untyped-call]
    if gain != 1:
        standard = standard * gain
    return standard.reshape(weight.shape).to(weight.dtype)


class StandardizeFunction(Function):
    r"""
    ### With the shorter backward pass

    Group norm's backward pass allows for a scale and a shift, and reads the
    weight and its gradient one time more than need be. Batch norm's does
    without, and with each filter a channel it computes the same.
    """

    @staticmethod
    def forward(ctx: Any, filters: Tensor, eps: float) -> Tensor:
        """
        Standardize `filters` of shape `[O, I]`.
        """
        rows, inner = filters.shape
        # The result has the shape of `filters`, and no dimension for the one
        # sample has to be taken away from it: what that leaves would be a
        # view, which can not be changed in place.
        standard, mean, inverse = torch.native_group_norm(
            filters, None, None, 1, rows, inner, rows, eps
        )
        ctx.save_for_backward(filters, mean.view(-1), inverse.view(-1))
        return standard

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """
        Return the gradient of `filters`, which can be differentiated again.
        """
        # ### The gradient
        #
        # It flows through $\mu_o$ and $\sigma^2_o$, too. Two parts are taken
        # out of it: its mean, and what lies along the filter itself.
        #
        # $$dW_{o,i} = \frac{1}{\sqrt{\sigma^2_o + \epsilon}} \left(
        # d\hat W_{o,i} - \frac{1}{I} \sum_{j} d\hat W_{o,j} -
        # \hat W_{o,i} \frac{1}{I} \sum_{j} d\hat W_{o,j} \hat W_{o,j}
        # \right)$$ {#gradient}
        #
        # So what reaches $W_o$ sums to zero, and is at a right angle to $W_o$
        # as $\epsilon$ goes to 0: neither a shift nor a longer filter would
        # change the result. And but for the factor in front, it is never
        # longer than what came.
        filters, mean, inverse = ctx.saved_tensors
        result: Tensor = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous().unsqueeze(0),
            filters.unsqueeze(0),
            None,
            None,
            None,
            mean,
            inverse,
            True,
            0.0,
            [True, False, False],
        )[0]
        return result.squeeze(0), None


def require_several_weights(weight: Tensor, least: int = 2) -> int:
    r"""
    Return $I$, the elements of a filter; raise unless there are several.

    Of a single one nothing would be left. Of two, standardizing leaves 1
    and -1, or the other way round: a value to compute, but none to learn.
    """
    per_filter = weight.shape[1:].numel() if weight.dim() > 1 else 1
    if per_filter < least:
        number = {2: "two", 3: "three"}[least]
        raise ValueError(
            f"weight standardization needs filters of {number} or more "
            f"elements, got a weight of shape {list(weight.shape)}: of fewer "
            "it leaves nothing to learn; use a plain convolution here"
        )
    return per_filter


def warn_of_plain_weights(prefix: str) -> None:
    r"""
    Say that weights are loaded that were not trained to be standardized.
    """
    warnings.warn(
        f"the weights under {prefix!r} come from a convolution that did not "
        "standardize them, or from version 0.1 of this package. "
        "Standardized, they are another function. To keep theirs, load them "
        "into the plain model and call convert(model, example, "
        "pretrained=True), or set gain and offset. If they were trained to "
        "be standardized, load dict(state_dict) instead",
        stacklevel=2,
    )


class _WSConv:
    r"""
    ## Convolutions

    What the three layers share: a convolution that standardizes its weight.

    The stored weight stays as the optimizer left it, and only what the
    convolution uses is standardized. So the layers have `nn.Conv`'s state
    dict, and any optimizer works.

    **A pretrained network** was not trained for standardized weights. Its
    function is kept if each filter gets back what standardizing takes away:
    a `gain`, its deviation $\sqrt{\sigma^2_o + \epsilon}$ as it was, and an
    `offset`, its mean. They are buffers of shape `[O, 1, …]` that do not
    learn, and are `None` in a network that starts anew.
    """

    weight: Tensor
    bias: Tensor | None
    out_channels: int
    kernel_size: tuple[int, ...]
    gain: Tensor | None
    offset: Tensor | None
    _version = 2
    _warned_in: list[str] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        eps: float = 1e-5,
        correction: int = 0,
    ) -> None:
        # A convolution of nothing is refused, too.
        require_divisor(groups, in_channels, "in_channels")
        require_divisor(groups, out_channels, "out_channels")
        several = isinstance(kernel_size, Sequence)
        for size in kernel_size if several else (kernel_size,):
            require_positive_int("kernel_size", size)
        super().__init__(  # type: ignore[call-arg]
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.eps = eps
        self.correction = correction
        for name in AFFINE:
            self.register_buffer(name, None)  # type: ignore[attr-defined]
        # Standardizing once refuses an argument that could never work here,
        # and not in the first step.
        require_several_weights(self.weight, 3)
        self.standardized_weight()

    def standardized_weight(self) -> Tensor:
        """
        Return the weight as the convolution uses it.
        """
        # It is made anew in each call, in evaluation too: what was kept from
        # one call to the next would have to be told of every change to the
        # weight, and not all of them can be seen. For deployment,
        # [bake](bake.py) makes plain convolutions of the layers.
        weight = weight_standardization(
            self.weight, self.eps, correction=self.correction
        )
        if self.gain is not None:
            weight = weight * self.for_each_filter("gain", self.gain)
        if self.offset is not None:
            weight = weight + self.for_each_filter("offset", self.offset)
        return weight

    def for_each_filter(self, name: str, values: Tensor) -> Tensor:
        """
        Return values in the weight's dtype; raise unless each filter has one.
        """
        # Broadcasting would take `[O]` too, along the wrong dimension.
        shape = self.shape_of_gain()
        if values.shape != shape:
            raise ValueError(
                f"{name} must have one value for each filter, in the shape "
                f"{list(shape)}, got {list(values.shape)}; give it that "
                f"shape with {name}.view{shape}"
            )
        return cast(values, self.weight.dtype)

    def shape_of_gain(self) -> tuple[int, ...]:
        """
        Return the shape of a gain and of an offset.
        """
        return self.out_channels, 1, *[1] * len(self.kernel_size)

    def __setattr__(self, name: str, value: Any) -> None:
        """
        Set an attribute; refuse a weight that a norm was folded into.
        """
        # To fold a norm into the weight would have no effect: standardizing
        # takes it out again. The assignment looks like any other, and only
        # who makes it can tell.
        caller = sys._getframe(1).f_code
        if name == "weight" and caller is fuse_conv_bn_eval.__code__:
            raise TypeError(
                f"fuse_conv_bn_eval cannot fold a norm into "
                f"{type(self).__name__}, which would standardize the folded "
                "weight; labml_bcn.bake(model.eval(), example) folds it into "
                "a plain convolution"
            )
        super().__setattr__(name, value)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        """
        Load a state dict, which may bring a gain and an offset along.
        """
        brought = [name for name in AFFINE if prefix + name in state_dict]
        # A state dict says which version of a module it comes from, and 1 is
        # `nn.Conv`'s. One that has lost this says nothing, and is believed.
        # A load hands the same lists to all layers: one warning is enough.
        plain = local_metadata.get("version") == 1 and not brought
        if plain and _WSConv._warned_in is not missing_keys:
            _WSConv._warned_in = missing_keys
            warn_of_plain_weights(prefix)
        # They start as 1 and 0, so that a load that fails changes nothing.
        for name, start in zip(AFFINE, (1, 0), strict=True):
            if name in brought and getattr(self, name) is None:
                new = self.weight.new_full(self.shape_of_gain(), start)
                setattr(self, name, new.detach())
        super()._load_from_state_dict(  # type: ignore[misc]
            state_dict, prefix, local_metadata, strict, missing_keys, *args
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle, which may know no gain and offset."""
        super().__setstate__(state)  # type: ignore[misc]
        for name in AFFINE:
            self._buffers.setdefault(name, None)  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """
        Convolve `x` with the standardized weight.
        """
        # This is the step in which `nn.Conv` applies stride, dilation,
        # groups, padding and its mode. Handing it another weight honours
        # them all.
        return self._conv_forward(x, self.standardized_weight(), self.bias)  # type: ignore[attr-defined, no-any-return]

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        text = super().extra_repr()  # type: ignore[misc]
        text = f"{text}, eps={self.eps}, correction={self.correction}"
        given = [name for name in AFFINE if getattr(self, name) is not None]
        return ", ".join([text, *given])


class WSConv1d(_WSConv, nn.Conv1d):
    r"""
    1-d convolution with standardized weights.

    **Arguments**: those of `nn.Conv1d`, and by keyword `eps` and
    `correction` of [weight_standardization](#weight_standardization).

    **Shape**: input `[B, C, L]` or `[C, L]`, output as `nn.Conv1d`'s.

    **Raises**: `ValueError` for filters of fewer than three weights.
    """


class WSConv2d(_WSConv, nn.Conv2d):
    r"""
    2-d convolution with standardized weights.

    **Arguments**: those of `nn.Conv2d`, and by keyword `eps` and
    `correction` of [weight_standardization](#weight_standardization).

    **Shape**: input `[B, C, H, W]` or `[C, H, W]`, output as `nn.Conv2d`'s.

    **Raises**: `ValueError` for filters of fewer than three weights.
    """


class WSConv3d(_WSConv, nn.Conv3d):
    r"""
    3-d convolution with standardized weights.

    **Arguments**: those of `nn.Conv3d`, and by keyword `eps` and
    `correction` of [weight_standardization](#weight_standardization).

    **Shape**: input `[B, C, T, H, W]` or `[C, T, H, W]`, output as
    `nn.Conv3d`'s.

    **Raises**: `ValueError` for filters of fewer than three weights.
    """
