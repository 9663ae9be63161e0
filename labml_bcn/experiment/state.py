"""What a checkpoint holds: everything that decides how a run goes on."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from labml_bcn.experiment import diagnose, ranks
from labml_bcn.experiment.machine import peak_memory
from labml_bcn.experiment.outcome import NONFINITE_LOSS, NONFINITE_WEIGHTS, RunError
from labml_bcn.experiment.run_folder import UNREADABLE, RunFolder
from labml_bcn.experiment.run_log import Measures, Point

# How a gradient becomes a step, by name.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    ),
    "adam": (torch.optim.Adam, {}),
}

# A run that goes on from its checkpoint comes to the same point again.
START_ANOTHER = "Start another run, with a lower --lr for instance"


class Meter:
    """Loss, hits and images since the last reading, summed up on the device."""

    def __init__(self, device: torch.device | str) -> None:
        self.sums = torch.zeros(3, device=device)
        self.last = torch.zeros((), device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: its loss, its hits and its images."""
        self.last = loss.detach()
        hits = (logits.argmax(1) == labels).sum()
        self.sums[0] += loss * len(labels)
        self.sums[1] += hits
        self.sums[2] += len(labels)

    def read(self, images: int) -> Point:
        """Return the averages over all processes, and start anew."""
        loss, hits, count = ranks.sum_over_ranks(self.sums).tolist()
        self.sums.zero_()
        return Point(images, loss / count, hits / count)

    def peek(self, images: int) -> Point:
        """Return the averages of this process alone, and go on."""
        loss, hits, count = self.sums.tolist()
        return Point(images, loss / max(count, 1), hits / max(count, 1))


@contextmanager
def own_generator(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back at the end.

    A layer that draws, as dropout does, takes from them. So what it draws follows from
    the run's seed, whatever the caller has drawn before.
    """
    before = diagnose.random_states()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        diagnose.set_random_states(before)


class State:
    """The state of a run between two steps.

    Weights, running statistics, the optimizer's momentum, the scale of a float16 loss,
    random states, and the sums for the next point of the curve. The order of the images
    and the learning rate are functions of the step, and need not be kept.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        amp: bool,
        optimizer: str,
    ) -> None:
        self.model, self.device = model, device
        make, options = OPTIMIZERS[optimizer]
        self.optimizer = make(model.parameters(), **options)
        self.kind, self.amp = torch.device(device).type, amp
        self.half = torch.bfloat16 if self.kind == "cpu" else torch.float16
        self.scaler = torch.amp.GradScaler(
            self.kind, enabled=amp and self.half is torch.float16
        )
        self.meter = Meter(device)
        self.before = diagnose.PassState(model)
        self.seconds = 0.0

    def set_rate(self, lr: float) -> None:
        """Give the optimizer the learning rate of this step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def measures(self) -> Measures:
        """Return what there is to know about the step that was just taken."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(grad.float()) for grad in grads]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(1)
        return Measures(
            self.optimizer.param_groups[0]["lr"],
            norm.item(),
            self.meter.last.item(),
            peak_memory(self.device),
        )

    def precision(self) -> torch.autocast:
        """Return the context of half precision, idle unless it was asked for."""
        return torch.autocast(self.kind, self.half, enabled=self.amp)

    def save(self, folder: RunFolder | None, step: int) -> None:
        """Write a checkpoint. All processes take part, and the first one writes.

        Raises `RunError` if it cannot be written, or if a weight is not finite, which
        nobody could go on from.
        """
        if folder is None:
            return
        bad = diagnose.first_nonfinite_tensor(self.model)
        if ranks.any_rank(bool(bad), self.device):
            raise RunError(
                f"after step {step:,}, {bad or 'in another process, values'} are not"
                " finite",
                f"{folder.last_good_checkpoint()} {START_ANOTHER}",
                reason=NONFINITE_WEIGHTS,
                step=step,
            )
        own = ranks.gather_states(self._own())
        if ranks.rank() == 0:
            folder.save(step, self._shared_state() | {"processes": own})

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take over what a checkpoint holds.

        Raises `RunError` if it is another network's or that of another number of
        processes, or if something is missing.
        """
        try:
            self._load(checkpoint)
        except UNREADABLE as error:
            what = textwrap.shorten(str(error), 250)
            raise RunError(
                "the checkpoint must hold the state of this run, but does not:"
                f" {type(error).__name__}: {what}. Another version of labml_bcn wrote"
                " it: go on with that one, or start anew in another folder",
                reason="checkpoint_unknown",
            ) from error

    def _load(self, checkpoint: dict[str, Any]) -> None:
        processes = checkpoint["processes"]
        if len(processes) != ranks.size():
            raise RunError(
                f"the run has {len(processes)} processes, but now there are"
                f" {ranks.size()}: go on with as many as before"
            )
        # As a plain dict, which names no versions: in those of version 0.1 weights
        # that were trained to be standardized look as if they were not.
        try:
            self.model.load_state_dict(dict(checkpoint["model"]))
        except RuntimeError as error:
            what = textwrap.shorten(str(error), 250)
            raise RunError(
                f"the run has another network: {what} Another version of labml_bcn"
                " wrote it: go on with that one"
            ) from error
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.seconds = checkpoint["seconds"]
        own = processes[ranks.rank()]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(own["buffers"][name])
        diagnose.set_random_states(own["random"])
        self.meter.sums.copy_(own["meter"])

    def _shared_state(self) -> dict[str, Any]:
        # What is the same in all processes.
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seconds": self.seconds,
        }

    def _own(self) -> dict[str, Any]:
        # What each process has for itself.
        return {
            "buffers": dict(self.model.named_buffers()),
            "random": diagnose.random_states(),
            "meter": self.meter.sums,
        }

    def divergence(
        self, step: int, loss: Tensor, x: Tensor, folder: RunFolder | None
    ) -> RunError:
        """Return the error for a loss that is NaN or infinite: its step and layer."""
        # All processes run the batch again: their norms may talk to each other.
        self.before.restore()
        with self.precision():
            place = diagnose.first_nonfinite_layer(self.model, lambda: self.model(x))
        if loss.isfinite():
            what = "the loss of another process is not finite"
        else:
            what = f"the loss is {loss.item()}: {place}"
        last = folder.last_good_checkpoint() if folder else "Nothing was kept."
        return RunError(
            f"in step {step:,} {what}",
            f"{last} {START_ANOTHER}",
            reason=NONFINITE_LOSS,
            step=step,
        )
