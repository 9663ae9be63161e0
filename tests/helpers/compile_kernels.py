"""Compile the Triton kernels for a GPU that need not be there.

    python compile_kernels.py 90

The functions that launch them run on CPU tensors. What they would launch is compiled
for the capability that is asked for, and nothing is launched.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from labml_bcn.native import cuda, triton_kernels

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Compiled:
    """A kernel that compiles where others launch."""

    def __init__(self, kernel, capability):
        self.kernel = kernel
        self.target = GPUTarget("cuda", capability, 32)

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *args, **constants):
        names = self.kernel.arg_names
        values = dict(zip(names, args, strict=False)) | constants
        signature = {name: type_of(name, values[name], constants) for name in names}
        fixed = {n: values[n] for n in names if signature[n] == "constexpr"}
        source = ASTSource(self.kernel, signature, fixed)
        options = {n: v for n, v in constants.items() if n not in names}
        result = triton.compile(source, target=self.target, options=options)
        assert result.asm["cubin"]
        name, threads = self.kernel.__name__, 32 * result.metadata.num_warps
        print(name, self.target.arch, threads, result.metadata.shared)


def type_of(name, value, constants):
    """The type of an argument, as Triton writes it."""
    if name in constants or value is None:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


class Kernels:
    """All kernels, compiled for one capability."""

    def __init__(self, capability):
        self.capability = capability

    def __getattr__(self, name):
        return Compiled(getattr(triton_kernels, name), self.capability)


def run_all(dtype, last, residual, relu, how):
    """Call each function once."""
    x = torch.zeros(2, 64, 8, 32, dtype=dtype)
    if last:
        x = x.to(memory_format=torch.channels_last)
    added = x.clone() if residual else None
    weights = [None] * 4 if residual else [torch.ones(n) for n in (64, 64, 8, 8)]
    statistics = torch.zeros(64), torch.ones(64)
    y, saved = cuda.forward(
        x, added, *weights, *statistics, 8, 1e-5, 1e-5, 0.1, how, relu
    )
    output = y if residual else None
    cuda.backward(
        *(y, x, output, *weights, saved, 8, 1e-5, 1e-5, how == 3),
        *(relu, True, residual),
    )
    out, saved = cuda.standardize(x, 1e-5, 1.0)
    cuda.standardize_backward(out, x, saved, 1e-5, 1.0)


def main(capability):
    """Compile everything, in its various forms."""
    cuda.kernels = lambda: Kernels(capability)
    forms = [
        (torch.float32, False, False, False, 2),
        (torch.bfloat16, True, True, True, 3),
    ]
    for form in forms:
        run_all(*form)


if __name__ == "__main__":
    main(int(sys.argv[1]))
