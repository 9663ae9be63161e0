"""Baked networks: plain modules, the same results, and whatever takes such."""

import copy
import random
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.layers import F64, evaluating, inputs
from helpers.oracle import assert_close, standardize
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn.utils import parametrizations, prune

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    WSConv1d,
    WSConv2d,
    WSConv3d,
)
from labml_bcn.bake import bake
from labml_bcn.convert import convert

WS = {1: WSConv1d, 2: WSConv2d, 3: WSConv3d}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIZES = {0: (), 1: (9,), 2: (7, 6), 3: (5, 4, 6), 4: (2, 3, 2, 4)}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# PyTorch's group norm looks at its input's size, and a trace says so.
traced = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def assert_bakes(model, *x, example=None, tolerance=1e-5):
    """Bake, compare with the model as it is and in float64, and return the result."""
    before = copy.deepcopy(model.state_dict())
    baked = bake(model, example)
    assert_plain(baked)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        actual, expected = baked(*x), model(*x)
        exact = copy.deepcopy(model).double()(*(each.double() for each in x))
    assert actual.dtype == expected.dtype
    atol = tolerance * exact.abs().max().item()
    assert_close(actual, expected, rtol=tolerance, atol=atol)
    assert_close(actual, exact, rtol=tolerance, atol=atol)
    return baked


def assert_plain(model):
    for module in model.modules():
        for kind in type(module).__mro__:
            assert not kind.__module__.startswith("labml_bcn"), kind


def kinds(model):
    return [type(module) for module in model.modules()]


# ---- Convolutions ----------------------------------------------------------

