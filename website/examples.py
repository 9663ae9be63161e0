"""Examples that facing runs to show shapes on the layers' pages.

Each function is called once with each set of sizes, and a page shows beside a
line which shapes it had. Those in `STEPS` are called once, and the page of the
function that they call shows its numbers, too.
"""

from collections.abc import Iterator

import torch
from torch import nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    WSConv1d,
    batch_channel_norm,
    native,
    weight_standardization,
)
from labml_bcn.bake import bake
from labml_bcn.batch_channel_norm import batch_channel_norm_stepwise
from labml_bcn.weight_standardization import weight_standardization_stepwise

# No two sizes are equal in all three sets, so that each can be told from the
# others. B, C, L and G are as on the pages, O counts filters, K is the length
# of a kernel.
SIZES = [
    {"B": 2, "G": 3, "C": 12, "L": 35, "O": 8, "K": 5},
    {"B": 3, "G": 4, "C": 20, "L": 22, "O": 6, "K": 3},
    {"B": 5, "G": 2, "C": 14, "L": 9, "O": 10, "K": 7},
]

# D channels make a group, I weights a filter.
DERIVED = {
    "D": "C // G",
    "I": "C * K",
    "B·C": "B * C",
    "D·L": "C // G * L",
    "2·C·(B+1)": "2 * C * (B + 1)",
}


def batch_norm(B, C, L):
    """Train for a step with batch norm, then evaluate."""
    layer = BatchNorm(C)
    layer(torch.randn(B, C, L))
    layer.eval()(torch.randn(B, C, L))


def step_by_step(B, C, G, L):
    """The whole layer as a function, around either mean."""
    scale, shift = torch.ones(C), torch.zeros(C)
    weights = (scale, shift, torch.ones(G), torch.zeros(G))
    for around in ("batch_mean", "running_mean"):
        batch_channel_norm_stepwise(
            torch.randn(B, C, L),
            torch.zeros(C),
            torch.ones(C),
            weights,
            G,
            variance_around=around,
        )


def estimated_batch_norm(B, C, L):
    """Do the same with estimates, around either mean."""
    for around in ("batch_mean", "running_mean"):
        layer = EstimatedBatchNorm(C, variance_around=around)
        layer(torch.randn(B, C, L))
        layer.eval()(torch.randn(B, C, L))


def channel_norm(B, C, G, L):
    """Normalize over groups of channels."""
    ChannelNorm(C, G)(torch.randn(B, C, L))


def on_every_path() -> Iterator[None]:
    """Yield once as it is, and once without kernels, whether they are there or not."""
    yield
    with native.disabled():
        yield


def batch_channel_norm_in_turn(B, C, G, L):
    """Apply both norms, one after the other, for one of them is watched."""
    layer = BatchChannelNorm(C, G)
    layer.channel_norm.register_forward_hook(lambda *_: None)
    layer(torch.randn(B, C, L))


def fused(B, C, G, L):
    """Apply both norms in one map, forward and backward, with what may follow."""
    for _ in on_every_path():
        for estimate in (True, False):
            layer = BatchChannelNorm(C, G, estimate=estimate, activation="relu")
            for residual in (None, torch.randn(B, C, L)):
                x = torch.randn(B, C, L, requires_grad=True)
                layer(x, residual).sum().backward()
        with torch.no_grad():
            layer.eval()(torch.randn(B, C, L))


def functional_form(B, C, G, L):
    """Call the norm as a function."""
    batch_channel_norm(
        torch.randn(B, C, L),
        torch.zeros(C),
        torch.ones(C),
        (torch.ones(C), torch.zeros(C), torch.ones(G), torch.zeros(G)),
        groups=G,
        training=True,
        residual=torch.randn(B, C, L),
    )


def gradient_of_a_gradient(B, C, G, L):
    """Differentiate a gradient, of the norm and of a standardized weight."""
    for _ in on_every_path():
        x = torch.randn(B, C, L, requires_grad=True)
        y = BatchChannelNorm(C, G, activation="relu")(x).square().sum()
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        dx.square().sum().backward()


def standardized_step_by_step(O, C, K):  # noqa: E741
    """Standardize a weight as the formulas say it."""
    weight_standardization_stepwise(torch.randn(O, C, K))


def standardized_weight(O, C, K):  # noqa: E741
    """Standardize a weight of a convolution, forward and backward."""
    for _ in on_every_path():
        for correction in (0, 1):
            weight = torch.randn(O, C, K, requires_grad=True)
            standard = weight_standardization(weight, correction=correction)
            standard.sum().backward(retain_graph=True)
            torch.autograd.grad(standard.sum(), weight, create_graph=True)


def standardized_convolution(B, C, L, O, K):  # noqa: E741
    """Train a convolution that standardizes its weight, then evaluate."""
    layer = WSConv1d(C, O, K, padding="same")
    layer(torch.randn(B, C, L))
    with torch.no_grad():
        layer.eval()(torch.randn(B, C, L))


def baked_network(C, G, O, K):  # noqa: E741
    """Bake a norm behind a convolution, and each of the two alone."""
    convolution, norm = nn.Conv1d(O, C, K), BatchChannelNorm(C, G)
    bake(nn.Sequential(convolution, norm).eval())
    bake(WSConv1d(C, O, K).eval())
    bake(BatchChannelNorm(C, G).eval())


# ---- What is stepped through with numbers ----------------------------------

# Two images, four channels in two groups, three positions. Each channel has a
# variance of 1 over both images, so that the numbers stay short.
IMAGES = torch.tensor(
    [
        [[1.0, 2, 2], [1, 2, 1], [-1, 1, -1], [1, 0, 3]],
        [[1.0, 4, 2], [-1, 2, 1], [1, 1, -1], [1, 0, 1]],
    ]
)

# The estimates of a long training.
MEAN, VAR = torch.tensor([1.5, 1, 0.5, 1]), torch.tensor([4.0, 1, 1, 4])


def _step(
    images: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, momentum: float
) -> None:
    """Call the norm as it is at the start: all scales 1, all shifts 0."""
    weights = torch.ones(4), torch.zeros(4), torch.ones(2), torch.zeros(2)
    batch_channel_norm_stepwise(images, mean, var, weights, 2, momentum=momentum)


def training() -> None:
    """The first step: the running means begin at 0, the variances at 1."""
    _step(IMAGES, torch.zeros(4), torch.ones(4), momentum=0.1)


def evaluation() -> None:
    """After a long training: at momentum 0 the estimates stay, whatever the batch."""
    _step(IMAGES, MEAN, VAR, momentum=0)


def one_low_channel() -> None:
    """In evaluation, with a last channel that always was 8 lower: z is as before."""
    low = torch.tensor([0, 0, 0, 8])
    _step(IMAGES - low[:, None], MEAN - low, VAR, momentum=0)


def one_bright_image() -> None:
    """In evaluation: the second image is four times as bright; y hardly differs."""
    _step(IMAGES * torch.tensor([1, 4])[:, None, None], MEAN, VAR, momentum=0)


STEPS = {
    batch_channel_norm_stepwise: [
        *(training, evaluation),
        *(one_low_channel, one_bright_image),
    ]
}
