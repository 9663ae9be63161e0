"""Which kernels there are: C++ for the CPU, Triton for CUDA."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from labml_bcn._autograd import takes_operators
from labml_bcn.native import cuda
from labml_bcn.native.cpu import CPU
from labml_bcn.native.library import NotLoadedError, load


class Backend(Protocol):
    """The kernels of one device, as functions of tensors.

    Their arguments are those of the operators, see the schemas in operators.py. A
    weight may be `None`, for ones or zeros. `saved` is what the backward pass needs, in
    a form of the backend's own.
    """

    def takes(self, x: Tensor) -> bool:
        """Return whether the kernels know this dtype."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the output and what the backward pass needs."""

    def backward(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the residual and the four weights.

        Those of the weights are in float32. What nobody wants is `None`.
        """

    def standardize(self, w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
        """Return the standardized filters and what the backward pass needs."""

    def standardize_backward(
        self, gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
    ) -> Tensor:
        """Return the gradient of the filters."""

    def statistics_of(
        self, saved: Tensor, channels: int, eps_c: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and variance that the batch norm normalized with."""

    def empty_tables(self, x: Tensor) -> Tensor:
        """Return a tensor of the form that `forward` saves."""

    def empty_filter_tables(self, w: Tensor) -> Tensor:
        """Return a tensor of the form that `standardize` saves."""


class Path(NamedTuple):
    """What computes on one kind of device, and how or why."""

    native: bool
    detail: str

    def __str__(self) -> str:
        """Return it in a few words."""
        kind = "native kernels" if self.native else "PyTorch's operations"
        return f"{kind} ({self.detail})"


class Status(NamedTuple):
    """What computes on the CPU, and on CUDA devices."""

    cpu: Path
    cuda: Path

    def __str__(self) -> str:
        """Return a line for each."""
        return f"CPU: {self.cpu}\nCUDA: {self.cuda}"


def find_cpu() -> tuple[CPU | None, Path]:
    """Load the kernels for the CPU, or find out why they do not load."""
    try:
        library = load()
    except NotLoadedError as error:
        return None, Path(False, str(error))
    return CPU(library), Path(True, f"C++, {library.instructions}")


def find_cuda() -> tuple[Backend | None, Path]:
    """Return the kernels for CUDA devices, or why there are none."""
    if os.environ.get("LABML_BCN_NATIVE") == "0":
        return None, Path(False, "the environment variable LABML_BCN_NATIVE is 0")
    if obstacle := cuda.find_obstacle():
        return None, Path(False, obstacle)
    return cuda, Path(True, "Triton")


on_cpu, CPU_PATH = find_cpu()
on_cuda, CUDA_PATH = find_cuda()
BACKENDS: dict[str, Backend] = {}
if on_cpu:
    BACKENDS["cpu"] = on_cpu
if on_cuda:
    BACKENDS["cuda"] = on_cuda
# How many `with disabled()` blocks run now, in whatever thread.
_disabled = 0


def of(x: Tensor) -> Backend:
    """Return the kernels for a tensor's device."""
    return BACKENDS[x.device.type]


def takes(x: Tensor) -> bool:
    """Return whether there are kernels for a tensor like this one, as of now."""
    backend = BACKENDS.get(x.device.type)
    return (
        not _disabled
        and backend is not None
        and takes_operators(x)
        and backend.takes(x)
    )


def status() -> Status:
    """Return what computes on the CPU and on CUDA devices, and why.

    Inputs that the kernels do not know take PyTorch's operations in any case.
    """
    if _disabled:
        off = Path(False, "turned off by labml_bcn.native.disabled()")
        return Status(off, off)
    # Not asked before: a process that has asked cannot be forked to use the device.
    if not torch.cuda.is_available():
        return Status(CPU_PATH, Path(False, "there is no CUDA device"))
    return Status(CPU_PATH, CUDA_PATH)


@contextmanager
def disabled() -> Iterator[None]:
    """Compute with PyTorch's operations alone, inside of a `with` block.

    It holds for all threads.
    """
    global _disabled
    _disabled += 1
    try:
        yield
    finally:
        _disabled -= 1
