"""The layers on their kernels: against the two norms in turn in float64.

test_contract.py and its neighbours run on the kernels, too, wherever the input is one
that they take. Here is what only kernels can get wrong: every mode, layout and size,
what follows the norm, the number of threads, and who may look on.
"""

import copy
import itertools
import os
import subprocess
import sys

import pytest
import torch
from helpers.layers import (
    LAYOUTS,
    C,
    G,
    InOperations,
    InTurn,
    assert_same_state,
    inputs,
    leaf,
    options_of,
    randomize,
    state,
)
from helpers.missing import skip_or_fail
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch import nn
from torch.nn import functional as F

from labml_bcn import (
    BatchChannelNorm,
    WSConv2d,
    batch_channel_norm,
    native,
    weight_standardization,
)

MODES = ["plain", "batch_mean", "running_mean", "eval"]
FOLLOWING = {
    "alone": (None, False),
    "relu": ("relu", False),
    "residual": (None, True),
    "residual and relu": ("relu", True),
}
SIZES = [
    ((2, 64, 32, 32), 32),
    ((3, 24, 7, 7), 4),
    ((1, 20, 5, 3), 1),
    ((4, 48, 49), 24),
    ((5, 32), 4),
    ((2, 12, 3, 4, 5), 3),
    ((8, 4, 70, 90), 2),
    ((2, 6, 2, 3), 6),
    ((1, 33, 19), 3),
    ((33, 40, 1, 1), 8),
]
every_mode = pytest.mark.parametrize("mode", MODES)
every_size = pytest.mark.parametrize(("shape", "groups"), SIZES, ids=str)
every_following = pytest.mark.parametrize(
    "following", FOLLOWING.values(), ids=FOLLOWING
)


@pytest.fixture(autouse=True)
def kernels():
    cpu = native.status().cpu
    if "need PyTorch" in cpu.detail:
        pytest.skip(cpu.detail)
    if not cpu.native:
        skip_or_fail("the library of kernels")


def layers(mode, channels=C, groups=G, *, exact=True, **options):
    """The layer, and its two norms in turn with the same state, in float64."""
    training = mode != "eval"
    options |= options_of(mode) if training else {}
    layer = randomize(BatchChannelNorm(channels, groups, **options))
    reference = InTurn(channels, groups, **options)
    reference.load_state_dict(layer.state_dict())
    if exact:
        reference.double()
    return layer.train(training), reference.train(training)


