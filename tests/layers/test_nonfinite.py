"""A batch that is not finite: it teaches nothing, and nothing of it stays."""

import copy

import pytest
import torch
import torch.distributed as dist
from helpers.layers import (
    F64,
    LAYOUTS,
    TRAILING,
    C,
    InTurn,
    assert_same_state,
    estimating_layer,
    every_layer,
    export,
    inputs,
    make,
    options_of,
    randomize,
    state,
    tracking_layer,
)
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch import nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    EstimatedBatchNorm,
    WSConv2d,
)

BAD = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan, "overflow": 3e38}
SPOILED = 4  # a channel
every_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD)


def spoil(x, bad, sample=0, channel=SPOILED):
    """A copy with one value that is not finite, or whose square is not."""
    x = x.clone()
    x[sample, channel].view(-1)[0] = bad
    return x


def norm_of(layer):
    """The part that has the statistics."""
    return getattr(layer, "batch_norm", layer)


def statistics(layer):
    norm = norm_of(layer)
    return norm.exp_mean.clone(), norm.exp_var.clone()


def keep_channel(layer, before, channel=SPOILED):
    """Give the statistics of one channel their earlier values."""
    for buffer, old in zip(layer.buffers(), before.buffers(), strict=True):
        buffer[channel] = old[channel]


def assert_all_finite(layer):
    for name, tensor in layer.state_dict().items():
        assert tensor.isfinite().all(), name


@tracking_layer
@every_bad
@pytest.mark.parametrize("r", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
def test_only_the_channel_concerned_keeps_its_statistics(name, bad, r, trailing):
    layer = make(name, momentum=r)
    before, twin = copy.deepcopy(layer), copy.deepcopy(layer)
    x = inputs(3, C, *trailing)
    layer(spoil(x, bad))
    twin(x)
    keep_channel(twin, before)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a[SPOILED], b[SPOILED])
        assert_close(a, b)
    # From here on it is as if that channel had seen no such batch.
    for batch in (inputs(2, C, *trailing), inputs(3, C, *trailing)):
        y = layer(batch)
        assert y.isfinite().all()
        assert_close(y, twin(batch), 1e-5, 1e-5)
    assert_all_finite(layer)
    assert_close(layer.eval()(x), twin.eval()(x), 1e-5, 1e-5)


@estimating_layer
@every_bad
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_step_itself_normalizes_with_the_estimate_as_it_stayed(name, bad, layout):
    layer = make(name)
    x = layout(spoil(inputs(3, C, 4, 5), bad))
    y = layer(x)
    # The other samples are well, and training is evaluation right after it.
    assert y[1:].isfinite().all()
    assert_close(layer.eval()(x)[1:], y[1:], 1e-6, 1e-6)


@tracking_layer
@every_bad
def test_a_batch_that_is_bad_in_all_its_channels_changes_nothing(name, bad):
    layer = make(name)
    before = state(layer)
    layer(torch.full((2, C, 3), bad))
    if bad != BAD["overflow"]:
        assert_same_state(layer, before)
    x = inputs(3, C, 3)
    x[0, :, 0] = bad
    layer.load_state_dict(before)
    layer(x)
    assert_same_state(layer, before)


