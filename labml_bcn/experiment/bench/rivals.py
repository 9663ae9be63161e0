"""The rivals of a race: batch-channel norm in each of its forms, and others."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from labml_bcn import BatchChannelNorm, native
from labml_bcn.experiment.bench.naive import NaiveBatchChannelNorm


class InOperations(nn.Module):
    """A layer without its kernels, as it is where they were not built.

    How the gradient is computed is settled on the way forward.
    """

    def __init__(self, layer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the layer with its kernels turned off."""
        with native.disabled():
            return self.layer(*inputs)


class InTurn(BatchChannelNorm):
    """The two norms one after the other, as if somebody watched them."""

    def shows_its_norms(self, first: nn.Module, second: nn.Module) -> bool:
        """Return that they run as layers of their own."""
        return True


class Copy(nn.Module):
    """The least that a layer can do: read the input, and write an output."""

    def forward(self, x: Tensor) -> Tensor:
        """Copy `x`."""
        return x.clone()


def build_rivals(
    channels: int, groups: int, relu: bool = False
) -> dict[str, nn.Module]:
    """Return the layers, each with its default settings, for [B, C, H, W].

    The pair comes first: it is what the others are divided by. If `relu`, a ReLU
    follows each of them: a layer of its own where the norm has none inside.
    """
    activation = "relu" if relu else None
    ours = partial(BatchChannelNorm, channels, groups, activation=activation)
    after = [nn.ReLU()] if relu else []
    pair = nn.Sequential(
        nn.BatchNorm2d(channels), nn.GroupNorm(groups, channels), *after
    )
    return {
        "pair": pair,
        "kernels": ours(),
        "operations": InOperations(ours()),
        "in turn": InTurn(channels, groups, activation=activation),
        "naive": NaiveBatchChannelNorm(channels, groups, activation=activation),
        "batch norm": nn.Sequential(nn.BatchNorm2d(channels), *after),
        "group norm": nn.Sequential(nn.GroupNorm(groups, channels), *after),
        "copy": Copy(),
    }


def kernels_take(layer: BatchChannelNorm, x: Tensor) -> bool:
    """Return whether the kernels take an input of this layer."""
    norm = layer.batch_norm
    assert norm.exp_mean is not None
    assert norm.exp_var is not None
    return native.takes(x, None, (), (norm.exp_mean, norm.exp_var))
