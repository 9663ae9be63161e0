"""Statistics over several processes: the same as in one with all samples."""

import contextlib
import copy
import io
import resource
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.layers import InTurn
from helpers.processes import run_in_group
from helpers.runs import (
    assert_same_end,
    assert_same_step,
    clean_environment,
    images,
    read_last_checkpoint,
    wait_for_a_line,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    EstimatedBatchNorm,
)
from labml_bcn.experiment import cifar10, loop, ranks, train, vgg
from labml_bcn.experiment.outcome import RunError

__all__ = ["images"]

pytestmark = pytest.mark.usefixtures("one_thread")

RUNNING = {"variance_around": "running_mean"}
NORMS = {
    "bn": (BatchNorm, (8,), {}),
    "bn-untracked": (BatchNorm, (8,), {"track_running_stats": False}),
    "estimated": (EstimatedBatchNorm, (8,), {}),
    "estimated-running": (EstimatedBatchNorm, (8,), RUNNING),
    "bcn-plain": (InTurn, (8, 2), {"estimate": False}),
    "bcn": (InTurn, (8, 2), {}),
    "bcn-running": (InTurn, (8, 2), RUNNING),
    "fused-plain": (BatchChannelNorm, (8, 2), {"estimate": False}),
    "fused": (BatchChannelNorm, (8, 2), {}),
    "fused-running": (BatchChannelNorm, (8, 2), RUNNING),
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
    return x * scale + shift + torch.randn(steps, size, 8, 1, 1, generator=generator)


def outputs_and_gradients(x, norm, loss_of):
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
            results[name, shares] = outputs_and_gradients(x, norm, loss_of)
    return results


@pytest.fixture(scope="module")
def split_results():
    return run_in_group(shares_in_a_group, 3, torch.float64)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", NORMS)
def test_any_split_of_a_batch_gives_what_the_whole_batch_gives(
    split_results, name, shares
):
    whole = layer(name, dtype=torch.float64)
    y, dx, grads, buffers = outputs_and_gradients(
        batches(1, 6)[0].double(), whole, loss_of
    )
    parts = [result[name, shares] for result in split_results]
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
        untracked = BatchNorm(8, track_running_stats=False, process_group=world)
        untracked.eval()(torch.rand(2, 8, 2))
    # A copy is in the same group; a large mean loses nothing.
    norm = copy.deepcopy(layer("bn", world))
    found["group"] = norm.process_group is world
    found["large"] = norm(batches(1, 4, mean=1e4)[0].chunk(2)[rank])
    # And the gradient's gradient is that of the whole batch, too.
    for name in ("bn", "fused-plain"):
        x = batches(1, 2)[0].double()[rank : rank + 1].requires_grad_()
        norm = layer(name, world, dtype=torch.float64)
        (dx,) = torch.autograd.grad(loss_of(norm(x)), x, create_graph=True)
        dx.square().sum().backward()
        found[name, "twice"] = x.grad
    # Images of other sizes in each process.
    x = batches(1, 4)[0].double().flatten(2)[:, :, : 9 + rank]
    for name in ("plain", "running", ""):
        tail = f"-{name}" if name else ""
        for other in ("bcn", "fused"):
            norm = layer(other + tail, world, dtype=torch.float64)
            found[name, other] = outputs_and_gradients(x, norm, loss_of)
    return found


@pytest.fixture(scope="module")
def found():
    return run_in_group(edges, 2)


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


def test_evaluation_needs_no_other_process(found):
    assert found[0]["eval"].shape == (1, 8, 2)


def test_a_copy_is_in_the_same_group(found):
    assert all(result["group"] for result in found)


def test_processes_lose_no_digits_at_a_large_mean(found):
    exact = layer("bn", dtype=torch.float64)(batches(1, 4, 1e4)[0].double())
    y = torch.cat([result["large"] for result in found])
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["bn", "fused-plain"])
def test_second_gradients_go_through_the_processes(found, name):
    x = batches(1, 2)[0].double().requires_grad_()
    norm = layer(name, dtype=torch.float64)
    (dx,) = torch.autograd.grad(loss_of(norm(x)), x, create_graph=True)
    dx.square().sum().backward()
    together = torch.cat([result[name, "twice"] for result in found])
    torch.testing.assert_close(together, x.grad)


