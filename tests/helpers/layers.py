"""The layers to test, by name, and what their tests share."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from helpers.oracle import assert_close
from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    native,
)
from labml_bcn._numerics import cast, statistics_dtype
from labml_bcn._versions import is_exporting
from labml_bcn.batch_channel_norm import batch_channel_norm_stepwise

C, G = 12, 3
MODES = ["batch_mean", "running_mean"]
TRAILING = [(), (5,), (4, 3), (2, 3, 2), (2, 1, 3, 2)]
F64 = torch.float64
LOW = [torch.float16, torch.bfloat16]
FLOATS = [torch.float32, torch.float64, *LOW]


class InOperations(BatchChannelNorm):
    """The layer without its kernels."""

    def forward(self, x, residual=None):
        # An exported program has no kernels in any case.
        exporting = is_exporting()
        with contextlib.nullcontext() if exporting else native.disabled():
            return super().forward(x, residual)


class InTurn(BatchChannelNorm):
    """The layer as two norms, as if somebody watched them."""

    def shows_its_norms(self, first, second):
        return True


class Stepwise(BatchChannelNorm):
    """The layer, computed by the function that its page begins with."""

    def forward(self, x):
        if x.numel() == 0:
            return super().forward(x)
        first, second = self.batch_norm, self.channel_norm
        values = x.to(statistics_dtype(x))
        weights = [
            cast(table, values.dtype)
            for table in (first.scale, first.shift, second.scale, second.shift)
        ]
        y, mean, var = batch_channel_norm_stepwise(
            values,
            *first.running_statistics(),
            weights,
            self.groups,
            first.eps,
            first.momentum if self.training else 0.0,
            first.variance_around,
        )
        if self.training:
            first.exp_mean.copy_(mean)
            first.exp_var.copy_(var)
        return y.to(x.dtype)


def bcn(mode, kind=BatchChannelNorm, **options):
    """BatchChannelNorm in one of its three forms."""
    return kind(C, G, **options_of(mode), **options)


def options_of(mode):
    """The arguments that choose one of the three forms."""
    return {"estimate": False} if mode == "plain" else {"variance_around": mode}


def estimated(mode, **options):
    return EstimatedBatchNorm(C, variance_around=mode, **options)


# The layer, and the same by other ways.
FORMS = {
    "BatchChannelNorm": BatchChannelNorm,
    "BatchChannelNorm in operations": InOperations,
    "BatchChannelNorm in turn": InTurn,
    "BatchChannelNorm stepwise": Stepwise,
}
MAKE = {
    "BatchNorm": lambda **o: BatchNorm(C, **o),
    "EstimatedBatchNorm batch_mean": lambda **o: estimated("batch_mean", **o),
    "EstimatedBatchNorm running_mean": lambda **o: estimated("running_mean", **o),
    "ChannelNorm": lambda **o: ChannelNorm(C, G, **o),
} | {
    f"{name} {mode}": lambda kind=kind, mode=mode, **o: bcn(mode, kind, **o)
    for name, kind in FORMS.items()
    for mode in ("plain", *MODES)
    if mode != "plain" or kind is not Stepwise
}


def parametrize(chosen):
    return pytest.mark.parametrize("name", [name for name in MAKE if chosen(name)])


def is_layer(name):
    """Whether it is a layer of the package, and not the reference."""
    return "stepwise" not in name


def is_tracking(name):
    return name != "ChannelNorm"


# A law holds for every form, the reference among them. Only a layer has errors,
# copies, a compiled form and batches that are not finite.
every_form = parametrize(lambda name: True)
tracking_form = parametrize(is_tracking)
estimating_form = parametrize(lambda name: "mean" in name)
every_layer = parametrize(is_layer)
estimating_layer = parametrize(lambda name: is_layer(name) and "mean" in name)
tracking_layer = parametrize(lambda name: is_layer(name) and is_tracking(name))


def export(layer, x, dynamic=None, *, strict=False):
    """Return the exported program of a copy, which takes sizes that are dynamic."""
    alone = isinstance(layer, BatchNorm) and layer.training
    if alone and torch.__version__ < "2.5":
        pytest.skip("PyTorch 2.4's export loses the output of a norm that learns")
    shapes = None if dynamic is None else (dynamic,)
    program = torch.export.export(
        copy.deepcopy(layer), (x,), dynamic_shapes=shapes, strict=strict
    )
    return program.module()


def make(name, **options):
    return randomize(MAKE[name](**options))


def randomize(layer):
    """Give parameters and statistics values that no default has."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(1, 0.5)
        for name, buffer in layer.named_buffers():
            if name.endswith("exp_mean"):
                buffer.normal_()
            else:
                buffer.uniform_(0.5, 2)
    return layer


def inputs(*shape, dtype=torch.float32, mean=1.5, std=2.0):
    """Random values with another mean for each channel."""
    x = mean + std * torch.randn(shape, dtype=F64)
    if len(shape) > 1:
        x = x + torch.randn(shape[1], dtype=F64).reshape(-1, *[1] * (len(shape) - 2))
    return x.to(dtype)


def leaf(tensor):
    """A copy that learns."""
    return tensor.detach().clone().requires_grad_()


def double(tensor):
    """A copy in float64 that learns."""
    return tensor.detach().double().requires_grad_()


# Another order in memory, for an input of any rank.
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


def state(layer):
    return {k: v.detach().clone() for k, v in layer.state_dict().items()}


def assert_same_state(layer, before, equal=True):
    for key, value in layer.state_dict().items():
        if equal or "exp" not in key:
            assert torch.equal(value, before[key]), key
        else:
            assert not torch.equal(value, before[key]), key


def assert_same_gradients(actual, leaves, expected, restated=None, **tolerance):
    """One random output gradient, pulled back through both."""
    g = torch.randn_like(actual)
    ours = torch.autograd.grad(actual, leaves, g)
    theirs = torch.autograd.grad(expected, restated or leaves, g.to(expected.dtype))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, **tolerance)


def evaluating(*layers):
    """Layers in turn, with values that no default has, in evaluation."""
    model = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return randomize(model).eval()
