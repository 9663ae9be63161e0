"""Networks on several processes, against one that sees all of their images."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from helpers.networks import (
    BUILD,
    built,
    loss_of,
    statistics_of,
)
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from labml_bcn import BatchChannelNorm, share_statistics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def seeded(build, **options):
    torch.manual_seed(1)
    return build(**options)


def lessons(steps, count):
    generator = torch.Generator().manual_seed(2)
    xs = torch.randn(steps, count, 3, 16, 16, generator=generator)
    return xs, torch.randint(4, (steps, count), generator=generator)


def learn(model, xs, ys):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in zip(xs, ys, strict=True):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()


def assert_close_states(one, other):
    for key, value in other.items():
        assert_close(one[key], value, 1e-3, 1e-4)


def ddp(model, **options):
    return DistributedDataParallel(model, broadcast_buffers=False, **options)


# Data parallel


def with_and_without_a_group(rank, name):
    xs, ys = lessons(3, 4)
    mine = slice(2 * rank, 2 * rank + 2)
    ends = {}
    for label, group in (("shared", dist.group.WORLD), ("own", None)):
        model = seeded(BUILD[name])
        share_statistics(model, group)
        learn(ddp(model), xs[:, mine], ys[:, mine])
        ends[label] = model.state_dict()
    return ends


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "processes",
    "`DistributedDataParallel`",
    "two processes with shared statistics, and with their own",
    know="Hand in `broadcast_buffers=False`. `share_statistics` shares them.",
)
def test_with_shared_statistics_two_processes_are_one(name):
    one, other = run_in_group(with_and_without_a_group, 2, name)
    model = seeded(BUILD[name])
    learn(model, *lessons(3, 4))
    assert_close_states(one["shared"], model.state_dict())
    assert_close_states(other["shared"], model.state_dict())
    for key, value in one["own"].items():
        assert torch.equal(value, other["own"][key]) == ("exp" not in key), key


def uneven(rank):
    """Five images in each step: three here, two there."""
    xs, ys = lessons(3, 5)
    mine = slice(3) if rank == 0 else slice(3, 5)
    model = seeded(built, process_group=dist.group.WORLD)
    learn(ddp(model), xs[:, mine], ys[:, mine])
    return statistics_of(model)


def with_no_image(rank):
    """One process has all of a batch, the other none of it."""
    norm = BatchChannelNorm(3, 1, process_group=dist.group.WORLD)
    (x, *_), _ = lessons(1, 4)
    mine = x.split((4, 0))[rank].requires_grad_()
    y = norm(mine)
    y.square().sum().backward()
    return [y.detach(), mine.grad, *norm.buffers()]


@pytest.mark.works_with(
    "processes", "`DistributedDataParallel`", "batches of uneven sizes, and empty ones"
)
def test_processes_may_have_batches_of_other_sizes():
    one, other = run_in_group(uneven, 2)
    for key, value in one.items():
        assert_close(other[key], value, 1e-6, 1e-6)
    (full, empty) = run_in_group(with_no_image, 2)
    norm = BatchChannelNorm(3, 1)
    x = lessons(1, 4)[0][0].requires_grad_()
    y = norm(x)
    y.square().sum().backward()
    for ours, theirs in zip(full, (y, x.grad, *norm.buffers()), strict=True):
        assert_close(ours, theirs, 1e-4, 1e-5)
    assert empty[0].shape == (0, 3, 16, 16)
    for ours, theirs in zip(empty[2:], norm.buffers(), strict=True):
        assert_close(ours, theirs, 1e-5, 1e-5)


def until_the_data_end(rank):
    """The first process has three batches, the second one."""
    model = seeded(built)
    wrapped = ddp(model)
    xs, ys = lessons(1 if rank else 3, 2)
    with Join([wrapped]):
        learn(wrapped, xs, ys)
    return model.state_dict()


@pytest.mark.works_with(
    "processes",
    "`Join`",
    "processes with more and with fewer batches, statistics of their own",
    know="Shared statistics need as many batches in every process.",
)
def test_a_process_may_run_out_of_batches():
    one, other = run_in_group(until_the_data_end, 2)
    for key, value in one.items():
        if "exp" not in key:
            assert_close(other[key], value, 1e-5, 1e-6)


def accumulated(rank, name):
    """Two batches before a step: gradients are summed over processes once."""
    model = seeded(BUILD[name])
    wrapped = ddp(model)
    xs, ys = lessons(2, 2)
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        with wrapped.no_sync() if i == 0 else nullcontext():
            loss_of(wrapped, x[rank : rank + 1], y[rank : rank + 1]).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "processes", "`DistributedDataParallel`", "accumulation with `no_sync`"
)
def test_gradients_are_accumulated_between_syncs(name):
    one, other = run_in_group(accumulated, 2, name)
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, 1e-5, 1e-6)
        assert a.isfinite().all()


def static_graph(rank):
    model = seeded(built, process_group=dist.group.WORLD)
    xs, ys = lessons(3, 2)
    one = slice(rank, rank + 1)
    learn(ddp(model, static_graph=True), xs[:, one], ys[:, one])
    return model.state_dict()


@pytest.mark.works_with("processes", "`DistributedDataParallel`", "a static graph")
def test_the_graph_may_be_static():
    one, other = run_in_group(static_graph, 2)
    model = seeded(built)
    learn(model, *lessons(3, 2))
    assert_close_states(one, model.state_dict())
    assert_close_states(other, model.state_dict())


# Sharded


def sharded(rank, name, policy):
    """Blocks sharded as units of their own, two steps and an evaluation."""
    model = seeded(BUILD[name])
    whole = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (2,))
    low = MixedPrecisionPolicy(torch.bfloat16) if policy == "bfloat16" else None
    options = {"mp_policy": low} if low else {}
    fully_shard(model[3], mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    xs, ys = lessons(2, 2)
    learn(model, xs, ys), learn(whole, xs, ys)
    x = xs[0]
    return [
        *(model.eval()(x).float(), whole.eval()(x)),
        {b.dtype for b in statistics_of(model).values()},
    ]


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "processes", "FSDP2 (`fully_shard`)", "blocks, in float32 and mixed precision"
)
def test_a_sharded_network_learns_as_the_whole_one(name, policy):
    tolerance = 1e-4 if policy == "float32" else 0.05
    for ours, theirs, dtypes in run_in_group(sharded, 2, name, policy):
        assert_close(ours, theirs, tolerance, tolerance)
        assert dtypes == {torch.float32}


# A group that is not there when a network is loaded


def saved_with_a_group(rank):
    model = built(process_group=dist.group.WORLD)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.works_with(
    "save", "`torch.save`, `torch.load`", "a state dict that a group has trained"
)
def test_a_state_dict_knows_no_group():
    for values in run_in_group(saved_with_a_group, 2):
        assert built().load_state_dict(values)


def copied_with_a_group(rank):
    model = seeded(built, process_group=dist.group.WORLD)
    twin = copy.deepcopy(model)
    xs, _ = lessons(1, 2)
    for each in (model, twin):
        each(xs[0, rank : rank + 1])
    return [statistics_of(model), statistics_of(twin)]


@pytest.mark.works_with(
    "save", "`copy.deepcopy`, `pickle`", "a copy shares statistics with the same group"
)
def test_a_copy_keeps_its_group():
    (one, twin), (other, _) = run_in_group(copied_with_a_group, 2)
    for key, value in one.items():
        assert torch.equal(twin[key], value)
        assert_close(other[key], value, 1e-6, 1e-6)
