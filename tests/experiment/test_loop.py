"""The loop and its command: reproducible, honest, and it learns."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from labml_bcn import BatchChannelNorm
from labml_bcn.experiment import cifar10, loop, vgg
from labml_bcn.experiment.state import State

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stripes():
    return cifar10.stand_in(400, 60)


@pytest.fixture(scope="module")
def few(stripes):
    return replace(
        stripes,
        train_images=stripes.train_images[:7],
        train_labels=stripes.train_labels[:7],
    )


class Tiny(nn.Module):
    """A model that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.shown: list[tuple[bool, int]] = []

    def forward(self, x):
        self.shown.append((self.training, len(x)))
        return self.head(x.mean((2, 3)))


# The batches


def test_a_pass_shows_every_image_once_and_drops_what_is_left_over(few):
    marked = replace(few, train_labels=torch.arange(7))
    batches = islice(loop.shuffled_batches(marked, 2, seed=0), 6)
    labels = [y.tolist() for _, y in batches]
    first = [label for batch in labels[:3] for label in batch]
    second = [label for batch in labels[3:] for label in batch]
    assert len(set(first)) == len(set(second)) == 6
    assert first != second


def test_about_half_of_the_images_are_flipped_left_to_right(stripes):
    marked = replace(stripes, train_labels=torch.arange(400))
    x, y = next(loop.shuffled_batches(marked, 400, seed=0))
    original = stripes.train_images[y]
    flipped = (x == original.flip(3)).flatten(1).all(1)
    kept = (x == original).flatten(1).all(1)
    assert (flipped | kept).all()
    assert 150 < flipped.sum() < 250


