"""Operations in place, after a layer: as after any layer of PyTorch.

What changes the output in place gives the values and the gradients that it gives
out of place. What changes the input, which the backward pass may still need, gives
the right gradient or PyTorch's own error, and never a wrong one.
"""

import copy

import pytest
import torch
from helpers.layers import FLOATS, LAYOUTS, TRAILING, C, every_layer, inputs, leaf, make
from helpers.oracle import assert_close
from torch import nn
from torch.nn import functional as F

from labml_bcn import WSConv1d, WSConv2d, WSConv3d, weight_standardization

RESIDUAL = 0.5


def clear_first_channel(y):
    y[:, 0] = 0
    return y


def drop_in_place(y):
    torch.manual_seed(3)
    return F.dropout(y, 0.5, inplace=True)


def drop(y):
    torch.manual_seed(3)
    return F.dropout(y, 0.5)


def add_to_it(y):
    y += RESIDUAL
    return y


# In place, and the same out of place.
CHANGES = {
    "relu_": (lambda y: y.relu_(), torch.relu),
    "F.relu": (lambda y: F.relu(y, inplace=True), torch.relu),
    "nn.SiLU": (nn.SiLU(inplace=True), F.silu),
    "+=": (add_to_it, lambda y: y + RESIDUAL),
    "mul_": (lambda y: y.mul_(2), lambda y: y * 2),
    "dropout": (drop_in_place, drop),
    "y[:, 0] = 0": (
        clear_first_channel,
        lambda y: torch.cat((torch.zeros_like(y[:, :1]), y[:, 1:]), 1),
    ),
}
every_change = pytest.mark.parametrize("change", CHANGES)
every_training = pytest.mark.parametrize("training", [True, False])


def gradients_after(layer, x, change):
    """The changed output, and all gradients of one backward pass."""
    x = x.detach().requires_grad_()
    y = change(layer(x))
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    leaves = [x, *layer.parameters()]
    return y, torch.autograd.grad((y * weights).sum(), leaves)


def assert_in_place_is_out_of_place(layer, x, change):
    here, elsewhere = CHANGES[change]
    twin = copy.deepcopy(layer)
    y, gradients = gradients_after(layer, x, here)
    expected, wanted = gradients_after(twin, x, elsewhere)
    assert torch.equal(y, expected)
    for actual, gradient in zip(gradients, wanted, strict=True):
        # A gradient that lies otherwise in memory is summed up in another order.
        assert_close(actual, gradient, 1e-5, 1e-5)
    with torch.no_grad():
        assert torch.equal(here(layer(x)), elsewhere(twin(x)))


@every_layer
@every_change
@every_training
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.works_with(
    "train", "in-place operations", "behind every layer, training and evaluation"
)
def test_an_output_can_be_changed_in_place(name, change, training, trailing):
    layer = make(name).train(training)
    x = inputs(3, C, *trailing)
    assert_in_place_is_out_of_place(layer, x, change)


@every_layer
@every_training
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", [*LAYOUTS, "expanded"])
@pytest.mark.parametrize("size", [(3, C), (1, C, 4, 4), (3, C, 4, 5)], ids=str)
def test_in_any_dtype_and_memory_format(name, training, dtype, layout, size):
    layer = make(name).train(training)
    if layout == "expanded":
        x = inputs(*size[:-1], 1, dtype=dtype).expand(size)
    else:
        x = LAYOUTS[layout](inputs(*size, dtype=dtype))
    if size == (3, C) and layout == "expanded":
        x = inputs(1, C, dtype=dtype).expand(size)
    for change in ("relu_", "y[:, 0] = 0"):
        assert_in_place_is_out_of_place(layer, x, change)


@every_layer
@every_training
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast(name, training, cast):
    layer = make(name).train(training)
    with torch.autocast("cpu", cast):
        assert_in_place_is_out_of_place(layer, inputs(3, C, 4, 5), "relu_")


