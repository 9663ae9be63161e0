"""The running statistics of a whole model.

PyTorch's own functions for this look for PyTorch's own norms. In a model of these
layers they find nothing, and say nothing. Here is what to use instead

- of `isinstance(module, _BatchNorm)`: `isinstance(module, NORMS)`,
- of `torch.optim.swa_utils.update_bn`: `update_statistics`,
- of `module.eval()` after every `model.train()`: `freeze_statistics`,
- of `SyncBatchNorm.convert_sync_batchnorm`: `share_statistics`.

`update_statistics` and `freeze_statistics` see to PyTorch's batch norms in the same
model, too, so that one call is enough.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bcn._checks import require_channels_first
from labml_bcn._distributed import require_process_group
from labml_bcn._modules import require_module
from labml_bcn._norms import (
    NORMS,
    Norm,
    copy_statistics,
    require_tracking_norms,
)
from labml_bcn._numerics import statistics_dtype
from labml_bcn.batch_channel_norm import EstimatedBatchNorm
from labml_bcn.batch_norm import BatchNorm

__all__ = ["NORMS", "freeze_statistics", "share_statistics", "update_statistics"]


# Anew, from batches


@torch.no_grad()
def update_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
) -> None:
    """Replace the running statistics of a model by averages over batches.

    That is what `torch.optim.swa_utils.update_bn` does, here for this package's norms
    and for PyTorch's. Weights that were averaged need it, and an evaluation that is
    not to depend on the momentum.

    The model runs in training mode, without gradients. A plain batch norm normalizes
    each batch with its own statistics, an estimating one with the averages so far. At
    the start these are rough, and the layers behind learn from that as well: let there
    be a hundred batches, rather than ten.

    Every batch counts the same, as in training and in `update_bn`. Let all be of one
    size, for instance with `drop_last=True`. With `variance_around="batch_mean"` the
    variance is the average of those within the batches. With `"running_mean"` it is
    that of all values, the distances between the batches included.

    A batch that is not finite in a channel is left out there. A norm that no batch
    reaches keeps its statistics, and so does one that is frozen by
    `freeze_statistics`. If processes share their statistics, each has to bring the
    same number of batches.

    **Arguments**

    - `model`: the model. Its modes and momenta are as before in the end.
    - `batches`: what a data loader gives: tensors; lists or tuples that begin with the
      input, such as `(input, target)`; or mappings of keyword arguments. An input
      that is a mapping itself stands in a list or a tuple.
    - `device`: where to send the inputs. By default they stay where they are.

    **Raises**

    - `TypeError`: if `model` is no module, or `batches` no iterable of batches.
    - `ValueError`: if there is no norm to update, no batch, or no batch that a norm
      could learn from.

    After these errors, and after any of the model or the loader, the statistics are as
    they were.
    """
    norms = require_tracking_norms(model)
    frozen = {part for module in frozen_modules(model) for part in module.modules()}
    if not (norms := [norm for norm in norms if norm not in frozen]):
        raise ValueError(
            "model must hold a norm that is not frozen, got frozen ones alone; call "
            "freeze_statistics(model, False) first"
        )
    require_batches(batches)
    with undone_by_an_error(norms), averaging(model, norms) as averages, eagerly():
        number = 0
        for batch in batches:
            run(model, batch, device)
            number += 1
        require_learned(averages, number)


def require_batches(batches: Iterable[Any]) -> None:
    """Raise unless this can be a number of batches."""
    if isinstance(batches, Tensor | nn.Module | Mapping | str | bytes) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise TypeError(
            "batches must be an iterable of batches, got "
            f"{type(batches).__name__}; pass a data loader, or one batch as [batch]"
        )


def run(model: nn.Module, batch: Any, device: torch.device | str | None) -> None:
    """Run a model on what a loader gives."""
    if isinstance(batch, list | tuple):
        if not batch:
            raise ValueError(
                f"a batch must begin with the model's input, got {batch!r}; have the "
                "loader give tensors or (input, target)"
            )
        model(batch[0] if device is None else send(batch[0], device))
    elif isinstance(batch, Mapping):
        model(**(batch if device is None else send(batch, device)))
    else:
        model(batch if device is None else send(batch, device))


def send(batch: Any, device: torch.device | str) -> Any:
    """Return a batch on a device, with all tensors that it is made of."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: send(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [send(value, device) for value in batch]
    return batch