@pytest.mark.parametrize("name", ["plain", "running", ""])
def test_the_fused_layer_counts_values_of_images_of_other_sizes(found, name):
    for result in found:
        torch.testing.assert_close(
            result[name, "fused"], result[name, "bcn"], rtol=1e-6, atol=1e-9
        )


def eager_and_traced(rank):
    x = batches(1, 4)[0].double().flatten(2)[:, :, : 9 + rank]
    norms = [
        layer("fused-plain", dist.group.WORLD, dtype=torch.float64) for _ in range(2)
    ]
    traced = torch.compile(norms[1], backend="aot_eager")
    return outputs_and_gradients(x, norms[0], loss_of), outputs_and_gradients(
        x, traced, loss_of
    )


@pytest.mark.slow
def test_a_traced_layer_talks_to_the_other_processes():
    for eager, traced in run_in_group(eager_and_traced, 2):
        torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize("kind", ["bn", "estimated", "bcn", "fused"])
def test_something_else_than_a_process_group_is_refused(kind):
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
    """In double precision, for rounding grows from step to step."""
    torch.manual_seed(5)
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1),
        layer(name, group),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        layer(name, group),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )
    return layers.double()


def learn(model, xs, ys):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in zip(xs, ys, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def lessons():
    return batches(20, 2).double(), torch.randint(
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
    return run_in_group(twenty_steps_each, 2)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.works_with(
    "processes", "`DistributedDataParallel`", "one image in each process, twenty steps"
)
def test_two_processes_with_one_image_are_one_process_with_two(ends, name):
    model = network(name)
    learn(model, *lessons())
    for other in ends:
        for key, value in model.state_dict().items():
            torch.testing.assert_close(other[name][key], value, rtol=1e-9, atol=1e-9)


def test_without_a_group_weights_agree_and_statistics_do_not(ends):
    one, other = (end["alone"] for end in ends)
    for key, value in one.items():
        assert torch.equal(value, other[key]) is ("exp_" not in key), key


# --- The training loop ------------------------------------------------------

MODULE = ("-m", "labml_bcn.experiment.train")


class Bad(nn.Module):
    """A layer that gives NaN in one process's third training pass."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank
        self.register_buffer("calls", torch.zeros(()))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    def forward(self, x):
        self.calls += self.training
        y = self.layers(x)
        bad = self.calls == 3 and self.rank == 1
        return y * float("nan") if bad else y


def goes_bad_in_one(rank):
    data = cifar10.stand_in(40, 8)
    try:
        loop.train(Bad(rank), data, images=40)
    except RunError as error:
        return str(error)


def test_processes_stop_at_the_same_bad_loss():
    fine, bad = run_in_group(goes_bad_in_one, 2)
    assert fine.startswith("in step 3 the loss of another process is not")
    assert bad.startswith("in step 3 the loss is nan: it arose in the model")


def shares(rank):
    batches = loop.shuffled_batches(cifar10.stand_in(40, 8), 3, 5, 2, rank, 2)
    return [y for _, y in islice(batches, 9)]


def test_processes_share_the_batches_of_one():
    parts = [shares(rank) for rank in range(2)]
    whole = loop.shuffled_batches(cifar10.stand_in(40, 8), 6, 5, 2)
    for one, other, (_, y) in zip(*parts, whole, strict=False):
        assert torch.equal(torch.cat((one, other)), y)


def test_accumulated_gradients_are_those_of_one_batch():
    data, ends = cifar10.stand_in(40, 8), []
    for size, parts in ((4, 1), (2, 2), (1, 4)):
        model = vgg.build("small", "gn", ws=True)
        loop.train(*(model, data), batch_size=size, accumulate=parts, images=40)
        ends.append(model.state_dict())
    for other in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_accumulating_leaves_statistics_to_each_batch():
    data = cifar10.stand_in(40, 8)
    model, twin = (vgg.build("small", "bn") for _ in range(2))
    loop.train(model, data, batch_size=2, accumulate=2, images=4, tests=1)
    twin.train()
    for x, _ in islice(loop.shuffled_batches(data, 2, 0), 2):
        twin(data.standardize(x))
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def torchrun(*words, count=2, program=MODULE, cwd, **options):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*launcher, *program, "--threads", "1", *map(str, words)],
        env=clean_environment(GLOO_SOCKET_IFNAME="lo"),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def first_ends(rank):
    def run():
        if rank == 0:
            raise RunError("the disk is full")
        ranks.any_rank(False, "cpu")

    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = train.run_and_report(run, Path("run"))
    return status, said.getvalue()


def test_a_process_whose_peer_has_ended_ends_in_one_line():
    first, second = run_in_group(first_ends, 2)
    assert first == (1, "process 0: error: the disk is full\n")
    status, said = second
    assert status == 1
    assert said.startswith("process 1: error: another process has ended")
    assert said.endswith("with --resume run\n")
    assert said.count("\n") == 1


def small_files():
    """Let this process and its children write no file of a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


@pytest.mark.fault("A full disk, with several processes", "all end; the first says why")
@pytest.mark.slow
def test_a_full_disk_ends_all_processes_without_a_traceback(images, tmp_path):
    words = ["--data", images, "--images", 40, "--out", "run"]
    started = torchrun(*words, cwd=tmp_path, preexec_fn=small_files)
    with started as process:
        said, _ = process.communicate()
    assert process.returncode == 1
    assert "process 0: error: the checkpoint of step 0 could not be" in said
    assert "[rank1]: Traceback" not in said


@pytest.mark.slow
def test_torchrun_with_one_image_each_is_one_process_with_two(images, tmp_path):
    words = ["--data", images, "--ws", "--images", 2]
    more = ["--batch-size", 1, "--sync-statistics", "--out", "two"]
    with torchrun(*words, *more, cwd=tmp_path) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert said.count("test accuracy") == 1
    assert "Warning" not in said
    status = train.main(
        [str(w) for w in (*words, "--threads", 1, "--out", tmp_path / "one")]
    )
    assert status == 0
    assert_same_step(tmp_path / "two", tmp_path / "one")


THREADS_LEFT = """
import sys
from pathlib import Path

from labml_bcn.experiment import train

assert train.main() == 0
threads = Path("/proc/self/task").glob("*/comm")
print("left:", sorted({path.read_text().strip() for path in threads}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="asks Linux for the names of threads"
)
def test_no_thread_of_the_group_outlives_it(images, tmp_path):
    """One that does takes a lock that is gone, and the exit crashes."""
    program = tmp_path / "program.py"
    program.write_text(THREADS_LEFT)
    words = ["--data", images, "--images", 40]
    with torchrun(*words, program=[program], cwd=tmp_path) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    lines = [line for line in said.splitlines() if line.startswith("left:")]
    assert len(lines) == 2
    assert not any("gloo" in line for line in lines), lines


@pytest.mark.fault(
    "Several processes, stopped",
    "the same end, with each one's statistics",
)
@pytest.mark.slow
def test_processes_that_were_stopped_end_as_if_they_were_not(images, tmp_path):
    """Each process has statistics of its own, and gets them back."""
    words = ["--data", images, "--ws", "--batch-size", 1, "--images", 240]
    with torchrun(*words, "--out", "whole", cwd=tmp_path) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    with torchrun(*words, "--out", "run", cwd=tmp_path) as process:
        wait_for_a_line(tmp_path / "run" / "metrics.jsonl", process.poll)
        process.terminate()
        said, _ = process.communicate()
    assert "stopped by SIGTERM after step" in said
    middle = read_last_checkpoint(tmp_path / "run")
    assert 0 < middle["step"] < 120
    with torchrun("--resume", "run", cwd=tmp_path) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    own = [
        read_last_checkpoint(tmp_path / name)["processes"] for name in ("run", "whole")
    ]
    for one, other in zip(*own, strict=True):
        for name, value in one["buffers"].items():
            assert torch.equal(value, other["buffers"][name])
    first, second = (process["buffers"] for process in own[0])
    assert any(not torch.equal(first[n], second[n]) for n in first)
    # Alone, the first process cannot go on with it.
    with pytest.raises(SystemExit, match="2"):
        train.main(["--resume", str(tmp_path / "run")])
