"""Statistics over several processes: the same as in one with all samples."""

import copy

import pytest
import torch
import torch.distributed as dist
from processes import together
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    EstimatedBatchNorm,
    FusedBatchChannelNorm,
)

RUNNING = {"variance_around": "running_mean"}
NORMS = {
    "bn": (BatchNorm, (8,), {}),
    "bn-untracked": (BatchNorm, (8,), {"track_running_stats": False}),
    "estimated": (EstimatedBatchNorm, (8,), {}),
    "estimated-running": (EstimatedBatchNorm, (8,), RUNNING),
    "bcn-plain": (BatchChannelNorm, (8, 2), {"estimate": False}),
    "bcn": (BatchChannelNorm, (8, 2), {}),
    "bcn-running": (BatchChannelNorm, (8, 2), RUNNING),
    "fused-plain": (FusedBatchChannelNorm, (8, 2), {"estimate": False}),
    "fused": (FusedBatchChannelNorm, (8, 2), {}),
    "fused-running": (FusedBatchChannelNorm, (8, 2), RUNNING),
}


def layer(name, group=None, **options):
    kind, arguments, more = NORMS[name]
    norm = kind(*arguments, process_group=group, **more, **options)
    torch.manual_seed(1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.3)
    return norm


def batches(steps, size, mean=3.0):
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(8, 1, 1, generator=generator) + 0.5
    shift = mean * torch.randn(8, 1, 1, generator=generator)
    x = torch.randn(steps, size, 8, 4, 4, generator=generator)
    return (
        x * scale
        + shift
        + torch.randn(steps, size, 8, 1, 1, generator=generator)
    )


def seen(x, norm, loss_of):
    """Outputs, gradients and statistics of one forward and backward pass."""
    x = x.clone().requires_grad_()
    y = norm(x)
    loss_of(y).backward()
    grads = [p.grad.clone() for p in norm.parameters()]
    return y.detach(), x.grad, grads, list(norm.buffers())


def loss_of(y):
    return (y.tanh() * y.detach().cos()).sum()


# --- Three processes, uneven shares -----------------------------------------

SHARES = [(2, 1, 3), (4, 0, 2), (0, 0, 6)]


def shares_in_a_group(rank, dtype):
    results = {}
    for name in NORMS:
        for shares in SHARES:
            x = batches(1, 6)[0].to(dtype).split(shares)[rank]
            norm = layer(name, dist.group.WORLD, dtype=dtype)
            results[name, shares] = seen(x, norm, loss_of)
    return results


@pytest.fixture(scope="module")
def shared():
    return together(shares_in_a_group, 3, torch.float64)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", NORMS)
def test_any_split_of_a_batch_gives_what_the_whole_batch_gives(
    shared, name, shares
):
    whole = layer(name, dtype=torch.float64)
    y, dx, grads, buffers = seen(batches(1, 6)[0].double(), whole, loss_of)
    parts = [result[name, shares] for result in shared]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), y)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), dx)
    for k, grad in enumerate(grads):
        torch.testing.assert_close(sum(p[2][k] for p in parts), grad)
    for part in parts:
        torch.testing.assert_close(part[3], buffers)


# --- Edges ------------------------------------------------------------------


def edges(rank):
    world = dist.group.WORLD
    found = {}
    for name in ("bn", "estimated", "estimated-running", "bcn", "fused"):
        # Nobody has a sample: nothing is learned.
        norm = layer(name, world)
        before = [b.clone() for b in norm.buffers()]
        y = norm(torch.zeros(0, 8, 3, requires_grad=True))
        y.sum().backward()
        same = all(map(torch.equal, before, norm.buffers()))
        found[name, "empty"] = same and y.shape == (0, 8, 3)
        # One process has one value a channel, the other one none.
        try:
            norm(torch.ones(1 - rank, 8, 1))
            found[name, "one"] = "accepted"
        except ValueError as error:
            found[name, "one"] = str(error)
    # One value each are two.
    norm = layer("bn", world)
    x = torch.full((1, 8), float(2 * rank))
    norm(x)
    found["two"] = norm.exp_mean, norm.exp_var
    # In evaluation, nobody waits.
    if rank == 0:
        found["eval"] = layer("bcn", world).eval()(torch.ones(1, 8, 2))
        untracked = BatchNorm(
            8, track_running_stats=False, process_group=world
        )
        untracked.eval()(torch.rand(2, 8, 2))
    # A copy is in the same group; a large mean loses nothing.
    norm = copy.deepcopy(layer("bn", world))
    found["group"] = norm.process_group is world
    found["large"] = norm(batches(1, 4, mean=1e4)[0].chunk(2)[rank])
    # And the gradient's gradient is that of the whole batch, too.
    x = batches(1, 2)[0].double()[rank : rank + 1].requires_grad_()
    norm = layer("bn", world, dtype=torch.float64)
    (dx,) = torch.autograd.grad(loss_of(norm(x)), x, create_graph=True)
    dx.square().sum().backward()
    found["twice"] = x.grad
    return found