def require_learned(averages: "list[Average]", number: int) -> None:
    """Raise unless one of the norms has learned from one of the batches."""
    if not number:
        raise ValueError(
            "batches must hold one batch at least, got none; a generator can be used "
            "only once"
        )
    if not any(average.has_learned() for average in averages):
        raise ValueError(
            f"a batch must reach a norm with finite values, got {number} of which none "
            "did; look at the data, and whether the model calls its norms"
        )


@contextmanager
def undone_by_an_error(norms: list[Norm]) -> Iterator[None]:
    """Put the statistics back if what is inside fails."""
    before = copy_statistics(norms)
    try:
        yield
    except BaseException:
        for norm, old in zip(norms, before, strict=True):
            for name, value in old.items():
                if value is not None:
                    norm.get_buffer(name).copy_(value)
        raise


@contextmanager
def averaging(model: nn.Module, norms: list[Norm]) -> "Iterator[list[Average]]":
    """Have norms average what they meet, in a model in training mode."""
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    averages: list[Average] = [
        OwnAverage(norm) if isinstance(norm, BatchNorm) else PyTorchsAverage(norm)
        for norm in norms
    ]
    handles = []
    try:
        model.train()
        for norm, average in zip(norms, averages, strict=True):
            # A model's own `train` may have left the norm as it was.
            norm.training = True
            norm.momentum = average.momentum
            handles.append(norm.register_forward_pre_hook(average, with_kwargs=True))
        yield averages
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


