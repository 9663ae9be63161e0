"""The layers of batch-channel normalization against their formulas.

Then what all normalization layers share, BatchNorm among them: memory
formats, dtypes, edges, errors, what is stored and what is compiled.
"""

import copy
import inspect
import pickle
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.oracle import (
    Running,
    assert_close,
    batch_mean,
    batch_norm,
    channel_norm,
    normalize,
    square_around,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import labml_bcn
from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    FusedBatchChannelNorm,
)

C, G = 12, 3
MODES = ["batch_mean", "running_mean"]
TRAILING = [(), (5,), (4, 3), (2, 3, 2), (2, 1, 3, 2)]
F64 = torch.float64


def bcn(mode, kind=BatchChannelNorm, **options):
    """BatchChannelNorm in one of its three forms."""
    if mode == "plain":
        return kind(C, G, estimate=False, **options)
    return kind(C, G, variance_around=mode, **options)


def fused(mode, **options):
    return bcn(mode, FusedBatchChannelNorm, **options)


def estimated(mode, **options):
    return EstimatedBatchNorm(C, variance_around=mode, **options)


MAKE = {
    "BatchNorm": lambda **o: BatchNorm(C, **o),
    "EstimatedBatchNorm batch_mean": lambda **o: estimated("batch_mean", **o),
    "EstimatedBatchNorm running_mean": lambda **o: estimated("running_mean", **o),
    "ChannelNorm": lambda **o: ChannelNorm(C, G, **o),
    "BatchChannelNorm plain": lambda **o: bcn("plain", **o),
    "BatchChannelNorm batch_mean": lambda **o: bcn("batch_mean", **o),
    "BatchChannelNorm running_mean": lambda **o: bcn("running_mean", **o),
    "FusedBatchChannelNorm plain": lambda **o: fused("plain", **o),
    "FusedBatchChannelNorm batch_mean": lambda **o: fused("batch_mean", **o),
    "FusedBatchChannelNorm running_mean": lambda **o: fused("running_mean", **o),
}
TRACKING = [name for name in MAKE if name != "ChannelNorm"]
ESTIMATING = [name for name in MAKE if "mean" in name]
every_layer = pytest.mark.parametrize("name", MAKE)
tracking_layer = pytest.mark.parametrize("name", TRACKING)
estimating_layer = pytest.mark.parametrize("name", ESTIMATING)


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


def make(name, **options):
    return randomize(MAKE[name](**options))


def inputs(*shape, dtype=torch.float32, mean=1.5, std=2.0):
    """Random values with another mean for each channel."""
    x = mean + std * torch.randn(shape, dtype=F64)
    if len(shape) > 1:
        x = x + torch.randn(shape[1], dtype=F64).reshape(-1, *[1] * (len(shape) - 2))
    return x.to(dtype)


def state(layer):
    return {k: v.detach().clone() for k, v in layer.state_dict().items()}


def assert_same_state(layer, before, equal=True):
    for key, value in layer.state_dict().items():
        if equal or "exp" not in key:
            assert torch.equal(value, before[key]), key
        else:
            assert not torch.equal(value, before[key]), key


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def double(tensor):
    return tensor.detach().double().requires_grad_()


def assert_same_gradients(actual, leaves, expected, restated, **tolerance):
    """One random output gradient, pulled back through both."""
    g = torch.randn_like(actual)
    ours = torch.autograd.grad(actual, leaves, g)
    theirs = torch.autograd.grad(expected, restated, g.to(expected.dtype))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, **tolerance)


# EstimatedBatchNorm


@pytest.mark.parametrize("mode", MODES)
def test_the_estimate_starts_at_mean_0_and_variance_1(mode):
    layer = estimated(mode)
    assert torch.equal(layer.exp_mean, torch.zeros(C))
    assert torch.equal(layer.exp_var, torch.ones(C))
    assert torch.equal(layer.scale, torch.ones(C))
    assert torch.equal(layer.shift, torch.zeros(C))


@pytest.mark.equation("batch_channel_norm.around-batch-mean")
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_around_the_batch_mean_the_variance_is_the_spread_within(trailing):
    layer = estimated("batch_mean", dtype=F64)
    x = inputs(3, C, *trailing, dtype=F64)
    mean, var = layer.measure(x)[:2]
    assert_close(mean, batch_mean(x))
    assert_close(var, square_around(x, batch_mean(x)))


@pytest.mark.equation("batch_channel_norm.around-running-mean")
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_around_the_running_mean_the_variance_is_the_spread_about_it(
    trailing,
):
    layer = randomize(estimated("running_mean", dtype=F64))
    x = inputs(3, C, *trailing, dtype=F64)
    mean, var = layer.measure(x)[:2]
    assert_close(mean, batch_mean(x))
    assert_close(var, square_around(x, layer.exp_mean))


