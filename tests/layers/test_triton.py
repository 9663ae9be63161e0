"""The Triton kernels against the layer restated in float64.

They run on the GPU where there is one, and else in Triton's interpreter. `make gpu`
runs this file alone, on machines that have PyTorch and pytest and little else.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers.interpreter import Interpreter
from helpers.layers import LAYOUTS, inputs
from helpers.missing import skip_or_fail
from helpers.oracle import Running, batch_norm, channel_norm, normalize, standardize

from labml_bcn.native import cuda
from labml_bcn.native.cuda import divide_up, plan

obstacle = cuda.find_obstacle()
if obstacle and "need PyTorch" in obstacle:
    pytest.skip(obstacle, allow_module_level=True)
if obstacle:
    skip_or_fail("Triton")

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
EPS = 1e-5
HOW = {"evaluation": 0, "around batch mean": 1, "around running mean": 2, "plain": 3}
# Relative errors of activations. Those of the weights' gradients, which are float32,
# are the same for each dtype.
ERRORS = {
    torch.float32: 1e-6,
    # Triton's interpreter rounds down where a GPU rounds to the nearest.
    torch.bfloat16: 4e-3,
    torch.float16: 4e-4,
}
ERROR_OF_WEIGHTS = 1e-5
every_mode = pytest.mark.parametrize("how", HOW.values(), ids=HOW)
learning_mode = pytest.mark.parametrize("how", [1, 2, 3], ids=[*HOW][1:])
either_layout = pytest.mark.parametrize("layout", ["contiguous", "channels last"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def kernels():
    if ON_GPU:
        yield cuda
        return
    interpreter = Interpreter()
    yield interpreter
    interpreter.pool.shutdown()


class Case:
    """An input, and a layer that has learned something."""

    def __init__(
        self, shape, groups, layout="contiguous", dtype=torch.float32, **changes
    ):
        self.shape, self.groups = shape, groups
        self.arrange = LAYOUTS[layout]
        self.dtype = dtype
        channels = shape[1]
        self.x = self.activation(inputs(*shape))
        self.dy = self.activation(torch.randn(shape))
        self.residual = None
        self.weights = [
            1 + torch.randn(size).to(DEVICE) / 2
            for size in (channels, channels, groups, groups)
        ]
        self.exp_mean = torch.randn(channels).to(DEVICE)
        self.exp_var = torch.rand(channels).to(DEVICE) + 0.5
        self.relu = False
        vars(self).update(changes)

    def activation(self, values):
        return self.arrange(values.to(DEVICE, self.dtype))

    def forward(self, kernels, how):
        return kernels.forward(
            *(self.x, self.residual, *self.weights, self.exp_mean, self.exp_var),
            *(self.groups, EPS, EPS, 0.1, how, self.relu),
        )

    def backward(self, kernels, how, y, saved, want_dx=True, want_residual=False):
        y = y if self.relu and self.residual is not None else None
        return kernels.backward(
            *(self.dy, self.x, y, *self.weights, saved, self.groups, EPS, EPS),
            *(how == HOW["plain"], self.relu, want_dx, want_residual),
        )

    def restate(self, how):
        """Return the output in float64, and what it was made of."""
        x, *weights = (
            tensor.detach().double().cpu().requires_grad_()
            for tensor in (self.x, *self.weights)
        )
        learned = Running(self.shape[1])
        learned.mean, learned.var = self.exp_mean.double().cpu(), self.exp_var.double()
        learned.var = learned.var.cpu()
        if how == HOW["plain"]:
            learned.update_unbiased(x, 0.1)
            z = batch_norm(x, *weights[:2])
        else:
            if how != HOW["evaluation"]:
                around = "batch_mean" if how == 1 else "running_mean"
                learned.update(x, 0.1, around)
            # What normalizes is what the buffers can hold.
            z = normalize(x, learned.mean.float(), learned.var.float(), *weights[:2])
        y = channel_norm(z, self.groups, *weights[2:])
        leaves = [x, *weights]
        if self.residual is not None:
            leaves.insert(1, self.residual.double().cpu().requires_grad_())
            y = y + leaves[1]
        return y.relu() if self.relu else y, leaves, learned


def error(actual, expected):
    """The distance, relative to what is expected, or absolute where that is near 0."""
    actual, expected = actual.detach().double().cpu(), expected.detach()
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / max(expected.norm(), 1))


def check(case, kernels, how):
    """Compare output, learned statistics and all gradients with the restatement."""
    with_residual = case.residual is not None
    expected, leaves, learned = case.restate(how)
    y, saved = case.forward(kernels, how)
    assert (y.dtype, y.stride()) == (case.x.dtype, case.x.stride())
    assert saved.dtype == torch.float32
    assert saved.numel() == cuda.saved_size(*case.shape[:2])
    if how != HOW["plain"]:
        mean, var = cuda.statistics_of(saved, case.shape[1], EPS)
        assert error(mean, learned.mean) < 1e-6
        assert error(var, learned.var) < 1e-6
    dx, d_residual, *d_weights = case.backward(
        kernels, how, y, saved, want_residual=with_residual
    )
    gradients = [dx, d_residual, *d_weights] if with_residual else [dx, *d_weights]
    assert with_residual or d_residual is None
    of_activations = ERRORS[case.dtype]
    assert error(y, expected) < of_activations
    assert error(case.exp_mean, learned.mean) < 1e-6
    assert error(case.exp_var, learned.var) < 1e-6
    theirs = torch.autograd.grad(expected, leaves, case.dy.double().cpu())
    for n, (ours, exact) in enumerate(zip(gradients, theirs, strict=True)):
        bound = of_activations if n <= with_residual else ERROR_OF_WEIGHTS
        assert error(ours, exact) < bound, n


SHAPES = {
    "rank 2": ((6, 12), 3),
    "rank 3, one group": ((3, 8, 40), 1, "channels last"),
    "rank 4, short rows": ((5, 12, 7, 7), 4),
    "rank 4, channels last": ((2, 12, 9, 9), 4, "channels last"),
    "rank 4, split rows": ((1, 6, 40, 40), 2),
    "rank 5, instances": ((2, 8, 2, 3, 4), 8),
    "channels last, several tiles of positions": ((10, 64, 33), 1, "channels last"),
    "several tiles of samples": ((40, 64, 3), 1),
}


@every_mode
@pytest.mark.parametrize("arguments", SHAPES.values(), ids=SHAPES)
def test_the_kernels_compute_the_layer(kernels, arguments, how):
    check(Case(*arguments), kernels, how)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@either_layout
@pytest.mark.parametrize("how", [1, 3], ids=["estimated", "plain"])
def test_low_precision_is_rounded_once(kernels, how, layout, dtype):
    check(Case((2, 8, 5, 5), 4, layout, dtype), kernels, how)


@either_layout
@pytest.mark.parametrize("how", [1, 3], ids=["estimated", "plain"])
@pytest.mark.parametrize(
    ("relu", "residual"), [(True, False), (False, True), (True, True)]
)
def test_relu_and_residual_are_those_of_separate_operations(
    kernels, relu, residual, how, layout
):
    case = Case((2, 8, 5, 5), 4, layout, relu=relu)
    if residual:
        case.residual = case.activation(torch.randn(case.shape))
    check(case, kernels, how)


@pytest.mark.parametrize("want_dx", [True, False])
def test_a_residual_that_wants_no_gradient_changes_no_other(kernels, want_dx):
    case = Case((2, 8, 5, 5), 4, relu=True, residual=torch.randn(2, 8, 5, 5).to(DEVICE))
    y, saved = case.forward(kernels, 1)
    wanted = case.backward(kernels, 1, y, saved, want_residual=True)
    dx, d_residual, *others = case.backward(kernels, 1, y, saved, want_dx)
    assert d_residual is None
    if want_dx:
        torch.testing.assert_close(dx, wanted[0])
    else:
        assert dx is None
    torch.testing.assert_close(others, list(wanted[2:]))


def test_no_weights_are_ones_and_zeros(kernels):
    ones = [torch.ones(8), torch.zeros(8), torch.ones(4), torch.zeros(4)]
    case = Case((2, 8, 5, 5), 4, weights=[weight.to(DEVICE) for weight in ones])
    learned = case.exp_mean.clone(), case.exp_var.clone()
    y, saved = case.forward(kernels, 1)
    gradients = case.backward(kernels, 1, y, saved)
    case.weights = [None] * 4
    case.exp_mean, case.exp_var = learned
    without, saved = case.forward(kernels, 1)
    torch.testing.assert_close(without, y)
    torch.testing.assert_close(case.backward(kernels, 1, y, saved), gradients)


def test_gradient_and_residual_may_lie_in_another_order(kernels):
    case = Case((2, 8, 5, 5), 4, "channels last", relu=True)
    case.residual = case.activation(torch.randn(case.shape))
    learned = case.exp_mean.clone(), case.exp_var.clone()
    y, saved = case.forward(kernels, 1)
    expected = case.backward(kernels, 1, y, saved, want_residual=True)
    case.residual, case.dy = case.residual.contiguous(), case.dy.contiguous()
    case.exp_mean, case.exp_var = learned
    again, saved = case.forward(kernels, 1)
    assert torch.equal(again, y)
    gradients = case.backward(kernels, 1, y, saved, want_residual=True)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_every_run_gives_the_same_bits(kernels):
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        case = Case((1, 4, 30, 30), 2)
        y, saved = case.forward(kernels, 3)
        grads = case.backward(kernels, 3, y, saved)
        runs.append([t for t in (y, saved, *grads) if t is not None])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@learning_mode
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_a_batch_that_is_not_finite_teaches_its_channel_nothing(kernels, value, how):
    case = Case((2, 8, 5, 5), 4)
    expected, _, learned = case.restate(how)
    before = case.exp_mean.clone(), case.exp_var.clone()
    case.x[1, 2, 3, 4] = value
    y, _ = case.forward(kernels, how)
    for ours, old, new in zip(
        (case.exp_mean, case.exp_var), before, (learned.mean, learned.var), strict=True
    ):
        assert ours[2] == old[2]
        others = torch.arange(8) != 2
        assert error(ours[others], new[others]) < 1e-6
    # Groups are of two channels: the second one suffers, and in this sample alone if
    # the statistics are the running ones.
    untouched = torch.ones(2, 8, dtype=torch.bool)
    untouched[:, 2:4] = False
    untouched[0, 2:4] = how != HOW["plain"]
    # The sample that is in order is normalized with what the channel knew before.
    if how != HOW["plain"]:
        mean, var = (
            torch.where(torch.arange(8) == 2, old.double().cpu(), new)
            for old, new in zip(before, (learned.mean, learned.var), strict=True)
        )
        weights = [weight.cpu() for weight in case.weights]
        z = normalize(case.x.cpu(), mean, var, *weights[:2])
        expected = channel_norm(z, 4, *weights[2:])
    assert error(y.cpu()[untouched], expected[untouched]) < 1e-6


def test_relu_keeps_nan(kernels):
    case = Case((2, 8, 5, 5), 4, relu=True)
    case.x[1, 2, 3, 4] = float("nan")
    y, saved = case.forward(kernels, 1)
    assert y[1, 2:4].isnan().all()
    assert case.backward(kernels, 1, y, saved)[0][1, 2:4].isnan().all()


def test_relu_lets_the_gradient_through_at_nan(kernels):
    case = Case((2, 8, 5, 5), 4, relu=True, residual=torch.zeros(2, 8, 5, 5).to(DEVICE))
    case.residual[1, 2, 3, 4] = float("nan")
    y, saved = case.forward(kernels, 1)
    assert y.isnan().nonzero().tolist() == [[1, 2, 3, 4]]
    gradients = case.backward(kernels, 1, y, saved, want_residual=True)
    assert torch.equal(gradients[1], torch.where(y == 0, 0, case.dy))


FAR = 1e4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "layout"),
    [(FAR, "contiguous"), (FAR, "channels last"), (100 * FAR, "contiguous")],
)
@pytest.mark.parametrize("how", [0, 3], ids=["evaluation", "plain"])
@pytest.mark.parametrize("learned", [True, False])
def test_digits_survive_a_large_mean(kernels, learned, how, mean, layout):
    case = Case((2, 8, 20, 20), 4, layout)
    case.x = case.activation(mean + torch.randn(case.shape))
    case.exp_mean.fill_(mean * learned)
    expected, leaves, _ = case.restate(how)
    y, saved = case.forward(kernels, how)
    dx = case.backward(kernels, how, y, saved)[0]
    theirs = torch.autograd.grad(expected, leaves[0], case.dy.double().cpu())[0]
    assert (y.double().cpu() - expected).abs().max() < 1e-5
    assert (dx.double().cpu() - theirs).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 1100])
def test_values_far_from_the_rest_spoil_no_digits(kernels, first):
    case = Case((1, 16, 40, 40), 8)
    case.x.flatten(2)[:, :, :first] -= FAR
    check(case, kernels, HOW["plain"])


FILTERS = [(5, 3, 3, 3), (70, 9), (3, 2500), (2, 40, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", FILTERS)
def test_filters_are_standardized(kernels, shape, dtype):
    w = inputs(*shape).to(DEVICE, dtype)
    gradient = torch.randn(shape).to(DEVICE, dtype)
    out, saved = kernels.standardize(w, EPS, 0.9)
    assert saved.shape == cuda.empty_filter_tables(torch.empty(shape)).shape
    dw = kernels.standardize_backward(gradient, w, saved, EPS, 0.9)
    leaf = w.double().cpu().requires_grad_()
    expected = 0.9 * standardize(leaf, EPS)
    (exact,) = torch.autograd.grad(expected, leaf, gradient.double().cpu())
    assert error(out, expected) < ERRORS[dtype]
    assert error(dw, exact) < ERRORS[dtype]


def test_filters_far_from_zero_keep_their_digits(kernels):
    w = FAR + torch.randn(3, 2500, device=DEVICE)
    gradient = 1 + torch.randn_like(w)
    out, saved = kernels.standardize(w, EPS, 1.0)
    dw = kernels.standardize_backward(gradient, w, saved, EPS, 1.0)
    leaf = w.double().cpu().requires_grad_()
    expected = standardize(leaf, EPS)
    (exact,) = torch.autograd.grad(expected, leaf, gradient.double().cpu())
    assert error(out, expected) < 1e-6
    assert error(dw, exact) < 1e-6


def test_filters_may_have_their_channels_last(kernels):
    w, gradient = torch.randn(2, 6, 5, 3, 3).to(DEVICE)
    out, saved = kernels.standardize(w, EPS, 1.0)
    dw = kernels.standardize_backward(gradient, w, saved, EPS, 1.0)
    last = w.to(memory_format=torch.channels_last)
    out_last, saved = kernels.standardize(last, EPS, 1.0)
    dw_last = kernels.standardize_backward(gradient, last, saved, EPS, 1.0)
    assert out_last.stride() == last.stride()
    torch.testing.assert_close(out_last, out)
    torch.testing.assert_close(dw_last, dw)


def test_a_constant_filter_has_a_finite_gradient(kernels):
    w = torch.full((2, 9), 3.0, device=DEVICE)
    out, saved = kernels.standardize(w, EPS, 1.0)
    dw = kernels.standardize_backward(torch.randn_like(w), w, saved, EPS, 1.0)
    assert not out.any()
    assert dw.isfinite().all()


@pytest.mark.skipif(not ON_GPU, reason="as large as the memory of a GPU")
@either_layout
def test_more_values_than_an_int32_counts(kernels, layout):
    # The rows are a short one again and again, and so have its statistics.
    case = Case((1, 2, 2**10), 2, layout, torch.bfloat16)
    expected, _ = case.forward(kernels, 0)
    case.x = case.arrange(case.x.repeat(1, 1, 2**20 + 1))
    y, _ = case.forward(kernels, 0)
    assert y.numel() > 2**31
    torch.testing.assert_close(y[..., : 2**10], expected)
    torch.testing.assert_close(y[..., -(2**10) :], expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("processors", [1, 108, 132])
def test_a_plan_covers_every_row_and_fills_the_gpu(processors, channels_last):
    wanted = cuda.PROGRAMS_A_PROCESSOR * processors
    for rows, positions in product(
        [1, 3, 64, 1000, 32768], [1, 4, 49, 64, 1000, 12544, 10**6, 10**9]
    ):
        cut = plan(rows, positions, processors, channels_last)
        tile = cut.tile_rows * cut.tile_positions
        assert tile <= cuda.MOST
        assert cut.span % cut.tile_positions == 0
        assert cut.span * (cut.splits - 1) < positions <= cut.span * cut.splits
        # Either each multiprocessor has its programs, or nothing is left to share.
        programs = divide_up(rows, cut.tile_rows) * cut.splits
        small = rows * positions < wanted * cuda.LEAST
        whole = cut.splits == divide_up(positions, cut.tile_positions)
        assert 2 * programs >= wanted or (small and tile <= cuda.LEAST) or whole


def test_short_rows_share_a_tile_and_few_rows_are_split():
    assert plan(32768, 49, 132)[:2] == (32, 64)
    assert plan(2, 10**6, 132).splits > 132
    assert plan(32768, 64, 132).splits == 1


def run_python(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_triton_is_imported_when_a_kernel_is_launched():
    code = """if True:
        import sys, torch
        before = "triton" in sys.modules
        import labml_bcn.native.cuda
        print(before == ("triton" in sys.modules))
    """
    assert run_python("-c", code) == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kernel_compiles_without_a_gpu(capability):
    compiled = run_python("tests/helpers/compile_kernels.py", capability)
    names = {line.split()[0] for line in compiled.splitlines()}
    assert len(names) == 8
