"""The layers of batch-channel normalization against their formulas."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.layers import (
    F64,
    MODES,
    TRAILING,
    C,
    G,
    InTurn,
    Stepwise,
    assert_same_gradients,
    assert_same_state,
    bcn,
    estimated,
    inputs,
    leaf,
    make,
    randomize,
)
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

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
)

# EstimatedBatchNorm


@pytest.mark.parametrize("mode", MODES)
def test_the_estimate_starts_at_mean_0_and_variance_1(mode):
    layer = estimated(mode)
    assert torch.equal(layer.exp_mean, torch.zeros(C))
    assert torch.equal(layer.exp_var, torch.ones(C))
    assert torch.equal(layer.scale, torch.ones(C))
    assert torch.equal(layer.shift, torch.zeros(C))


@pytest.fixture(params=["kernel", "plain operations"])
def operations(request, monkeypatch):
    """Measure with PyTorch's kernel, and with what a compiler sees."""
    plain = request.param != "kernel"
    # The package has a function of the module's name.
    module = sys.modules[BatchChannelNorm.__module__]
    monkeypatch.setattr(module, "needs_plain_operations", lambda x: plain)


@pytest.mark.equation("batch_channel_norm.around-batch-mean")
@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_around_the_batch_mean_the_variance_is_the_spread_within(trailing):
    layer = estimated("batch_mean", dtype=F64)
    x = inputs(3, C, *trailing, dtype=F64)
    mean, var = layer.measure(x)[:2]
    assert_close(mean, batch_mean(x))
    assert_close(var, square_around(x, batch_mean(x)))


@pytest.mark.equation("batch_channel_norm.around-running-mean")
@pytest.mark.usefixtures("operations")
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


@pytest.mark.parametrize("r", [0.0, 0.1, 0.7])
def test_the_jacobian_leaves_out_that_a_value_moves_the_mean_by_its_share(r):
    """It is r / (B L) of the value's own change."""
    x = inputs(2, C, 3, dtype=F64)
    moved = x.clone()
    moved[0, 0, 0] += 6
    layers = [estimated("batch_mean", momentum=r, dtype=F64) for _ in range(2)]
    outputs = [layer(x) for layer, x in zip(layers, (x, moved), strict=True)]
    step = layers[1].exp_mean - layers[0].exp_mean
    assert_close(step, torch.tensor([r * 6 / (2 * 3), *[0.0] * (C - 1)], dtype=F64))
    # So the other values of its channel are moved, in truth.
    assert torch.equal(outputs[0][1, 0], outputs[1][1, 0]) == (r == 0)
    assert torch.equal(outputs[0][:, 1:], outputs[1][:, 1:])


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


@pytest.mark.parametrize("seed", range(5))
def test_a_second_pair_for_each_channel_nearly_repeats_the_first(seed):
    """What the layer has is fitted to what it would do with a second pair."""
    torch.manual_seed(seed)
    x = torch.randn(16, C, 64, dtype=F64)
    scale, shift = 1 + 0.3 * torch.randn(C, dtype=F64), 0.3 * torch.randn(C, dtype=F64)
    wanted = F.group_norm(x, G, scale, shift)
    gamma = torch.ones(C, 1, dtype=F64, requires_grad=True)
    beta = torch.zeros(C, 1, dtype=F64, requires_grad=True)
    second = ChannelNorm(C, G, dtype=F64)
    learned = [gamma, beta, *second.parameters()]
    optimizer = torch.optim.LBFGS(learned, 1, 100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        y = second(gamma * x + beta)
        left = (y - wanted).square().mean() / wanted.var()
        left.backward()
        return left

    start = optimizer.step(loss)
    assert start > 0.1
    assert 1e-4 < loss() < 0.01


# BatchChannelNorm


def test_three_numbers_by_hand_are_the_layers():
    """The table in the introduction of the layer's page."""
    page = sys.modules[BatchChannelNorm.__module__].__doc__
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if "|" in line]
    table = {
        name: torch.tensor([[float(n.replace("−", "-")) for n in numbers]])
        for name, *numbers in cells[2:]
    }
    assert len(table) == 9
    x, mean, var, v, new_mean, new_var, z, y, alone = table.values()
    layer = BatchChannelNorm(3, 1, momentum=0.5, variance_around="running_mean")
    first, second = layer.batch_norm, layer.channel_norm
    first.exp_mean.copy_(mean[0])
    first.exp_var.copy_(var[0])
    _, measured = first.measure(x)
    assert_to_the_digits_shown(measured, v[0])
    assert_to_the_digits_shown(copy.deepcopy(first)(x), z)
    assert_to_the_digits_shown(layer(x), y)
    assert_to_the_digits_shown(first.exp_mean, new_mean[0])
    assert_to_the_digits_shown(first.exp_var, new_var[0])
    assert_to_the_digits_shown(second(x), alone)