def error(actual, expected):
    """The error by norm, relative to what is not next to nothing."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp(0.1)).item()


def step(layer, x, residual, dy):
    """Output, gradients and statistics of one forward and backward."""
    x = x.detach().requires_grad_()
    residual = None if residual is None else residual.detach().requires_grad_()
    y = layer(x, residual)
    leaves = [x, *layer.parameters(), *([] if residual is None else [residual])]
    grads = torch.autograd.grad(y, leaves, dy)
    return y.detach(), *grads, *(b.clone() for b in layer.buffers())


# The same results


@every_mode
@every_size
@every_following
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_everything_is_what_the_norms_in_turn_give_in_float64(
    mode, shape, groups, following, layout
):
    activation, adds = following
    layer, reference = layers(mode, shape[1], groups, activation=activation)
    for _ in range(2):
        x, dy, residual = (LAYOUTS[layout](inputs(*shape)) for _ in "xdr")
        residual = residual if adds else None
        wide = None if residual is None else residual.double()
        if activation:
            # Where the sum is near zero, rounding decides what ReLU lets through.
            before = copy.deepcopy(reference)
            before.activation = None
            dy = dy * (before(x.double(), wide).abs() > 1e-5)
        actual = step(layer, x, residual, dy)
        expected = step(reference, x.double(), wide, dy.double())
        assert actual[0].stride() == actual[1].stride() == x.stride()
        limits = itertools.chain((1e-6, 1e-6), itertools.repeat(1e-5))
        for a, b, limit in zip(actual, expected, limits, strict=False):
            assert a.shape == b.shape
            assert error(a, b) < limit


@every_mode
@every_following
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_bfloat16_is_rounded_once(mode, following, layout):
    activation, adds = following
    layer, reference = layers(mode, activation=activation)
    shape = (3, C, 9, 7)
    x, dy, residual = (
        LAYOUTS[layout](inputs(*shape, dtype=torch.bfloat16)) for _ in "xdr"
    )
    residual = residual if adds else None
    actual = step(layer, x, residual, dy)
    wide = None if residual is None else residual.double()
    expected = step(reference, x.double(), wide, dy.double())
    assert actual[0].dtype == actual[1].dtype == torch.bfloat16
    for a, b in zip(actual, expected, strict=True):
        assert error(a, b) < 4e-3


@every_mode
@pytest.mark.parametrize("missing", list(itertools.product([0, 1], repeat=4)), ids=str)
def test_weights_may_be_missing(mode, missing):
    weights = [torch.rand(n) + 0.5 for n in (C, C, G, G)]
    weights = [None if m else leaf(w) for m, w in zip(missing, weights, strict=True)]
    filled = [
        leaf(torch.full((n,), start) if w is None else w)
        for w, n, start in zip(weights, (C, C, G, G), (1.0, 0.0, 1.0, 0.0), strict=True)
    ]
    mean, var = torch.randn(C), torch.rand(C) + 0.5
    x = inputs(3, C, 5)
    options = {"groups": G, "training": mode != "eval", "estimate": mode != "plain"}
    if "mean" in mode:
        options["variance_around"] = mode
    results = []
    for given in (weights, filled):
        one = leaf(x)
        running = mean.clone(), var.clone()
        y = batch_channel_norm(one, *running, given, **options)
        wanted = [one, *(w for w in given if w is not None)]
        grads = torch.autograd.grad(y.square().sum(), wanted)
        if given is filled:
            kept = [g for g, m in zip(grads[1:], missing, strict=True) if not m]
            grads = [grads[0], *kept]
        results.append([y, *running, *grads])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@every_mode
def test_the_function_is_the_layer(mode):
    layer, _ = layers(mode)
    other = copy.deepcopy(layer)
    first, second = other.batch_norm, other.channel_norm
    weights = (first.scale, first.shift, second.scale, second.shift)
    options = {"training": mode != "eval", "estimate": mode != "plain"}
    if "mean" in mode:
        options["variance_around"] = mode
    x = inputs(3, C, 5)
    statistics = first.exp_mean, first.exp_var
    y = batch_channel_norm(x, *statistics, weights, groups=G, **options)
    assert torch.equal(y, layer(x))
    assert_same_state(other, layer.state_dict())


@every_mode
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_mean_of_ten_thousand_costs_no_digits(mode, layout):
    layer, reference = layers(mode)
    for each in (layer, reference):
        for norm in (each.batch_norm, each.channel_norm):
            norm.reset_parameters()
        each.batch_norm.exp_mean.fill_(1e4)
    x = LAYOUTS[layout](1e4 + torch.randn(4, C, 28, 28))
    dy = torch.randn_like(x)
    actual, expected = (
        step(layer, x, None, dy),
        step(reference, x.double(), None, dy.double()),
    )
    # In estimated training the buffer itself, a float32, is off by half of 0.001.
    limit = 2e-3 if "mean" in mode else 1e-5
    for a, b in zip(actual[:2], expected[:2], strict=True):
        assert (a.double() - b).abs().max() < limit


@every_mode
@every_size
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_any_number_of_threads_gives_the_same_bits(mode, shape, groups, layout):
    layer, _ = layers(mode, shape[1], groups)
    x, dy = (LAYOUTS[layout](inputs(*shape)) for _ in "xd")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(step(copy.deepcopy(layer), x, None, dy))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (64, 33), (7, 130, 1, 1), (3, 2, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_weight_standardization_is_what_operations_give(
    dtype, correction, shape, layout
):
    w = LAYOUTS[layout](inputs(*shape, std=0.1, mean=0.3)).to(dtype)
    dy = torch.randn(shape).to(dtype)
    results = []
    for kind in (w, w.double()):
        one = kind.detach().requires_grad_()
        out = weight_standardization(one, correction=correction)
        (grad,) = torch.autograd.grad(out, one, dy.to(out.dtype))
        results.append((out, grad))
    assert results[0][0].dtype == dtype
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    for a, b in zip(*results, strict=True):
        assert error(a, b) < limit


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e3])
def test_standardized_filters_and_their_gradients_keep_the_laws(mean):
    w = leaf(mean + 0.3 * torch.randn(6, 40, 3, 3))
    out = weight_standardization(w, 1e-12)
    rows = out.detach().double().flatten(1)
    tolerance = 1e-6 * (1 + mean)
    assert rows.mean(1).abs().max() < tolerance
    assert (rows.std(1, correction=0) - 1).abs().max() < tolerance
    (grad,) = torch.autograd.grad(out, w, torch.randn(w.shape))
    grad = grad.double().flatten(1)
    # A shift of a filter changes nothing, and neither does its length.
    assert grad.sum(1).abs().max() < 1e-3
    assert (grad * rows).sum(1).abs().max() < 1e-3


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_constant_filter_is_zero_and_its_gradient_finite(value):
    w = torch.randn(3, 4, 3, 3)
    w[1] = value
    w = leaf(w)
    out = weight_standardization(w)
    assert out[1].abs().max() < 1e-3
    (grad,) = torch.autograd.grad(out, w, torch.randn(w.shape))
    assert grad.isfinite().all()


@pytest.mark.parametrize("correction", [0, 1])
def test_gradients_of_gradients_of_filters_are_the_operations(correction):
    w, penalties = inputs(4, 3, 3, std=0.3), []
    for dtype in (torch.float32, torch.float64):
        one = leaf(w.to(dtype))
        out = weight_standardization(one, correction=correction)
        (grad,) = torch.autograd.grad(out.pow(3).sum(), one, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), one)[0])
    assert error(*penalties) < 1e-4


# What autograd sees


def test_a_residual_and_relu_keep_the_input_and_the_output():
    layer, _ = layers("batch_mean", activation="relu")
    x = inputs(4, C, 64, 64).requires_grad_()
    for residual, activations in ((None, 1), (torch.randn(x.shape), 2)):
        saved = {}

        def pack(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x, residual)
        assert sum(saved.values()) < (activations + 0.05) * x.nbytes


@every_mode
@every_following
def test_gradients_of_gradients_are_the_norms_in_turn(mode, following):
    activation, adds = following
    layer, reference = layers(mode, activation=activation, momentum=0.0)
    x, residual = inputs(2, C, 4), inputs(2, C, 4)
    found = []
    for each, dtype in ((layer, torch.float32), (reference, torch.float64)):
        one, two = leaf(x.to(dtype)), leaf(residual.to(dtype))
        y = each(one, two if adds else None)
        leaves = [one, two] if adds else [one]
        grads = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        penalty = sum(g.square().sum() for g in grads)
        second = torch.autograd.grad(penalty, [*leaves, *each.parameters()])
        found.append(torch.cat([g.flatten() for g in second]))
    assert error(*found) < 1e-4


EVERY_PATH = {
    "kernels": (BatchChannelNorm, torch.float32),
    "operations": (InOperations, torch.float32),
    "float64": (BatchChannelNorm, torch.float64),
}
every_path = pytest.mark.parametrize(
    ("kind", "dtype"), EVERY_PATH.values(), ids=EVERY_PATH
)


@every_path
@every_mode
@every_following
def test_a_gradient_is_the_same_if_it_can_be_differentiated(
    kind, dtype, mode, following
):
    activation, adds = following
    options = options_of(mode) if mode != "eval" else {}
    layer = randomize(kind(C, G, activation=activation, momentum=0.0, **options))
    layer.to(dtype).train(mode != "eval")
    x, residual = (leaf(inputs(2, C, 4).to(dtype)) for _ in "xr")
    leaves = [x, *layer.parameters(), *([residual] if adds else [])]
    grads = []
    for create_graph in (False, True):
        y = layer(x, residual if adds else None)
        g = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=create_graph)
        grads.append(torch.cat([each.flatten() for each in g]))
    assert error(grads[1], grads[0]) < 1e-5


@every_path
def test_so_it_is_if_the_input_depends_on_the_weights(kind, dtype):
    layer = randomize(kind(C, G)).to(dtype).eval()
    x = inputs(2, C, 4).to(dtype)
    grads = []
    for create_graph in (False, True):
        loss = layer(torch.tanh(layer(x))).pow(3).sum()
        grads.append(
            torch.autograd.grad(
                loss, list(layer.parameters()), create_graph=create_graph
            )
        )
    for a, b in zip(*grads, strict=True):
        assert error(a, b) < 1e-5


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@every_path
def test_a_hook_on_a_tensor_fires_once(kind, dtype):
    layer = kind(C, G).to(dtype)
    x = leaf(inputs(2, C, 4).to(dtype))
    calls = []
    for tensor in (x, *layer.parameters()):
        tensor.register_hook(lambda g: calls.append(1))
    layer(x).pow(2).sum().backward(create_graph=True)
    assert len(calls) == 5
    w = leaf(torch.randn(4, 3, 3, dtype=dtype))
    w.register_hook(lambda g: calls.append(1))
    weight_standardization(w).pow(3).sum().backward(create_graph=True)
    assert len(calls) == 6
    for tensor in (x, w, *layer.parameters()):
        tensor.grad = None


def test_the_residual_alone_may_learn():
    layer, _ = layers("batch_mean", activation="relu")
    layer.requires_grad_(False)
    residual = leaf(inputs(2, C, 4))
    y = layer(inputs(2, C, 4), residual)
    (g,) = torch.autograd.grad(y.sum(), residual, create_graph=True)
    assert torch.equal(g, (y > 0).float())


@every_mode
@every_following
def test_many_gradients_at_once_are_those_one_by_one(mode, following):
    activation, adds = following
    layer, _ = layers(mode, activation=activation)
    x, residual = leaf(inputs(2, C, 4)), leaf(inputs(2, C, 4))
    y = layer(x, residual if adds else None)
    leaves = [x, residual] if adds else [x]
    dys = torch.randn(3, *y.shape)
    together = torch.autograd.grad(
        y, leaves, dys, retain_graph=True, is_grads_batched=True
    )
    for i, dy in enumerate(dys):
        alone = torch.autograd.grad(y, leaves, dy, retain_graph=True)
        for a, b in zip(together, alone, strict=True):
            assert error(a[i], b) < 1e-5
    w = leaf(torch.randn(4, 3, 3))
    out = weight_standardization(w)
    dys = torch.randn(3, *out.shape)
    (together,) = torch.autograd.grad(
        out, w, dys, retain_graph=True, is_grads_batched=True
    )
    (alone,) = torch.autograd.grad(out, w, dys[1])
    assert error(together[1], alone) < 1e-5


def test_a_change_of_the_statistics_shows_in_their_version():
    layer, _ = layers("batch_mean")
    buffers = list(layer.buffers())
    before = [b._version for b in buffers]
    layer(inputs(2, C, 4))
    assert all(b._version > v for b, v in zip(buffers, before, strict=True))
    versions = [b._version for b in buffers]
    layer.eval()(inputs(2, C, 4))
    assert [b._version for b in buffers] == versions


@pytest.mark.parametrize("adds", [False, True])
def test_relu_lets_nan_through_in_both_directions(adds):
    layer, reference = layers("eval", activation="relu")
    x = inputs(2, C, 4)
    x[1, 5, 2] = torch.nan
    residual = torch.randn(x.shape) if adds else None
    found = []
    for each in (layer, reference):
        wide = each is reference
        one = leaf(x.double() if wide else x)
        extra = residual.double() if wide and adds else residual
        y = each(one, extra)
        (g,) = torch.autograd.grad(y, one, torch.ones_like(y))
        found.append((y.isnan(), g.isnan()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].any()
    assert torch.equal(found[0][1], found[1][1])


# Who may look on


def calls_of(function):
    """The names of the kernels' operators that a function calls."""
    with torch.profiler.profile() as profile:
        function()
    return [e.name for e in profile.events() if e.name.startswith("labml_bcn::")]


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_compiled_it_is_one_call_each_way(mode, layout):
    torch.compiler.reset()
    layer, _ = layers(mode)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True)
    x, dy = (LAYOUTS[layout](inputs(2, C, 6, 5)) for _ in "xd")
    for _ in range(2):
        mine, theirs = (step_without_residual(e, x, dy) for e in (compiled, eager))
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a, b)
    forward = "evaluate" if mode == "eval" else "train"
    called = calls_of(lambda: step_without_residual(compiled, x, dy))
    assert called == [f"labml_bcn::{forward}", "labml_bcn::backward"]