SETTINGS = {
    "default": {},
    "strided": {"stride": 2, "dilation": 2, "padding": 1},
    "same": {"padding": "same"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "grouped": {"groups": 2, "bias": False},
    "eps and correction": {"eps": 0.1, "correction": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("positions", WS)
def test_a_convolution_keeps_its_settings(positions, settings):
    conv = evaluating(WS[positions](4, 6, 3, **settings))
    baked = assert_bakes(conv, inputs(2, 4, *SIZES[positions]))
    assert type(baked) is CONV[positions]
    shown = repr(conv).replace("WS", "").replace(")", "").split(", eps")[0]
    assert repr(baked).replace(")", "") == shown


def test_the_baked_weight_is_the_standardized_one():
    conv = evaluating(WSConv2d(3, 4, 3, eps=0.1, correction=1))
    baked = bake(conv)
    assert_close(baked.weight, standardize(conv.weight, 0.1, 1).float(), **CLOSE)
    assert set(baked.state_dict()) == {"weight", "bias"}


def test_gain_and_offset_become_part_of_the_weight():
    conv = evaluating(WSConv2d(3, 4, 3))
    conv.gain, conv.offset = torch.rand(4, 1, 1, 1) + 1, torch.rand(4, 1, 1, 1)
    baked = assert_bakes(conv, inputs(2, 3, 5, 5))
    assert_close(baked.weight, conv.standardized_weight())
    assert set(baked.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_keep_their_dtype_format_and_whether_they_learn(dtype):
    conv = WSConv2d(3, 8, 3, dtype=dtype).to(memory_format=torch.channels_last)
    conv.weight.requires_grad_(False)
    baked = bake(nn.Sequential(conv.eval(), ChannelNorm(8, 2, dtype=dtype)).eval())
    assert {p.dtype for p in baked.parameters()} == {dtype}
    assert baked[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not baked[0].weight.requires_grad
    assert baked[0].bias.requires_grad
    assert baked[1].weight.requires_grad


def test_a_network_without_values_is_baked_where_it_is():
    layers = WSConv2d(3, 8, 3), BatchChannelNorm(8, 2), BatchChannelNorm(8, 2)
    baked = bake(nn.Sequential(*layers).eval().to("meta"))
    assert_plain(baked)
    assert all(tensor.is_meta for tensor in baked.state_dict().values())


def test_a_weight_that_two_convolutions_share_is_shared_in_the_copy():
    first, second, other = (
        WSConv2d(4, 4, 3),
        WSConv2d(4, 4, 3),
        WSConv2d(4, 4, 3, eps=1),
    )
    second.weight = other.weight = first.weight
    baked = assert_bakes(evaluating(first, second, other), inputs(2, 4, 9, 9))
    assert baked[0].weight is baked[1].weight
    assert baked[0].weight is not baked[2].weight


WEIGHT_NORMS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "pruned": lambda conv: prune.random_unstructured(conv, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("apply", WEIGHT_NORMS.values(), ids=WEIGHT_NORMS)
def test_a_weight_that_is_computed_is_baked_as_it_is_used(apply):
    conv = apply(WSConv2d(3, 8, 3)).eval()
    x = inputs(2, 3, 6, 6)
    expected = conv(x)
    baked = bake(conv)
    assert type(baked) is nn.Conv2d
    assert_close(baked(x), expected, **CLOSE)
    assert set(baked.state_dict()) == {"weight", "bias"}
    assert baked.weight.requires_grad
    assert not baked._forward_pre_hooks


# ---- Norms that stay -------------------------------------------------------

NORMS = {
    "BatchNorm": lambda: BatchNorm(12),
    "BatchNorm without scale": lambda: BatchNorm(12, affine=False),
    "BatchNorm without statistics": lambda: BatchNorm(12, track_running_stats=False),
    "BatchNorm without both": lambda: BatchNorm(
        12, affine=False, track_running_stats=False
    ),
    "EstimatedBatchNorm": lambda: EstimatedBatchNorm(12, eps=0.1),
    "ChannelNorm": lambda: ChannelNorm(12, 3, eps=0.1),
    "ChannelNorm without scale": lambda: ChannelNorm(12, 3, affine=False),
    "ChannelNorm of one group": lambda: ChannelNorm(12, 1),
    "ChannelNorm of channels": lambda: ChannelNorm(12, 12),
    "BatchChannelNorm": lambda: BatchChannelNorm(12, 3),
    "plain BatchChannelNorm": lambda: BatchChannelNorm(12, 3, estimate=False),
    "BatchChannelNorm with ReLU": lambda: BatchChannelNorm(12, 3, activation="relu"),
    "BatchChannelNorm of one group": lambda: BatchChannelNorm(12, 1),
    "BatchChannelNorm of channels": lambda: BatchChannelNorm(12, 12),
}


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize(
    ("name", "positions"),
    # A group of one channel needs positions, or has one value.
    [(n, p) for n in NORMS for p in SIZES if p or "channels" not in n],
)
def test_a_norm_alone_is_plain_norms_at_any_rank(name, positions, shows):
    norm = evaluating(NORMS[name]())
    x = inputs(4, 12, *SIZES[positions])
    baked = assert_bakes(norm, x, example=x if shows else None)
    batch_norms = set(kinds(baked)) & set(BATCH_NORM.values())
    if shows and positions < 4 and not isinstance(norm, ChannelNorm):
        assert batch_norms == {BATCH_NORM[max(positions, 1)]}


def test_a_norms_parts_keep_their_names_and_settings():
    norm = BatchChannelNorm(12, 3, activation="relu")
    norm.batch_norm.eps, norm.channel_norm.eps = 0.1, 0.2
    norm.batch_norm.scale.requires_grad_(False)
    baked = assert_bakes(evaluating(norm), inputs(2, 12, 5), example=inputs(2, 12, 5))
    assert list(dict(baked.named_children())) == [
        "batch_norm",
        "channel_norm",
        "activation",
    ]
    assert (baked.batch_norm.eps, baked.channel_norm.eps) == (0.1, 0.2)
    assert not baked.batch_norm.weight.requires_grad
    assert baked.batch_norm.bias.requires_grad
    assert not baked.batch_norm.training


def test_a_layer_that_was_put_in_the_place_of_an_inner_norm_stays():
    norm = BatchChannelNorm(12, 3)
    norm.batch_norm = nn.BatchNorm2d(12)
    baked = assert_bakes(norm.eval(), inputs(2, 12, 5, 5))
    assert kinds(baked) == [nn.Sequential, nn.BatchNorm2d, nn.GroupNorm]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_its_statistics(dtype):
    norm = BatchChannelNorm(12, 3)
    with torch.no_grad():
        norm.batch_norm.exp_mean.fill_(300)
        norm.batch_norm.exp_var.fill_(1e6)
    norm = norm.eval().to(dtype)
    x = inputs(2, 12, 5, 5, dtype=dtype, mean=300, std=1000)
    baked = assert_bakes(norm, x, example=x, tolerance=0.02)
    assert baked.batch_norm.running_var.dtype == torch.float32


# ---- Norms that are folded -------------------------------------------------

LAYERS = {
    "padded": lambda n: WS[n](4, 12, 3, padding=1),
    "without bias": lambda n: WS[n](4, 12, 3, bias=False),
    "reflect": lambda n: WS[n](4, 12, 3, padding=1, padding_mode="reflect"),
    "circular": lambda n: WS[n](4, 12, 3, padding=1, padding_mode="circular"),
    "grouped": lambda n: WS[n](4, 12, 3, groups=2),
    "depthwise": lambda n: WS[n](4, 12, 3, groups=4),
    "plain": lambda n: CONV[n](4, 12, 3, stride=2, dilation=2, padding=2),
    "transposed": lambda n: TRANSPOSED[n](4, 12, 3, stride=2, padding=1),
    "transposed, grouped": lambda n: TRANSPOSED[n](4, 12, 3, groups=2, bias=False),
}


@pytest.mark.parametrize(
    "norm", ["BatchNorm", "BatchChannelNorm", "EstimatedBatchNorm"]
)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("positions", WS)
def test_a_batch_norm_goes_into_the_convolution_before_it(positions, make, norm):
    model = evaluating(make(positions), NORMS[norm]())
    baked = assert_bakes(model, inputs(2, 4, *SIZES[positions]))
    left = nn.GroupNorm if norm == "BatchChannelNorm" else nn.Identity
    assert type(baked[1]) is left
    assert not set(kinds(baked)) & set(BATCH_NORM.values())


def test_a_batch_norm_goes_into_a_linear_layer_of_one_dimension():
    model = evaluating(nn.Linear(5, 12), BatchChannelNorm(12, 3))
    x = inputs(4, 5)
    assert_bakes(model, x)
    baked = assert_bakes(model, x, example=x)
    assert kinds(baked) == [nn.Sequential, nn.Linear, nn.GroupNorm]


def test_a_batch_norm_does_not_go_into_a_linear_layer_with_positions():
    model = evaluating(nn.Linear(5, 12), BatchChannelNorm(12, 3))
    x = inputs(4, 12, 5)
    baked = assert_bakes(model, x, example=x)
    assert nn.BatchNorm1d in kinds(baked)


@pytest.mark.parametrize("var", [1e-12, 1e12])
@pytest.mark.parametrize("layer", [WSConv2d, nn.Conv2d])
def test_folding_is_exact_for_tiny_and_huge_variances(layer, var):
    model = evaluating(layer(4, 12, 3), BatchNorm(12), BatchNorm(12))
    model[1].exp_var.fill_(var)
    assert_bakes(model, inputs(2, 4, 6, 6))


def test_half_precision_folds_what_it_can_hold():
    def model(var):
        layers = evaluating(WSConv2d(4, 12, 3), BatchChannelNorm(12, 3))
        layers[1].batch_norm.exp_var.fill_(var)
        return layers.half()

    x = inputs(2, 4, 6, 6, dtype=torch.float16)
    baked = assert_bakes(model(30.0), x, tolerance=0.02)
    assert type(baked[1]) is nn.GroupNorm
    for var in (1e12, 1e-12):
        wide = model(var)
        wide[1].batch_norm.eps = 1e-12
        baked = bake(wide)
        assert nn.BatchNorm2d in kinds(baked)


class Branches(nn.Module):
    """A convolution and a norm, and what each test makes of them."""

    def __init__(self, norm=None):
        super().__init__()
        self.conv = WSConv2d(12, 12, 3, padding=1)
        self.norm = norm or BatchChannelNorm(12, 3)
        self.other = WSConv2d(12, 12, 3, padding=1)


class ReadTwice(Branches):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class ReadsAnother(Branches):
    def forward(self, x):
        return self.norm(self.norm(self.conv(x)))


class ReturnsIt(Branches):
    def forward(self, x):
        y = self.conv(x)
        return y.mean() + self.norm(y)


class SharedNorm(Branches):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.other(x))


class SharedConvolution(Branches):
    def forward(self, x):
        return self.norm(self.conv(x)) + F.relu(self.conv(x + 1))


class Changed(Branches):
    def forward(self, x):
        return self.norm(2 * self.conv(x))


class ChangedInPlace(Branches):
    def forward(self, x):
        return self.norm(self.conv(x).mul_(2))


class ReadsTheBias(Branches):
    def forward(self, x):
        return self.norm(self.conv(x)) * F.softmax(self.conv.bias, 0).sum()


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("kind", [*Branches.__subclasses__()][:7])
def test_a_batch_norm_stays_where_folding_would_be_wrong(kind, shows):
    x = inputs(2, 12, 6, 6)
    baked = assert_bakes(evaluating(kind()), x, example=x if shows else None)
    assert any(hasattr(m, "batch_norm") for m in baked.modules())


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
def test_a_layer_whose_bias_something_else_reads_stays(shows):
    x = inputs(2, 12, 6, 6)
    model = evaluating(ReadsTheBias())
    baked = assert_bakes(model, x, example=x if shows else None)
    assert torch.equal(baked.conv.bias, model.conv.bias)


class BothShared(Branches):
    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x))))


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
def test_a_pair_that_is_used_twice_is_folded_once(shows):
    x = inputs(2, 12, 6, 6)
    baked = assert_bakes(evaluating(BothShared()), x, example=x if shows else None)
    assert type(baked.norm) is nn.GroupNorm


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_an_example_is_a_tensor_or_the_arguments_of_a_call(form):
    class Takes(Branches):
        def forward(self, x, factor=1.0):
            return self.norm(self.conv(x)) if factor > 0 else x

    x = inputs(2, 12, 6, 6)
    example = {"tensor": x, "tuple": (x, 2.0), "dict": {"x": x, "factor": 2.0}}[form]
    baked = assert_bakes(evaluating(Takes()), x, example=example)
    assert type(baked.norm) is nn.GroupNorm


def test_a_network_that_misses_a_name_in_the_copy_says_so_at_once():
    class Looks(Branches):
        def forward(self, x):
            return self.norm(self.conv(x)) * self.norm.groups

    x = inputs(2, 12, 6, 6)
    with pytest.raises(AttributeError, match="groups") as caught:
        bake(evaluating(Looks()), x)
    assert "in the baked copy" in caught.value.__notes__[0]


def test_a_model_that_looks_at_values_needs_an_example_to_be_folded():
    class Looks(Branches):
        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > -1e9 else x

    x = inputs(2, 12, 6, 6)
    assert hasattr(assert_bakes(evaluating(Looks()), x).norm, "batch_norm")
    assert type(assert_bakes(evaluating(Looks()), x, example=x).norm) is nn.GroupNorm


def test_a_module_under_two_names_and_in_a_list_is_replaced_everywhere():
    class Listed(Branches):
        def __init__(self):
            super().__init__()
            self.again = self.norm
            self.steps = [self.conv, self.norm]

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return self.again(self.other(x))

    baked = assert_bakes(evaluating(Listed()), inputs(2, 12, 6, 6))
    assert baked.norm is baked.again is baked.steps[1]


def test_a_part_of_a_layer_that_is_used_on_its_own_is_replaced_too():
    class Part(Branches):
        def __init__(self):
            super().__init__()
            self.first = self.norm.batch_norm

        def forward(self, x):
            return self.norm(self.conv(x)) + self.first(self.other(x))

    x = inputs(2, 12, 6, 6)
    assert_bakes(evaluating(Part()), x, example=x)


# ---- Residuals -------------------------------------------------------------


class Residual(nn.Module):
    """A block whose norm adds the residual."""

    def __init__(self, activation="relu"):
        super().__init__()
        self.conv = WSConv2d(12, 12, 3, padding=1, bias=False)
        self.norm = BatchChannelNorm(12, 3, activation=activation)

    def forward(self, x):
        return self.norm(self.conv(x), x)


@traced
@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("activation", ["relu", None])
def test_a_norm_adds_its_residual(activation, shows):
    model = evaluating(Residual(activation), Residual(activation))
    x = inputs(2, 12, 7, 7)
    baked = assert_bakes(model, x, example=x if shows else None)
    assert not set(kinds(baked)) & set(BATCH_NORM.values())
    assert_taken_by_all(baked, x)


class MayHaveNone(Residual):
    """A block for places with a residual and for places without one."""

    def forward(self, x, residual: Tensor | None = None):
        return self.norm(self.conv(x), residual)


@traced
@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("activation", ["relu", None])
def test_a_residual_may_be_none(activation, shows):
    x = inputs(2, 12, 7, 7)
    model = evaluating(MayHaveNone(activation))
    baked = assert_bakes(model, x, example=x if shows else None)
    assert not set(kinds(baked)) & set(BATCH_NORM.values())
    assert_taken_by_all(evaluating(nn.Sequential(baked)), x)


def test_a_residual_by_keyword_or_of_the_root_is_added():
    class ByName(Residual):
        def forward(self, x):
            return self.norm(self.conv(x), residual=x)

    x = inputs(2, 12, 6, 6)
    assert_bakes(evaluating(ByName()), x)
    assert_bakes(evaluating(BatchChannelNorm(12, 3)), x, x, example=(x, x))


def test_a_neighbours_name_tells_the_rank_through_norms_and_activations():
    model = evaluating(
        *(nn.MaxPool2d(2), BatchNorm(12), nn.ReLU(), BatchChannelNorm(12, 3)),
        *(BatchChannelNorm(12, 3), nn.Flatten(), nn.Linear(108, 12), BatchNorm(12)),
    )
    baked = assert_bakes(model, inputs(2, 12, 6, 6))
    assert kinds(baked).count(nn.BatchNorm2d) == 3
    assert isinstance(baked[-1], torch.fx.GraphModule)


def test_without_an_example_nothing_is_passed_that_may_be_none():
    class WithTargets(Branches):
        def forward(self, x, targets=None):
            y = self.conv(x)
            if targets is not None:
                return self.norm(y), F.mse_loss(y, targets)
            return self.norm(y)

    x = inputs(2, 12, 6, 6)
    assert type(assert_bakes(evaluating(WithTargets()), x).norm) is nn.GroupNorm


class AddsItself(Residual):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y, y)


