"""BatchNorm is nn.BatchNorm, forward, backward and in what it stores.

What all normalization layers share (dtypes, memory formats, messages, state
dicts) is tested for BatchNorm too in test_contract.py and its neighbours.
"""

import json
import sys
from statistics import fmean

import pytest
import torch
from helpers.layers import assert_same_gradients
from helpers.oracle import (
    Running,
    assert_close,
    batch_mean,
    batch_norm,
    normalize,
    square_around,
)
from helpers.paths import ROOT
from torch import nn

from labml_bcn import BatchNorm

C = 6
# The layer of PyTorch for each rank, and the trailing dimensions.
THEIRS = {
    "rank 2": (nn.BatchNorm1d, ()),
    "rank 3": (nn.BatchNorm1d, (5,)),
    "rank 4": (nn.BatchNorm2d, (4, 3)),
    "rank 5": (nn.BatchNorm3d, (2, 3, 2)),
}
OPTIONS = [
    {},
    {"momentum": 0.37},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"eps": 0.3},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def pair(kind, options, dtype=torch.float64):
    """Our layer and PyTorch's, with the same random scale and shift."""
    ours = BatchNorm(C, **options, dtype=dtype)
    theirs = kind(C, **options, dtype=dtype)
    if theirs.affine:
        with torch.no_grad():
            theirs.weight.normal_()
            theirs.bias.normal_()
            ours.scale.copy_(theirs.weight)
            ours.shift.copy_(theirs.bias)
    return ours, theirs


def assert_same_statistics(ours, theirs):
    if theirs.running_mean is None:
        assert list(ours.buffers()) == []
        return
    assert_close(ours.exp_mean, theirs.running_mean)
    assert_close(ours.exp_var, theirs.running_var)


def assert_same_step(ours, theirs, x):
    """Outputs, statistics and every gradient agree for one input."""
    ours.zero_grad()
    theirs.zero_grad()
    x_ours, x_theirs = (x.clone().requires_grad_() for _ in range(2))
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    assert_close(y_ours, y_theirs)
    assert_same_statistics(ours, theirs)
    g = torch.randn_like(x)
    y_ours.backward(g)
    y_theirs.backward(g)
    assert_close(x_ours.grad, x_theirs.grad)
    if theirs.affine:
        assert_close(ours.scale.grad, theirs.weight.grad)
        assert_close(ours.shift.grad, theirs.bias.grad)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "trailing"), THEIRS.values(), ids=THEIRS)
def test_batch_norm_is_pytorchs_over_training_steps_and_in_eval(
    kind, trailing, options
):
    ours, theirs = pair(kind, options)
    for step, b in enumerate((4, 2, 7, 3)):
        x = (step + 1) * torch.randn(b, C, *trailing).double() + step
        assert_same_step(ours, theirs, x)
    ours.eval()
    theirs.eval()
    assert_same_step(ours, theirs, torch.randn(3, C, *trailing).double())
    ours.train()
    theirs.train()
    assert_same_step(ours, theirs, torch.randn(3, C, *trailing).double())


def leaves(*shapes):
    return [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]


@pytest.mark.equation("batch_norm.batch-statistics")
@pytest.mark.parametrize("trailing", [(), (5,), (4, 3)], ids=str)
def test_the_batchs_statistics_are_its_mean_and_biased_variance(trailing):
    layer = BatchNorm(C, dtype=torch.float64)
    (x,) = leaves((3, C, *trailing))
    mean, var, count = layer.batch_statistics(x)
    assert count == x.numel() // C
    expected_mean = batch_mean(x)
    expected_var = square_around(x, expected_mean)
    assert_close(mean, expected_mean)
    assert_close(var, expected_var)
    assert_same_gradients(mean + var, [x], expected_mean + expected_var)


@pytest.mark.equation("batch_norm.normalization")
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("trailing", [(), (5,), (4, 3), (2, 1, 3, 2)], ids=str)
def test_normalizing_subtracts_divides_scales_and_shifts(trailing, constant):
    layer = BatchNorm(C, eps=0.3, dtype=torch.float64)
    x, mean, scale, shift = leaves((3, C, *trailing), (C,), (C,), (C,))
    var = torch.rand(C, dtype=torch.float64, requires_grad=True)
    statistics = [t.requires_grad_(not constant) for t in (mean, var)]
    layer.scale, layer.shift = map(torch.nn.Parameter, (scale, shift))
    parameters = [layer.scale, layer.shift]
    actual = layer.normalize(x, mean, var)
    expected = normalize(x, mean, var, *parameters, eps=0.3)
    assert_close(actual, expected)
    learning = parameters if constant else [*statistics, *parameters]
    assert_same_gradients(actual, [x, *learning], expected)


@pytest.mark.equation("batch_norm.running-update")
@pytest.mark.parametrize("r", [0.0, 0.1, 0.7, 1.0])
def test_an_update_moves_the_running_statistics_by_r(r):
    layer = BatchNorm(C, momentum=r, dtype=torch.float64)
    mu, sigma2 = torch.zeros(C).double(), torch.ones(C).double()
    for _ in range(3):
        m, v = torch.randn(C).double(), torch.rand(C).double()
        returned = layer.update(m, v)
        mu = (1 - r) * mu + r * m
        sigma2 = (1 - r) * sigma2 + r * v
        for actual in (layer.exp_mean, returned[0]):
            assert_close(actual, mu)
        for actual in (layer.exp_var, returned[1]):
            assert_close(actual, sigma2)