def step_without_residual(layer, x, dy):
    one = leaf(x)
    y = layer(one)
    grads = torch.autograd.grad(y, [one, *layer.parameters()], dy)
    return y.detach(), *grads, *(b.clone() for b in layer.buffers())


@every_following
@pytest.mark.parametrize("layout", [k for k in LAYOUTS if k != "contiguous"])
def test_an_operator_takes_what_order_the_compiler_chooses(layout, following):
    activation, adds = following
    x, dy, residual = (inputs(3, C, 5, 4) for _ in "xdr")
    weights = torch.rand(4, C) + 0.5
    weights = [*weights[:2], *weights[2:, :G]]
    training, settings = (G, 1e-5, 1e-5, 0.1, 1), (G, 1e-5, 1e-5, False)
    relu = activation is not None
    results = []
    for move in (lambda t: t, LAYOUTS[layout]):
        one = move(x)
        running = [torch.zeros(C), torch.ones(C)]
        given = move(residual) if adds else None
        y, saved = torch.ops.labml_bcn.train(
            one, given, *weights, *running, *training, relu
        )
        output = move(y) if adds and relu else None
        grads = torch.ops.labml_bcn.backward(
            dy, one, output, *weights, saved, *settings, relu, True, adds and relu
        )
        assert y.stride() == grads[0].stride() == torch.empty_like(one).stride()
        results.append([y, *grads, *running])
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 1e-5, 1e-5)