@tracking_layer
def test_bad_batches_between_good_ones_leave_no_trace(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    for step in range(6):
        x = inputs(2, C, 4, 4)
        if step % 2:
            layer(torch.full_like(x, torch.nan))
        layer(x)
        twin(x)
    assert_same_state(layer, twin.state_dict())
    assert torch.equal(layer.eval()(x), twin.eval()(x))


@tracking_layer
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_too(name, mode):
    layer = make(name)
    before = state(layer)
    with mode():
        layer(torch.full((2, C, 3), torch.nan))
    assert_same_state(layer, before)


@tracking_layer
def test_statistics_keep_their_storage(name):
    layer = make(name)
    places = [b.data_ptr() for b in layer.buffers()]
    layer(spoil(inputs(3, C, 5), torch.nan))
    layer(inputs(3, C, 5))
    assert [b.data_ptr() for b in layer.buffers()] == places


@tracking_layer
@every_bad
def test_a_backward_pass_of_a_bad_batch_leaves_the_next_one_alone(name, bad):
    layer = make(name)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    layer(spoil(x, bad).requires_grad_()).sum().backward()
    layer.zero_grad()
    before = copy.deepcopy(twin)
    twin(x)
    keep_channel(twin, before)
    grads = []
    for each in (layer, twin):
        values = inputs(2, C, 5).requires_grad_() if not grads else grads[0][0]
        values.grad = None
        each(values).square().sum().backward()
        grads.append((values, values.grad, [p.grad for p in each.parameters()]))
    assert_close(grads[0][1], grads[1][1], 1e-5, 1e-5)
    for a, b in zip(grads[0][2], grads[1][2], strict=True):
        assert_close(a, b, 1e-5, 1e-5)


# Buffers of low precision, inputs of other dtypes


@tracking_layer
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_what_overflows_in_the_buffer_alone_counts_too(name, dtype):
    """In float16 a variance of 100,000 is infinite, and a mean of it as well."""
    layer = make(name, momentum=1.0)
    norm = norm_of(layer)
    # Nobody else narrows them.
    norm.exp_mean, norm.exp_var = norm.exp_mean.half(), norm.exp_var.half()
    before = copy.deepcopy(layer)
    x = inputs(8, C, 16, dtype=dtype)
    x[:, 2] *= 1000
    x[:, 7] += 1e5
    layer(x)
    for buffer, old in zip(layer.buffers(), before.buffers(), strict=True):
        assert buffer.isfinite().all()
        changed = buffer != old
        assert not changed[2]
        assert not changed[7]
        assert changed.sum() == C - 2
    y = layer(x)
    assert y.isfinite().all()


@tracking_layer
def test_what_float32_buffers_cannot_hold_counts_too(name):
    layer = make(name)
    before = state(layer)
    layer(inputs(3, C, 5, dtype=F64, mean=1e39, std=1e37))
    assert_same_state(layer, before)


@tracking_layer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, F64], ids=str)
def test_in_every_dtype(name, own, dtype):
    layer = make(name).to(own)
    before = copy.deepcopy(layer)
    layer(spoil(inputs(3, C, 5, dtype=dtype), torch.inf))
    for buffer, old in zip(layer.buffers(), before.buffers(), strict=True):
        assert (buffer != old).tolist() == [c != SPOILED for c in range(C)]
    assert_all_finite(layer)


# The update alone


@pytest.mark.equation("batch_norm.running-update")
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("r", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("which", ["mean", "var"])
def test_an_update_that_is_not_finite_is_not_made(bad, r, which):
    layer = randomize(BatchNorm(C, momentum=r, dtype=F64))
    mu, sigma2 = statistics(layer)
    m, v = torch.randn(C, dtype=F64), torch.rand(C, dtype=F64)
    new_mu, new_sigma2 = (1 - r) * mu + r * m, (1 - r) * sigma2 + r * v
    {"mean": m, "var": v}[which][SPOILED] = bad
    new_mu[SPOILED], new_sigma2[SPOILED] = mu[SPOILED], sigma2[SPOILED]
    returned = layer.update(m, v)
    for actual in (layer.exp_mean, returned[0]):
        assert_close(actual, new_mu)
    for actual in (layer.exp_var, returned[1]):
        assert_close(actual, new_sigma2)


@pytest.mark.equation("batch_channel_norm.estimate-update")
@pytest.mark.parametrize("mode", ["batch_mean", "running_mean"])
@pytest.mark.parametrize("kind", ["EstimatedBatchNorm", "BatchChannelNorm"])
@pytest.mark.parametrize("bad", [torch.inf, 1e25])
def test_an_estimate_that_is_not_finite_stays_as_it_was(kind, mode, bad):
    """The second overflows in the variance alone."""
    layer = make(f"{kind} {mode}")
    before = copy.deepcopy(layer)
    layer(spoil(inputs(3, C, 5), bad))
    for buffer, old in zip(layer.buffers(), before.buffers(), strict=True):
        assert (buffer != old).tolist() == [c != SPOILED for c in range(C)]


# What rewrites programs


@pytest.mark.slow
@tracking_layer
def test_compiled_the_decision_is_the_same(name):
    torch.compiler.reset()
    layer = make(name)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)
    for bad in (torch.inf, torch.nan, 3e38, None):
        x = inputs(3, C, 4, 3)
        if bad is not None:
            x = spoil(x, bad)
        y, expected = compiled(x), layer(x)
        for a, e in zip(compiled.buffers(), layer.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)
    assert_close(y, expected, 1e-5, 1e-5)


