"""The functions that launch Triton kernels, run by Triton's interpreter on the CPU.

Triton decides between compiler and interpreter when it is imported, once for a process.
Whether another test has imported it must not matter, and so the interpreter has a
process of its own.
"""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from torch import Tensor


class Interpreter:
    """Stands in for `labml_bcn.native.cuda`: takes CPU tensors, and changes them."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=interpret)

    def __getattr__(self, name: str) -> Any:
        return partial(self.call, name)

    def call(self, name: str, *args: Any) -> Any:
        """Call a function there, and take over what it did to its arguments."""
        done = self.pool.submit(call, name, pickle.dumps(args)).result()
        result, changed = pickle.loads(done)
        for arg, new in zip(args, changed, strict=True):
            if isinstance(arg, Tensor):
                arg.copy_(new)
        return result


def interpret() -> None:
    """Choose the interpreter, before anything imports Triton."""
    os.environ["TRITON_INTERPRET"] = "1"


def call(name: str, pickled: bytes) -> bytes:
    """Call a function; return its result, and the arguments as it left them."""
    from labml_bcn.native import cuda

    args = pickle.loads(pickled)
    return pickle.dumps((getattr(cuda, name)(*args), args))