class AddsACopy(Residual):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y, y + 0)


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("kind", [AddsItself, AddsACopy])
def test_the_residual_may_be_what_the_norm_reads(kind, shows):
    x = inputs(2, 12, 6, 6)
    baked = assert_bakes(evaluating(kind()), x, example=x if shows else None)
    assert hasattr(baked.norm, "batch_norm")


def test_a_norm_that_adds_a_residual_in_some_calls_only_is_refused():
    class Both(Residual):
        def forward(self, x):
            return self.norm(self.norm(x), x)

    x = inputs(2, 12, 6, 6)
    with pytest.raises(ValueError, match="norm is called in both ways; use two norms"):
        bake(Both().eval(), x)


# ---- Hooks -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["0", "0.0", "1", "1.0", "1.0.batch_norm", "1.0.channel_norm", ""]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_are_kept_and_see_what_they_saw(kind, name):
    layers = WSConv2d(3, 12, 3), BatchChannelNorm(12, 3)
    model = evaluating(*map(nn.Sequential, layers))
    seen = []
    register = getattr(model.get_submodule(name), f"register_{kind}_hook")
    register(lambda module, *inputs_and_output: seen.append(inputs_and_output[-1]))
    x = inputs(2, 3, 6, 6)
    baked = bake(model)
    seen.clear()
    model(x)
    baked(x)
    assert len(seen) == 2
    before, after = (each[0] if kind == "forward_pre" else each for each in seen)
    assert_close(after, before, **CLOSE)
    # Somebody who looks at the whole is in nobody's way.
    assert (nn.BatchNorm2d in kinds(baked)) == (name not in ("", "1.0.channel_norm"))


