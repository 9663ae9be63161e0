"""What is put around a network that trains."""

import copy
import warnings

import pytest
import torch
from helpers.networks import (
    built,
    every_network,
    images,
    labels,
    loss_of,
    plain,
    statistics_of,
    train,
)
from helpers.oracle import assert_close
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim import swa_utils

from labml_bcn import BatchChannelNorm, WSConv2d, convert, update_statistics

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
    "Adam": {"fused": True},
    "AdamW": {"amsgrad": True},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"centered": True},
    "Rprop": {},
    "Adagrad": {},
    "Adadelta": {},
    "Adafactor": {},
    "ASGD": {},
    "Adamax": {},
}


@every_network
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.works_with(
    "train", "`torch.optim`", "SGD, Adam, AdamW, Adafactor and eight more"
)
def test_every_optimizer_moves_every_parameter(build, name):
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    train(model, 2, optimizer)
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.works_with(
    "train",
    "`torch.optim`",
    "made before `convert`, it goes on with the state that it has",
    know="`convert` brings new parameters: `add_param_group` takes them.",
)
def test_an_optimizer_made_before_converting_goes_on(name):
    model = plain()
    options = OPTIMIZERS[name]
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    train(model, 2, optimizer)
    kept = copy.deepcopy(optimizer.state_dict())
    conversion = convert(model, images(), groups=4)
    assert_close_states(optimizer.state_dict(), kept)
    optimizer.add_param_group({"params": conversion.new_parameters})
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == set(model.parameters())
    before = [p.detach().clone() for p in held]
    train(model, 2, optimizer)
    for old, new in zip(before, held, strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


def assert_close_states(one, other):
    for number, state in other["state"].items():
        for key, value in state.items():
            assert_close(
                torch.as_tensor(one["state"][number][key]), torch.as_tensor(value)
            )


@every_network
@pytest.mark.works_with("train", "`torch.optim`", "LBFGS with its closures")
def test_lbfgs_evaluates_as_often_as_it_likes(build):
    model, x, y = build(), images(), labels()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    first = closure().item()
    optimizer.step(closure)
    assert closure().item() < first


@pytest.mark.works_with(
    "train",
    "gradient accumulation",
    "against one batch",
    know="The statistics learn from each batch, not from each step.",
)
def test_accumulated_gradients_are_the_mean_of_their_batches():
    model = built(momentum=0.0)
    whole = copy.deepcopy(model)
    x, y = images(4), labels(4)
    loss_of(whole, x, y).backward()
    for part in (slice(2), slice(2, 4)):
        (loss_of(model, x[part], y[part]) / 2).backward()
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, 1e-4, 1e-5)


@every_network
@pytest.mark.works_with("train", "channels_last", "network and images, three steps")
def test_a_channels_last_network_is_the_contiguous_one(build):
    model = build()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for _ in range(3):
        x, y = images(), labels()
        moved = x.to(memory_format=torch.channels_last)
        assert_close(loss_of(other, moved, y), loss_of(model, x, y), 1e-5, 1e-5)
    for key, value in statistics_of(model).items():
        assert_close(statistics_of(other)[key], value, 1e-4, 1e-5)


@every_network
@pytest.mark.works_with(
    "train", "variable sizes", "another batch size, height and width in each step"
)
def test_every_batch_may_have_another_size(build):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for count, height, width in ((1, 16, 16), (3, 20, 9), (2, 7, 31), (1, 4, 4)):
        optimizer.zero_grad()
        x = torch.randn(count, 3, height, width)
        loss = loss_of(model, x, labels(count))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()


# Averages of weights


@every_network
@pytest.mark.works_with(
    "train",
    "EMA (`swa_utils.AveragedModel`)",
    "`use_buffers=True`, evaluated",
    know="Without `use_buffers` it takes over the network's last statistics.",
)
def test_an_average_of_weights_and_statistics_follows_the_network(build):
    model = build()
    way = swa_utils.get_ema_multi_avg_fn(0.5)
    average, last = (
        swa_utils.AveragedModel(model, multi_avg_fn=way, use_buffers=use_buffers)
        for use_buffers in (True, False)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, 1, optimizer)
    average.update_parameters(model)
    before = statistics_of(average.module)
    train(model, 1, optimizer)
    average.update_parameters(model), last.update_parameters(model)
    for key, value in statistics_of(model).items():
        assert_close(statistics_of(average.module)[key], (before[key] + value) / 2)
        assert torch.equal(statistics_of(last.module)[key], value)
    assert average.eval()(images()).isfinite().all()


@every_network
@pytest.mark.works_with(
    "train",
    "SWA (`swa_utils`)",
    "averaged weights with statistics of their own, `SWALR`",
    know="Call `update_statistics(average, batches)` in place of `update_bn`.",
)
def test_averaged_weights_get_statistics_of_their_own(build):
    model, batches = build(), [images(3) for _ in range(6)]
    average = swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rate = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
    for _ in range(3):
        train(model, 2, optimizer)
        average.update_parameters(model)
        rate.step()
    update_statistics(average, batches)
    seen = torch.cat([average.module[0](x) for x in batches])
    mean = average.module[1].batch_norm.exp_mean
    assert_close(mean, seen.detach().mean((0, 2, 3)), 1e-4, 1e-5)
    assert average.eval()(images()).isfinite().all()


