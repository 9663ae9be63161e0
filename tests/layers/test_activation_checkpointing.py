"""Activation checkpointing: exact gradients, and statistics that move once."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers.layers import F64, inputs, make, tracking_layer
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from labml_bcn import BatchChannelNorm, WSConv2d, native
from labml_bcn.activation_checkpointing import checkpoint, checkpoint_contexts
from labml_bcn.statistics import freeze_statistics, share_statistics

C = 4


def with_contexts(module, *args):
    """PyTorch's call, with the contexts."""
    return torch_checkpoint(
        module,
        *args,
        use_reentrant=False,
        context_fn=partial(checkpoint_contexts, module),
    )


WAYS = {
    "reentrant": partial(checkpoint, use_reentrant=True),
    "not reentrant": checkpoint,
    "contexts": with_contexts,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def block(**options):
    """Several norms, one of them PyTorch's."""
    return nn.Sequential(
        WSConv2d(3, C, 3),
        BatchChannelNorm(C, 2, **options),
        nn.Tanh(),
        nn.Conv2d(C, C, 3),
        BatchChannelNorm(C, 2, momentum=0.5, **options),
        nn.BatchNorm2d(C),
        nn.Tanh(),
    )


def assert_the_same_step(plain, checkpointed, run, model, steps=2, exactly=True):
    """Train with and without, and compare all gradients and statistics."""
    twin = copy.deepcopy(model)
    close = dict.fromkeys(("rtol", "atol"), 1e-6 if exactly else 1e-4)
    for _ in range(steps):
        x = torch.randn(2, 3, 8, 8).requires_grad_()
        y = x.detach().clone().requires_grad_()
        for each, leaf, call in ((model, x, checkpointed), (twin, y, plain)):
            run(each, leaf, call).square().sum().backward()
        assert_close(x.grad, y.grad, **close)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad, **close)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b) if exactly else torch.allclose(a, b, atol=1e-6)


def plainly(module, *args):
    return module(*args)


def in_one(model, x, call):
    return call(model, x)


OPTIONS = [{}, {"variance_around": "running_mean"}, {"estimate": False}]


@every_way
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.works_with(
    "train",
    "activation checkpointing",
    "both ways, against the plain step",
    know="`labml_bcn.activation_checkpointing` has a `checkpoint` of its own.",
)
def test_a_checkpointed_step_is_the_plain_step(way, options, kernels):
    with nullcontext() if kernels else native.disabled():
        assert_the_same_step(plainly, way, in_one, block(**options))


@every_way
@tracking_layer
def test_every_layer_trains_as_without(way, name):
    layer = make(name, dtype=F64)
    twin = copy.deepcopy(layer)
    x = inputs(3, 12, 5, dtype=F64).requires_grad_()
    y = x.detach().clone().requires_grad_()
    way(nn.Sequential(layer, nn.Tanh()), x).square().sum().backward()
    nn.Sequential(twin, nn.Tanh())(y).square().sum().backward()
    assert_close(x.grad, y.grad)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


@every_way
def test_a_part_may_run_several_times_in_a_step(way):
    def run(model, x, call):
        y = model[0](x)
        return call(model[1], call(model[1], y) + call(model[1], y.sin()))

    inner = nn.Sequential(BatchChannelNorm(C, 2), nn.Tanh())
    assert_the_same_step(plainly, way, run, nn.Sequential(nn.Conv2d(3, C, 3), inner))


# The first pass of a reentrant checkpoint is one without gradients.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@every_way
@pytest.mark.parametrize("inner", WAYS.values(), ids=WAYS)
def test_checkpoints_may_be_nested(way, inner):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = block(), nn.BatchNorm2d(C)
            self.inner = nn.Sequential(BatchChannelNorm(C, 2), nn.Tanh())
            self.call = plainly

        def forward(self, x):
            y = self.call(self.inner, self.first(x))
            return self.last(y).tanh()

    def run(model, x, call):
        model.call = inner if call is way else plainly
        return call(model, x)

    assert_the_same_step(plainly, way, run, Outer())


@every_way
def test_a_step_may_hold_several_checkpointed_parts(way):
    def run(model, x, call):
        return call(model[1], call(model[0], x))

    more = nn.Sequential(BatchChannelNorm(C, 2), nn.Tanh(), BatchChannelNorm(C, 1))
    assert_the_same_step(plainly, way, run, nn.Sequential(block(), more))


@every_way
def test_autocast_makes_no_difference(way):
    def run(model, x, call):
        with torch.autocast("cpu", torch.bfloat16):
            return call(model, x).float()

    assert_the_same_step(plainly, way, run, block())


@every_way
def test_frozen_norms_and_evaluation_make_no_difference(way):
    model = block()
    freeze_statistics(model[1])
    assert_the_same_step(plainly, way, in_one, model)
    model.zero_grad()
    assert_the_same_step(plainly, way, in_one, model.eval())