@pytest.mark.slow
def test_a_compiled_network_copies_nothing_between_convolution_and_norm():
    torch.compiler.reset()
    net = nn.Sequential(
        *[
            nn.Sequential(
                WSConv2d(C, C, 3, padding=1), BatchChannelNorm(C, G, activation="relu")
            )
            for _ in range(2)
        ]
    )
    compiled = torch.compile(net, fullgraph=True)
    x = inputs(2, C, 8, 8).requires_grad_()

    def step():
        compiled(x).sum().backward()

    step()
    with torch.profiler.profile() as profile:
        step()
    ours = [e for e in profile.events() if e.name.startswith("labml_bcn::")]
    assert sum(e.name == "labml_bcn::train" for e in ours) == 2
    # At the end the order is the caller's. In between a norm takes that of the
    # convolution, and there is nothing to copy.
    copies = [c for e in ours for c in e.cpu_children if c.name == "aten::copy_"]
    assert len(copies) <= 1


@pytest.mark.slow
def test_a_compiled_network_is_the_eager_one():
    torch.compiler.reset()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = WSConv2d(C, C, 3, padding=1)
            self.norm = BatchChannelNorm(C, G, activation="relu")

        def forward(self, x):
            return self.norm(self.conv(x), x)

    net = nn.Sequential(*[Block() for _ in range(3)])
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        x = inputs(2, C, 8, 8)
        for each in (net, compiled):
            each(x).square().mean().backward()
    for a, b in zip(net.parameters(), compiled.parameters(), strict=True):
        assert_close(a.grad, b.grad, 1e-4, 1e-4)
    for a, b in zip(net.buffers(), compiled.buffers(), strict=True):
        assert_close(a, b, 1e-5, 1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_has_no_operator_of_ours(strict):
    net = nn.Sequential(WSConv2d(3, C, 3), BatchChannelNorm(C, G, activation="relu"))
    for each in (net, net.eval()):
        program = torch.export.export(each, (torch.randn(2, 3, 8, 8),), strict=strict)
        assert "labml_bcn" not in str(program.graph)


def sharded_and_whole(rank, shard):
    """The largest difference to a network that is not sharded."""
    torch.manual_seed(0)
    net = nn.Sequential(
        WSConv2d(3, 8, 3), BatchChannelNorm(8, 2), nn.ReLU(inplace=True)
    )
    whole = copy.deepcopy(net)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    norm = net[1]
    parts = {"inner norms": [norm.batch_norm, norm.channel_norm], "layer": [norm]}
    for part in [*parts[shard], net]:
        torch.distributed.fsdp.fully_shard(part, mesh=mesh)
    x = torch.randn(2, 3, 8, 8)
    y = net(x)
    y.sum().backward()
    return (y - whole(x)).abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["inner norms", "layer"])
