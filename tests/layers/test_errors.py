"""Every layer at its edges: empty batches, lone values, wrong arguments."""

import copy
import re

import pytest
import torch
from helpers.layers import (
    F64,
    LOW,
    MAKE,
    TRAILING,
    C,
    G,
    assert_same_state,
    bcn,
    estimated,
    every_layer,
    inputs,
    make,
    state,
)
from helpers.oracle import (
    Running,
    assert_close,
    channel_norm,
    normalize,
)

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    batch_channel_norm,
)


@every_layer
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.works_with("train", "variable sizes", "an empty batch")
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


NOT_NUMBERS = ["1e-5", None, True, [0.1], torch.tensor(0.1), 1j]


@every_kind
@pytest.mark.parametrize("eps", NOT_NUMBERS, ids=str)
def test_an_eps_that_is_no_number_is_named(kind, eps):
    with pytest.raises(TypeError, match="eps must be a number"):
        kind(C, eps=eps)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "ChannelNorm"])
@pytest.mark.parametrize("momentum", NOT_NUMBERS, ids=str)
def test_a_momentum_that_is_no_number_is_named(kind, momentum):
    with pytest.raises(TypeError, match="momentum must be a number"):
        KINDS[kind](C, momentum=momentum)


@every_kind
@pytest.mark.parametrize("channels", [12.0, True, "12", None, (12,)], ids=str)
def test_channels_of_the_wrong_kind_are_named(kind, channels):
    with pytest.raises(TypeError, match="channels must be an int"):
        kind(channels)


@pytest.mark.parametrize("kind", [ChannelNorm, BatchChannelNorm])
@pytest.mark.parametrize("groups", [3.0, True, "3", None, (3,)], ids=str)
def test_groups_of_the_wrong_kind_are_named(kind, groups):
    with pytest.raises(TypeError, match="groups must be an int"):
        kind(12, groups)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": "1e-5"}, "eps must be a number"),
        ({"eps": None}, "eps must be a number"),
        ({"momentum": "0.1"}, "momentum must be a number"),
        ({"momentum": None}, "momentum must be a number"),
        ({"groups": 2.0}, "groups must be an int"),
        ({"groups": True}, "groups must be an int"),
        ({"activation": torch.nn.ReLU()}, "activation must be a name or None"),
        ({"x": [1.0]}, "the input must be a tensor"),
        ({"mean": [0.0] * C}, "mean must be a tensor"),
        ({"var": 1.0}, "var must be a tensor"),
        ({"weights": (1.0, None, None, None)}, "gamma_c must be a tensor"),
        ({"residual": 1.0}, "residual must be a tensor"),
    ],
    ids=str,
)
def test_the_function_names_arguments_of_the_wrong_kind(change, words):
    given = {"mean": torch.zeros(C), "var": torch.ones(C), "groups": G}
    arguments = {"x": inputs(2, C, 4), **given, **change}
    with pytest.raises(TypeError, match=words):
        batch_channel_norm(**arguments)
    for name in set(given) - set(change) - {"groups"}:
        assert torch.equal(arguments[name], given[name])


@every_layer
@pytest.mark.parametrize("x", [[1.0], None, 1.0], ids=str)
def test_an_input_that_is_no_tensor_is_refused(name, x):
    with pytest.raises(TypeError, match="the input must be a tensor"):
        make(name)(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("activation", "error"),
    [("gelu", ValueError), ("ReLU", ValueError), ("", ValueError), (True, TypeError)],
)
def test_an_activation_set_later_is_not_taken_for_relu(activation, error, training):
    layer = bcn("batch_mean").train(training)
    before = state(layer)
    layer.activation = activation
    with pytest.raises(error, match="activation must be"):
        layer(inputs(2, C, 4))
    assert_same_state(layer, before)
    layer.activation = "relu"
    assert layer(inputs(2, C, 4)).min() == 0
    layer.activation = None
    assert layer(inputs(2, C, 4)).min() < 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["scale", "shift"])
@pytest.mark.parametrize("layer", [name for name in MAKE if "stepwise" not in name])
def test_a_scale_or_a_shift_may_be_taken_away(layer, name, training):
    layer = make(layer).train(training).double()
    for module in layer.modules():
        if hasattr(module, "scale"):
            torch.nn.init.normal_(module.scale)
            torch.nn.init.normal_(module.shift)
    twin = copy.deepcopy(layer)
    for module in layer.modules():
        if hasattr(module, "scale"):
            setattr(module, name, None)
    for module in twin.modules():
        if hasattr(module, "scale"):
            torch.nn.init.constant_(getattr(module, name), float(name == "scale"))
    x = inputs(3, C, 5, dtype=F64)
    assert_close(layer(x), twin(x))


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
