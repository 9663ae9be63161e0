"""The library of C++ kernels: where it lies, whether it runs, and its functions."""

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from labml_bcn._versions import OLDEST_WITH_KERNELS

SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
FILE = Path(__file__).with_name(f"_kernels{SUFFIX}")
# What `bcn_interface` in src/interface.h must return.
INTERFACE = 1

# Takes packed arguments, and a number of threads.
Kernel = Callable[[bytes, int], int]


class Library(NamedTuple):
    """The kernels, and the instruction set that they were chosen for."""

    instructions: str
    forward: Kernel
    backward: Kernel
    standardize: Kernel
    standardize_backward: Kernel
    measure: Kernel
    apply: Kernel
    sums: Kernel
    combine: Kernel


class NotLoadedError(Exception):
    """Why there are no kernels, in words for whoever asks for the status."""


def load() -> Library:
    """Load the library; raise `NotLoadedError` with the reason if that cannot be."""
    if os.environ.get("LABML_BCN_NATIVE") == "0":
        raise NotLoadedError("the environment variable LABML_BCN_NATIVE is 0")
    given = os.environ.get("LABML_BCN_LIBRARY")
    path = Path(given) if given else FILE
    if given and not path.exists():
        raise NotLoadedError(
            f"LABML_BCN_LIBRARY is {given}, and there is no such file; unset it to use "
            "what was installed"
        )
    if not path.exists():
        raise NotLoadedError(
            "this installation has no library of kernels; install a C++ compiler "
            "(g++ or clang++), then install labml-bcn again"
        )
    try:
        library = ctypes.CDLL(str(path))
        interface = library.bcn_interface()
    except (OSError, AttributeError) as error:
        raise NotLoadedError(f"{path.name} cannot be loaded: {error}") from None
    if interface != INTERFACE:
        raise NotLoadedError(
            f"{path.name} was built from other sources (its interface is {interface}, "
            f"not {INTERFACE}); install labml-bcn again"
        )
    library.bcn_use_threads_of(find_parallel_for())
    library.bcn_instructions.restype = ctypes.c_char_p
    kernels = [
        declare(library, name) for name in Library._fields if name != "instructions"
    ]
    return Library(library.bcn_instructions().decode(), *kernels)


def declare(library: ctypes.CDLL, name: str) -> Kernel:
    """Return a function of the library, with the types of its arguments."""
    function = getattr(library, f"bcn_{name}")
    function.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    function.restype = ctypes.c_int64
    kernel: Kernel = function
    return kernel


def find_parallel_for() -> ctypes.c_void_p:
    """Return the address of PyTorch's own loop over threads.

    Older versions have no plain C symbol for it. With a pool of their own, the kernels
    would fight with PyTorch's threads for the same cores.
    """
    prefix = "" if platform.system() == "Windows" else "lib"
    name = f"{prefix}torch_cpu{SUFFIX}"
    try:
        loop = ctypes.CDLL(str(Path(torch.__path__[0]) / "lib" / name))
        return ctypes.cast(loop.torch_parallel_for, ctypes.c_void_p)
    except (OSError, AttributeError):
        raise NotLoadedError(
            f"PyTorch {torch.__version__} does not lend its threads; the kernels "
            f"need PyTorch {OLDEST_WITH_KERNELS} or newer"
        ) from None