@pytest.fixture(scope="module")
def found():
    return together(edges, 2)


@pytest.mark.parametrize(
    "name", ["bn", "estimated", "estimated-running", "bcn", "fused"]
)
def test_a_batch_that_is_empty_everywhere_changes_no_statistic(found, name):
    assert all(result[name, "empty"] for result in found)


@pytest.mark.parametrize("name", ["bn", "estimated"])
def test_one_value_in_all_processes_has_no_variance(found, name):
    for result in found:
        assert "more than one value per channel" in result[name, "one"]


def test_one_value_around_the_running_mean_is_enough(found):
    assert found[0]["estimated-running", "one"] == "accepted"


def test_one_value_in_each_of_two_processes_are_two(found):
    for result in found:
        mean, var = result["two"]
        torch.testing.assert_close(mean, torch.full((8,), 0.1))
        torch.testing.assert_close(var, torch.full((8,), 0.9 + 0.1 * 2))


def test_evaluation_waits_for_nobody(found):
    assert found[0]["eval"].shape == (1, 8, 2)


def test_a_copy_is_in_the_same_group(found):
    assert all(result["group"] for result in found)


def test_processes_lose_no_digits_at_a_large_mean(found):
    exact = layer("bn", dtype=torch.float64)(batches(1, 4, 1e4)[0].double())
    y = torch.cat([result["large"] for result in found])
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=5e-3)


def test_second_gradients_go_through_the_processes(found):
    x = batches(1, 2)[0].double().requires_grad_()
    norm = layer("bn", dtype=torch.float64)
    (dx,) = torch.autograd.grad(loss_of(norm(x)), x, create_graph=True)
    dx.square().sum().backward()
    together = torch.cat([result["twice"] for result in found])
    torch.testing.assert_close(together, x.grad)


@pytest.mark.parametrize("kind", ["bn", "estimated", "bcn", "fused"])
def test_what_is_no_process_group_is_refused(kind):
    with pytest.raises(TypeError, match=r"process_group must .*got True"):
        layer(kind, True)


# --- Twenty steps -----------------------------------------------------------

METHODS = [
    "bn",
    "bcn-plain",
    "bcn",
    "bcn-running",
    "fused-plain",
    "fused",
    "fused-running",
]


def network(name, group=None):
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1),
        layer(name, group),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        layer(name, group),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


def learn(model, xs, ys):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in zip(xs, ys, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def lessons():
    return batches(20, 2), torch.randint(
        4, (20, 2), generator=torch.Generator().manual_seed(6)
    )


def twenty_steps_each(rank):
    xs, ys = lessons()
    one = slice(rank, rank + 1)
    ends = {}
    for name in METHODS:
        model = network(name, dist.group.WORLD)
        ddp = DistributedDataParallel(model, broadcast_buffers=False)
        learn(ddp, xs[:, one], ys[:, one])
        ends[name] = model.state_dict()
    # Without a group, each process keeps statistics of its own images.
    model = network("bcn")
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    learn(ddp, xs[:, one], ys[:, one])
    ends["alone"] = model.state_dict()
    return ends


@pytest.fixture(scope="module")
def ends():
    return together(twenty_steps_each, 2)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_with_one_image_are_one_process_with_two(ends, name):
    model = network(name)
    learn(model, *lessons())
    for end in ends:
        for key, value in model.state_dict().items():
            torch.testing.assert_close(
                end[name][key], value, rtol=1e-3, atol=1e-5
            )


def test_without_a_group_weights_agree_and_statistics_do_not(ends):
    one, other = (end["alone"] for end in ends)
    for key, value in one.items():
        assert torch.equal(value, other[key]) is ("exp_" not in key), key