@pytest.mark.works_with(
    "processes", "FSDP2 (`fully_shard`)", "a norm, and the two norms inside of it"
)
def test_fsdp_may_shard_a_norm_or_its_halves(shard):
    for difference in run_in_group(sharded_and_whole, 2, shard):
        assert difference < 1e-5


@pytest.mark.parametrize("look", ["dispatch mode", "make_fx", "subclass", "meta"])
def test_whoever_watches_operations_sees_pytorchs(look):
    layer, reference = layers("batch_mean", exact=False)
    x = inputs(2, C, 4, 4)
    if look == "meta":
        assert layer.to("meta")(x.to("meta")).is_meta
    elif look == "make_fx":
        program = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
        reference(x)
        assert "labml_bcn" not in program.code
        assert_close(program(x + 1), reference(x + 1), 1e-5, 1e-5)
    elif look == "subclass":
        other = x.as_subclass(type("Mine", (torch.Tensor,), {}))
        assert type(layer(other)) is type(other)
    else:
        counter = torch.utils.flop_counter.FlopCounterMode(display=False)
        with counter:
            assert_close(layer(x), reference(x), 1e-5, 1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("autocast", [False, True])
def test_a_jit_trace_is_the_layer(autocast):
    layer, _ = layers("eval")
    x = inputs(2, C, 4, 4)
    with torch.autocast("cpu", enabled=autocast):
        traced = torch.jit.trace(layer, x)
    assert_close(traced(x + 1), layer(x + 1), 1e-5, 1e-5)


@pytest.mark.parametrize("mode", ["plain", "batch_mean", "running_mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_processes_that_share_statistics_run_one_pass_at_a_time(
    mode, dtype, layout, monkeypatch
):
    """As several of them, here with a message that stays where it is."""
    calls = []
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda total, group: calls.append(total)
    )
    layer, reference = layers(mode)
    layer.batch_norm.process_group = "a group of one"
    x, dy = (LAYOUTS[layout](inputs(3, C, 5, 4, dtype=dtype)) for _ in "xd")
    actual = step(layer, x, None, dy)
    assert len(calls) == (3 if mode == "plain" else 2)
    assert all(total.dtype == torch.float64 for total in calls)
    expected = step(reference, x.double(), None, dy.double())
    limit = 2e-6 if dtype == torch.float32 else 4e-3
    for a, b in zip(actual, expected, strict=True):
        assert error(a, b) < limit
    assert actual[0].stride() == actual[1].stride() == x.stride()


def is_on_kernels(function):
    """Whether the gradient of a result comes from the kernels."""
    return "KernelFunction" in type(function().grad_fn).__name__


def test_inputs_that_the_kernels_do_not_take_go_another_way():
    layer, _ = layers("batch_mean")
    x = inputs(2, C, 4, 4)
    assert is_on_kernels(lambda: layer(x))
    assert is_on_kernels(lambda: layer(x.bfloat16()))
    assert not is_on_kernels(lambda: layer(x.half()))
    assert not is_on_kernels(lambda: layer(x.double()))
    # In any order in memory, if need be by way of a copy.
    assert is_on_kernels(lambda: layer(x.mT))
    assert is_on_kernels(lambda: layer(x[..., ::2]))
    assert not is_on_kernels(lambda: layer(torch._neg_view(x)))
    with native.disabled():
        assert not is_on_kernels(lambda: layer(x))
    assert is_on_kernels(lambda: layer(x))


@every_following
def test_without_the_kernels_the_layer_is_the_same(following):
    activation, adds = following
    layer, _ = layers("batch_mean", activation=activation)
    other = InOperations(C, G, activation=activation)
    other.load_state_dict(layer.state_dict())
    x, residual, dy = (inputs(2, C, 5, 4) for _ in "xrd")
    residual = residual if adds else None
    for a, b in zip(
        step(layer, x, residual, dy), step(other, x, residual, dy), strict=True
    ):
        assert_close(a, b, 1e-4, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_residual_of_another_dtype_is_added_as_pytorch_adds(dtype):
    layer, _ = layers("batch_mean", activation="relu")
    other = copy.deepcopy(layer)
    other.activation = None
    x, residual = inputs(2, C, 4), inputs(2, C, 4).to(dtype)
    y = layer(x, residual)
    expected = F.relu(other(x) + residual)
    assert y.dtype == expected.dtype
    assert_close(y, expected, 1e-5, 1e-5)


def test_a_residual_in_another_order_in_memory_is_taken():
    layer, reference = layers("batch_mean", activation="relu")
    x = inputs(2, C, 4, 5)
    residual = LAYOUTS["channels last"](inputs(2, C, 4, 5))
    assert error(layer(x, residual), reference(x.double(), residual.double())) < 1e-6


@pytest.mark.parametrize("move", ["contiguous", *LAYOUTS])
def test_tensors_of_the_function_may_lie_anywhere(move):
    """Statistics and weights as columns of something else."""
    lay = {"contiguous": lambda t: t} | LAYOUTS
    columns = torch.rand(C, 8) + 0.5
    before = columns.clone()
    mean, var, gamma_c, beta_c = (columns[:, i] for i in (0, 2, 4, 6))
    x = lay[move](inputs(3, C, 5, 4))
    weights = (gamma_c, beta_c, torch.rand(1).expand(G), torch.zeros(1).expand(G))
    copied = [t.contiguous().clone() for t in (mean, var, *weights)]
    y = batch_channel_norm(x, mean, var, weights, groups=G, training=True)
    expected = batch_channel_norm(
        x.contiguous(), *copied[:2], copied[2:], groups=G, training=True
    )
    assert_close(y, expected, 1e-5, 1e-5)
    assert_close(mean, copied[0], 1e-5, 1e-5)
    assert_close(var, copied[1], 1e-5, 1e-5)
    others = [1, 3, 4, 5, 6, 7]
    assert torch.equal(columns[:, others], before[:, others])


@pytest.mark.parametrize("which", ["mean", "var", "gamma_c", "beta_g", "residual"])
def test_tensors_of_another_device_are_refused(which):
    x = inputs(2, C, 4)
    tensors = {
        "mean": torch.zeros(C),
        "var": torch.ones(C),
        "gamma_c": torch.ones(C),
        "beta_g": torch.ones(G),
        "residual": torch.ones(2, C, 4),
    }
    tensors[which] = tensors[which].to("meta")
    mean, var, gamma_c, beta_g, residual = tensors.values()
    with pytest.raises((RuntimeError, ValueError)):
        batch_channel_norm(
            x,
            mean,
            var,
            (gamma_c, None, None, beta_g),
            groups=G,
            training=True,
            residual=residual,
        )


def test_blocks_without_kernels_may_overlap():
    """As they do in threads: the first to begin may be the first to end."""
    first, second = native.disabled(), native.disabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not native.status().cpu.native
    second.__exit__(None, None, None)
    assert native.status().cpu.native


@pytest.mark.slow
def test_compiled_the_residual_may_be_the_input():
    torch.compiler.reset()
    layer, _ = layers("batch_mean", activation="relu")
    other = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True)
    x = leaf(inputs(2, C, 4))
    assert_close(compiled(x, x), other(x, x), 1e-5, 1e-5)


# Inner norms


def in_turn(layer, x):
    """Whether the layer ran its two norms as layers of their own."""
    seen = []
    with torch.no_grad():
        handle = nn.modules.module.register_module_forward_hook(
            lambda m, *_: seen.append(m)
        )
        layer(x)
        handle.remove()
    return seen


HOOKS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
]


