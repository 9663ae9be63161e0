"""The kernels through their C interface, against a restatement in float64."""

import ctypes
import itertools
import re
from dataclasses import dataclass

import pytest
import torch

from labml_bcn.native import cuda
from labml_bcn.native.library import NotLoadedError, find_parallel_for, load

EVALUATION, AROUND_BATCH_MEAN, AROUND_RUNNING_MEAN, PLAIN = range(4)
HOWS = (EVALUATION, AROUND_BATCH_MEAN, AROUND_RUNNING_MEAN, PLAIN)
EPS = 1e-5
MOMENTUM = 0.1

POINTER, COUNT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def fields(pointers="", counts="", numbers=""):
    """Name the fields of a C structure, kind by kind."""
    kinds = ((POINTER, pointers), (COUNT, counts), (NUMBER, numbers))
    return [(name, kind) for kind, names in kinds for name in names.split()]


SIZES = fields(counts="samples channels positions groups bfloat16 channels_last")
WEIGHTS = fields("gamma_c beta_c gamma_g beta_g", "", "eps_c eps_g")


class Forward(ctypes.Structure):
    """What bcn_forward takes."""

    _fields_ = [
        *SIZES,
        *WEIGHTS,
        *fields("x residual y exp_mean exp_var", "", "momentum"),
        *fields(counts="how relu"),
        *fields("saved"),
    ]


class Backward(ctypes.Structure):
    """What bcn_backward takes."""

    _fields_ = [
        *SIZES,
        *WEIGHTS,
        *fields("x dy y dx d_residual saved"),
        *fields("d_gamma_c d_beta_c d_gamma_g d_beta_g", "plain relu"),
    ]


class Standardize(ctypes.Structure):
    """What bcn_standardize and bcn_standardize_backward take."""

    _fields_ = fields("w gradient out saved", "filters elements bfloat16", "eps gain")


class Pass(ctypes.Structure):
    """What a pass alone takes."""

    _fields_ = [*SIZES, *fields("x dy out mu v slope offset s t q r")]


@pytest.fixture(scope="module")
def library():
    """Load the library that is to be tested."""
    try:
        return load()
    except NotLoadedError as error:
        pytest.skip(str(error))