@pytest.mark.slow
@tracking_layer
def test_exported_the_decision_is_the_same(name):
    layer = make(name)
    exported = export(layer, inputs(3, C, 4, 4))
    for bad in (torch.inf, torch.nan, 3e38):
        x = spoil(inputs(3, C, 4, 4), bad)
        exported(x)
        layer(x)
        for a, e in zip(exported.buffers(), layer.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)


@tracking_layer
def test_each_of_an_ensemble_decides_for_itself(name):
    layers = [make(name) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    base = make(name).to("meta")

    def step(parameters, buffers, x):
        y = torch.func.functional_call(base, (parameters, buffers), (x,))
        return y, buffers

    x = torch.stack([inputs(2, C, 5) for _ in layers])
    x[1, 0, SPOILED, 0] = torch.nan
    torch.func.vmap(step)(parameters, buffers, x)
    for i, layer in enumerate(layers):
        layer(x[i])
        for key, value in layer.named_buffers():
            assert_close(buffers[key][i], value)
            assert value.isfinite().all()


@every_layer
def test_nothing_waits_for_the_decision(name):
    """A tensor without values has none to ask for."""
    layer = make(name).to("meta")
    assert layer(torch.empty(3, C, 5, device="meta")).is_meta


# Mixed precision


@pytest.mark.parametrize("kind", [BatchChannelNorm, InTurn])
@pytest.mark.parametrize("mode", ["plain", "batch_mean", "running_mean"])
@pytest.mark.works_with(
    "precision",
    "`torch.amp.GradScaler`",
    "a step that overflows and is skipped",
    know="A batch that is not finite leaves the statistics as they were.",
)
def test_a_step_that_the_gradient_scaler_skips_leaves_the_network_well(kind, mode):
    net = nn.Sequential(WSConv2d(3, 8, 3), kind(8, 2, **options_of(mode)), nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    before = state(net)
    for step in range(4):
        x = torch.randn(2, 3, 8, 8)
        if step == 0:
            x[0] *= 1e6  # too much for float16
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = net(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if step == 0:
            assert not loss.isfinite()
            assert_same_state(net, before)
        else:
            assert loss.isfinite()
    assert net.eval()(x).isfinite().all()


# Several processes

FORMS = {
    "BatchNorm": lambda **o: BatchNorm(8, **o),
    "Estimated": lambda **o: EstimatedBatchNorm(8, **o),
    "Estimated running": lambda **o: EstimatedBatchNorm(
        8, variance_around="running_mean", **o
    ),
} | {
    f"{kind.__name__} {mode}": lambda kind=kind, mode=mode, **o: kind(
        8, 2, **options_of(mode), **o
    )
    for kind in (BatchChannelNorm, InTurn)
    for mode in ("plain", "batch_mean", "running_mean")
}


def steps_of(x, norm):
    """Statistics after each of some steps, and the last output."""
    seen = []
    for batch in x:
        y = norm(batch)
        norm_state = [b.clone() for b in norm.buffers()]
        seen.append(norm_state)
    return seen, y.detach()


def batches_with_a_bad_one(bad):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 5, 8, 4, generator=generator) * 2 + 1
    x[1, 4, 3, 0] = bad  # a sample of the second process only
    return x


def steps_in_a_group(rank):
    results = {}
    for name, new in FORMS.items():
        for label, bad in BAD.items():
            x = batches_with_a_bad_one(bad)
            own = [batch.split((3, 2))[rank] for batch in x]
            results[name, label] = steps_of(own, new(process_group=dist.group.WORLD))
    return results


@pytest.fixture(scope="module")
def shared():
    return run_in_group(steps_in_a_group, 2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("label", BAD)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.works_with(
    "processes",
    "a `process_group`",
    "a batch that is not finite in one process",
    know="All of them leave it out.",
)
def test_all_processes_come_to_the_same_decision(shared, name, label):
    whole, y = steps_of(batches_with_a_bad_one(BAD[label]), FORMS[name]())
    one, other = (result[name, label] for result in shared)
    for a, b, expected in zip(one[0], other[0], whole, strict=True):
        for mine, theirs, wanted in zip(a, b, expected, strict=True):
            assert torch.equal(mine, theirs)
            assert_close(mine, wanted, 1e-5, 1e-5)
    for first, second in zip(one[0][0], one[0][1], strict=True):
        assert (first != second).tolist() == [c != 3 for c in range(8)]
    assert_close(torch.cat((one[1], other[1])), y, 1e-5, 1e-5)