@every_layer
@every_training
def test_an_output_that_was_made_without_a_gradient_can_join_one(name, training):
    layer = make(name).train(training)
    x = inputs(3, C, 4, 5)
    with torch.no_grad():
        y = layer(x)
    expected = y * 3
    factor = torch.tensor(3.0, requires_grad=True)
    y.mul_(factor).sum().backward()
    assert torch.equal(y, expected)
    assert factor.grad is not None


def error_of_backward(y, g):
    """The words of the error that a backward pass raises, or none."""
    try:
        y.backward(g)
    except RuntimeError as error:
        return str(error)
    return ""


@every_layer
@every_training
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("trailing", [(), (4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_changed_input_gives_the_right_gradient_or_an_error(
    name, training, layout, trailing, dtype
):
    layer = make(name).train(training)
    twin = copy.deepcopy(layer)
    x = layout(inputs(3, C, *trailing, dtype=dtype))
    one, other = leaf(x), leaf(x)
    g = torch.randn(x.shape).to(dtype)
    twin(other * 1).backward(g)
    changed = one * 1
    y = layer(changed)
    changed.mul_(7)
    if error := error_of_backward(y, g):
        assert "modified by an inplace operation" in error
    else:
        assert_close(one.grad, other.grad)
        for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
            assert_close(a.grad, b.grad)


@every_layer
@every_training
def test_gradients_of_gradients_stand_an_output_changed_in_place(name, training):
    layer = make(name, dtype=torch.float64).train(training)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 4, dtype=torch.float64)
    found = []
    for kind, square in ((layer, lambda y: y.square_()), (twin, torch.square)):
        values = leaf(x)
        loss = square(kind(values)).sum()
        (g,) = torch.autograd.grad(loss, values, create_graph=True)
        g.square().sum().backward()
        found.append(values.grad)
    assert_close(*found)


@every_layer
@pytest.mark.works_with(
    "train", "in-place operations", "ReLU and addition of a residual block"
)
def test_the_two_halves_of_a_residual_block(name):
    """The step in which networks begin with an addition in place."""

    def block(layer, x, add):
        return add(layer(x), x)

    layer = make(name)
    twin = copy.deepcopy(layer)
    one, other = (leaf(inputs(2, C, 4, 4)) for _ in "ab")
    other.data.copy_(one)
    block(layer, one, lambda y, x: y.add_(x).relu_()).square().sum().backward()
    block(twin, other, lambda y, x: (y + x).relu()).square().sum().backward()
    assert_close(one.grad, other.grad)


# Convolutions and their weights

CONVOLUTIONS = [(WSConv1d, (9,)), (WSConv2d, (9, 8)), (WSConv3d, (5, 4, 6))]


@every_change
@every_training
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("kind", "size"), CONVOLUTIONS)
def test_a_convolutions_output_can_be_changed_in_place(
    kind, size, training, dtype, change
):
    layer = kind(4, 6, 3, padding=1).to(dtype).train(training)
    assert_in_place_is_out_of_place(layer, inputs(2, 4, *size, dtype=dtype), change)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 3, 3)], ids=str)
def test_a_standardized_weight_can_be_changed_in_place(shape, dtype, correction):
    w = inputs(*shape, dtype=dtype)
    one, other = leaf(w), leaf(w)
    y = weight_standardization(one, correction=correction).mul_(2)
    expected = weight_standardization(other, correction=correction) * 2
    assert torch.equal(y, expected)
    g = torch.randn(shape).to(dtype)
    y.backward(g)
    expected.backward(g)
    assert torch.equal(one.grad, other.grad)


def test_a_kept_weight_that_was_changed_in_place_is_made_anew():
    layer = WSConv2d(4, 6, 3).eval().requires_grad_(False)
    expected = layer.standardized_weight().clone()
    layer.standardized_weight().mul_(2)
    assert torch.equal(layer.standardized_weight(), expected)