def test_without_pytorchs_threads_it_is_said_which_version_lends_them(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(torch, "__path__", [str(tmp_path)])  # as in older ones
    with pytest.raises(NotLoadedError, match=r"need PyTorch 2\.10 or newer"):
        find_parallel_for()


def test_an_older_pytorch_has_no_kernels_for_gpus_and_it_is_said(monkeypatch):
    older = type(torch.__version__)("2.9.1+cu128")
    monkeypatch.setattr(torch, "__version__", older)
    reason = r"PyTorch 2\.9\.1\+cu128 is too old; .* need PyTorch 2\.10 or newer"
    assert re.match(reason, cuda.find_obstacle())


def call(function, arguments, threads=1):
    """Call a function of the library, which must succeed."""
    assert function(bytes(arguments), threads) == 0


def pointer(tensor):
    """Return where a tensor's values begin."""
    return None if tensor is None else tensor.data_ptr()


@dataclass
class Case:
    """A layer with its input, and what the kernels made of them."""

    shape: tuple[int, int, int]
    groups: int
    how: int = AROUND_BATCH_MEAN
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    relu: bool = False
    residual: bool = False
    mean: float = 0.0
    affine: bool = True

    def __post_init__(self):
        """Draw an input."""
        torch.manual_seed(sum(self.shape) + self.groups)
        channels = self.shape[1]
        offsets = self.mean + torch.randn(channels, 1)
        self.x = self.lay(torch.randn(self.shape) + offsets)
        self.dy = self.lay(torch.randn(self.shape))
        self.rest = self.lay(torch.randn(self.shape)) if self.residual else None
        sizes = (channels, channels, self.groups, self.groups)
        self.weights = [torch.rand(size) + 0.5 for size in sizes]
        self.exp_mean = torch.randn(channels) + self.mean
        self.exp_var = torch.rand(channels) + 0.5

    def lay(self, values):
        """Give values the type and layout of the case; the shape stays."""
        values = values.to(self.dtype)
        if not self.channels_last:
            return values.contiguous()
        return values.transpose(1, 2).contiguous().transpose(1, 2)

    def common(self):
        """Return the arguments that all structures share."""
        samples, channels, positions = self.shape
        names = "gamma_c beta_c gamma_g beta_g".split()
        given = self.weights if self.affine else [None] * 4
        return dict(
            zip(names, map(pointer, given), strict=True),
            samples=samples,
            channels=channels,
            positions=positions,
            groups=self.groups,
            bfloat16=self.dtype == torch.bfloat16,
            channels_last=self.channels_last,
            eps_c=EPS,
            eps_g=EPS,
            x=pointer(self.x),
        )

    def run(self, library, threads=1):
        """Run both directions and return all that they wrote."""
        out = self.forward(library, threads)
        return out | self.backward(library, out, threads)

    def forward(self, library, threads=1):
        """Run the forward pass and return what it wrote."""
        samples, channels, _ = self.shape
        out = {
            "y": torch.full_like(self.x, torch.nan),
            "exp_mean": self.exp_mean.clone(),
            "exp_var": self.exp_var.clone(),
            "saved": torch.full(
                (2 * samples * channels + 2 * channels,), torch.nan, dtype=torch.float64
            ),
        }
        arguments = Forward(
            **self.common(),
            **{name: pointer(tensor) for name, tensor in out.items()},
            residual=pointer(self.rest),
            momentum=MOMENTUM,
            how=self.how,
            relu=self.relu,
        )
        call(library.forward, arguments, threads)
        return out

    def backward(
        self,
        library,
        forward,
        threads=1,
        wanted=True,
    ):
        """Run the backward pass and return what it wrote."""
        names = "d_gamma_c d_beta_c d_gamma_g d_beta_g".split()
        out = {
            name: torch.full_like(weight, torch.nan)
            for name, weight in zip(names, self.weights, strict=True)
        }
        if wanted:
            out["dx"] = torch.full_like(self.x, torch.nan)
        by_y = self.relu and self.residual
        if by_y:
            out["d_residual"] = torch.full_like(self.x, torch.nan)
        arguments = Backward(
            **self.common(),
            **{name: pointer(tensor) for name, tensor in out.items()},
            dy=pointer(self.dy),
            y=pointer(forward["y"]) if by_y else None,
            saved=pointer(forward["saved"]),
            plain=self.how == PLAIN,
            relu=self.relu,
        )
        call(library.backward, arguments, threads)
        return out

    def restated(self, y):
        """Compute the same in float64, with relu open where it was for `y`."""
        x = self.x.double().requires_grad_()
        rest = torch.zeros(self.shape, dtype=torch.float64, requires_grad=True)
        neutral = [torch.full_like(w, i % 2 == 0) for i, w in enumerate(self.weights)]
        given = self.weights if self.affine else neutral
        weights = [weight.double().requires_grad_() for weight in given]
        mean, var, buffers = self.statistics(x)
        gamma_c, beta_c, gamma_g, beta_g = weights
        z = (x - mean[:, None]) / (var[:, None] + EPS).sqrt()
        z = z * gamma_c[:, None] + beta_c[:, None]
        z = z.reshape(len(z), self.groups, -1)
        center = z - z.mean(-1, keepdim=True)
        z = center / (center.square().mean(-1, keepdim=True) + EPS).sqrt()
        z = (z * gamma_g[:, None] + beta_g[:, None]).reshape(self.shape) + rest
        total = z + (0 if self.rest is None else self.rest.double())
        if self.relu:
            total = total * ~(y <= 0)
        total.backward(self.dy.double())
        grads = [leaf.grad for leaf in (x, rest, *weights)]
        names = "dx d_residual d_gamma_c d_beta_c d_gamma_g d_beta_g".split()
        found = dict(zip(names, grads, strict=True))
        return {"y": total.detach(), **buffers, **found}

    def statistics(self, x):
        """Return mean and variance to normalize with, and the new buffers."""
        old_mean, old_var = self.exp_mean.double(), self.exp_var.double()
        if self.how == EVALUATION:
            return old_mean, old_var, {"exp_mean": old_mean, "exp_var": old_var}
        mean = x.mean((0, 2))
        var = (x - mean[:, None]).square().mean((0, 2))
        count = x.numel() / x.shape[1]
        measured = {
            AROUND_BATCH_MEAN: var,
            AROUND_RUNNING_MEAN: var + (mean - old_mean).square(),
            PLAIN: var * count / max(count - 1, 1),
        }[self.how].detach()
        new_mean = (old_mean + MOMENTUM * (mean.detach() - old_mean)).float().double()
        new_var = (old_var + MOMENTUM * (measured - old_var)).float().double()
        buffers = {"exp_mean": new_mean, "exp_var": new_var}
        return *((mean, var) if self.how == PLAIN else (new_mean, new_var)), buffers


def difference(a, b, usual=0):
    """Return the norm of a difference, relative to b's, or to the usual one."""
    return float((a.double() - b).norm() / (b.norm() + usual + 1e-6))


# Shapes [B, C, L] and groups: rows shorter and longer than vectors and chunks, one
# group, groups of one channel, one position, odd sizes.
SHAPES = [
    ((2, 64, 100), 32),
    ((3, 24, 49), 4),
    ((1, 20, 15), 1),
    ((4, 48, 64), 24),
    ((5, 32, 1), 4),
    ((2, 12, 6000), 3),
    ((1, 7, 33), 7),
    ((17, 96, 2), 1),
    ((2, 3, 2111), 1),
    ((70, 130, 3), 13),
]
TOLERANCE = {torch.float32: (1e-6, 1e-5), torch.bfloat16: (4e-3, 4e-3)}


each_layout = pytest.mark.parametrize("last", [False, True], ids=["rows", "last"])
each_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
each_how = pytest.mark.parametrize("how", HOWS)


def check(case, out):
    """Compare what the kernels wrote with the restatement."""
    exact = case.restated(out["y"])
    values, parameters = TOLERANCE[case.dtype]
    for name, tensor in out.items():
        if name == "saved":
            continue
        if name.startswith("exp"):
            torch.testing.assert_close(
                tensor.double(), exact[name], rtol=2e-6, atol=1e-6
            )
            continue
        # A sum of many values may be small by chance, and its error is not.
        inner = tensor.dim() == 3
        limit, usual = (values, 0) if inner else (parameters, 0.1 * case.dy.norm())
        assert difference(tensor, exact[name], usual) < limit, (name, case)


@each_layout
@each_type
@each_how
def test_kernels_agree_with_float64(library, how, dtype, last):
    for (shape, groups), relu, residual in itertools.product(
        SHAPES, (False, True), (False, True)
    ):
        case = Case(shape, groups, how, dtype, last, relu, residual)
        check(case, case.run(library))


@each_layout
def test_without_weights_they_are_ones_and_zeros(library, last):
    case = Case((3, 24, 49), 4, channels_last=last, affine=False)
    check(case, case.run(library))


@each_layout
@pytest.mark.parametrize("relu", [False, True])
def test_parameters_do_without_the_input(library, relu, last):
    case = Case((3, 24, 49), 4, channels_last=last, relu=relu, residual=relu)
    out = case.forward(library)
    check(case, out | case.backward(library, out, wanted=False))


def same_bits(a, b):
    """Compare bit for bit, so that NaN equals itself and zeros have a sign."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.view(integers), b.view(integers))


@each_layout
@each_how
def test_threads_do_not_change_a_bit(library, how, last):
    """Fewer groups or samples than threads take another schedule."""
    more = [((3, 64, 3000), 1), ((5, 64, 1000), 32), ((16, 512, 49), 32)]
    before = torch.get_num_threads()
    for shape, groups in SHAPES + more:
        case = Case(shape, groups, how, channels_last=last, relu=True)
        alone = case.run(library)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            for name, tensor in case.run(library, threads).items():
                assert same_bits(tensor, alone[name]), (shape, threads, name)
    torch.set_num_threads(before)


@each_layout
@pytest.mark.parametrize("how", [EVALUATION, PLAIN])
def test_large_means_keep_their_digits(library, how, last):
    """At a mean of ten thousand deviations."""
    for shape, groups in (((4, 64, 784), 32), ((8, 64, 49), 8), ((64, 32, 1), 4)):
        case = Case(shape, groups, how, channels_last=last, mean=1e4)
        out = case.run(library)
        exact = case.restated(out["y"])
        for name in ("y", "dx"):
            worst = (out[name].double() - exact[name]).abs().max()
            assert worst < 1e-5, (name, case.shape)


@each_layout
@pytest.mark.parametrize("value", [1e3, -1e6, 1e10])
def test_a_first_value_far_from_the_rest_costs_no_digits(library, value, last):
    case = Case((2, 24, 5000), 4, channels_last=last)
    case.x[0, 5, 0] = value
    out = case.run(library)
    exact = case.restated(out["y"])
    for name in ("y", "dx"):
        assert difference(out[name], exact[name]) < 1e-6
    mu, v = out["saved"][:96].view(2, 2, 24)
    x = case.x.double()
    assert ((mu - x.mean(2)).abs() < 1e-6 * x.std(2)).all()
    torch.testing.assert_close(v, x.var(2, correction=0), rtol=1e-5, atol=0)


@each_layout
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-42])
def test_constant_channels_have_no_variance(library, value, last):
    case = Case((2, 24, 700), 4, PLAIN, channels_last=last)
    case.x[:, 3:5] = value
    case.x[1, 4, 13] = value * (1 + 2e-7)
    out = case.run(library)
    v = out["saved"][48:96].view(2, 24)
    assert (v[:, 3] == 0).all()
    assert (v >= 0).all()
    assert all(tensor.isfinite().all() for tensor in out.values())


@each_layout
@pytest.mark.parametrize("how", HOWS[1:])
def test_what_is_not_finite_teaches_nothing(library, how, last):
    """A channel keeps both of its statistics, and the others learn."""
    case = Case((2, 8, 100), 4, how, channels_last=last)
    clean = case.run(library)
    case.x[1, 2, 7], case.x[0, 5, 0], case.x[0, 7] = torch.nan, torch.inf, -3e38
    case.x[1, 7] = 3e38
    out = case.run(library)
    for name, old in (("exp_mean", case.exp_mean), ("exp_var", case.exp_var)):
        expected = clean[name].clone()
        expected[[2, 5, 7]] = old[[2, 5, 7]]
        assert torch.equal(out[name], expected)
    if how != PLAIN:
        assert torch.equal(out["saved"][-16:-8], out["exp_mean"].double())
    assert torch.equal(out["y"][:, :2], clean["y"][:, :2])


@each_layout
@pytest.mark.parametrize("residual", [False, True])
def test_relu_keeps_what_is_no_number(library, residual, last):
    """It is open there in the backward pass, as PyTorch's is."""
    case = Case((2, 8, 40), 4, EVALUATION, torch.float32, last, True, residual)
    case.x[1, 2, 7] = torch.nan
    out = case.run(library)
    assert out["y"][1, 2:4].isnan().all()
    if residual:
        assert torch.equal(out["d_residual"][1, 2:4], case.dy[1, 2:4])


def test_with_one_position_the_layouts_are_one(library):
    rows, last = (
        Case((33, 40, 1), 5, channels_last=last).run(library) for last in (False, True)
    )
    assert all(torch.equal(rows[name], last[name]) for name in rows)


def standardized(w, gain):
    """Standardize filters in float64."""
    center = w - w.mean(1, keepdim=True)
    return gain * center / (center.square().mean(1, keepdim=True) + EPS).sqrt()


@each_type
@pytest.mark.parametrize(
    ("filters", "size"), [(64, 576), (13, 9), (1, 5000), (70, 512), (5, 2), (300, 147)]
)
def test_filters_are_standardized(library, filters, size, dtype):
    torch.manual_seed(0)
    w, dy = torch.randn(2, filters, size).to(dtype) * 0.1 + 0.05
    alone = run_standardize(library, w, dy, 1)
    leaf = w.double().requires_grad_()
    exact = standardized(leaf, GAIN)
    exact.backward(dy.double())
    limit, _ = TOLERANCE[dtype]
    assert difference(alone[0], exact.detach()) < limit
    # Of two elements, nothing but rounding is left of the gradient.
    assert difference(alone[1], leaf.grad) < limit * (1 if size > 2 else 1e3)
    for threads in (2, 3):
        for a, b in zip(run_standardize(library, w, dy, threads), alone, strict=True):
            assert same_bits(a, b)


GAIN = 0.7


def run_standardize(library, w, dy, threads):
    """Return standardized filters, the gradient of the given ones, and the tables."""
    out, dw = torch.full_like(w, torch.nan), torch.full_like(w, torch.nan)
    saved = torch.full((len(w), 2), torch.nan, dtype=torch.float64)
    common = {
        "w": pointer(w),
        "saved": pointer(saved),
        "filters": len(w),
        "elements": w.shape[1],
        "bfloat16": w.dtype == torch.bfloat16,
        "eps": EPS,
        "gain": GAIN,
    }
    call(library.standardize, Standardize(**common, out=pointer(out)), threads)
    backward = Standardize(**common, out=pointer(dw), gradient=pointer(dy))
    call(library.standardize_backward, backward, threads)
    return out, dw, saved


@each_layout
@each_type
@pytest.mark.parametrize("threads", [1, 3])
def test_passes_alone(library, threads, dtype, last):
    """Each of the four, over tables that it is given."""
    for shape, groups in SHAPES:
        case = Case(shape, groups, dtype=dtype, channels_last=last, mean=30.0)
        slope, offset, q, r = torch.randn(4, *shape[:2], dtype=torch.float64)
        mu, v, s, t = torch.full((4, *shape[:2]), torch.nan, dtype=torch.float64)
        y, dx = (torch.full_like(case.x, torch.nan) for _ in range(2))

        def run(function, case=case, mu=mu, v=v, **tensors):
            given = {"x": case.x, "dy": case.dy, "mu": mu, "v": v, **tensors}
            sizes = {k: n for k, n in case.common().items() if k in dict(SIZES)}
            pointers = {name: pointer(tensor) for name, tensor in given.items()}
            call(function, Pass(**sizes, **pointers), threads)

        run(library.measure)
        run(library.apply, out=y, slope=slope, offset=offset)
        run(library.sums, s=s, t=t)
        run(library.combine, out=dx, slope=slope, q=q, r=r)
        x, dy = case.x.double(), case.dy.double()
        center = x - x.mean(2, keepdim=True)
        slope, offset, q, r = (table[..., None] for table in (slope, offset, q, r))
        limit, _ = TOLERANCE[dtype]
        assert difference(mu, x.mean(2)) < 1e-7
        assert difference(v, center.square().mean(2)) < 1e-6
        assert difference(y, slope * center + offset) < limit
        assert difference(s, dy.sum(2)) < 1e-6
        assert difference(t, (dy * center).sum(2)) < 2e-6
        assert difference(dx, slope * dy + q * center + r) < limit