def test_attributes_that_others_have_put_on_a_layer_are_kept():
    model = evaluating(WSConv2d(3, 12, 3), BatchChannelNorm(12, 3))
    model[0].stage, model[1].stage = 1, 2
    baked = bake(model)
    assert (baked[0].stage, baked[1].stage) == (1, 2)
    assert not hasattr(baked[1], "channels")


# ---- Networks, and what takes them -----------------------------------------


class Block(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = WSConv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = BatchChannelNorm(out, 4, activation="relu")
        self.conv2 = WSConv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = BatchChannelNorm(out, 4, activation="relu")
        self.shortcut = nn.Sequential(
            WSConv2d(channels, out, 1, stride), BatchChannelNorm(out, 4)
        )

    def forward(self, x):
        return self.norm2(self.conv2(self.norm1(self.conv1(x))), self.shortcut(x))


class Network(nn.Module):
    """A residual part, one where the norm comes first, and a head with norms."""

    def __init__(self):
        super().__init__()
        self.stem = WSConv2d(3, 8, 3)
        self.norm = BatchChannelNorm(8, 4)
        self.blocks = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, groups=2)
        self.up_norm = EstimatedBatchNorm(8)
        self.first = BatchChannelNorm(8, 2)
        self.then = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)
        self.head_norm = BatchNorm(10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = self.up_norm(self.up(self.blocks(x)))
        x = x + self.then(F.pad(F.relu(self.first(x)), (1, 1, 1, 1)))
        return self.head_norm(self.head(x.mean((2, 3))))


def network():
    torch.manual_seed(3)
    return evaluating(Network())


def assert_taken_by_all(baked, x):
    """Trace, script, follow and export a baked network, with other sizes, too."""
    larger = inputs(3, x.shape[1], 21, 23)
    with torch.no_grad():
        for taken in (
            torch.jit.trace(baked, x),
            torch.jit.script(baked),
            torch.fx.symbolic_trace(baked),
            export(baked, x, strict=False),
            export(baked, x, strict=True),
        ):
            for each in (x, larger):
                assert_close(taken(each), baked(each), **CLOSE)


def export(model, x, strict):
    """Export with a dynamic batch, height and width."""
    # Odd ones: of any number PyTorch 2.4 does not see that the two ways through a block
    # that halves it end at the same size.
    sizes = {0: torch.export.Dim("B")} | {
        d: 2 * torch.export.Dim(name, min=3, max=256) + 1
        for d, name in ((2, "H"), (3, "W"))
    }
    program = torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=strict)
    return program.module()