class OwnAverage:
    """Averages for one of our norms, which are put into it before each call.

    The norm itself runs at a momentum of 0: it normalizes as in training, and moves
    nothing.
    """

    momentum = 0.0

    def __init__(self, norm: BatchNorm) -> None:
        mean, var = norm.running_statistics()
        # A channel leaves out the batches that are not finite there, so each counts
        # for itself.
        self.count = torch.zeros_like(mean)
        self.mean, self.var = torch.zeros_like(mean), torch.zeros_like(var)

    def has_learned(self) -> bool:
        """Return whether any batch has counted."""
        return bool(self.count.any())

    def __call__(
        self, norm: BatchNorm, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Learn from the input of a norm."""
        x = args[0] if args else kwargs["x"]
        require_channels_first(x, norm.channels)
        x = x.to(statistics_dtype(x))
        mean, var, count = norm.batch_statistics(x)
        if norm.is_empty_batch(x, count):
            return
        # What a norm keeps: the biased variance if it estimates, else the unbiased.
        if not isinstance(norm, EstimatedBatchNorm):
            var = var * (count / (count - 1))
        whole = getattr(norm, "variance_around", None) == "running_mean"
        self.add(mean.to(self.mean.dtype), var.to(self.var.dtype), whole)
        assert norm.exp_mean is not None
        assert norm.exp_var is not None
        learned = self.count > 0
        norm.exp_mean.copy_(torch.where(learned, self.mean, norm.exp_mean))
        norm.exp_var.copy_(torch.where(learned, self.var, norm.exp_var))

    def add(self, mean: Tensor, var: Tensor, whole: bool) -> None:
        """Let the statistics of one more batch count, where they are finite.

        The whole variance is that within the batches plus that between them. It grows
        by the distance of the new batch from the old mean times its distance from the
        new one: their average is exact, where the square of either is not. The first
        batch has no others that it could be distant from.
        """
        count = self.count + 1
        distance = mean - self.mean
        new_mean = self.mean + distance / count
        if whole:
            var = var + distance * (mean - new_mean)
        new_var = self.var + (var - self.var) / count
        finite = new_mean.isfinite() & new_var.isfinite()
        self.count = torch.where(finite, count, self.count)
        self.mean = torch.where(finite, new_mean, self.mean)
        self.var = torch.where(finite, new_var, self.var)


class PyTorchsAverage:
    """Has one of PyTorch's norms average by itself, which a momentum of `None` does."""

    momentum = None

    def __init__(self, norm: _BatchNorm) -> None:
        self.started = False

    def has_learned(self) -> bool:
        """Return whether any batch has come."""
        return self.started

    def __call__(self, norm: _BatchNorm, *_: Any) -> None:
        """Start anew at the first batch."""
        if not self.started:
            norm.reset_running_stats()
            self.started = True


Average: TypeAlias = OwnAverage | PyTorchsAverage


def eagerly() -> AbstractContextManager[Any]:
    """Have compiled parts of a model run as they are written.

    A program that is compiled already does not know the hooks.
    """
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


# Frozen


def freeze_statistics(model: nn.Module, frozen: bool = True) -> int:
    """Hold the running statistics of a model still while the rest of it trains.

    The norms stay in evaluation mode, where they normalize with their statistics and
    learn none, also after `model.train()`. Scale and shift go on learning. It holds
    for the batch norms of PyTorch in the model as well, and for copies and pickles of
    the model. The state dict is the same.

    **Arguments**

    - `model`: the model.
    - `frozen`: `False` has the norms learn again. Each takes the mode of the module
      that holds it.

    **Returns** the number of norms with running statistics.

    **Raises**

    - `TypeError`: if `model` is no module.
    - `ValueError`: if it holds no norm with running statistics.
    """
    if not isinstance(frozen, bool):
        raise TypeError(
            f"frozen must be True or False, got {frozen!r} ({type(frozen).__name__}); "
            "pass one of the two"
        )
    norms = require_tracking_norms(model)
    if frozen:
        for norm in norms:
            norm.eval()
            vars(norm)["train"] = partial(stay_in_evaluation, norm)
        return len(norms)
    thawed = frozen_modules(model)
    for module in thawed:
        del vars(module)["train"]
    for holder in model.modules():
        for child in holder.children():
            if child in thawed:
                child.train(holder.training)
    return len(norms)


def stay_in_evaluation(norm: nn.Module, mode: bool = True) -> nn.Module:
    """Stand for a frozen norm's `train`, which `model.train()` calls."""
    return norm


def frozen_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules of a model that are frozen.

    They are norms, or what a frozen norm was converted to: that has norms inside.
    """
    return {
        module
        for module in model.modules()
        if getattr(vars(module).get("train"), "func", None) is stay_in_evaluation
    }


# Shared by several processes


def share_statistics(model: nn.Module, process_group: Any) -> int:
    """Measure the batches of a model's norms over all processes of a group.

    That is what `SyncBatchNorm.convert_sync_batchnorm` does for PyTorch's norms, which
    are left alone here. Parameters and statistics stay as they are.

    **Arguments**

    - `model`: the model.
    - `process_group`: a group that this process belongs to, such as
      `torch.distributed.group.WORLD` (which is `None` until
      `init_process_group` was called); or `None`, for each process to measure
      its own.

    **Returns** the number of norms that measure batches.

    **Raises**

    - `TypeError`: if `model` is no module, or `process_group` no group that this
      process belongs to.
    - `ValueError`: if the model holds none of these norms.
    """
    require_module(model)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if not norms:
        raise ValueError(
            f"model must hold norms of labml_bcn, got a {type(model).__name__} without "
            "one; PyTorch's are shared by torch.nn.SyncBatchNorm."
            "convert_sync_batchnorm(model), and labml_bcn.convert(model) makes ours of "
            "them"
        )
    group = require_process_group(process_group)
    for norm in norms:
        norm.process_group = group
    return len(norms)
