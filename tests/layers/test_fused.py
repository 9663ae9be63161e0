"""The layer in one map against its two norms in turn, and the float64 oracle.

What it shares with the other layers (memory formats, dtypes, edges, errors,
copies, compilation) is in test_contract.py and its neighbours, which run on it too.
"""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers import layers
from helpers.layers import F64, LAYOUTS, C, G, InTurn, leaf, options_of, randomize
from helpers.oracle import (
    Running,
    assert_close,
    batch_norm,
    channel_norm,
    normalize,
)
from torch import nn

from labml_bcn import BatchChannelNorm, FusedBatchChannelNorm, native
from labml_bcn._passes import Kernels, Rows, Strided, choose_passes

MODES = ["plain", *layers.MODES]
TRAILING = [(), (5,), (4, 3), (2, 3, 2), (1, 1)]
every_mode = pytest.mark.parametrize("mode", MODES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
training_and_eval = pytest.mark.parametrize("training", [True, False])


def pair(mode, channels=C, groups=G, **more):
    """The composed layer and the fused one, in the same state."""
    composed = randomize(InTurn(channels, groups, **options_of(mode), **more))
    fused = BatchChannelNorm(channels, groups, **options_of(mode), **more)
    fused.load_state_dict(composed.state_dict())
    return composed, fused


inputs = partial(layers.inputs, dtype=F64)


def gradients(y, x, layer, g):
    return torch.autograd.grad(y, [x, *layer.parameters()], g)


def assert_same_step(composed, fused, x, **tolerance):
    """Output, statistics and all gradients of one forward and backward."""
    one, other = leaf(x), x.detach().requires_grad_()
    expected, actual = composed(one), fused(other)
    assert_close(actual, expected, **tolerance)
    for a, b in zip(fused.buffers(), composed.buffers(), strict=True):
        assert_close(a, b, **tolerance)
    g = torch.randn_like(expected)
    for a, b in zip(
        gradients(actual, other, fused, g),
        gradients(expected, one, composed, g),
        strict=True,
    ):
        assert_close(a, b, **tolerance)


# The same as the composed layer, and as the oracle


@every_mode
@every_layout
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_fused_is_composed_over_steps(mode, layout, trailing, groups):
    if groups == C and trailing in ((), (1, 1)):
        pytest.skip("one value a group")
    composed, fused = pair(mode, groups=groups, momentum=0.3, dtype=F64)
    for b, training in ((2, True), (5, True), (3, False), (4, True)):
        composed.train(training)
        fused.train(training)
        x = layout(inputs(b, C, *trailing))
        assert_same_step(composed, fused, x)


@every_layout
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("looking", [torch.no_grad, torch.inference_mode])
def test_evaluation_is_the_same_without_a_gradient(looking, layout, trailing, groups):
    if groups == C and trailing in ((), (1, 1)):
        pytest.skip("one value a group")
    composed, fused = pair("batch_mean", groups=groups, dtype=F64)
    composed.eval()
    fused.eval()
    x = layout(inputs(3, C, *trailing))
    before, state = x.clone(), copy.deepcopy(fused.state_dict())
    with looking():
        y = fused(x)
    assert_close(y, composed(x))
    assert torch.equal(x, before)
    for name, value in fused.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("buffers", [torch.float32, torch.bfloat16])
def test_evaluation_in_low_precision_is_as_with_a_gradient(dtype, buffers):
    _, fused = pair("batch_mean", dtype=buffers)
    fused.eval()
    x = inputs(3, C, 5, dtype=dtype)
    expected = fused(x)
    with torch.no_grad():
        y = fused(x)
    assert y.dtype == dtype
    assert_close(y, expected, rtol=2 ** (-7 if "b" in str(dtype) else -10))


@every_layout
@pytest.mark.parametrize("learned", [True, False])
def test_evaluation_keeps_its_digits_at_a_large_mean(layout, learned):
    composed, fused = pair("batch_mean")
    x = layout(inputs(3, C, 32, 32, mean=1e4, dtype=torch.float32))
    if learned:  # the running mean has seen it
        fused.batch_norm.exp_mean.copy_(x.mean((0, 2, 3)))
    composed.load_state_dict(fused.state_dict())
    composed.double().eval()
    fused.eval()
    with torch.no_grad():
        error = (fused(x) - composed(x.double())).abs().max()
    # A float32 near 1e4 has steps of 0.001.
    assert error < 0.005


@every_mode
@every_layout
def test_fused_is_the_oracle_over_steps(mode, layout):
    _, fused = pair(mode, momentum=0.3, eps=0.02, dtype=F64)
    running = Running.of(fused.batch_norm)
    for b, training in ((2, True), (5, True), (3, False), (1, True)):
        fused.train(training)
        x = layout(inputs(b, C, 4, 3)).requires_grad_()
        actual = fused(x)
        leaves = [leaf(t) for t in (x, *fused.parameters())]
        values, *first, scale, shift = leaves
        if training and mode == "plain":
            running.update_unbiased(x, 0.3)
            z = batch_norm(values, *first, eps=0.02)
        else:
            if training:
                running.update(x, 0.3, mode)
            z = normalize(values, running.mean, running.var, *first, eps=0.02)
        expected = channel_norm(z, G, scale, shift, eps=0.02)
        assert_close(actual, expected)
        assert_close(fused.batch_norm.exp_mean, running.mean)
        assert_close(fused.batch_norm.exp_var, running.var)
        g = torch.randn_like(expected)
        theirs = torch.autograd.grad(expected, leaves, g)
        for a, b_ in zip(gradients(actual, x, fused, g), theirs, strict=True):
            assert_close(a, b_)


@every_mode
@training_and_eval
def test_the_two_norms_may_be_in_different_modes(mode, training):
    """Batch norm alone in eval, to freeze statistics, is common."""
    composed, fused = pair(mode, dtype=F64)
    for layer in (composed, fused):
        layer.train(not training)
        layer.batch_norm.train(training)
    assert_same_step(composed, fused, inputs(3, C, 5))


@every_mode
def test_each_norm_keeps_its_own_eps_and_momentum(mode):
    composed, fused = pair(mode, dtype=F64)
    for layer in (composed, fused):
        layer.batch_norm.eps = 0.3
        layer.channel_norm.eps = 0.02
        layer.batch_norm.momentum = 0.7
    assert_same_step(composed, fused, inputs(3, C, 5))


def test_the_state_dict_is_the_composed_layers():
    composed, fused = pair("batch_mean")
    assert list(fused.state_dict()) == list(composed.state_dict())
    composed.load_state_dict(fused.state_dict())
    assert FusedBatchChannelNorm is BatchChannelNorm


@every_mode
@every_layout
@pytest.mark.parametrize("mean", [1e4, -3e3])
def test_a_large_mean_leaves_float32_its_digits(mode, layout, mean):
    std = 0.5
    composed, fused = pair(mode, momentum=1.0)
    for layer in (composed, fused):
        layer.batch_norm.exp_mean.fill_(mean)
    x = layout(inputs(4, C, 8, 8, dtype=torch.float32, mean=mean, std=std))
    exact = copy.deepcopy(composed).double()
    rounding = abs(mean) * torch.finfo(torch.float32).eps / std
    one, other = leaf(x.double()), x.clone().requires_grad_()
    expected, actual = exact(one), fused(other)
    assert_close(actual, expected, rounding, 4 * rounding)
    g = torch.randn_like(actual)
    (a,) = torch.autograd.grad(actual, other, g)
    (b,) = torch.autograd.grad(expected, one, g.double())
    assert_close(a * std, b * std, rounding, 4 * rounding)


@every_mode
@every_layout
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_constant_channels_are_finite_both_ways(mode, layout, value):
    composed, fused = pair(mode, dtype=F64)
    x = inputs(3, C, 4, 4)
    x[:, 2] = value
    x[1] = value
    assert_same_step(composed, fused, layout(x), rtol=1e-6, atol=1e-6)


@every_mode
@training_and_eval
@pytest.mark.parametrize("shape", [(0, C, 4, 4), (0, C), (2, C, 0)], ids=str)
def test_an_empty_input_goes_through_and_teaches_nothing(mode, training, shape):
    _, fused = pair(mode)
    fused.train(training)
    before = copy.deepcopy(fused.state_dict())
    x = torch.empty(shape, requires_grad=True)
    y = fused(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    for key, value in fused.state_dict().items():
        assert torch.equal(value, before[key])


REFUSED = [
    (torch.zeros(2, C, 4, dtype=torch.int64), TypeError, "int64"),
    (torch.zeros(2, C + 1, 4), ValueError, r"\[2, 13, 4\]"),
    (torch.zeros(C), ValueError, r"\[12\]"),
    (torch.zeros(1, C), ValueError, "variance"),
]


@pytest.mark.parametrize(("x", "error", "words"), REFUSED)
@pytest.mark.parametrize("mode", ["plain", "batch_mean"])
def test_what_is_refused_changes_no_statistic(mode, x, error, words):
    _, fused = pair(mode)
    before = copy.deepcopy(fused.state_dict())
    with pytest.raises(error, match=words):
        fused(x)
    for key, value in fused.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("estimate", [True, False])
def test_the_remedy_that_is_named_exists(estimate):
    fused = BatchChannelNorm(C, G, estimate=estimate)
    with pytest.raises(ValueError, match="one value per channel") as e:
        fused(torch.zeros(1, C))
    assert ("running_mean" in str(e.value)) == estimate


def test_one_value_a_group_is_refused_before_anything_is_learned():
    fused = BatchChannelNorm(C, C)
    with pytest.raises(ValueError, match="one value per group"):
        fused(torch.randn(4, C))
    assert fused.batch_norm.exp_mean.abs().sum() == 0


# Dtypes


@every_mode
@every_layout
@training_and_eval
@pytest.mark.parametrize("own", ["half", "bfloat16", "float", "double"])
@pytest.mark.parametrize("dtype", ["half", "bfloat16", "float", "double"])
def test_every_dtype_is_as_good_as_the_composed_layer(
    mode, layout, training, own, dtype
):
    composed, fused = pair(mode)
    dtype = getattr(torch, dtype)
    for layer in (composed, fused):
        getattr(layer, own)().train(training)
    x = layout(inputs(4, C, 4, 4, dtype=dtype)).requires_grad_()
    y, expected = fused(x), composed(x)
    assert y.dtype == expected.dtype == dtype
    # The composed layer rounds once more, between the norms.
    rounding = torch.finfo(dtype).eps
    assert_close(y, expected, 8 * rounding, max(8 * rounding, 1e-5))
    for a, b in zip(fused.buffers(), composed.buffers(), strict=True):
        assert a.dtype == b.dtype
        rounding_of_sums = max(1e-5, torch.finfo(a.dtype).eps)
        assert_close(a, b, rounding_of_sums, rounding_of_sums)
    g = torch.randn_like(y)
    for a, b in zip(
        gradients(y, x, fused, g),
        gradients(expected, x, composed, g),
        strict=True,
    ):
        assert a.dtype == b.dtype
        scale = b.abs().max().item()
        tolerance = 8 * torch.finfo(b.dtype).eps + 8 * rounding
        assert_close(a, b, tolerance, max(tolerance * scale, 1e-4))


@every_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_low_precision_input_are_float32(mode, dtype):
    _, fused = pair(mode, momentum=1.0)
    fused.batch_norm.exp_mean.zero_()
    running = Running.of(fused.batch_norm)
    x = inputs(64, C, 8, 8, dtype=dtype, mean=30)
    if mode == "plain":
        running.update_unbiased(x, 1.0)
    else:
        running.update(x, 1.0, mode)
    fused(x)
    assert_close(fused.batch_norm.exp_mean, running.mean, 1e-6, 1e-6)
    assert_close(fused.batch_norm.exp_var, running.var, 1e-5, 1e-5)


@every_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(mode, dtype):
    _, fused = pair(mode)
    other = copy.deepcopy(fused)
    x = inputs(3, C, 4, 4, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(x)
    expected = other(x)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    g = torch.randn_like(y)
    for a, b in zip(
        gradients(y, x, fused, g),
        gradients(expected, x, other, g),
        strict=True,
    ):
        assert torch.equal(a, b)


# Gradients


def as_function(fused):
    """The layer as a function of input and parameters."""
    names = [name for name, _ in fused.named_parameters()]

    def function(x, *parameters):
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(fused, values, (x,))

    return function


def function_and_leaves(mode, layout, trailing, training):
    # The running statistics are constants to the gradient: r is 0.
    momentum = 0.1 if mode == "plain" else 0.0
    _, fused = pair(mode, 4, 2, momentum=momentum, dtype=F64)
    fused.train(training)
    x = layout(inputs(2, 4, *trailing, std=1.0)).requires_grad_()
    leaves = (x, *(leaf(p) for p in fused.parameters()))
    return as_function(fused), leaves


@every_mode
@every_layout
@training_and_eval
@pytest.mark.parametrize("trailing", [(), (3,), (2, 2)], ids=str)
def test_gradcheck(mode, layout, trailing, training):
    function, leaves = function_and_leaves(mode, layout, trailing, training)
    assert torch.autograd.gradcheck(function, leaves)


@every_mode
@every_layout
@training_and_eval
def test_gradients_of_gradients(mode, layout, training):
    function, leaves = function_and_leaves(mode, layout, (3,), training)
    assert torch.autograd.gradgradcheck(function, leaves)


@every_mode
@training_and_eval
def test_a_gradient_penalty_is_the_composed_layers(mode, training):
    composed, fused = pair(mode, dtype=F64)
    x = inputs(3, C, 4, 4)
    penalties = []
    for layer in (composed, fused):
        layer.train(training)
        values = leaf(x)
        (g,) = torch.autograd.grad(
            layer(values).pow(3).sum(), values, create_graph=True
        )
        g.square().sum().backward()
        penalties.append([values.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*penalties, strict=True):
        assert_close(a, b)


@every_mode
@pytest.mark.parametrize("learning", range(5))
def test_only_what_learns_gets_a_gradient(mode, learning):
    composed, fused = pair(mode, dtype=F64)
    x = inputs(3, C, 4, 4)
    grads = []
    for layer in (composed, fused):
        leaves = [leaf(x), *layer.parameters()]
        for i, tensor in enumerate(leaves):
            tensor.requires_grad_(i == learning)
        layer(leaves[0]).pow(2).sum().backward()
        for i, tensor in enumerate(leaves):
            assert (tensor.grad is not None) == (i == learning)
        grads.append(leaves[learning].grad)
    assert_close(*grads)


@every_mode
def test_a_layer_that_learns_nothing_builds_no_graph(mode):
    _, fused = pair(mode)
    fused.requires_grad_(False)
    assert not fused(inputs(3, C, 5)).requires_grad
    fused.requires_grad_(True)
    with torch.no_grad():
        assert not fused(inputs(3, C, 5)).requires_grad


@every_layout
@training_and_eval
def test_neither_input_nor_gradient_is_written_to(layout, training):
    _, fused = pair("plain")
    fused.train(training)
    x = layout(inputs(3, C, 4, 4, dtype=torch.float32)).requires_grad_()
    g = torch.randn(3, C, 4, 4)
    before = x.detach().clone(), g.clone()
    fused(x).backward(g)
    assert torch.equal(x, before[0])
    assert torch.equal(g, before[1])


def test_a_parameter_changed_before_the_backward_pass_is_noticed():
    _, fused = pair("batch_mean")
    y = fused(inputs(3, C, 5, dtype=torch.float32).requires_grad_())
    with torch.no_grad():
        fused.batch_norm.scale.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        y.sum().backward()


# Memory


def bytes_of(tensors):
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values())


@every_mode
@training_and_eval
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_the_input_and_tables(mode, training, layout, dtype):
    _, fused = pair(mode)
    fused.train(training)
    x = LAYOUTS[layout](inputs(4, C, 64, 64, dtype=dtype)).requires_grad_()
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = fused(x)
    assert any(t.data_ptr() == x.data_ptr() for t in saved)
    tables = 4 * 4 * C * 12 + 4 * C * 12
    assert bytes_of(saved) <= x.nbytes + tables
    y.sum().backward()


def peak(step):
    """The most bytes that were allocated and not yet freed in a step."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = highest = 0
    events = profile.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]"]
    for event in sorted(memory, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


@every_mode
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_step_takes_twice_the_input_at_its_peak(mode, layout):
    _, fused = pair(mode)
    x = LAYOUTS[layout](inputs(4, C, 128, 128, dtype=torch.float32))
    x.requires_grad_()
    g = torch.randn_like(x)
    kept = []

    def step():
        x.grad = None
        y = fused(x)
        kept[:] = [y.detach()]
        y.backward(g)

    step()
    kept.clear()
    assert peak(step) <= 2.05 * x.nbytes


# Which passes are taken


def test_rows_are_for_contiguous_inputs_of_several_positions():
    x = torch.randn(2, 4, 3, 3, dtype=F64)
    assert choose_passes(x) is Rows
    assert choose_passes(x.to(memory_format=torch.channels_last)) is Strided
    assert choose_passes(x.mT) is Strided
    assert choose_passes(x[..., :1, :1].contiguous()) is Strided
    assert choose_passes(torch.randn(2, 4, dtype=F64)) is Strided
    with native.disabled():
        assert choose_passes(x.float()) is Rows
    if native.status().cpu.native:
        assert choose_passes(x.float()) is Kernels


@every_layout
def test_the_passes_agree(layout):
    x, dy = inputs(2, C, 4, 4), inputs(2, C, 4, 4)
    mine, other = Rows.measure(x), Strided.measure(layout(x))
    for a, b in zip(other, mine, strict=True):
        assert_close(a, b)
    point, _, _, distance = mine
    mine = Rows.sums(x, point, dy)
    for a, b in zip(Strided.sums(layout(x), point, dy), mine, strict=True):
        assert_close(a.flatten(), b)
    slope, q, r = torch.randn(3, 2, C, dtype=F64)
    expected = Rows.combine(x, point, dy, slope, q, r)
    assert_close(Strided.combine(layout(x), point, dy, slope, q, r), expected)
    expected = Rows.apply(distance.clone(), slope, q)
    copied = layout(distance.clone())
    assert_close(Strided.apply(copied, slope, q), expected)


# Large means


FAR = [0.0, 1e3, 1e4, 1e5]
FORMATS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT,
    "no positions": lambda x: x.transpose(1, 3).flatten(0, 2).contiguous(),
}


def in_double(layer, before, x, dy):
    """The output and all gradients by the two norms in turn, in float64.

    Of plain statistics the layer's state is that before the step, of others that after
    it: what it normalizes with has been rounded to the buffers' float32.
    """
    plain = not layer.estimate
    oracle = InTurn(C, G, estimate=not plain, dtype=F64).train(plain)
    oracle.load_state_dict((before if plain else layer).state_dict())
    x = x.detach().double().requires_grad_()
    y = oracle(x)
    return y, torch.autograd.grad(y, (x, *oracle.parameters()), dy.double())


def far_away(mode, form, mean):
    """A layer that knows where its inputs lie, and an input with a gradient."""
    torch.manual_seed(0)
    layer = BatchChannelNorm(
        C,
        G,
        estimate=mode != "plain",
        variance_around="running_mean" if mode == "running_mean" else "batch_mean",
    )
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    means = mean * (1 + 0.1 * torch.randn(1, C, 1, 1))
    x = FORMATS[form](means + torch.randn(4, C, 6, 5))
    with torch.no_grad():
        mean = x.movedim(1, 0).flatten(1).mean(1)
        layer.batch_norm.exp_mean.copy_(mean + 0.1 * torch.randn(C))
    return layer.train(mode != "eval"), x.requires_grad_(), torch.randn_like(x)


def worst(a, b):
    a, b = a.detach().double(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


every_far = pytest.mark.parametrize("mode", ["eval", *MODES])


@every_far
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mean", FAR)
@pytest.mark.parametrize("native_kernels", [True, False])
def test_a_large_mean_costs_no_digits(mode, form, mean, native_kernels):
    layer, x, dy = far_away(mode, form, mean)
    before = copy.deepcopy(layer)
    with nullcontext() if native_kernels else native.disabled():
        y = layer(x)
        grads = torch.autograd.grad(y, (x, *layer.parameters()), dy)
        expected, expected_grads = in_double(layer, before, x, dy)
        with torch.no_grad():
            assert worst(before(x), expected) < 1e-6
    assert worst(y, expected) < 1e-6
    for a, b in zip(grads, expected_grads, strict=True):
        assert worst(a, b) < 1e-5


@pytest.mark.slow
@every_far
@pytest.mark.parametrize("form", ["contiguous", "channels_last"])
def test_a_large_mean_costs_no_digits_in_a_compiled_program(mode, form):
    torch.compiler.reset()
    for mean in (0.0, 1e5):
        layer, x, dy = far_away(mode, form, mean)
        before = copy.deepcopy(layer)
        with native.disabled():
            y = torch.compile(layer, fullgraph=True)(x)
            grads = torch.autograd.grad(y, (x, *layer.parameters()), dy)
            expected, expected_grads = in_double(layer, before, x, dy)
        assert worst(y, expected) < 1e-6
        for a, b in zip(grads, expected_grads, strict=True):
            assert worst(a, b) < 1e-5


@pytest.mark.parametrize("mean", FAR)
def test_a_large_mean_costs_no_digits_in_an_exported_program(mean):
    layer, x, dy = far_away("eval", "contiguous", mean)
    expected, _ = in_double(layer, layer, x, dy)
    program = torch.export.export(layer, (x.detach(),))
    assert worst(program.module()(x.detach()), expected) < 1e-6


@training_and_eval
def test_a_channels_last_input_gives_a_channels_last_output(training):
    _, fused = pair("batch_mean")
    fused.train(training)
    x = inputs(2, C, 4, 5, dtype=torch.float32)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    y = fused(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert g.is_contiguous(memory_format=torch.channels_last)


# What rewrites programs


@every_mode
def test_function_transforms_see_through_it(mode):
    composed, fused = pair(mode, dtype=F64)
    composed.eval()
    fused.eval()
    x = inputs(3, C, 5)
    tangent = torch.randn_like(x)
    for transform in (
        lambda f: torch.func.grad(lambda x: f(x).pow(2).sum())(x),
        lambda f: torch.func.jvp(f, (x,), (tangent,))[1],
        lambda f: torch.func.jacrev(f)(x[:1]),
        lambda f: torch.func.vmap(lambda one: f(one.unsqueeze(0)))(x),
    ):
        assert_close(transform(fused), transform(composed))


def test_forward_mode_gradients_are_the_composed_layers():
    composed, fused = pair("plain", dtype=F64)
    x, tangent = inputs(3, C, 5), inputs(3, C, 5)
    results = []
    with torch.autograd.forward_ad.dual_level():
        for layer in (composed, fused):
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            y = layer(dual)
            results.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    assert_close(*results)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_compiled_it_is_eager_over_steps_and_batch_sizes(mode, layout):
    torch.compiler.reset()
    _, fused = pair(mode, momentum=0.7)
    compiled = torch.compile(copy.deepcopy(fused), fullgraph=True)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    for b in (2, 3, 5, 7):
        x = LAYOUTS[layout](inputs(b, C, 6, 6, dtype=torch.float32))
        assert_same_step(fused, compiled, x, **tolerance)


@pytest.mark.slow
@every_mode
def test_compiled_two_forwards_may_go_before_one_backward(mode):
    torch.compiler.reset()
    _, fused = pair(mode, momentum=0.7)
    compiled = torch.compile(copy.deepcopy(fused), fullgraph=True)
    first, second = (inputs(2, C, 6, 6, dtype=torch.float32) for _ in "ab")
    grads = []
    for layer in (fused, compiled):
        leaves = [leaf(first), leaf(second)]
        total = sum(layer(x).pow(2).sum() for x in leaves)
        grads.append(torch.autograd.grad(total, leaves + list(layer.parameters())))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, 1e-3, 1e-3)


@pytest.mark.slow
@training_and_eval
@every_mode
def test_it_can_be_exported_with_a_dynamic_batch(mode, training):
    _, fused = pair(mode)
    fused.train(training)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        copy.deepcopy(fused),
        (inputs(3, C, 4, 4, dtype=torch.float32),),
        dynamic_shapes=({0: batch},),
    )
    exported = program.module()
    for b in (2, 5):
        x = inputs(b, C, 4, 4, dtype=torch.float32)
        assert_close(exported(x), fused(x), 1e-5, 1e-5)
        for a, e in zip(exported.buffers(), fused.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)


@pytest.mark.slow
def test_it_learns_as_the_composed_layer_does_in_a_network():
    torch.manual_seed(0)
    nets = []
    for kind in (InTurn, BatchChannelNorm):
        torch.manual_seed(1)
        first = [nn.Conv2d(3, 8, 3), kind(8, 2), nn.ReLU()]
        nets.append(nn.Sequential(*first, nn.Conv2d(8, 4, 3), kind(4, 2)))
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.05) for n in nets]
    for _ in range(5):
        x, target = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            (net(x) - target).square().mean().backward()
            optimizer.step()
    for a, b in zip(
        nets[1].state_dict().values(),
        nets[0].state_dict().values(),
        strict=True,
    ):
        assert_close(a, b, 1e-3, 1e-4)


# CUDA

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@every_mode
@every_layout
@training_and_eval
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_cuda_it_is_what_it_is_on_the_cpu(mode, layout, training, dtype):
    _, fused = pair(mode)
    fused.train(training)
    there = copy.deepcopy(fused).cuda()
    x = layout(inputs(3, C, 5, 5, dtype=dtype)).requires_grad_()
    moved = layout(x.detach().cuda()).requires_grad_()
    y, expected = there(moved), fused(x)
    rounding = 16 * torch.finfo(dtype).eps
    assert_close(y.cpu(), expected, rounding, rounding)
    g = torch.randn_like(expected)
    for a, b in zip(
        gradients(y, moved, there, g.cuda()),
        gradients(expected, x, fused, g),
        strict=True,
    ):
        scale = b.abs().max().item()
        assert_close(a.cpu(), b, 4 * rounding, 4 * rounding * scale)
    for a, b in zip(there.buffers(), fused.buffers(), strict=True):
        assert_close(a.cpu(), b, 1e-5, 1e-5)


@cuda
@every_mode
def test_on_cuda_autocast_keeps_the_inputs_dtype(mode):
    _, fused = pair(mode)
    fused.cuda()
    x = inputs(3, C, 5, 5, dtype=torch.float16).cuda()
    with torch.autocast("cuda", torch.float16):
        assert fused(x).dtype == torch.float16