@pytest.mark.parametrize("inner", ["batch_norm", "channel_norm"])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.works_with("look inside", "hooks", "of the two norms inside of a norm")
def test_a_hook_on_an_inner_norm_fires(inner, hook):
    layer, reference = layers("batch_mean")
    seen = []
    handle = getattr(getattr(layer, inner), hook)(lambda *_: seen.append(1))
    x = inputs(2, C, 4)
    one = leaf(x)
    y = layer(one)
    y.sum().backward()
    assert seen
    assert error(y, reference(x.double())) < 1e-6
    handle.remove()
    count = len(seen)
    layer(x).sum().backward()
    assert len(seen) == count


def test_a_hook_on_all_modules_sees_the_inner_norms():
    layer, _ = layers("batch_mean")
    kinds = [type(m).__name__ for m in in_turn(layer, inputs(2, C, 4))]
    assert kinds == ["EstimatedBatchNorm", "ChannelNorm", "BatchChannelNorm"]


def test_another_layer_may_stand_in_the_place_of_an_inner_norm():
    layer, _ = layers("batch_mean")
    x = inputs(2, C, 4)
    layer.channel_norm = nn.GroupNorm(G, C)
    expected = layer.channel_norm(copy.deepcopy(layer.batch_norm)(x))
    assert torch.equal(layer(x), expected)
    layer, _ = layers("batch_mean")
    layer.batch_norm = nn.Identity()
    assert torch.equal(layer(x), layer.channel_norm(x))
    layer, _ = layers("batch_mean")
    calls = []
    layer.batch_norm.forward = lambda x: calls.append(1) or x
    assert torch.equal(layer(x), layer.channel_norm(x))
    assert calls


