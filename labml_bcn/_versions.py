"""What PyTorch has gained since 2.4, the oldest version that the layers run on.

It is looked for by name, here and nowhere else but for the threads that the kernels
run on (native/library.py).
"""

from collections.abc import Callable

import torch


def assume_exporting() -> bool:
    """Take every program that is compiled for one that is exported.

    This is for versions before 2.7, which do not tell the two apart.
    """
    return torch.compiler.is_compiling()


is_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", assume_exporting
)

# Came with 2.6, as the first Triton that the kernels for CUDA are known to run on.
FLEXIBLE_LAYOUT: torch.Tag | None = getattr(torch.Tag, "flexible_layout", None)