def test_batches_follow_the_seed_and_leave_the_global_state_alone(stripes):
    before = torch.get_rng_state()
    one, again, other = (
        next(loop.shuffled_batches(stripes, 8, seed=seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


# The schedule


@pytest.mark.equation("loop.schedule")
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("rho", [0.0, 0.2, 0.3])
def test_the_rate_goes_both_ways_along_half_a_cosine_wave(steps, rho):
    for k in range(1, steps + 1):
        t = k / (steps + 1)
        s = t / rho if t <= rho else (1 - t) / (1 - rho)
        eta = (1 - math.cos(math.pi * s)) / 2
        assert loop.rate(k, steps, warmup=rho) == pytest.approx(eta)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("schedule", list(loop.SCHEDULES))
@pytest.mark.parametrize("warmup", [None, 0.0, 0.2])
def test_the_rate_rises_once_and_never_again(steps, schedule, warmup):
    rates = [loop.rate(step, steps, schedule, warmup) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "warmup", "first", "top", "last"),
    [
        ("onecycle", None, 0, 300, 0),
        ("onecycle", 0.5, 0, 500, 0),
        ("cosine", None, 1, 1, 0),
        ("cosine", 0.1, 0, 100, 0),
        ("constant", None, 1, 1, 1),
        ("constant", 0.1, 0, 100, 1),
    ],
)
@pytest.mark.equation("experiment.loop.schedule")
def test_the_rate_is_highest_where_the_warm_up_ends(schedule, warmup, first, top, last):
    rates = [loop.rate(k, 999, schedule, warmup) for k in range(1, 1000)]
    assert rates.index(max(rates)) + 1 == top
    assert max(rates) == pytest.approx(1, abs=1e-4)
    assert rates[0] == pytest.approx(first, abs=1e-3)
    assert rates[-1] == pytest.approx(last, abs=1e-3)


def test_without_a_warm_up_the_rate_is_half_a_cosine_wave():
    for k in range(1, 100):
        expected = (1 + math.cos(math.pi * k / 100)) / 2
        assert loop.rate(k, 99, "cosine") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("count", "steps", "expected"),
    [
        (1, 9, {9}),
        (3, 9, {3, 6, 9}),
        (4, 10, {3, 5, 8, 10}),
        (5, 2, {1, 2}),
    ],
)
def test_steps_are_evenly_spaced_and_the_last_one_is_the_end(count, steps, expected):
    assert loop.evenly_spaced_steps(count, steps) == expected


# The run


def test_every_step_has_a_full_batch_and_the_run_its_number_of_images(few):
    model = Tiny()
    run = loop.train(
        model, few, batch_size=3, images=11, points=2, tests=2, progress=False
    )
    assert [n for mode, n in model.shown if mode] == [3, 3, 3]
    assert [point.images for point in run.points] == [6, 9]
    assert [score.images for score in run.tests] == [6, 9]
    assert run.images == 9
    assert run.images_per_second > 0


def test_without_a_number_each_image_is_seen_once(few):
    assert loop.train(Tiny(), few, batch_size=2).images == 6


def test_the_curve_averages_over_all_images_since_the_last_point(few):
    fine = loop.train(seeded(), few, images=20, points=10, tests=1)
    coarse = loop.train(seeded(), few, images=20, points=2, tests=1)
    for k, point in enumerate(coarse.points):
        part = fine.points[5 * k : 5 * k + 5]
        assert point.loss == pytest.approx(sum(p.loss for p in part) / 5)
        accuracy = sum(p.accuracy for p in part) / 5
        assert point.accuracy == pytest.approx(accuracy)


def seeded():
    torch.manual_seed(3)
    return Tiny()


OPTIMIZERS = {
    "sgd": (
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    ),
    "adam": (torch.optim.Adam, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_is_torchs_on_one_cycle(few, name):
    make, constants = OPTIMIZERS[name]
    model, twin = seeded(), seeded()
    loop.train(model, few, images=10, optimizer=name, lr=0.1, seed=4)
    optimizer = make(twin.parameters(), lr=0.1, **constants)
    batches = islice(loop.shuffled_batches(few, 2, seed=4), 5)
    for step, (x, y) in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = 0.1 * loop.rate(step, 5)
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(few.standardize(x)), y).backward()
        optimizer.step()
    assert torch.equal(model.head.weight, twin.head.weight)


def test_an_unknown_optimizer_is_refused(few):
    with pytest.raises(ValueError, match="one of sgd, adam, got 'lion'"):
        loop.train(Tiny(), few, optimizer="lion")


METHODS = [
    ("bn", False, {}),
    ("gn", True, {}),
    ("bcn", True, {}),
    ("bcn", True, {"variance_around": "running_mean", "momentum": 0.01}),
    ("bcn", False, {"estimate": False}),
]


@pytest.mark.parametrize(("norm", "ws", "options"), METHODS)
def test_the_same_seed_ends_with_the_same_weights(stripes, norm, ws, options):
    before = torch.get_rng_state()
    ends = []
    for seed in (1, 1, 2):
        model = vgg.build("small", norm, ws=ws, seed=seed, **options)
        loop.train(model, stripes, images=20, seed=seed, tests=1)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["head.weight"], ends[2]["head.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_looking_at_the_test_images_does_not_change_the_run(stripes):
    ends = []
    for tests in (1, 10):
        model = vgg.build("small", "bcn", ws=True)
        loop.train(model, stripes, images=20, tests=tests)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "ws", "options"), METHODS[1:4])
def test_a_short_run_learns_the_stand_in(norm, ws, options):
    data = cifar10.stand_in(2000, 500)
    model = vgg.build("small", norm, ws=ws, **options)
    run = loop.train(model, data, images=2000, points=5, tests=1)
    assert run.points[-1].loss < run.points[0].loss - 0.3
    assert run.accuracy > 0.3


@pytest.mark.slow
def test_a_short_run_learns_real_images(real_images):
    data = cifar10.load(real_images)
    model = vgg.build(
        "small",
        "bcn",
        ws=True,
        variance_around="running_mean",
        momentum=0.01,
    )
    run = loop.train(model, data, images=2000, points=5, tests=1)
    assert run.points[-1].loss < run.points[0].loss - 0.2
    assert run.accuracy > 0.25


# The test


def test_the_test_counts_what_is_right(few):
    model = Tiny()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    model.head.bias.data[4] = 1
    expected = (few.test_labels == 4).double().mean().item()
    assert loop.evaluate(model, few) == pytest.approx(expected)
    assert expected > 0


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_the_chunk_does_not_change_the_test(few, chunk):
    model = vgg.build("small", "bcn", ws=True)
    expected = loop.evaluate(model, few)
    assert loop.evaluate(model, few, chunk) == pytest.approx(expected)


def test_the_test_leaves_modes_buffers_and_gradients_alone(few):
    model = vgg.build("small", "bcn", ws=True)
    frozen = next(m for m in model.modules() if isinstance(m, BatchChannelNorm))
    frozen.eval()
    modes = [module.training for module in model.modules()]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    loop.evaluate(model, few)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_when_the_test_fails(few):
    model = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        loop.evaluate(model, few)
    assert model.training


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"batch_size": 8}, r"at most the 7 training images, got 8"),
        ({"batch_size": 4, "images": 3}, r"images=3 and batch_size=4"),
        ({"accumulate": 0}, r"accumulate must be at least 1, got 0"),
        ({"accumulate": 4}, r"batch_size=2, accumulate=4.*8 a step"),
        ({"schedule": "step"}, r"one of onecycle, cosine.* got 'step'"),
        ({"warmup": 1.0}, r"warmup must be a share .* got 1.0"),
        ({"warmup": -0.1}, r"warmup must be a share .* got -0.1"),
        ({"checkpoint_every": 0}, r"checkpoint_every must be at least 1"),
        ({"tensorboard": True}, r"tensorboard needs a folder"),
        ({"images": 0}, r"images=0"),
        ({"lr": 0.0}, r"lr must be positive and at most 1e30, got 0.0"),
        ({"lr": math.nan}, r"lr must be positive"),
        ({"lr": math.inf}, r"lr must be positive"),
        ({"seed": -1}, r"seed must be from 0"),
        ({"points": 0}, r"at least 1, got 0"),
        ({"tests": -1}, r"at least 1, got -1"),
        ({"device": "gpu"}, r"device must be .* got 'gpu'.*use cpu"),
        ({"device": "cuda:99"}, r"device must be .* got 'cuda:99'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_the_first_step(few, options, message):
    model = Tiny()
    with pytest.raises(ValueError, match=message):
        loop.train(model, few, **options)
    assert model.shown == []


# The progress bar


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_on_the_error_stream_or_not_at_all(few, capsys, shown):
    loop.train(Tiny(), few, progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("images/s" in err) is shown
    assert ("loss=" in err and "accuracy=" in err) is shown


def test_no_terminal_no_progress_bar(few, capsys):
    loop.train(Tiny(), few)
    assert capsys.readouterr().err == ""


# What layers draw


@pytest.mark.fault(
    "Numbers that the caller has drawn before, in a network with dropout",
    "a run depends on its seed alone; the caller's generator is as it was",
)
def test_what_layers_draw_follows_from_the_seed_of_the_run(stripes):
    def learn(drawn, seed):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10))
        torch.manual_seed(drawn)
        before = torch.get_rng_state()
        run = loop.train(model, stripes, images=40, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return run.points

    assert learn(1, 0) == learn(2, 0)
    assert learn(1, 0) != learn(1, 1)


def test_the_gradients_norm_is_that_of_all_of_it(few):
    model = Tiny()
    loop.train(model, few, images=2, tests=1)
    grads = torch.cat([p.grad.flatten() for p in model.parameters()])
    measured = State(model, "cpu", False, "sgd").measures()
    assert measured.gradient_norm == pytest.approx(grads.norm().item())
