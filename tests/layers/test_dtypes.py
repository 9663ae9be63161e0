"""Every layer in every dtype: statistics in float32, and no digits lost."""

import copy

import pytest
import torch
from helpers.layers import (
    F64,
    FLOATS,
    LAYOUTS,
    LOW,
    MAKE,
    MODES,
    C,
    G,
    assert_same_gradients,
    assert_same_state,
    double,
    estimated,
    every_form,
    every_layer,
    inputs,
    make,
    state,
    tracking_form,
    tracking_layer,
)
from helpers.oracle import (
    Running,
    assert_close,
    batch_norm,
    channel_norm,
    normalize,
)

from labml_bcn import (
    BatchChannelNorm,
    ChannelNorm,
)


def at_least_float32(dtype):
    """The dtype of running statistics beside parameters of a dtype."""
    return torch.promote_types(dtype, torch.float32)


@every_form
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
        assert tensor.isfinite().all()
    for parameter in layer.parameters():
        assert parameter.dtype == own
    for buffer in layer.buffers():
        assert buffer.dtype == at_least_float32(own)
    for parameter in layer.parameters():
        assert parameter.grad.dtype == own


@every_form
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
    # Where the two took different kernels, they summed in another order.
    for mine, theirs in zip(layer.buffers(), other.buffers(), strict=True):
        assert_close(mine, theirs, 1e-5, 1e-5)
    assert_close(y, expected, *rounding_of(other, x))


@every_form
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


@every_form
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_low_precision_layer_computes_in_float32(name, dtype):
    """In eval its stored values are what float32 arithmetic starts from."""
    layer = make(name).to(dtype).eval()
    other = copy.deepcopy(layer).float()
    x = inputs(4, C, 8)
    assert_close(layer(x), other(x))


@tracking_form
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


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("mean", "std"), HARD)
@tracking_form
def test_a_large_mean_leaves_float32_its_digits(name, mean, std, training, layout):
    kind = name.split()[-1]
    layer = MAKE[name](momentum=1.0)
    norm = getattr(layer, "batch_norm", layer)
    norm.exp_mean.fill_(mean)
    x = layout(mean + std * torch.randn(8, C, 16)).requires_grad_()
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


@pytest.mark.parametrize("name", [k for k in MAKE if "Chan" not in k])
def test_a_large_stored_mean_is_subtracted_before_anything_is_scaled(name):
    """A mean that float32 can hold costs no digit at all."""
    layer = MAKE[name]().eval()
    layer.exp_mean.fill_(1e4)
    layer.exp_var.uniform_(0.5, 2)
    x = 1e4 + torch.randn(3, C, 5)
    assert_close(layer(x), normalize(x, layer.exp_mean, layer.exp_var))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", [k for k in MAKE if "BatchChannelNorm" in k])
def test_an_estimate_that_lags_behind_a_large_mean_costs_no_digits(name, layout):
    """The channel norm then finds a mean of thousands of deviations."""
    layer = MAKE[name]()
    x = layout(1e4 + torch.randn(4, C, 8, 8))
    y, expected = layer(x), MAKE[name](dtype=F64)(x.double())
    assert_close(y, expected, 2e-2, 2e-2)


@pytest.mark.parametrize("trailing", [(16,), (4, 4), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("mean", "std"), HARD)
def test_a_large_mean_leaves_channel_norm_its_digits(mean, std, layout, trailing):
    layer = ChannelNorm(C, G)
    x = layout(mean + std * torch.randn(4, C, *trailing)).requires_grad_()
    x_oracle = double(x)
    y, expected = layer(x), channel_norm(x_oracle, G)
    rounding = abs(mean) * torch.finfo(torch.float32).eps / std
    tolerance = {"rtol": 8 * rounding, "atol": 8 * rounding}
    assert_close(y, expected, **tolerance)
    g = torch.randn_like(y)
    (actual,) = torch.autograd.grad(y, x, g)
    (wanted,) = torch.autograd.grad(expected, x_oracle, g.double())
    assert_close(actual * std, wanted * std, **tolerance)


@every_form
def test_a_constant_input_gives_finite_outputs_and_gradients(name):
    layer = make(name)
    x = torch.full((3, C, 5), 7.7, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cast", LOW, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.works_with("precision", "`torch.autocast`", "every layer alone")
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


@every_layer
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layers_are_built_where_and_as_they_are_told(name, dtype):
    for device in ("cpu", "meta"):
        layer = MAKE[name](device=device, dtype=dtype)
        tensors = (*layer.parameters(), *layer.buffers())
        assert {t.device.type for t in tensors} == {device}
        assert {p.dtype for p in layer.parameters()} == {dtype}
        assert {b.dtype for b in layer.buffers()} <= {at_least_float32(dtype)}
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
@pytest.mark.works_with(
    "precision", "`.half()`, `.bfloat16()`, `.double()`", "every layer alone"
)
def test_running_statistics_are_float32_at_least_wherever_the_layer_goes(name):
    layer = make(name)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        before = state(layer)
        layer.to(dtype)
        for key, buffer in layer.named_buffers():
            assert buffer.dtype == at_least_float32(dtype)
            assert torch.equal(buffer.double(), before[key].double())
        assert layer(inputs(3, C, 5, dtype=dtype)).dtype == dtype
        assert {b.dtype for b in layer.buffers()} <= {at_least_float32(dtype)}
    for convert in (torch.nn.Module.half, torch.nn.Module.bfloat16):
        assert {b.dtype for b in convert(make(name)).buffers()} <= {torch.float32}


@tracking_layer
@pytest.mark.works_with(
    "precision", "`.half()`, `.bfloat16()`, `.double()`", "seven hundred steps"
)
def test_in_bfloat16_the_estimate_learns_as_in_float32(name):
    """Steps of a hundredth would be lost between two numbers of bfloat16."""
    layer = MAKE[name](momentum=0.01).bfloat16()
    wide = MAKE[name](momentum=0.01)
    for _ in range(300):
        x = inputs(4, C, 16, mean=3.0, std=1.5, dtype=torch.bfloat16)
        layer(x)
        wide(x.float())
    for a, b in zip(layer.buffers(), wide.buffers(), strict=True):
        assert_close(a, b, 1e-4, 1e-4)