@traced
@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
def test_a_network_bakes_and_all_take_it(shows):
    x = inputs(2, 3, 17, 19)
    baked = assert_bakes(network(), x, example=x if shows else None)
    assert_taken_by_all(baked, x)


class Random(nn.Module):
    """Layers in any order, each used once, twice or not at all."""

    LAYERS = (
        lambda: WSConv2d(4, 4, 3, padding=1),
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
        lambda: BatchChannelNorm(4, 2, activation="relu"),
        lambda: BatchChannelNorm(4, 1, estimate=False),
        lambda: EstimatedBatchNorm(4, affine=False),
        lambda: BatchNorm(4),
        lambda: ChannelNorm(4, 2),
        lambda: nn.ReLU(inplace=True),
        nn.Identity,
    )

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        self.layers = nn.ModuleList(make() for make in choose.choices(self.LAYERS, k=6))
        steps = ["call"] * 6 + ["add", "add_", "view"]
        self.steps = [(choose.choice(steps), choose.randrange(6)) for _ in range(9)]

    def forward(self, x):
        made = [x]
        for step, layer in self.steps:
            last, other = made[-1], made[len(made) * layer // 6]
            if step == "call":
                made.append(self.layers[layer](last))
            elif step == "add":
                made.append(last + other)
            elif step == "add_":
                made.append((2 * last).add_(other))
            else:
                made.append(last.flatten(2).reshape(last.shape))
        return made[-1] + made[-2]


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_bake(seed):
    torch.manual_seed(seed)
    x = inputs(2, 4, 5, 4)
    model = evaluating(Random(seed))
    for example in (None, x):
        with torch.no_grad():
            expected, actual = model(x.clone()), bake(model, example)(x.clone())
        atol = 1e-5 * expected.abs().max().item()
        assert_close(actual, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_network_that_was_converted_bakes(pretrained):
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12, affine=False), nn.ReLU()),
        *(nn.ConvTranspose2d(12, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1)),
    )
    x = inputs(2, 3, 9, 9)
    model(x)
    convert(model, x, pretrained=pretrained)
    baked = assert_bakes(model.eval(), x)
    wanted = [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 2
    wanted += [nn.ConvTranspose2d, nn.GroupNorm, nn.Conv2d]
    assert kinds(baked)[1:] == wanted


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
def test_a_network_is_quantized_to_eight_bits_after_training(shows):
    x, model = inputs(8, 3, 17, 19), network()
    baked = bake(model, x if shows else None)
    before = torch.backends.quantized.engine
    engine = torch.backends.quantized.supported_engines[-1]
    try:
        torch.backends.quantized.engine = engine
        mapping = get_default_qconfig_mapping(engine)
        prepared = prepare_fx(baked, mapping, (x,))
        prepared(x)
        quantized = convert_fx(prepared)
        actual = quantized(x)
    finally:
        torch.backends.quantized.engine = before
    weights = [
        m.weight().dtype
        for m in quantized.modules()
        if "quantized.modules.conv" in type(m).__module__
    ]
    assert weights == [torch.qint8] * 9
    # Eight bits tell 256 values apart, in each of a dozen layers.
    expected = model(x)
    assert (actual - expected).norm() < 0.1 * expected.norm()


def test_channels_last_and_other_sizes_give_the_same():
    model = network().to(memory_format=torch.channels_last)
    x = inputs(2, 3, 16, 20).to(memory_format=torch.channels_last)
    assert_bakes(model, x)
    assert_bakes(model, inputs(1, 3, 9, 31))


def test_a_network_in_float64_bakes_to_double_precision():
    model, x = network().double(), inputs(2, 3, 17, 19, dtype=F64)
    assert_bakes(model, x, tolerance=1e-12)


def test_a_network_of_half_precision_bakes():
    model, x = network().bfloat16(), inputs(2, 3, 17, 19, dtype=torch.bfloat16)
    exact = copy.deepcopy(model).double()(x.double())
    with torch.no_grad():
        baked, own = bake(model, x)(x), model(x)
    assert baked.dtype == torch.bfloat16
    # As close to the exact result as the model itself, up to a factor.
    assert (baked - exact).abs().max() < 4 * (own - exact).abs().max()


@pytest.mark.parametrize("shows", [True, False], ids=["example", "no example"])
def test_baking_twice_is_baking_once(shows):
    x = inputs(2, 3, 17, 19)
    example = x if shows else None
    baked = bake(network(), example)
    again = bake(baked, example)
    assert again is not baked
    assert torch.equal(again(x), baked(x))
    assert again.state_dict().keys() == baked.state_dict().keys()


def test_a_plain_network_is_copied_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    copied = bake(model)
    assert str(copied) == str(model)
    for key, value in copied.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
        assert value.data_ptr() != model.state_dict()[key].data_ptr()


LOAD = """
import sys
import torch
sys.modules["labml_bcn"] = None  # what an import would find where it is not installed
file = sys.argv[1]
model = torch.load(file + ".pt", weights_only=False)
x, expected = torch.load(file + "-results.pt")
torch.testing.assert_close(model(x), expected)
torch.jit.load(file + ".jit")(x)
assert not any(name.startswith("labml_bcn.") for name in sys.modules)
"""


def test_a_baked_network_loads_where_this_package_is_not_installed(tmp_path):
    # The class of a network of one's own has to be there. This one has none.
    layers = WSConv2d(3, 8, 3), BatchChannelNorm(8, 2), nn.ReLU()
    model = evaluating(*layers, BatchNorm(8), nn.Flatten(2), EstimatedBatchNorm(8))
    x = inputs(2, 3, 9, 9)
    baked = bake(model)
    file = str(tmp_path / "network")
    torch.save(baked, f"{file}.pt")
    torch.save((x, baked(x)), f"{file}-results.pt")
    torch.jit.script(baked).save(f"{file}.jit")
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, file], check=True)