@pytest.mark.equation("batch_norm.training")
@pytest.mark.parametrize("trailing", [(), (5,), (4, 3)], ids=str)
def test_in_training_the_batchs_own_statistics_normalize(trailing):
    layer = BatchNorm(C, eps=0.01, dtype=torch.float64)
    with torch.no_grad():
        layer.scale.normal_()
        layer.shift.normal_()
    (x,) = leaves((3, C, *trailing))
    parameters = [layer.scale, layer.shift]
    actual = layer(x)
    expected = batch_norm(x, *parameters, eps=0.01)
    assert_close(actual, expected)
    assert_same_gradients(actual, [x, *parameters], expected)


@pytest.mark.parametrize("trailing", [(), (5,), (4, 3)], ids=str)
def test_batch_norm_is_its_formula(trailing):
    layer = BatchNorm(C, eps=0.01, momentum=0.2, dtype=torch.float64)
    with torch.no_grad():
        layer.scale.normal_()
        layer.shift.normal_()
    running = Running(C)
    for b in (3, 5):
        x = torch.randn(b, C, *trailing).double() * 2 + 1
        expected = batch_norm(x, layer.scale, layer.shift, eps=0.01)
        assert_close(layer(x), expected)
        running.update_unbiased(x, r=0.2)
        assert_close(layer.exp_mean, running.mean)
        assert_close(layer.exp_var, running.var)
    layer.eval()
    expected = normalize(
        x, running.mean, running.var, layer.scale, layer.shift, eps=0.01
    )
    assert_close(layer(x), expected)


def test_batch_norms_gradient_flows_through_the_batch_statistics():
    layer = BatchNorm(C, dtype=torch.float64)
    x = torch.randn(3, C, 4, dtype=torch.float64, requires_grad=True)

    def apply(x, scale, shift):
        parameters = {"scale": scale, "shift": shift}
        return torch.func.functional_call(layer, parameters, (x,))

    scale = torch.randn(C, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(C, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apply, (x, scale, shift))


def test_batch_norm_takes_a_rank_that_pytorch_has_no_layer_for():
    x = torch.randn(2, C, 2, 1, 3, 2).double()
    layer = BatchNorm(C, dtype=torch.float64)
    assert_close(layer(x), batch_norm(x))


@pytest.mark.parametrize("shape", [(1, C), (1, C, 1), (1, C, 1, 1)], ids=str)
def test_one_value_a_channel_is_refused_where_the_batch_is_the_statistic(
    shape,
):
    x = torch.randn(shape)
    layer = BatchNorm(C)
    with pytest.raises(ValueError, match="value"):
        layer(x)
    assert torch.equal(layer.exp_mean, torch.zeros(C))
    assert torch.equal(layer.exp_var, torch.ones(C))
    assert layer.eval()(x).shape == shape
    untracked = BatchNorm(C, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="value"):
        untracked(x)


def test_without_tracking_eval_uses_the_batchs_own_statistics():
    layer = BatchNorm(C, track_running_stats=False).eval()
    x = 5 + 3 * torch.randn(4, C, 3)
    assert_close(layer(x), batch_norm(x))
    assert set(layer.state_dict()) == {"scale", "shift"}


def test_without_tracking_an_empty_batch_is_still_an_empty_output():
    layer = BatchNorm(C, track_running_stats=False)
    for training in (True, False):
        layer.train(training)
        assert layer(torch.empty(0, C, 2)).shape == (0, C, 2)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, {"scale", "shift", "exp_mean", "exp_var"}),
        ({"affine": False}, {"exp_mean", "exp_var"}),
        ({"track_running_stats": False}, {"scale", "shift"}),
        ({"affine": False, "track_running_stats": False}, set()),
    ],
    # Two processes must find the same names, and a set has no order.
    ids=["default", "not affine", "no statistics", "neither"],
)
def test_batch_norms_state_is_what_its_options_leave(options, keys):
    layer = BatchNorm(C, **options)
    assert set(layer.state_dict()) == keys
    assert all(tensor.shape == (C,) for tensor in layer.state_dict().values())
    if not options.get("affine", True):
        assert layer.scale is None
        assert layer.shift is None


# What the page tells of the study


@pytest.mark.parametrize(
    ("batch_size", "told"), [(1, (39.7, 10.2)), (64, (47.8, 48.0))]
)
def test_the_accuracies_on_the_page_are_those_of_the_recorded_runs(batch_size, told):
    paths = ROOT.glob(f"docs/results/cpu/main-bn-b{batch_size}-s*.json")
    records = [json.loads(path.read_text("utf-8")) for path in paths]
    assert len(records) == 3
    learning = [
        accuracy
        for record in records
        for images, _, accuracy in record["curve"]
        if images > 8000 - 960
    ]
    accuracies = learning, [record["accuracy"] for record in records]
    assert tuple(round(100 * fmean(each), 1) for each in accuracies) == told
    page = sys.modules[BatchNorm.__module__].__doc__
    assert all(f"{number}%" in page for number in told)