@pytest.mark.equation(
    "batch_channel_norm.estimate-update", "batch_channel_norm.estimated"
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("r", [0.0, 0.1, 0.7, 1.0])
def test_the_estimate_follows_its_closed_form_over_steps(mode, trailing, r):
    layer = estimated(mode, momentum=r, eps=0.03, dtype=F64)
    with torch.no_grad():
        layer.scale.normal_()
        layer.shift.normal_()
    running = Running(C)
    for b in (2, 5, 3):
        x = inputs(b, C, *trailing, dtype=F64)
        running.update(x, r, mode)
        expected = normalize(
            x, running.mean, running.var, layer.scale, layer.shift, 0.03
        )
        assert_close(layer(x), expected)
        assert_close(layer.exp_mean, running.mean)
        assert_close(layer.exp_var, running.var)
    x = inputs(4, C, *trailing, dtype=F64)
    expected = normalize(x, running.mean, running.var, layer.scale, layer.shift, 0.03)
    assert_close(layer.eval()(x), expected)
    assert_close(layer.exp_mean, running.mean)


@pytest.mark.parametrize("mode", MODES)
def test_the_estimates_defaults_are_momentum_0_1_and_eps_1e_5(mode):
    layer = estimated(mode, dtype=F64)
    # So little variance, and so many steps, that eps decides.
    x = inputs(2, C, 5, dtype=F64, std=0.001)
    running = Running(C)
    for _ in range(100):
        running.update(x, 0.1, mode)
        y = layer(x)
    assert_close(y, normalize(x, running.mean, running.var))


def test_the_variance_is_taken_around_the_batch_mean_by_default():
    default = EstimatedBatchNorm(C, dtype=F64)
    spelled = estimated("batch_mean", dtype=F64)
    x = inputs(2, C, 5, dtype=F64)
    assert torch.equal(default(x), spelled(x))
    assert torch.equal(default.exp_var, spelled.exp_var)


def test_around_the_running_mean_means_the_mean_before_the_update():
    layer = EstimatedBatchNorm(1, momentum=0.5, variance_around="running_mean")
    layer(torch.tensor([[[3.0, 5.0]]]))
    # m = 4, v = (3^2 + 5^2) / 2 = 17 around the old mean of 0.
    assert layer.exp_mean.item() == 2.0
    assert layer.exp_var.item() == 9.0


def test_the_two_variances_differ_by_the_step_of_the_mean_squared():
    x = inputs(3, C, 5, dtype=F64)
    one, other = (estimated(m, momentum=1, dtype=F64) for m in MODES)
    for layer in (one, other):
        layer.exp_mean.fill_(0.4)
        layer(x)
    step = one.exp_mean - 0.4
    assert_close(other.exp_var, one.exp_var + step**2)


@estimating_layer
def test_training_output_is_what_eval_gives_right_after(name):
    layer = make(name)
    x = inputs(3, C, 5)
    y = layer(x)
    assert_close(layer.eval()(x), y, 1e-6, 1e-6)


@pytest.mark.equation("batch_channel_norm.diagonal-jacobian")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_the_estimates_jacobian_is_diagonal(mode, training):
    layer = make(f"EstimatedBatchNorm {mode}", dtype=F64).train(training)
    x = inputs(2, C, 2, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(layer, x)
    slope = layer.scale / (layer.exp_var + 1e-5).sqrt()
    expected = slope.reshape(1, C, 1).expand(x.shape).reshape(-1).diag()
    assert_close(jacobian.reshape(x.numel(), -1), expected.detach())


@pytest.mark.equation("batch_channel_norm.estimated")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_estimates_gradients_are_the_oracles(mode, trailing, training):
    layer = make(f"EstimatedBatchNorm {mode}", dtype=F64).train(training)
    running = Running.of(layer)
    x = inputs(3, C, *trailing, dtype=F64).requires_grad_()
    actual = layer(x)
    if training:
        running.update(x, 0.1, mode)
    restated = [leaf(t) for t in (x, layer.scale, layer.shift)]
    expected = normalize(restated[0], running.mean, running.var, *restated[1:])
    assert_same_gradients(actual, [x, layer.scale, layer.shift], expected, restated)


@pytest.mark.parametrize("r", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("mode", MODES)
def test_where_the_variance_settles_with_one_image_a_batch(mode, r):
    """Half of a total variance of 2 lies within, half between images."""
    channels = 4096  # so many repetitions of the same experiment
    layer = EstimatedBatchNorm(channels, momentum=r, affine=False, variance_around=mode)
    within = torch.tensor([1.0, -1.0])
    settling, averaged = int(12 / r), max(int(4 / r), 100)
    settled = []
    for step in range(settling + averaged):
        image = torch.randn(1, channels, 1) + within
        layer(image)
        if step >= settling:
            settled.append(layer.exp_var.mean())
    limit = 1.0 if mode == "batch_mean" else 1.0 + 2 / (2 - r)
    # Nine standard errors of the mean over steps and repetitions.
    assert torch.stack(settled).mean().item() == pytest.approx(limit, 0.01)


# ChannelNorm


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("trailing", [(5,), (4, 3), (2, 3, 2)], ids=str)
def test_channel_norm_is_group_norm_at_initialization(groups, trailing):
    x = inputs(3, C, *trailing, dtype=F64)
    layer = ChannelNorm(C, groups, dtype=F64)
    assert_close(layer(x), nn.GroupNorm(groups, C, dtype=F64)(x))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("trailing", [(5,), (4, 3), (2, 3, 2)], ids=str)
def test_channel_norm_is_group_norm_with_repeated_scale_and_shift(groups, trailing):
    layer = randomize(ChannelNorm(C, groups, eps=0.2, dtype=F64))
    x = inputs(3, C, *trailing, dtype=F64).requires_grad_()
    leaves = [x, layer.scale, layer.shift]
    restated = [leaf(t) for t in leaves]
    scale, shift = (t.repeat_interleave(C // groups) for t in restated[1:])
    actual = layer(x)
    expected = F.group_norm(restated[0], groups, scale, shift, 0.2)
    assert_close(actual, expected)
    assert_same_gradients(actual, leaves, expected, restated)


@pytest.mark.equation(
    "batch_channel_norm.group-statistics", "batch_channel_norm.per-group"
)
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_channel_norm_is_its_formula(groups, trailing, training):
    layer = randomize(ChannelNorm(C, groups, eps=0.2, dtype=F64))
    layer.train(training)
    x = inputs(3, C, *trailing, dtype=F64).requires_grad_()
    leaves = [x, layer.scale, layer.shift]
    restated = [leaf(t) for t in leaves]
    actual = layer(x)
    x_oracle, scale, shift = restated
    expected = channel_norm(x_oracle, groups, scale, shift, 0.2)
    assert_close(actual, expected)
    assert_same_gradients(actual, leaves, expected, restated)


def test_channel_norms_default_eps_is_1e_5():
    x = inputs(2, C, 4, dtype=F64, mean=0, std=0.001) * 1e-3
    assert_close(ChannelNorm(C, G, dtype=F64)(x), channel_norm(x, G))


def test_channel_norm_of_one_group_is_layer_norm():
    x = inputs(3, C, 4, dtype=F64)
    assert_close(ChannelNorm(C, 1, dtype=F64)(x), F.layer_norm(x, (C, 4)))


def test_channel_norm_of_as_many_groups_as_channels_is_instance_norm():
    x = inputs(3, C, 4, dtype=F64)
    assert_close(ChannelNorm(C, C, dtype=F64)(x), F.instance_norm(x))


def test_channel_norm_has_one_scale_and_shift_a_group():
    layer = ChannelNorm(C, G)
    assert layer.scale.shape == layer.shift.shape == (G,)
    assert torch.equal(layer.scale, torch.ones(G))
    assert torch.equal(layer.shift, torch.zeros(G))
    assert list(layer.buffers()) == []


def test_channel_norm_does_not_mix_groups():
    layer = make("ChannelNorm")
    x = inputs(2, C, 5)
    y = layer(x)
    x[:, 4:8] = 9 * x[:, 4:8] + inputs(2, 4, 5)
    changed = layer(x) != y
    assert changed[:, 4:8].all()
    assert not changed[:, :4].any()
    assert not changed[:, 8:].any()


@every_layer
def test_what_passes_gradcheck(name):
    """The statistics are constants where they are estimated: r is 0."""
    options = {} if name in ("ChannelNorm", "BatchNorm") else {"momentum": 0}
    layer = make(name, dtype=F64, **options)
    names = [key for key, _ in layer.named_parameters()]

    def apply(x, *parameters):
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, values, (x,))

    x = inputs(2, C, 2, dtype=F64).requires_grad_()
    parameters = [leaf(p) for p in layer.parameters()]
    for training in (True, False):
        layer.train(training)
        assert torch.autograd.gradcheck(apply, (x, *parameters), fast_mode=True)


# BatchChannelNorm


@pytest.mark.equation("batch_channel_norm.composition", "batch_channel_norm.in-turn")
@pytest.mark.parametrize("mode", ["plain", *MODES])
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_batch_channel_norm_is_its_formula_over_steps_and_in_eval(mode, trailing):
    layer = bcn(mode, momentum=0.3, eps=0.02, dtype=F64)
    randomize(layer)
    running = Running.of(layer.batch_norm)
    for b, training in ((2, True), (5, True), (3, False), (4, True)):
        layer.train(training)
        x = inputs(b, C, *trailing, dtype=F64).requires_grad_()
        leaves = [
            x,
            layer.batch_norm.scale,
            layer.batch_norm.shift,
            layer.channel_norm.scale,
            layer.channel_norm.shift,
        ]
        actual = layer(x)
        restated = [leaf(t) for t in leaves]
        x_oracle, *first, scale, shift = restated
        if training and mode == "plain":
            running.update_unbiased(x, 0.3)
            y = batch_norm(x_oracle, *first, eps=0.02)
        else:
            if training:
                running.update(x, 0.3, mode)
            y = normalize(x_oracle, running.mean, running.var, *first, eps=0.02)
        expected = channel_norm(y, G, scale, shift, eps=0.02)
        assert_close(actual, expected)
        assert_close(layer.batch_norm.exp_mean, running.mean)
        assert_close(layer.batch_norm.exp_var, running.var)
        assert_same_gradients(actual, leaves, expected, restated)


def test_plain_batch_channel_norm_is_pytorchs_batch_norm_then_ours():
    layer = bcn("plain", dtype=F64)
    theirs = nn.BatchNorm2d(C, dtype=F64)
    then = ChannelNorm(C, G, dtype=F64)
    for b, training in ((2, True), (5, True), (3, False), (4, True)):
        for module in (layer, theirs, then):
            module.train(training)
        x = inputs(b, C, 4, 3, dtype=F64).requires_grad_()
        actual = layer(x)
        expected = then(theirs(x))
        assert_close(actual, expected)
        assert_same_gradients(actual, [x], expected, [x])
        assert_close(layer.batch_norm.exp_mean, theirs.running_mean)
        assert_close(layer.batch_norm.exp_var, theirs.running_var)


@pytest.mark.equation("batch_channel_norm.in-turn")
@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_batch_channel_norm_is_its_two_parts_in_turn(mode):
    layer = randomize(bcn(mode, momentum=0.3))
    kind = BatchNorm if mode == "plain" else EstimatedBatchNorm
    assert type(layer.batch_norm) is kind
    assert type(layer.channel_norm) is ChannelNorm
    assert [key for key, _ in layer.named_children()] == [
        "batch_norm",
        "channel_norm",
    ]
    parts = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    expected = parts.channel_norm(parts.batch_norm(x))
    assert torch.equal(layer(x), expected)
    assert_same_state(layer, parts.state_dict())


def test_batch_channel_norms_defaults():
    x = inputs(2, C, 5)
    default = BatchChannelNorm(C, G)
    spelled = BatchChannelNorm(C, G, 1e-5, 0.1, True, variance_around="batch_mean")
    assert torch.equal(default(x), spelled(x))
    assert_same_state(default, spelled.state_dict())


# What all layers share


@every_layer
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_trailing_dimensions_count_only_by_their_product(name, trailing, training):
    layer = make(name).train(training)
    flat = copy.deepcopy(layer)
    x = inputs(3, C, *trailing)
    y = layer(x)
    assert y.shape == x.shape
    expected = flat(x.reshape(3, C, -1)).reshape(x.shape)
    assert_close(y, expected)


@every_layer
def test_eval_leaves_the_state_and_treats_each_sample_alone(name):
    layer = make(name).eval()
    before = state(layer)
    x = inputs(4, C, 3, 2)
    y = layer(x)
    for b in range(4):
        assert_close(layer(x[b : b + 1]), y[b : b + 1], 1e-6, 1e-6)
    assert_same_state(layer, before)


def test_channel_norm_treats_each_sample_alone_in_training_too():
    layer = make("ChannelNorm")
    x = inputs(4, C, 3, 2)
    y = layer(x)
    for b in range(4):
        assert_close(layer(x[b : b + 1]), y[b : b + 1], 1e-6, 1e-6)


@tracking_layer
def test_momentum_0_freezes_the_statistics(name):
    layer = make(name, momentum=0)
    before = state(layer)
    layer(inputs(3, C, 5))
    assert_same_state(layer, before)


@tracking_layer
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_updates_the_statistics(name, mode):
    layer = make(name)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    with mode():
        y = layer(x)
    assert torch.equal(y, other(x))
    assert_same_state(layer, other.state_dict())
    layer(x).sum().backward()


@every_layer
def test_the_input_is_left_as_it_was(name):
    layer = make(name)
    x = inputs(3, C, 5)
    before = x.clone()
    layer(x)
    layer.eval()(x)
    assert torch.equal(x, before)


MEMORY = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "flipped order": lambda x: x.mT.contiguous().mT,
}


@every_layer
@pytest.mark.parametrize("change", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("training", [True, False])
def test_the_memory_format_of_the_input_does_not_matter(name, change, training):
    layer = make(name).train(training)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 4, 5)
    moved = change(x).requires_grad_()
    assert not moved.is_contiguous()
    x.requires_grad_()
    actual, expected = layer(moved), other(x)
    # Sums in another order.
    assert_close(actual, expected, 1e-5, 1e-5)
    assert_same_gradients(
        actual,
        [moved, *layer.parameters()],
        expected,
        [x, *other.parameters()],
        rtol=1e-4,
        atol=1e-4,
    )


@every_layer
def test_channels_last_3d_and_transposed_sequences_are_taken(name):
    layer = make(name, dtype=F64)
    x = inputs(2, C, 2, 3, 4, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    moved = x.to(memory_format=torch.channels_last_3d)
    assert_close(copy.deepcopy(layer)(moved), expected)
    x = inputs(2, C, 5, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    moved = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(copy.deepcopy(layer)(moved), expected)
    x = inputs(2, C, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    assert_close(copy.deepcopy(layer)(x.t().contiguous().t()), expected)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_an_expanded_input_and_gradient_are_taken(name, training):
    layer = make(name, dtype=F64).train(training)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 1, dtype=F64).expand(3, C, 4).requires_grad_()
    copied = leaf(x.contiguous())
    layer(x).sum().backward()
    (other(copied) * torch.ones(3, C, 4)).sum().backward()
    assert_close(x.grad, copied.grad)


# Dtypes

LOW = [torch.float16, torch.bfloat16]
FLOATS = [torch.float32, torch.float64, *LOW]


@every_layer
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("own", FLOATS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_output_has_the_inputs_dtype_and_the_layer_keeps_its_own(
    name, own, dtype, training
):
    layer = make(name).to(own).train(training)
    x = inputs(3, C, 5, dtype=dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert x.grad.dtype == dtype
    for tensor in (*layer.parameters(), *layer.buffers()):
        assert tensor.dtype == own
        assert tensor.isfinite().all()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == own


@every_layer
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("mean", [0, 30, -300])
@pytest.mark.parametrize("training", [True, False])
def test_low_precision_input_is_as_good_as_float32(name, dtype, mean, training):
    options = {} if name == "ChannelNorm" else {"momentum": 1.0}
    layer = MAKE[name](**options)
    x = inputs(4, C, 8, mean=mean).to(dtype)
    layer(x.float())  # statistics of this input, for eval
    layer.train(training)
    other = copy.deepcopy(layer)
    y, expected = layer(x), other(x.float())
    assert y.dtype == dtype
    assert_same_state(layer, other.state_dict())
    assert_close(y, expected, *rounding_of(other, x))


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_values_whose_squares_overflow_float16_are_taken(name, training):
    options = {} if name == "ChannelNorm" else {"momentum": 1.0}
    layer = MAKE[name](**options)
    x = inputs(4, C, 8, std=5000.0).half()
    layer(x.float())
    layer.train(training)
    other = copy.deepcopy(layer)
    y, expected = layer(x), other(x.float())
    assert_close(y, expected, *rounding_of(other, x))


def rounding_of(layer, x):
    """Relative and absolute tolerance of a result in x's dtype."""
    rounding = torch.finfo(x.dtype).eps
    if not isinstance(layer, BatchChannelNorm):
        return rounding, 1e-6
    # A rounding between the two norms too, which the second one enlarges
    # where its groups have a small deviation.
    y = copy.deepcopy(layer.batch_norm)(x.float()).reshape(len(x), G, -1)
    enlarged = (y.abs().amax(2) / y.std(2)).max().item()
    return rounding, rounding * enlarged


@every_layer
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_low_precision_layer_computes_in_float32(name, dtype):
    """In eval its stored values are what float32 arithmetic starts from."""
    layer = make(name).to(dtype).eval()
    other = copy.deepcopy(layer).float()
    x = inputs(4, C, 8)
    assert_close(layer(x), other(x))


@tracking_layer
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_low_precision_layer_updates_its_statistics_in_float32(name, dtype):
    layer = make(name).to(dtype)
    other = copy.deepcopy(layer).float()
    x = inputs(64, C, 8, mean=30).to(dtype)
    layer(x)
    other(x.float())
    for a, b in zip(layer.buffers(), other.buffers(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["BatchNorm", "ChannelNorm"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_low_precision_layer_stands_a_mean_of_30(name, dtype):
    layer = MAKE[name](dtype=dtype)
    x = inputs(16, C, 8, mean=30).to(dtype)
    oracle = batch_norm(x) if name == "BatchNorm" else channel_norm(x, G)
    rounding = torch.finfo(dtype).eps
    assert_close(layer(x), oracle, rounding, 1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_low_precision_estimate_stands_a_mean_of_30(mode, dtype):
    layer = estimated(mode, momentum=1.0, dtype=dtype)
    layer.exp_mean.fill_(30)
    x = inputs(16, C, 8, mean=30).to(dtype)
    running = Running(C)
    running.mean += 30
    running.update(x, 1.0, mode)
    y = layer(x)
    # The stored mean is itself rounded: half a spacing at up to 64.
    atol = 32 * torch.finfo(dtype).eps / running.var.sqrt().min().item()
    assert_close(y, normalize(x, running.mean, running.var), 0.02, atol)


HARD = [(1e4, 1.0), (1000.0, 0.1), (-3e4, 2.0)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("mean", "std"), HARD)
@tracking_layer
def test_a_large_mean_leaves_float32_its_digits(name, mean, std, training):
    kind = name.split()[-1]
    layer = MAKE[name](momentum=1.0)
    norm = getattr(layer, "batch_norm", layer)
    norm.exp_mean.fill_(mean)
    x = (mean + std * torch.randn(8, C, 16)).requires_grad_()
    x_oracle = double(x)
    running = Running.of(norm)
    around = kind if kind in MODES else "batch_mean"
    running.update(x, 1.0, around)
    y = layer(x)
    if not training:
        y = layer.eval()(x)
    # What the rounding of a mean to float32 costs, in deviations.
    rounding = abs(mean) * torch.finfo(torch.float32).eps / std
    if kind in MODES:
        expected = normalize(x_oracle, running.mean, running.var)
        assert_close(norm.exp_var, running.var, 4 * rounding, 0)
    elif training:
        expected = batch_norm(x_oracle)
    else:
        running = Running(C)
        running.update_unbiased(x, 1.0)
        expected = normalize(x_oracle, running.mean, running.var)
        assert_close(norm.exp_var, running.var, 4 * rounding, 0)
    if isinstance(layer, BatchChannelNorm):
        expected = channel_norm(expected, G)
    tolerance = {"rtol": 8 * rounding, "atol": 8 * rounding}
    assert_close(y, expected, **tolerance)
    # Gradients are of the order of 1 / std.
    g = torch.randn_like(y)
    (actual,) = torch.autograd.grad(y, x, g)
    (wanted,) = torch.autograd.grad(expected, x_oracle, g.double())
    assert_close(actual * std, wanted * std, **tolerance)


@pytest.mark.parametrize("name", [k for k in TRACKING if "Chan" not in k])
def test_a_large_stored_mean_is_subtracted_before_anything_is_scaled(name):
    """A mean that float32 can hold costs no digit at all."""
    layer = MAKE[name]().eval()
    layer.exp_mean.fill_(1e4)
    layer.exp_var.uniform_(0.5, 2)
    x = 1e4 + torch.randn(3, C, 5)
    assert_close(layer(x), normalize(x, layer.exp_mean, layer.exp_var))


@pytest.mark.parametrize(("mean", "std"), HARD)
def test_a_large_mean_leaves_channel_norm_its_digits(mean, std):
    layer = ChannelNorm(C, G)
    x = (mean + std * torch.randn(4, C, 16)).requires_grad_()
    x_oracle = double(x)
    y, expected = layer(x), channel_norm(x_oracle, G)
    rounding = abs(mean) * torch.finfo(torch.float32).eps / std
    tolerance = {"rtol": 8 * rounding, "atol": 8 * rounding}
    assert_close(y, expected, **tolerance)
    g = torch.randn_like(y)
    (actual,) = torch.autograd.grad(y, x, g)
    (wanted,) = torch.autograd.grad(expected, x_oracle, g.double())
    assert_close(actual * std, wanted * std, **tolerance)


@every_layer
def test_a_constant_input_gives_finite_outputs_and_gradients(name):
    layer = make(name)
    x = torch.full((3, C, 5), 7.7, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cast", LOW, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing(name, dtype, cast, training):
    layer = make(name).train(training)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 4, 5, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", cast):
        y = layer(x)
    expected = other(x)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    assert_same_state(layer, other.state_dict())
    assert_same_gradients(
        y, [x, *layer.parameters()], expected, [x, *other.parameters()]
    )


# Edges


@every_layer
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_is_an_empty_output_and_changes_nothing(
    name, trailing, training
):
    layer = make(name).train(training)
    before = state(layer)
    x = torch.empty(0, C, *trailing, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert_same_state(layer, before)
    y.sum().backward()
    assert x.grad.shape == x.shape
    for parameter in layer.parameters():
        if parameter.grad is not None:
            assert not parameter.grad.any()


@every_layer
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_an_empty_batch_keeps_its_dtype(name, dtype):
    layer = make(name)
    assert layer(torch.empty(0, C, 2, dtype=dtype)).dtype == dtype


ONE_VALUE = [(1, C), (1, C, 1), (1, C, 1, 1), (1, C, 1, 1, 1)]


@pytest.mark.parametrize("shape", ONE_VALUE, ids=str)
@pytest.mark.parametrize("r", [0.0, 0.1])
@pytest.mark.parametrize(
    "name",
    [
        "BatchNorm",
        "EstimatedBatchNorm batch_mean",
        "BatchChannelNorm plain",
        "BatchChannelNorm batch_mean",
    ],
)
def test_one_value_a_channel_is_refused_in_training_around_the_batch_mean(
    name, shape, r
):
    layer = make(name, momentum=r)
    before = state(layer)
    with pytest.raises(ValueError, match="value"):
        layer(torch.randn(shape))
    assert_same_state(layer, before)
    assert layer.eval()(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("shape", ONE_VALUE, ids=str)
def test_one_value_a_channel_is_taken_around_the_running_mean(shape):
    layer = estimated("running_mean", dtype=F64)
    running = Running(C)
    for _ in range(3):
        x = inputs(*shape, dtype=F64)
        running.update(x, 0.1, "running_mean")
        y = layer(x)
        assert_close(y, normalize(x, running.mean, running.var))
    assert_close(layer.exp_var, running.var)
    both = bcn("running_mean", dtype=F64)
    running = Running(C)
    running.update(x, 0.1, "running_mean")
    expected = channel_norm(normalize(x, running.mean, running.var), G)
    assert_close(both(x), expected)


@pytest.mark.parametrize("shape", [(1, C), (4, C), (4, C, 1, 1)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_one_value_a_group_is_refused(shape, training):
    layer = ChannelNorm(C, C).train(training)
    with pytest.raises(ValueError, match="value"):
        layer(torch.randn(shape))
    both = BatchChannelNorm(C, C, variance_around="running_mean")
    with pytest.raises(ValueError, match="value"):
        both.train(training)(torch.randn(shape))


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.uint8, torch.bool, torch.complex64],
    ids=str,
)
def test_an_input_that_is_not_floating_is_refused(name, dtype, training):
    layer = make(name).train(training)
    before = state(layer)
    x = torch.ones(2, C, 3).to(dtype)
    with pytest.raises(TypeError, match=str(dtype).split(".")[1]):
        layer(x)
    assert_same_state(layer, before)


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(), (C,)], ids=str)
def test_an_input_without_batch_and_channels_is_refused(name, shape, training):
    layer = make(name).train(training)
    with pytest.raises(ValueError, match=re.escape(f"{list(shape)}")):
        layer(torch.ones(shape))


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 6, 3), (2, 1), (3, 24, 2, 2), (C, 5), (0, 6, 3)], ids=str
)
def test_another_number_of_channels_is_refused(name, shape, training):
    layer = make(name).train(training)
    before = state(layer)
    with pytest.raises(ValueError, match=rf"\b{shape[1]}\b") as info:
        layer(torch.ones(shape))
    assert re.search(rf"\b{C}\b", str(info.value))
    assert_same_state(layer, before)


KINDS = {
    "BatchNorm": BatchNorm,
    "EstimatedBatchNorm": EstimatedBatchNorm,
    "ChannelNorm": lambda channels, **o: ChannelNorm(channels, 1, **o),
    "BatchChannelNorm": lambda channels, **o: BatchChannelNorm(channels, 1, **o),
    "plain": lambda channels, **o: BatchChannelNorm(channels, 1, estimate=False, **o),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
@pytest.mark.parametrize("channels", [0, -3])
def test_channels_must_be_positive(kind, channels):
    with pytest.raises(ValueError, match=rf"channels.*{channels}"):
        kind(channels)


@every_kind
@pytest.mark.parametrize("channels", [12.0, True, "12", None])
def test_channels_must_be_a_whole_number(kind, channels):
    with pytest.raises((TypeError, ValueError), match="channels"):
        kind(channels)


@pytest.mark.parametrize("kind", [ChannelNorm, BatchChannelNorm])
@pytest.mark.parametrize("groups", [0, -3])
def test_groups_must_be_positive(kind, groups):
    with pytest.raises(ValueError, match=rf"groups.*{groups}"):
        kind(12, groups)


@pytest.mark.parametrize("kind", [ChannelNorm, BatchChannelNorm])
@pytest.mark.parametrize("groups", [3.0, True, "3", None])
def test_groups_must_be_a_whole_number(kind, groups):
    with pytest.raises((TypeError, ValueError), match="groups"):
        kind(12, groups)


@pytest.mark.parametrize("kind", [ChannelNorm, BatchChannelNorm])
@pytest.mark.parametrize("groups", [5, 8, 24])
def test_groups_must_divide_the_channels(kind, groups):
    with pytest.raises(ValueError, match=rf"\b{groups}\b") as info:
        kind(12, groups)
    assert re.search(r"\b12\b", str(info.value))


@every_kind
@pytest.mark.parametrize("eps", [0, 0.0, -1e-05, float("nan")])
def test_eps_must_be_positive(kind, eps):
    with pytest.raises(ValueError, match=f"eps.*{eps}"):
        kind(C, eps=eps)


@pytest.mark.parametrize(
    "kind",
    [value for key, value in KINDS.items() if key != "ChannelNorm"],
    ids=[key for key in KINDS if key != "ChannelNorm"],
)
@pytest.mark.parametrize("momentum", [-0.1, 1.1, 2, float("nan")])
def test_momentum_must_lie_between_0_and_1(kind, momentum):
    with pytest.raises(ValueError, match=rf"momentum.*{momentum}"):
        kind(C, momentum=momentum)


@pytest.mark.parametrize("name", ["EstimatedBatchNorm", "BatchChannelNorm"])
@pytest.mark.parametrize("mode", ["median", "", None])
def test_variance_around_must_be_one_of_the_two_names(name, mode):
    with pytest.raises(ValueError, match=re.escape(repr(mode))) as info:
        KINDS[name](C, variance_around=mode)
    assert "batch_mean" in str(info.value)
    assert "running_mean" in str(info.value)


def test_variance_around_is_refused_where_it_would_have_no_effect():
    with pytest.raises(ValueError, match="running_mean") as info:
        BatchChannelNorm(C, G, estimate=False, variance_around="running_mean")
    assert "estimate" in str(info.value)
    with pytest.raises(ValueError, match="median"):
        BatchChannelNorm(C, G, estimate=False, variance_around="median")
    BatchChannelNorm(C, G, estimate=False, variance_around="batch_mean")


# Signatures, attributes, state


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        (
            BatchNorm,
            "(channels, *, eps=1e-05, momentum=0.1, affine=True, "
            "track_running_stats=True, process_group=None, "
            "device=None, dtype=None)",
        ),
        (
            EstimatedBatchNorm,
            "(channels, eps=1e-05, momentum=0.1, affine=True, *, "
            "variance_around='batch_mean', process_group=None, "
            "device=None, dtype=None)",
        ),
        (
            ChannelNorm,
            "(channels, groups, eps=1e-05, affine=True, *, device=None, dtype=None)",
        ),
        (
            BatchChannelNorm,
            "(channels, groups, eps=1e-05, momentum=0.1, estimate=True, *, "
            "variance_around='batch_mean', process_group=None, "
            "device=None, dtype=None)",
        ),
    ],
)
def test_constructors_take_what_is_promised(kind, signature):
    actual = inspect.signature(kind)
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in actual.parameters.values()
    ]
    empty = inspect.Signature.empty
    actual = actual.replace(parameters=bare, return_annotation=empty)
    assert str(actual) == signature


LABML = {
    "batch_norm.scale": (C,),
    "batch_norm.shift": (C,),
    "batch_norm.exp_mean": (C,),
    "batch_norm.exp_var": (C,),
    "channel_norm.scale": (G,),
    "channel_norm.shift": (G,),
}


@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_labmls_checkpoints_load_and_are_used(mode):
    layer = bcn(mode)
    assert {k: v.shape for k, v in layer.state_dict().items()} == LABML
    theirs = {k: 0.5 + torch.rand(shape) for k, shape in LABML.items()}
    layer.load_state_dict(theirs)
    x = inputs(3, C, 5)
    y = normalize(
        x,
        theirs["batch_norm.exp_mean"],
        theirs["batch_norm.exp_var"],
        theirs["batch_norm.scale"],
        theirs["batch_norm.shift"],
    )
    scale, shift = theirs["channel_norm.scale"], theirs["channel_norm.shift"]
    assert_close(layer.eval()(x), channel_norm(y, G, scale, shift))


@every_layer
def test_parameters_learn_and_statistics_are_buffers(name):
    layer = MAKE[name]()
    parameters = {key for key, _ in layer.named_parameters()}
    buffers = {key for key, _ in layer.named_buffers()}
    assert {key.split(".")[-1] for key in parameters} == {"scale", "shift"}
    statistics = set() if name == "ChannelNorm" else {"exp_mean", "exp_var"}
    assert {key.split(".")[-1] for key in buffers} == statistics
    assert set(layer.state_dict()) == parameters | buffers
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "keys"),
    [
        (BatchNorm(C, affine=False), {"exp_mean", "exp_var"}),
        (EstimatedBatchNorm(C, affine=False), {"exp_mean", "exp_var"}),
        (ChannelNorm(C, G, affine=False), set()),
    ],
)
def test_without_affine_scale_and_shift_are_none(layer, keys):
    assert layer.scale is None
    assert layer.shift is None
    assert set(layer.state_dict()) == keys
    twin = type(layer)(*(C, G)[: 1 + isinstance(layer, ChannelNorm)])
    x = inputs(3, C, 5)
    for training in (True, False):
        layer.train(training)
        twin.train(training)
        assert torch.equal(layer(x), twin(x))


def train_a_step(layer, x):
    layer(x).square().sum().backward()


@every_layer
def test_the_state_dict_carries_everything_that_was_learned(name):
    layer = make(name)
    train_a_step(layer, inputs(3, C, 5))
    other = MAKE[name]()
    other.load_state_dict(layer.state_dict())
    x = inputs(3, C, 5)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.eval()(x), layer.eval()(x))


@every_layer
@pytest.mark.parametrize("backward", [True, False])
def test_a_layer_is_copied_and_pickled_after_training_steps(name, backward):
    layer = make(name)
    for _ in range(2):
        x = inputs(3, C, 5).requires_grad_()
        y = layer(x)
        if backward:
            y.sum().backward()
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = layer(x)
    for other in copies:
        assert torch.equal(other(x), expected)
        assert_same_state(other, layer.state_dict())
    before = state(copies[0])
    layer(x)
    assert_same_state(copies[0], before)


@tracking_layer
def test_statistics_keep_their_storage_and_carry_no_graph(name):
    layer = make(name)
    places = {k: (id(v), v.data_ptr()) for k, v in layer.named_buffers()}
    for _ in range(3):
        before = state(layer)
        train_a_step(layer, inputs(3, C, 5).requires_grad_())
        assert_same_state(layer, before, equal=False)
    for key, buffer in layer.named_buffers():
        assert (id(buffer), buffer.data_ptr()) == places[key]
        assert not buffer.requires_grad
        assert buffer.grad_fn is None


@every_layer
def test_two_forwards_may_go_before_one_backward(name):
    layer = make(name, dtype=F64)
    twin = copy.deepcopy(layer)
    first, second = (inputs(b, C, 5, dtype=F64).requires_grad_() for b in (3, 4))
    (layer(first).square().sum() + layer(second).square().sum()).backward()
    for x in (first, second):
        expected = leaf(x)
        twin(expected).square().sum().backward()
        assert_close(x.grad, expected.grad)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad)


@every_layer
def test_a_later_update_does_not_reach_an_earlier_graph(name):
    layer = make(name, dtype=F64).eval()
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5, dtype=F64).requires_grad_()
    y = layer(x)
    layer.train()(inputs(4, C, 5, dtype=F64))
    other = leaf(x)
    y.sum().backward()
    twin(other).sum().backward()
    assert_close(x.grad, other.grad)


@every_layer
def test_frozen_parameters_let_the_inputs_gradient_through(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    layer.requires_grad_(False)
    x = inputs(3, C, 5).requires_grad_()
    other = leaf(x)
    train_a_step(layer, x)
    train_a_step(twin, other)
    assert_close(x.grad, other.grad)
    assert all(p.grad is None for p in layer.parameters())


@every_layer
def test_parameters_learn_though_the_input_needs_no_gradient(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    train_a_step(layer, x)
    train_a_step(twin, leaf(x))
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad)


@tracking_layer
def test_activation_checkpointing_updates_the_statistics_twice(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5).requires_grad_()
    # A layer is one of several. What is checkpointed is run again up to the last
    # tensor that its backward pass needs.
    block = nn.Sequential(layer, nn.Tanh())
    checkpoint(block, x, use_reentrant=False).square().sum().backward()
    twin(x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert not torch.equal(a, b)
    twin(x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert_close(a, b)


@every_layer
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layers_are_built_where_and_as_they_are_told(name, dtype):
    layer = MAKE[name](dtype=dtype)
    tensors = (*layer.parameters(), *layer.buffers())
    assert {t.dtype for t in tensors} == {dtype}
    layer = MAKE[name](device="meta", dtype=dtype)
    tensors = (*layer.parameters(), *layer.buffers())
    assert {(t.device.type, t.dtype) for t in tensors} == {("meta", dtype)}
    real = MAKE[name](dtype=dtype)
    layer.to_empty(device="cpu").load_state_dict(real.state_dict())
    x = inputs(3, C, 5, dtype=dtype)
    assert torch.equal(layer(x), real(x))


@every_layer
def test_a_layer_on_the_meta_device_tells_the_outputs_shape(name):
    layer = MAKE[name](device="meta")
    for training in (True, False):
        layer.train(training)
        y = layer(torch.empty(3, C, 5, 4, device="meta"))
        assert y.is_meta
        assert y.shape == (3, C, 5, 4)


@every_layer
def test_buffers_follow_the_layers_dtype(name):
    layer = make(name)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        layer.to(dtype)
        assert {b.dtype for b in layer.buffers()} <= {dtype}
        assert layer(inputs(3, C, 5, dtype=dtype)).dtype == dtype
        assert {b.dtype for b in layer.buffers()} <= {dtype}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (BatchNorm(24, eps=0.002, momentum=0.3), ("24", "0.002", "0.3")),
        (
            EstimatedBatchNorm(24, 0.002, 0.3, variance_around=MODES[1]),
            ("24", "0.002", "0.3", "running_mean"),
        ),
        (ChannelNorm(24, 6, eps=0.002), ("24", "6", "0.002")),
        (
            BatchChannelNorm(24, 6, momentum=0.3, variance_around=MODES[1]),
            ("24", "6", "0.3", "running_mean", "EstimatedBatchNorm"),
        ),
        (BatchChannelNorm(24, 6, estimate=False), ("24", "6", "BatchNorm")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_repr_tells_what_was_built(layer, words):
    for word in words:
        assert re.search(rf"\b{word}\b", repr(layer)), word


PUBLIC = [getattr(labml_bcn, name) for name in labml_bcn.__all__]


@pytest.mark.parametrize("public", PUBLIC, ids=labml_bcn.__all__)
def test_docstrings_hold_no_control_characters(public):
    r"""A docstring that is not raw turns `\frac` into a form feed."""
    module = sys.modules[public.__module__]
    methods = vars(public).values() if isinstance(public, type) else ()
    texts = [module.__doc__, public.__doc__]
    texts += [m.__doc__ for m in methods if inspect.isfunction(m)]
    assert public.__doc__
    for text in filter(None, texts):
        assert not re.search(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f]", text)


ARGUMENTS = [
    BatchNorm,
    EstimatedBatchNorm,
    ChannelNorm,
    BatchChannelNorm,
    labml_bcn.weight_standardization,
]


@pytest.mark.parametrize("public", ARGUMENTS)
def test_the_arguments_that_are_documented_are_those_that_exist(public):
    _, _, rest = inspect.getdoc(public).partition("**Arguments**")
    section, _, _ = rest.partition("\n**")
    heads = re.findall(r"^- ((?:`\w+`(?:, )?)+):", section, re.MULTILINE)
    documented = re.findall(r"`(\w+)`", " ".join(heads))
    assert documented == list(inspect.signature(public).parameters)


# Compiled


@pytest.mark.slow
@every_layer
def test_training_and_eval_compile_in_one_graph(name):
    torch.compiler.reset()
    layer = make(name)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)
    for b, training in ((2, True), (3, True), (5, True), (3, False)):
        layer.train(training)
        compiled.train(training)
        x = inputs(b, C, 4, 3).requires_grad_()
        y, expected = compiled(x), layer(x)
        # The compiler sums in another order.
        assert_close(y, expected, 1e-5, 1e-5)
        assert_same_gradients(
            y,
            [x, *compiled.parameters()],
            expected,
            [x, *layer.parameters()],
            rtol=1e-4,
            atol=1e-4,
        )
        for a, e in zip(compiled.buffers(), layer.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)