def test_nothing_of_this_package_is_in_the_file_of_a_network_with_residuals(tmp_path):
    x = inputs(2, 12, 6, 6)
    model = evaluating(BatchChannelNorm(12, 3, activation="relu"))
    baked = bake(model, (x, x))
    torch.save(baked, tmp_path / "network.pt")
    assert b"labml" not in (tmp_path / "network.pt").read_bytes()
    loaded = torch.load(tmp_path / "network.pt", weights_only=False)
    assert torch.equal(loaded(x, x), baked(x, x))
    copied = copy.deepcopy(baked)
    assert torch.equal(copied(x, residual=x), baked(x, x))


# ---- What is refused -------------------------------------------------------


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got int"):
        bake(3)


@pytest.mark.parametrize("name", ["", "1", "1.batch_norm", "2"])
def test_a_model_or_a_norm_in_training_is_refused(name):
    model = nn.Sequential(
        WSConv2d(3, 8, 3), BatchChannelNorm(8, 2), nn.BatchNorm2d(8)
    ).eval()
    model.get_submodule(name).training = True
    wanted = f"{name or 'the model'} is in training mode; call model.eval"
    with pytest.raises(ValueError, match=wanted):
        bake(model)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compiled"]
)
def test_a_wrapped_model_is_refused(wrap):
    with pytest.raises(ValueError, match=r"wrapped.*pass its \.(module|_orig_mod)"):
        bake(wrap(network()).eval())