@pytest.mark.parametrize("way", [checkpoint, with_contexts])
def test_the_backward_pass_may_run_twice(way):
    model = block()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    y = way(model, x).square().sum()
    z = twin(x).square().sum()
    for _ in range(2):
        y.backward(retain_graph=True)
        z.backward(retain_graph=True)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_tensors_hold_the_statistics_afterwards(way):
    model = block()
    before = [*model.buffers()]
    WAYS[way](model, torch.randn(2, 3, 8, 8).requires_grad_()).sum().backward()
    assert all(a is b for a, b in zip(model.buffers(), before, strict=True))


@every_way
def test_another_thread_may_run_the_backward_pass(way):
    model = block()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8).requires_grad_()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(way(model, x).square().sum().backward).result()
    twin(x).square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


@every_way
def test_an_error_in_the_second_pass_leaves_the_statistics_in_their_place(way):
    class Fails(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("second pass")
            return x.sin()

    model = nn.Sequential(BatchChannelNorm(3, 1), Fails())
    y = way(model, torch.randn(2, 3, 8, 8).requires_grad_()).sum()
    places, before = [*model.buffers()], [x.clone() for x in model.buffers()]
    with pytest.raises(RuntimeError, match="second pass"):
        y.backward()
    for now, place, value in zip(model.buffers(), places, before, strict=True):
        assert now is place
        assert torch.equal(now, value)


def test_a_method_and_keywords_are_passed_on():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = BatchChannelNorm(3, 1)

        def scaled(self, x, *, by):
            return self.norm(x).sin() * by

    part = Part()
    twin = copy.deepcopy(part)
    x = torch.randn(2, 3, 5, requires_grad=True)
    y = checkpoint(part.scaled, x, by=3, determinism_check="none")
    assert_close(y, twin.scaled(x, by=3))
    y.sum().backward()
    assert torch.equal(part.norm.batch_norm.exp_mean, twin.norm.batch_norm.exp_mean)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


class Block(nn.Module):
    """A part that checkpoints itself."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(BatchChannelNorm(3, 1), nn.Tanh())
        self.contexts = partial(checkpoint_contexts, self.body)

    def forward(self, x):
        return torch_checkpoint(
            self.body, x, use_reentrant=False, context_fn=self.contexts
        )


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
def test_a_copy_of_a_model_has_contexts_of_its_own(again):
    model = again(Block())
    twin = copy.deepcopy(model.body)
    x = torch.randn(2, 3, 5, requires_grad=True)
    model(x).sum().backward()
    twin(x)
    for a, b in zip(model.body.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_part_without_norms_is_no_error():
    x = torch.randn(2, 3, requires_grad=True)
    checkpoint(nn.Linear(3, 3), x).sum().backward()
    assert x.grad is not None


def test_a_function_is_refused_with_a_way_out():
    with pytest.raises(TypeError, match="context_fn=partial"):
        checkpoint(lambda x: x, torch.zeros(1))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        checkpoint_contexts(lambda x: x)


@every_way
def test_a_compiled_part_may_be_checkpointed(way):
    if torch.__version__ < "2.5" and way is not WAYS["reentrant"]:
        pytest.skip("in this way PyTorch 2.4 checkpoints no compiled part at all")

    def run(model, x, call):
        return call(torch.compile(model, backend="aot_eager"), x)

    assert_the_same_step(plainly, way, run, block(), steps=1)


@pytest.mark.works_with("train", "activation checkpointing", "compiled")
def test_a_checkpoint_may_be_compiled():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = block()

        def forward(self, x):
            return checkpoint(self.body, x)

    model = Outer()
    twin = copy.deepcopy(model.body)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(2, 3, 8, 8)
    compiled(x).square().sum().backward()
    twin(x).square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert_close(a.double(), b.double(), rtol=1e-6, atol=1e-6)


def train_as_member(rank, reentrant, estimate, x):
    model = block(estimate=estimate)
    share_statistics(model, torch.distributed.group.WORLD)
    twin = copy.deepcopy(model)
    own = x.chunk(2)[rank]
    checkpoint(model, own, use_reentrant=reentrant).square().sum().backward()
    twin(own).square().sum().backward()
    pairs = zip(model.buffers(), twin.buffers(), strict=True)
    return (
        [torch.equal(a, b) for a, b in pairs],
        [p.grad for p in model.parameters()],
        [p.grad for p in twin.parameters()],
    )


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("estimate", [True, False])
@pytest.mark.works_with("train", "activation checkpointing", "with shared statistics")
def test_processes_may_share_the_statistics(reentrant, estimate):
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    for same, ours, theirs in run_in_group(train_as_member, 2, reentrant, estimate, x):
        assert all(same)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, rtol=1e-6, atol=1e-6)