# Reparametrizations


PARAMETRIZATIONS = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.works_with(
    "train",
    "`spectral_norm`, `weight_norm`, `orthogonal`",
    "on `WSConv2d`, trained and removed",
    know="Their weight is standardized: what they fix of a filter's scale is undone.",
)
def test_a_parametrized_weight_is_standardized(name):
    conv = PARAMETRIZATIONS[name](WSConv2d(3, 8, 3))
    model = nn.Sequential(conv, BatchChannelNorm(8, 2), nn.ReLU(inplace=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    x = images()
    for conv_in_use in (conv.train(), conv.eval()):
        expected = nn.functional.conv2d(x, conv.standardized_weight(), conv.bias)
        assert_close(conv_in_use(x), expected, 1e-5, 1e-5)
    trained = conv.weight.detach().clone()
    parametrize.remove_parametrizations(conv, "weight")
    assert_close(conv.weight, trained, 1e-5, 1e-5)
    assert_close(conv(x), expected, 1e-4, 1e-4)


@pytest.mark.works_with(
    "train",
    "`torch.nn.utils.prune`",
    "on `WSConv2d`, trained and made permanent",
    know="A pruned weight is zero before standardization, not after it.",
)
def test_a_pruned_weight_stays_zero_and_is_standardized():
    conv = WSConv2d(3, 8, 3)
    prune.l1_unstructured(conv, "weight", amount=0.5)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        conv(images()).square().mean().backward()
        optimizer.step()
    x = images()
    y = conv(x)
    assert (conv.weight == 0).sum() == conv.weight.numel() // 2
    assert_close(y, nn.functional.conv2d(x, conv.standardized_weight(), conv.bias))
    prune.remove(conv, "weight")
    assert (conv.weight == 0).sum() == conv.weight.numel() // 2
    assert_close(conv(x), y)


# Freezing


def learning(model):
    """Weights and statistics: all but the constants of converted convolutions."""
    state = model.state_dict().items()
    return {k: v for k, v in state if not k.endswith(("gain", "offset"))}


@every_network
@pytest.mark.works_with(
    "train", "freezing", "a part in `.eval()` and without gradients, the rest trained"
)
def test_a_frozen_part_stays_as_it_is_while_the_rest_learns(build):
    model = build().train()
    for part in model[:3]:
        part.eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    train(model, 3)
    for key, value in learning(model).items():
        assert torch.equal(value, before[key]) == (key[0] in "012"), key


@every_network
@pytest.mark.works_with(
    "train", "freezing", "the statistics of one norm, by `.eval()` of its batch norm"
)
def test_an_inner_batch_norm_in_evaluation_learns_no_statistic(build):
    model = build().train()
    model[1].batch_norm.eval()
    before = copy.deepcopy(model.state_dict())
    train(model, 3)
    for key, value in learning(model).items():
        frozen = key.startswith("1.") and "exp" in key
        assert torch.equal(value, before[key]) == frozen, key


@every_network
@pytest.mark.works_with(
    "train", "`torch.autograd.set_detect_anomaly`", "three steps of a residual network"
)
def test_anomaly_detection_finds_none(build):
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        assert all(loss == loss for loss in train(build()))


@every_network
@pytest.mark.works_with(
    "train", "`torch.use_deterministic_algorithms`", "the same bits twice"
)
def test_two_deterministic_runs_are_the_same(build):
    torch.use_deterministic_algorithms(True)
    try:
        ends = []
        for _ in range(2):
            torch.manual_seed(3)
            model = build()
            train(model)
            ends.append(model.state_dict())
    finally:
        torch.use_deterministic_algorithms(False)
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


# Compiled


@pytest.mark.slow
@every_network
@pytest.mark.works_with(
    "train",
    "`torch.compile`",
    "a residual network in one graph, training and evaluation",
)
def test_a_network_compiles_in_one_graph(build):
    torch.compiler.reset()
    model = build()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True)
    for training in (True, True, False):
        model.train(training), twin.train(training)
        x, y = images(), labels()
        ours, theirs = loss_of(compiled, x, y), loss_of(model, x, y)
        assert_close(ours, theirs, 1e-4, 1e-5)
        if training:
            ours.backward(), theirs.backward()
    pairs = zip(twin.parameters(), model.parameters(), strict=True)
    for one, other in pairs:
        assert_close(one.grad, other.grad, 1e-3, 1e-4)
    for key, value in statistics_of(model).items():
        assert_close(statistics_of(twin)[key], value, 1e-4, 1e-5)


@pytest.mark.slow
@pytest.mark.works_with("train", "`torch.compile`", "a momentum that changes")
def test_a_compiled_layer_follows_a_change_of_momentum():
    torch.compiler.reset()
    layer = BatchChannelNorm(8, 2)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True)
    for momentum in (0.1, 0.01, 0.5, 0.0):
        layer.batch_norm.momentum = twin.batch_norm.momentum = momentum
        x = torch.randn(2, 8, 4, 4)
        assert_close(compiled(x), layer(x), 1e-5, 1e-5)
        for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
            assert_close(a, b, 1e-5, 1e-5)