def test_a_layer_with_a_forward_of_its_own_is_refused_by_name():
    class Twice(BatchChannelNorm):
        def forward(self, x, residual=None):
            return 2 * super().forward(x, residual)

    class Named(BatchChannelNorm):
        """Another name for it, and the same forward."""

    with pytest.raises(ValueError, match="1, a Twice, has methods of its own"):
        bake(nn.Sequential(WSConv2d(3, 8, 3), Twice(8, 2)).eval())
    model = evaluating(WSConv2d(3, 8, 3), Named(8, 2))
    assert_bakes(model, inputs(2, 3, 6, 6))
    model[0].forward = model[0].forward
    with pytest.raises(ValueError, match="0, a WSConv2d, has methods of its own"):
        bake(model)


def test_a_weight_that_a_function_reads_as_it_is_stored_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = WSConv2d(3, 8, 3)

        def forward(self, x):
            return F.conv_transpose2d(self.conv(x), self.conv.weight)

    x = inputs(2, 3, 6, 6)
    for example in (None, x):
        with pytest.raises(ValueError, match=r"conv's own, but conv.* reads"):
            bake(Tied().eval(), example)


def test_a_refusal_leaves_the_model_as_it_was():
    class Both(Residual):
        def forward(self, x):
            return self.norm(self.norm(x), x)

    model = evaluating(Both())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="in both ways"):
        bake(model)
    assert str(model) == str(evaluating(Both()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_random_numbers_are_left_alone():
    x, model = inputs(2, 3, 17, 19), network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bake(model, x)
    assert torch.equal(torch.rand(3), expected)


class ReadsUnseen(nn.Module):
    """Reads its convolution by way of Python's numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = WSConv2d(3, 8, 3), EstimatedBatchNorm(8)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) * y.tolist()[0][0][0][0]


def test_a_reading_that_nobody_can_see_leaves_the_norm_as_it_is():
    x = inputs(2, 3, 6, 6)
    model = ReadsUnseen().train()
    model(x)
    model.eval()
    plain = bake(model, x)
    torch.testing.assert_close(plain(x), model(x))


def test_a_copy_that_gives_something_else_is_refused():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = WSConv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x) * (2 if isinstance(self.conv, WSConv2d) else 1)

    with pytest.raises(ValueError, match="gives something else"):
        bake(Asks().eval(), inputs(2, 3, 6, 6))


def test_outputs_of_another_size_are_something_else():
    class Selects(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = WSConv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return y[y > (0 if isinstance(self.conv, WSConv2d) else 1)]

    with pytest.raises(ValueError, match="gives something else"):
        bake(Selects().eval(), inputs(2, 3, 6, 6))


def test_of_a_network_that_differs_from_itself_nothing_is_told():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.drawn = WSConv2d(3, 8, 3), iter(range(10))

        def forward(self, x):
            return self.conv(x) + next(self.drawn)

    assert type(bake(Draws().eval(), inputs(2, 3, 6, 6)).conv) is nn.Conv2d


def test_the_order_in_a_container_is_no_reason_to_fold():
    class Taps(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(WSConv2d(3, 8, 3), EstimatedBatchNorm(8))

        def forward(self, x):
            outputs = []
            for layer in self.body:
                x = layer(x if x.sum() < 1e9 else -x)
                outputs.append(x)
            return outputs

    x = inputs(2, 3, 6, 6)
    model = Taps()
    model(x)
    model.eval()
    for example in (None, x):
        for given, expected in zip(bake(model, example)(x), model(x), strict=True):
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("missing", ["scale", "shift"])
@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("part", ["batch_norm", "channel_norm"])
def test_scale_or_shift_alone_is_baked(missing, folds, part):
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = WSConv2d(3, 8, 3), BatchChannelNorm(8, 2)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) if folds else self.norm(y) + y

    model, x = Adds(), inputs(2, 3, 6, 6)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.norm.get_submodule(part).register_parameter(missing, None)
    model(x)
    model.eval()
    for example in (None, x):
        torch.testing.assert_close(bake(model, example)(x), model(x))


@pytest.mark.parametrize("folds", [True, False])
def test_a_pruned_norm_is_baked(folds):
    model = nn.Sequential(WSConv2d(3, 8, 3), BatchChannelNorm(8, 2)).eval()
    if not folds:
        model = nn.Sequential(BatchChannelNorm(3, 1), *model).eval()
    norm = model[1] if folds else model[0]
    prune.l1_unstructured(norm.batch_norm, "scale", 0.5)
    x = inputs(2, 3, 6, 6)
    torch.testing.assert_close(bake(model, x)(x), model(x))


def test_results_that_a_model_keeps_are_copied():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.kept = WSConv2d(3, 8, 3), {}

        def forward(self, x):
            self.kept["y"] = [self.conv(x)]
            return self.kept["y"][0]

    model, x = Keeps(), inputs(2, 3, 6, 6)
    model(x)
    torch.testing.assert_close(bake(model.eval(), x)(x), model(x))


@pytest.mark.parametrize("with_example", [True, False])
def test_a_branch_that_nobody_came_by_is_right_too(with_example):
    class Domains(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.domain = WSConv2d(3, 8, 3), 0
            self.norms = nn.ModuleList(EstimatedBatchNorm(8) for _ in range(2))

        def forward(self, x):
            return self.norms[self.domain](self.conv(x))

    model, x = Domains(), inputs(2, 3, 6, 6)
    for model.domain in (0, 1):
        model(x + model.domain)
    model.eval()
    model.domain = 0
    plain = bake(model, x if with_example else None)
    for model.domain in (0, 1):
        plain.domain = model.domain
        torch.testing.assert_close(plain(x), model(x))
