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
    """The type of an argument, as Triton writes it.

    An integer that is 1 is a constant to it.
    """
    if name in constants or value is None or (type(value) is int and value == 1):
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


def run_all(shape, groups, dtype, last, residual, relu, how):
    """Call each function once."""
    x = torch.zeros(shape, dtype=dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    added = x.clone() if residual else None
    channels = shape[1]
    sizes = (channels, channels, groups, groups)
    weights = [None] * 4 if residual else [torch.ones(n, dtype=dtype) for n in sizes]
    statistics = torch.zeros(channels), torch.ones(channels)
    y, saved = cuda.forward(
        *(x, added, *weights, *statistics, groups, 1e-5, 1e-5, 0.1, how, relu)
    )
    output = y if residual and relu else None
    cuda.backward(
        *(y, x, output, *weights, saved, groups, 1e-5, 1e-5, how == 3),
        *(relu, True, residual),
    )
    out, saved = cuda.standardize(x, 1e-5, 1.0)
    cuda.standardize_backward(out, x, saved, 1e-5, 1.0)


# Shape, groups, dtype, channels last, residual, relu, mode.
FORMS = [
    ((2, 64, 8, 32), 8, torch.float32, False, False, False, 2),
    ((2, 64, 8, 32), 8, torch.bfloat16, True, True, True, 3),
    ((2, 64, 8, 32), 8, torch.bfloat16, False, False, True, 1),
    ((1, 12, 50), 12, torch.float32, False, False, True, 3),
    ((3, 5), 1, torch.float16, False, True, False, 0),
    ((1, 1, 9), 1, torch.float32, False, False, False, 1),
]


def main(capability):
    """Compile everything, in forms that have each branch and each size of one."""
    cuda.kernels = lambda: Kernels(capability)
    for form in FORMS:
        run_all(*form)


if __name__ == "__main__":
    main(int(sys.argv[1]))