@every_mode
def test_an_inner_norm_may_have_no_weights(mode):
    from labml_bcn import ChannelNorm, EstimatedBatchNorm

    if mode == "plain":
        pytest.skip("the estimate is what is replaced")
    around = mode if "mean" in mode else "batch_mean"
    layers = []
    for kind in (BatchChannelNorm, InTurn):
        layer = kind(C, G)
        layer.batch_norm = EstimatedBatchNorm(C, affine=False, variance_around=around)
        layer.channel_norm = ChannelNorm(C, G, affine=False)
        layers.append(layer.train(mode != "eval"))
    x = inputs(3, C, 5)
    one, two = leaf(x), leaf(x.double())
    y, expected = layers[0](one), layers[1].double()(two)
    assert error(y, expected) < 1e-6
    (a,) = torch.autograd.grad(y.pow(3).sum(), one)
    (b,) = torch.autograd.grad(expected.pow(3).sum(), two)
    assert error(a, b) < 1e-5


# What is refused


def test_a_residual_of_another_shape_is_refused_before_anything_is_learned():
    layer, _ = layers("batch_mean")
    before = state(layer)
    with pytest.raises(ValueError, match=r"residual must have the input's shape"):
        layer(inputs(2, C, 4), inputs(1, C, 4))
    assert_same_state(layer, before)