def assert_to_the_digits_shown(actual, shown):
    torch.testing.assert_close(actual.detach(), shown, rtol=0, atol=0.005)


def effects_of_a_dead_channel(norm, seed):
    """Its share of the gradient, and how far the other outputs move with it.

    A learned shift has taken a channel far below 0. The first is the norm of its
    filter's gradient beside the largest of the others; for the second, the
    filter is doubled.
    """
    torch.manual_seed(seed)
    convolution, x = nn.Conv2d(4, 8, 3, bias=False), torch.randn(8, 4, 6, 6)
    with torch.no_grad():
        norm.bias[0] = -10
    y = F.relu(norm(convolution(x)))
    assert not y[:, 0].any()
    (y * torch.randn_like(y)).sum().backward()
    assert norm.bias.grad[0] == 0
    dead, *others = convolution.weight.grad.flatten(1).norm(dim=1)
    with torch.no_grad():
        convolution.weight[0] *= 2
        moved = F.relu(norm(convolution(x))) - y
    return dead / max(others), moved[:, 1:].abs().max()


@pytest.mark.parametrize("seed", range(5))
def test_under_batch_norm_a_dead_channel_has_no_gradient_and_moves_nothing(seed):
    share, moved = effects_of_a_dead_channel(nn.BatchNorm2d(8), seed)
    assert share == 0
    assert moved < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_under_group_norm_a_dead_channel_still_moves_its_neighbours(seed):
    share, moved = effects_of_a_dead_channel(nn.GroupNorm(2, 8), seed)
    assert 0.05 < share < 0.2
    assert 0.7 < moved < 0.9


@pytest.mark.equation("batch_channel_norm.composition", "batch_channel_norm.in-turn")
@pytest.mark.parametrize("kind", [BatchChannelNorm, InTurn])
@pytest.mark.parametrize("mode", ["plain", *MODES])
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_batch_channel_norm_is_its_formula_over_steps_and_in_eval(kind, mode, trailing):
    layer = bcn(mode, kind, momentum=0.3, eps=0.02, dtype=F64)
    assert_formula_over_steps_and_in_eval(layer, mode, trailing)


@pytest.mark.equation(
    "batch_channel_norm.composition",
    "batch_channel_norm.around-batch-mean",
    "batch_channel_norm.around-running-mean",
    "batch_channel_norm.estimate-update",
    "batch_channel_norm.estimated",
    "batch_channel_norm.group-statistics",
    "batch_channel_norm.per-group",
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_step_by_step_it_is_its_formula(mode, trailing):
    layer = bcn(mode, Stepwise, momentum=0.3, eps=0.02, dtype=F64)
    assert_formula_over_steps_and_in_eval(layer, mode, trailing)


def assert_formula_over_steps_and_in_eval(layer, mode, trailing):
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
@pytest.mark.parametrize("kind", [BatchChannelNorm, InTurn])
@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_batch_channel_norm_is_its_two_parts_in_turn(kind, mode):
    layer = randomize(bcn(mode, kind, momentum=0.3))
    first = BatchNorm if mode == "plain" else EstimatedBatchNorm
    assert type(layer.batch_norm) is first
    assert type(layer.channel_norm) is ChannelNorm
    assert [key for key, _ in layer.named_children()] == [
        "batch_norm",
        "channel_norm",
    ]
    parts = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    expected = parts.channel_norm(parts.batch_norm(x))
    assert_close(layer(x), expected)
    for mine, theirs in zip(layer.buffers(), parts.buffers(), strict=True):
        assert_close(mine, theirs)


def test_batch_channel_norms_defaults():
    x = inputs(2, C, 5)
    default = BatchChannelNorm(C, G)
    spelled = BatchChannelNorm(C, G, 1e-5, 0.1, True, variance_around="batch_mean")
    assert torch.equal(default(x), spelled(x))
    assert_same_state(default, spelled.state_dict())