def test_statistics_that_are_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="mean must be floating point"):
        batch_channel_norm(
            inputs(2, C, 4), torch.zeros(C, dtype=torch.int64), torch.ones(C), groups=G
        )


def test_a_residual_that_is_a_number_is_refused():
    with pytest.raises(TypeError, match="residual must be a tensor"):
        BatchChannelNorm(C, G)(inputs(2, C, 4), 1.0)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be 'relu', got 'gelu'"):
        BatchChannelNorm(C, G, activation="gelu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 5}, "groups must divide channels"),
        ({"eps": 0}, "eps must be positive"),
        ({"momentum": 2}, "momentum must lie between"),
        ({"variance_around": "median"}, "variance_around must be"),
        ({"weights": (torch.ones(G), None, None, None)}, "gamma_c must have the shape"),
        ({"var": torch.ones(3)}, "var must have the shape"),
        ({"weights": (None, None)}, "weights must be four"),
        (
            {"estimate": False, "variance_around": "running_mean"},
            "belongs to the estimate",
        ),
    ],
    ids=str,
)
def test_the_function_refuses_what_the_layer_refuses(change, words):
    arguments = {
        "x": inputs(2, C, 4),
        "mean": torch.zeros(C),
        "var": torch.ones(C),
        "groups": G,
    }
    with pytest.raises(ValueError, match=words):
        batch_channel_norm(**(arguments | change))


# What is said of it


def run(code, status=0, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LABML_BCN_")}
    done = subprocess.run(
        [sys.executable, *code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_the_status_says_what_computes_and_why(tmp_path):
    command = ["-m", "labml_bcn.native"]
    assert "CPU: native kernels (C++, " in run(command)
    assert "LABML_BCN_NATIVE is 0" in run(command, LABML_BCN_NATIVE="0")
    missing = run(command, LABML_BCN_LIBRARY=str(tmp_path / "none.so"))
    assert "PyTorch's operations" in missing
    assert "none.so, and there is no such file" in missing
    none = {"LABML_BCN_NATIVE": "require", "LABML_BCN_LIBRARY": str(tmp_path / "no")}
    assert "PyTorch's operations" in run(command, status=1, **none)
    assert "native kernels" in run(command, LABML_BCN_NATIVE="require")
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    assert "cannot be loaded" in run(command, LABML_BCN_LIBRARY=str(broken))
    with native.disabled():
        assert not native.status().cpu.native


@pytest.mark.parametrize("instructions", ["avx2", "base"])
def test_every_instruction_set_gives_the_same_up_to_rounding(instructions, tmp_path):
    code = f"""
import torch
from labml_bcn import BatchChannelNorm, native
torch.manual_seed(3)
layer = BatchChannelNorm(40, 8, activation="relu")
x = torch.randn(3, 40, 7, 9, requires_grad=True)
y = layer(x)
y.square().sum().backward()
torch.save([y.detach(), x.grad, *layer.buffers()], {str(tmp_path / "out.pt")!r})
print(native.status().cpu)
"""
    results = []
    for wanted in ("", instructions):
        said = run(["-c", code], LABML_BCN_INSTRUCTIONS=wanted)
        results.append(torch.load(tmp_path / "out.pt", weights_only=True))
    assert instructions in said.lower() or "avx" not in said.lower()
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 1e-4, 1e-4)
